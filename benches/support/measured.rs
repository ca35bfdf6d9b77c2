//! A bench of one stage that also counts allocations.

use std::fmt::Display;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};

/// Iterations after which every buffer has grown to what it needs.
const WARM_UP: usize = 100;

/// Allocations of one iteration in steady state.
pub fn allocations(mut iteration: impl FnMut()) -> u64 {
    (0..WARM_UP).for_each(|_| iteration());
    allocation_counter::measure(iteration).count_total
}

/// Benches `iteration`, which handles `num_packets` of `num_bytes` together.
///
/// # Panics
/// If it allocates.
pub fn stage(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (function, parameter): (&str, impl Display),
    (num_packets, num_bytes): (usize, usize),
    mut iteration: impl FnMut(),
) {
    let num = allocations(&mut iteration);
    println!("{function}/{parameter}: {num} allocations an iteration");
    assert_eq!(num, 0, "the steady state allocates");
    let (elements, bytes) = (num_packets as u64, num_bytes as u64);
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
    let id = BenchmarkId::new(function, parameter);
    group.bench_function(id, |bencher| bencher.iter(&mut iteration));
}
