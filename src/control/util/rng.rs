//! The dice of the control plane: which free subnet, how long a delay.

use rand::Rng;

/// A source of randomness.
#[cfg(not(test))]
pub(crate) fn dice() -> impl Rng {
    rand::rng()
}

/// A source of randomness, or of what looks like it if [`load`] was called on this thread.
#[cfg(test)]
pub(crate) fn dice() -> impl Rng {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    LOADED.with_borrow_mut(|loaded| match loaded {
        Some(rng) => StdRng::from_rng(rng),
        None => StdRng::from_os_rng(),
    })
}

/// Makes this thread's dice fall the same way every time.
#[cfg(test)]
pub(crate) fn load(seed: u64) {
    use rand::SeedableRng;
    LOADED.set(Some(rand::rngs::StdRng::seed_from_u64(seed)));
}

#[cfg(test)]
thread_local! {
    static LOADED: std::cell::RefCell<Option<rand::rngs::StdRng>> = const { std::cell::RefCell::new(None) };
}
