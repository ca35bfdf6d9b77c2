//! [`Recorder`]: keeps the state file up to date.
//!
//! The file is written and looked at on a thread that may wait for its disk, one operation at a
//! time. What changes meanwhile is in the next one.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use super::StateFile;
use crate::control::subnet::kv::registry::Stored;
use crate::control::subnet::lease::{Lease, LeaseEvent};
use crate::control::util::atomic_file::{FileError, replace_file};
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;

/// How long a change waits for others that come with it.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Least time between two writes: on a large network somebody comes or goes all the time.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// A text that took a while to make is followed by a pause of so many times that while, so that
/// the state of 100,000 leases takes no more than half a percent of a core, however often they
/// change: writing it takes about as long again.
const PAUSE: u32 = 400;

/// Time between two looks at whether the file is still the one that was written, and from a write
/// that failed to the next.
const CHECK_PERIOD: Duration = Duration::from_secs(30);

/// How long the end of the node may wait for the disk.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The state as it is, and when it is next written.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    file: &'a StateFile,
    config: &'a str,
    own: Stored<Lease>,
    peers: BTreeMap<Ipv4Network, Stored<Lease>>,
    due: Option<Instant>,
    not_before: Instant,
    check_at: Instant,
    /// The file that was written last, or found.
    pub(super) stamp: Option<Stamp>,
    running: Option<JoinHandle<Outcome>>,
    log: LogLimit,
}

/// Which file it is, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) file: (u64, u64),
    pub(super) modified: (i64, i64),
    len: u64,
}

/// What became of an operation.
#[derive(Debug)]
enum Outcome {
    Found(Option<Stamp>),
    Written(Option<Stamp>),
    Failed(FileError),
}

/// What a [`Recorder`] is to do next.
#[derive(Debug)]
pub(crate) struct Step(Option<Outcome>);

#[cfg(test)]
impl Step {
    /// Whether it is the end of a write.
    pub(super) const fn is_write(&self) -> bool {
        matches!(self.0, Some(Outcome::Written(_) | Outcome::Failed(_)))
    }
}

impl<'a> Recorder<'a> {
    /// Begins with what the file says already, or with what it will say after the first change.
    pub(crate) fn new(
        file: &'a StateFile,
        config: &'a str,
        own: Stored<Lease>,
        peers: &[Stored<Lease>],
    ) -> Self {
        let now = Instant::now();
        let peers = peers.iter().map(|peer| (peer.subnet, peer.clone())).collect();
        let (check_at, log) = (now + CHECK_PERIOD, LogLimit::default());
        Self {
            file,
            config,
            own,
            peers,
            due: None,
            not_before: now,
            check_at,
            stamp: None,
            running: None,
            log,
        }
    }

    /// Takes over changes in the peers' leases.
    pub(crate) fn apply(&mut self, events: &[LeaseEvent<Stored<Lease>>]) {
        for event in events {
            match event {
                LeaseEvent::Added(lease) => drop(self.peers.insert(lease.subnet, lease.clone())),
                LeaseEvent::Removed(subnet) => drop(self.peers.remove(subnet)),
            }
        }
        self.schedule();
    }

    /// Takes over a new state of our own lease.
    pub(crate) fn hold(&mut self, own: Stored<Lease>) {
        self.own = own;
        self.schedule();
    }

    /// Waits for the next thing to do, which is then to be [taken](Self::take).
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Step {
        if let Some(running) = &mut self.running {
            let outcome = running.await.ok();
            self.running = None;
            return match outcome {
                Some(outcome) => Step(Some(outcome)),
                // The thread's panic has been said. The file is as it was.
                None => pending().await,
            };
        }
        sleep_until(self.due.map_or(self.check_at, |due| due.min(self.check_at))).await;
        Step(None)
    }

    /// Does it. A file that cannot be written costs the next start its memory, no more.
    pub(crate) fn take(&mut self, Step(outcome): Step) {
        match outcome {
            None if self.due.is_some_and(|due| due <= Instant::now()) => self.write(),
            None => {
                self.check_at = Instant::now() + CHECK_PERIOD;
                let path = self.path().to_owned();
                self.running = Some(spawn_blocking(move || Outcome::Found(stamp(&path))));
            }
            Some(Outcome::Written(stamp)) => self.stamp = stamp,
            Some(Outcome::Failed(error)) => {
                self.complain(&error);
                self.due.get_or_insert(Instant::now() + CHECK_PERIOD);
            }
            Some(Outcome::Found(found)) => match (found, self.stamp) {
                (Some(found), None) => self.stamp = Some(found),
                (Some(found), Some(known)) if found == known => {}
                (None, _) | (Some(_), Some(_)) => self.schedule(),
            },
        }
    }

    fn write(&mut self) {
        self.due = None;
        let start = Instant::now();
        let text = match self.file.text(self.config, &self.own, self.peers.values()) {
            Ok(text) => text,
            Err(error) => return self.complain(&error),
        };
        self.not_before = Instant::now() + WRITE_INTERVAL.max(start.elapsed() * PAUSE);
        let path = self.path().to_owned();
        self.running = Some(spawn_blocking(move || match replace_file(&path, &text) {
            Ok(()) => Outcome::Written(stamp(&path)),
            Err(error) => Outcome::Failed(error),
        }));
    }

    fn complain(&mut self, error: &dyn std::error::Error) {
        if self.log.is_due("save") {
            tracing::warn!("cannot save the state for the next start: {}", error_chain(error));
        }
    }

    /// Ends the record: our lease is lost, so the next start must not rely on it.
    pub(crate) async fn clear(&mut self) {
        self.due = None;
        let path = self.path().to_owned();
        let running = self.running.take();
        let removed = async {
            // A write that ends later would bring the file back.
            if let Some(running) = running {
                drop(running.await);
            }
            spawn_blocking(move || remove(&path)).await
        };
        if timeout(END_TIMEOUT, removed).await.is_err() {
            let path = self.path().display();
            tracing::warn!("cannot remove {path}: its disk does not answer");
        }
    }

    const fn path(&self) -> &PathBuf {
        &self.file.path
    }

    fn schedule(&mut self) {
        let soon = self.not_before.max(Instant::now() + SETTLE_TIME);
        // A failed write that waits for its next try is not put off, but brought forward.
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(Stamp {
        file: (metadata.dev(), metadata.ino()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        len: metadata.len(),
    })
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the state file");
    }
}
