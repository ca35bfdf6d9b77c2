//! Route lookup: ns per destination, at 10 to 100,000 leases. Random destinations, all routed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

mod support;

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnetwork::Ipv4Network;
use support::measured::stage;
use twill::routes::publish::{self, FibSink, RouteChange};
use twill::routes::{NextHop, Prefix, Route, RouteTable};

/// Destinations per iteration: enough that the cost of the loop does not matter.
const NUM_LOOKUPS: usize = 4096;

fn routes(num: u32) -> Vec<Route> {
    let route = |number: u32| Route {
        subnet: Ipv4Network::containing(Ipv4Addr::from_bits(0x0a00_0000 + (number << 8)), 24)
            .unwrap(),
        next_hop: NextHop::new(format!("192.0.2.{}:8285", number % 250).parse().unwrap()),
    };
    (0..num).map(route).collect()
}

fn added(Route { subnet, next_hop }: Route) -> RouteChange {
    RouteChange { subnet, next_hop: Some(next_hop) }
}

/// A fixed sequence of numbers below `bound` (xorshift, Marsaglia 2003).
fn numbers(bound: u32) -> impl Iterator<Item = u32> {
    let mut state = 0x2545_f491_u32;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % bound
    })
}

fn lookup(criterion: &mut Criterion) {
    let network = "10.0.0.0/7".parse().unwrap();
    let mut group = criterion.benchmark_group("lookup");
    for num in [10, 1_000, 10_000, 100_000] {
        let destinations: Vec<Ipv4Addr> = numbers(num << 8)
            .take(NUM_LOOKUPS)
            .map(|offset| Ipv4Addr::from_bits(0x0a00_0000 + offset))
            .collect();
        let direct = RouteTable::build(network, 24, routes(num));
        // Every lease has another length than SubnetLen: all are in the trie.
        let trie = RouteTable::build(network, 23, routes(num));
        for (case, table) in [("direct", &direct), ("trie", &trie)] {
            let size = (NUM_LOOKUPS, NUM_LOOKUPS * size_of::<Ipv4Addr>());
            stage(&mut group, (case, num), size, || {
                for &dst in &destinations {
                    black_box(table.lookup(black_box(dst)));
                }
            });
        }
    }
    group.finish();

    // What the control thread does for a lease that comes and goes among many that stay.
    let mut group = criterion.benchmark_group("change");
    for num in [1_000, 100_000] {
        for (case, subnet_len) in [("direct", 24), ("trie", 23)] {
            let (mut publisher, _subscriber) = publish::channel(network, subnet_len);
            let changes: Vec<RouteChange> = routes(num).into_iter().map(added).collect();
            publisher.apply(&changes).unwrap();
            let mut next = changes.iter().cycle();
            group.bench_function(BenchmarkId::new(case, num), |bencher| {
                bencher.iter(|| {
                    let change = *next.next().unwrap();
                    publisher.apply(&[RouteChange { next_hop: None, ..change }]).unwrap();
                    publisher.apply(&[change]).unwrap();
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
