//! How the programs end, at once or after peers know.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::ShortCut;
use super::arrivals::{Trouble, merging_device};
use super::means::Unfit;

/// How often it is looked at what arrives.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// How long peers may take to learn that our kernel is about to take nothing.
const WITHDRAWAL: Duration = Duration::from_secs(10);

impl ShortCut {
    /// Detaches the programs at once: the device is gone, or was never served.
    pub(super) async fn stop(&mut self) {
        self.place = None;
        self.detach().await;
    }

    /// On a thread of its own: a driver may take seconds, in which leases are to be followed.
    pub(super) async fn detach(&mut self) {
        self.withdrawn_until = None;
        let (path, gpe) = (Arc::clone(&self.path), self.gpe.take());
        let detach = move || {
            path.stop();
            drop(gpe);
        };
        if let Err(error) = spawn_blocking(detach).await {
            warn!("detach the BPF programs: {error}");
        }
    }

    /// Leaves an underlay for which the fast path is not.
    pub(super) async fn leave(&mut self, unfit: &Unfit) {
        if self.withdraw(&unfit.reason, unfit.is_fault) {
            self.stop().await;
        }
    }

    /// Sends nothing more; takes what peers send until they know better. Whether they do.
    pub(super) fn withdraw(&mut self, reason: &str, is_fault: bool) -> bool {
        if self.path.config().is_none() {
            self.said.off(reason, is_fault);
            return false;
        }
        if let Some(until) = self.withdrawn_until {
            return Instant::now() >= until;
        }
        self.path.stop_sending();
        self.said.off(reason, is_fault);
        self.withdrawn_until = Some(Instant::now() + WITHDRAWAL);
        false
    }

    /// Waits until what arrives shows that the kernel is not to take bulk TCP on this underlay, and withdraws.
    /// The next reconciliation begins again, without that.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(in crate::control::backend::udp) async fn given_up(&mut self) {
        let watched = self.path.config().filter(|config| {
            let is_running = self.withdrawn_until.is_none();
            is_running && config.bulk_tcp
        });
        let Some(config) = watched else {
            return std::future::pending().await;
        };
        let (trouble, reason) = loop {
            sleep_until(self.next_check).await;
            self.next_check = Instant::now() + WATCH_PERIOD;
            let trouble = self.arrivals.trouble(self.path.counters());
            if let Some(trouble) = trouble
                && let Some(reason) = trouble.reason(&config)
            {
                break (trouble, reason);
            }
        };
        if config.xdp.is_some() {
            self.no_xdp = Some((config.underlay.clone(), reason.clone()));
        }
        self.no_bulk_tcp = Some((config.underlay.clone(), reason.clone()));
        if trouble == Trouble::Stuck {
            // Packets are taken as they come until peers know that they are to send none.
            self.path.bypass_gpe();
        }
        let is_fault = trouble == Trouble::Stuck || merging_device(&config).is_some();
        self.withdraw(&reason, is_fault);
    }
}
