//! A panic in any thread or task ends the daemon with an orderly shutdown.
//!
//! A panic ends only its own thread or task, so without this a daemon that lost a worker or a
//! reconciler would go on and report that all is well. The panic hook covers all threads, also those of
//! libraries. Two threads recover from their own panics, because input from outside must not end the
//! daemon through them.

use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, Once, PoisonError};

use tokio::sync::Notify;

use super::log;

/// Name of the health endpoint's thread, which recovers from its own panics.
pub(crate) const HEALTH_THREAD: &str = "flannel-health";

/// The first panic that no thread recovers from.
static HEARD: Mutex<Option<String>> = Mutex::new(None);

static NEWS: Notify = Notify::const_new();

/// A thread or task panicked, which is a fault in flanneld.
#[derive(Debug, Default, thiserror::Error)]
#[error("{0}; this is a fault in flanneld, please report it")]
pub struct Panicked(String);

/// Installs the hook, which logs every panic as one line. It may be called again.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| panic::set_hook(Box::new(hear)));
}

/// Waits for a panic.
///
/// # Cancel safety
/// Dropping the future loses none.
pub(crate) async fn heard() -> Panicked {
    loop {
        if let Some(panicked) = last() {
            return panicked;
        }
        NEWS.notified().await;
    }
}

/// The first panic, if there was one.
pub(crate) fn last() -> Option<Panicked> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Panicked)
}

fn hear(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
    let what = format!("thread {name} panicked{place}: {message}");
    tracing::error!("{what}");
    if ![log::THREAD, HEALTH_THREAD].contains(&name) {
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        NEWS.notify_one();
    }
}
