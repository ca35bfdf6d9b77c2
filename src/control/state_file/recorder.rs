//! [`Recorder`]: keeps the state file up to date.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::StateFile;
use crate::control::lease::{Lease, LeaseEvent};
use crate::control::log_limit::LogLimit;
use crate::routes::Subnet;

/// How long a change waits for others that come with it.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Least time between two writes: on a large network somebody comes or goes all the time.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// A write that took a while is followed by a pause of so many times that while, so that the state
/// of 100,000 leases takes no more than half a percent of a core, however often they change.
const PAUSE: u32 = 200;

/// The state as it is, and when it is next written.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    file: &'a StateFile,
    config: &'a str,
    own: Lease,
    peers: BTreeMap<Subnet, Lease>,
    due: Option<Instant>,
    not_before: Instant,
    log: LogLimit,
}

impl<'a> Recorder<'a> {
    /// Begins with what the file says already, or with what it will say after the first change.
    pub(crate) fn new(file: &'a StateFile, config: &'a str, own: Lease, peers: &[Lease]) -> Self {
        let peers = peers.iter().map(|peer| (peer.subnet, peer.clone())).collect();
        let (due, not_before, log) = (None, Instant::now(), LogLimit::default());
        Self { file, config, own, peers, due, not_before, log }
    }

    /// Takes over changes in the peers' leases.
    pub(crate) fn apply(&mut self, events: &[LeaseEvent]) {
        for event in events {
            match event {
                LeaseEvent::Added(lease) => drop(self.peers.insert(lease.subnet, lease.clone())),
                LeaseEvent::Removed(subnet) => drop(self.peers.remove(subnet)),
            }
        }
        self.schedule();
    }

    /// Takes over a new state of our own lease.
    pub(crate) fn hold(&mut self, own: Lease) {
        self.own = own;
        self.schedule();
    }

    /// Waits until the file is to be written.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Writes the file. One that cannot be written costs the next start its memory, no more.
    pub(crate) fn write(&mut self) {
        let start = Instant::now();
        let saved = self.file.save(self.config, &self.own, self.peers.values());
        if let Err(error) = saved
            && self.log.is_due("save")
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot save the state for the next start");
        }
        self.due = None;
        self.not_before = Instant::now() + WRITE_INTERVAL.max(start.elapsed() * PAUSE);
    }

    /// Ends the record: our lease is lost, so the next start must not rely on it.
    pub(crate) fn forget(&mut self) {
        self.due = None;
        self.file.remove();
    }

    fn schedule(&mut self) {
        self.due.get_or_insert(self.not_before.max(Instant::now() + SETTLE_TIME));
    }
}
