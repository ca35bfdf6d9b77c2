//! Payloads that both ends can compute: a stream of pseudo-random words for every seed.

/// Words of a seed (splitmix64: <https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug)]
struct Words {
    state: u64,
}

impl Words {
    const fn next(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

/// Fills `block` with the seed's bytes.
pub fn fill(seed: u64, block: &mut [u8]) {
    let mut words = Words { state: seed };
    for chunk in block.chunks_mut(8) {
        chunk.copy_from_slice(&words.next()[..chunk.len()]);
    }
}

/// Whether `block` holds the seed's bytes.
pub fn matches(seed: u64, block: &[u8]) -> bool {
    let mut words = Words { state: seed };
    block.chunks(8).all(|chunk| chunk == &words.next()[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_noticed() {
        let mut block = [0; 29];
        fill(7, &mut block);
        assert!(matches(7, &block));
        assert!(!matches(8, &block));
        for at in 0..block.len() {
            block[at] ^= 1;
            assert!(!matches(7, &block), "byte {at}");
            block[at] ^= 1;
        }
    }
}
