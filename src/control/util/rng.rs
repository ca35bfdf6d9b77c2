//! Random numbers of the control plane: which free subnet, how long a delay.

use rand::Rng;

/// A source of randomness.
#[cfg(not(test))]
pub(crate) fn rng() -> impl Rng {
    rand::rng()
}

/// A source of randomness, or of what looks like it if [`seed`] was called on this thread.
#[cfg(test)]
pub(crate) fn rng() -> impl Rng {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => StdRng::from_rng(rng),
        None => StdRng::from_os_rng(),
    })
}

/// Makes this thread draw the same numbers every time.
#[cfg(test)]
pub(crate) fn seed(seed: u64) {
    use rand::SeedableRng;
    SEEDED.set(Some(rand::rngs::StdRng::seed_from_u64(seed)));
}

#[cfg(test)]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<rand::rngs::StdRng>> = const { std::cell::RefCell::new(None) };
}
