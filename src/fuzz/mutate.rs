//! Mutations of inputs, in the manner of libFuzzer's: the same for the same seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Bytes that decide something in a header or a text.
const TELLING: [u8; 16] = *b"\x00\x01\x7f\x80\xff\x45\x06\x11\"\\{}[]-\n";

/// A source of mutations.
pub(super) struct Mutator(StdRng);

impl Mutator {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `input` after one to four changes, one of which may be a piece of `other`.
    pub(super) fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..self.0.random_range(1..=4) {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let rng = &mut self.0;
        let (at, end) = (rng.random_range(0..=bytes.len()), bytes.len());
        let to = (at + rng.random_range(0..=16)).min(end);
        match rng.random_range(0..7) {
            0 if at < end => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < end => bytes[at] = rng.random(),
            2 if at < end => bytes[at] = *TELLING.choose(rng).unwrap(),
            3 => bytes.insert(at, *TELLING.choose(rng).unwrap()),
            4 => drop(bytes.drain(at..to)),
            5 => drop(bytes.splice(at..at, bytes[at..to].to_vec())),
            _ => {
                let from = rng.random_range(0..=other.len());
                let piece = &other[from..(from + rng.random_range(0..=32)).min(other.len())];
                drop(bytes.splice(at..to, piece.iter().copied()));
            }
        }
    }
}
