//! [`EngineHandle`]: the overlay device's workers, shared between the reconciler, which replaces
//! them with the device, and those who read their counters.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dataplane::Engine;
use crate::dataplane::engine::Counters;

/// The device's workers, while there are some.
#[derive(Debug)]
pub(super) struct EngineHandle {
    state: Mutex<State>,
    counters: Counters,
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
    ) -> Self {
        Self { state: Mutex::new(State { name, own, engine: Some(engine) }), counters }
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

    /// Ends the workers. The device goes, if it is there still.
    pub(super) fn stop(&self) {
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
