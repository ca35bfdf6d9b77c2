//! Whether another host holds a lease that carries our public IP.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Acquirer;
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::kv::registry::{Registry, Scope, Stored};
use crate::control::subnet::lease::Lease;

/// How long the other host has to write its lease again. It sees ours at once, by its watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often we look whether it did.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

impl<R: Registry> Acquirer<'_, R> {
    /// The host that `lease` names, if that is not ours. A lease that names none is as stock
    /// writes it: the node with its public IP has the lease.
    pub(super) fn other_host(&self, lease: &Lease) -> Option<HostId> {
        let ours = HostId::read(self.attrs)?;
        HostId::read(&lease.attrs).filter(|host| *host != ours)
    }

    /// Waits for the other host to write over `ours`, the lease that we have just taken up from it.
    /// It is alive if it does. A host that was rebooted or installed again has another identity than
    /// before, and nobody answers.
    pub(super) async fn is_held_by(&self, host: &HostId, ours: &Stored<Lease>) -> bool {
        tracing::warn!(
            "lease {} carries our public IP and names host {host}: waiting {ANSWER_TIMEOUT:?} for \
             that host to claim it",
            ours.subnet
        );
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let scope = Scope::Key(ours.entry.key.clone());
        while Instant::now() < deadline {
            sleep(LOOK_INTERVAL).await;
            if let Ok(found) = self.registry.list(&scope).await
                && found.leases().any(|lease| self.other_host(lease).is_some())
            {
                return true;
            }
        }
        false
    }
}
