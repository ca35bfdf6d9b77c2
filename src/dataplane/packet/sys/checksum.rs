//! The inner loop of the internet checksum, compiled for AVX2 where the processor has it.

/// The unfolded sum of the native-endian 32-bit words of `bytes`; a short last word is padded
/// with zeros. Folding it to 16 bits gives the one's complement sum of RFC 1071.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // For shorter input a call costs more than wider registers save: benches/stages.rs.
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= 256 && is_x86_feature_detected!("avx2") {
        // SAFETY: the line above checked that this processor has AVX2, the only requirement.
        return unsafe { sum_avx2(bytes) };
    }
    sum_words(bytes)
}

/// [`sum_words`] with 256-bit registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

/// Adds 32-bit words into 64-bit lanes, which cannot overflow below 16 GiB. Written so that the
/// compiler turns the lanes into vector registers.
#[inline(always)]
fn sum_words(bytes: &[u8]) -> u64 {
    const LANES: usize = 16;
    let mut lanes = [0_u64; LANES];
    let (blocks, rest) = bytes.as_chunks::<{ LANES * 4 }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.iter().sum::<u64>();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}
