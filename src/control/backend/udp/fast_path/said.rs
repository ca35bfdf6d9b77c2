//! [`Said`]: what there is to say of the fast path, shared by who runs it and who reports it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

/// Whether the fast path is off, and what it lacks.
#[derive(Debug, Default)]
pub(in crate::control::backend::udp) struct Said(Mutex<Reasons>);

/// Each is there if it holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::control::backend::udp) struct Reasons {
    /// Why workers carry everything.
    pub(super) off: Option<String>,
    /// Why workers carry TCP in bulk.
    pub(super) no_bulk_tcp: Option<String>,
    /// Why there is no XDP although it was asked for.
    pub(super) no_xdp: Option<String>,
}

impl Said {
    /// Somebody wants it off.
    pub(super) fn turned_off(&self, reason: &str) {
        self.lock().off = Some(reason.to_owned());
    }

    /// It is off. Logs a reason that is new: a warning if somebody can do something about it.
    pub(super) fn off(&self, reason: &str, is_fault: bool) {
        let mut reasons = self.lock();
        if reasons.off.as_deref() == Some(reason) {
            return;
        }
        if is_fault {
            warn!("fast path is off, workers carry everything: {reason}");
        } else {
            info!("fast path is off, workers carry everything: {reason}");
        }
        reasons.off = Some(reason.to_owned());
    }

    /// It is on, and lacks this.
    pub(super) fn on(&self, no_bulk_tcp: Option<String>, no_xdp: Option<String>) {
        *self.lock() = Reasons { off: None, no_bulk_tcp, no_xdp };
    }

    pub(in crate::control::backend::udp) fn reasons(&self) -> Reasons {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Reasons> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
