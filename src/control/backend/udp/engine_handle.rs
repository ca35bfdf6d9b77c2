//! [`EngineHandle`]: the overlay device's workers, shared between the reconciler, which replaces
//! them with the device, and those who read their counters.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataplane::Engine;
use crate::dataplane::engine::Counters;
use crate::dataplane::fast_path::FastPath;

/// The device's workers, while there are some.
#[derive(Debug)]
pub(super) struct EngineHandle {
    state: Mutex<State>,
    counters: Counters,
    fast_path: Arc<FastPath>,
}

#[derive(Debug)]
struct State {
    /// The device's name, or its last one.
    name: String,
    /// The address that is bound to, and the one that peers send to.
    own: [Ipv4Addr; 2],
    engine: Option<Engine>,
}

impl EngineHandle {
    /// Those of `engine`, which count in `counters`.
    pub(super) const fn new(
        name: String,
        own: [Ipv4Addr; 2],
        engine: Engine,
        counters: Counters,
        fast_path: Arc<FastPath>,
    ) -> Self {
        Self { state: Mutex::new(State { name, own, engine: Some(engine) }), counters, fast_path }
    }

    /// The address that is bound to, and the one that peers send to.
    pub(super) fn own(&self) -> [Ipv4Addr; 2] {
        self.lock().own
    }

    /// The device's name.
    pub(super) fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// What these workers count, and those before them.
    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the kernel carries without the workers.
    pub(super) const fn fast_path(&self) -> &Arc<FastPath> {
        &self.fast_path
    }

    /// Ends the workers. The device goes, if it is there still; no program must redirect to it then.
    pub(super) fn stop(&self) {
        self.fast_path.stop();
        let engine = self.lock().engine.take();
        drop(engine);
    }

    /// Takes over a device that was made again, with its workers.
    pub(super) fn replace(&self, name: String, own: [Ipv4Addr; 2], engine: Engine) {
        *self.lock() = State { name, own, engine: Some(engine) };
    }

    /// The device has this name now.
    pub(super) fn set_name(&self, name: String) {
        self.lock().name = name;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
