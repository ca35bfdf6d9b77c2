use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::routes::Prefix;
use crate::routes::Route;

fn network() -> Ipv4Network {
    "10.1.0.0/16".parse().unwrap()
}

fn hop(id: u32) -> NextHop {
    NextHop::new(format!("192.0.2.{}:{}", id >> 16, id & 0xffff).parse().unwrap())
}

fn change(subnet: &str, next_hop: Option<NextHop>) -> RouteChange {
    RouteChange { subnet: subnet.parse().unwrap(), next_hop }
}

#[test]
fn change_is_seen_by_every_clone_after_a_refresh() {
    for subnet in ["10.1.2.0/24", "10.1.2.0/25", "10.0.0.0/8"] {
        let (mut publisher, mut first) = channel(network(), 24);
        let mut second = first.clone();
        for next_hop in [Some(hop(1)), Some(hop(2)), None] {
            publisher.apply(&[change(subnet, next_hop)]).unwrap();
            for subscriber in [&mut first, &mut second] {
                subscriber.refresh();
                let found = subscriber.table().lookup(Ipv4Addr::new(10, 1, 2, 9));
                assert_eq!(found, next_hop, "{subnet}");
            }
        }
        assert_eq!(publisher.num_routes(), 0);
    }
}

#[test]
fn lease_of_the_usual_length_is_changed_in_place() {
    let (mut publisher, subscriber) = channel(network(), 24);
    publisher.apply(&[change("10.1.2.0/24", Some(hop(1)))]).unwrap();
    // Not even a refresh is needed: nothing was copied.
    assert_eq!(subscriber.table().lookup(Ipv4Addr::new(10, 1, 2, 9)), Some(hop(1)));
}

#[test]
fn reader_never_sees_half_a_next_hop() {
    let (mut publisher, mut subscriber) = channel(network(), 24);
    let hops = [NextHop::new("1.1.1.1:1".parse().unwrap()), {
        NextHop { any_source_port: true, ..NextHop::new("254.254.254.254:254".parse().unwrap()) }
    }];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..100_000 {
                publisher.apply(&[change("10.1.2.0/24", hops.get(round % 3).copied())]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            subscriber.refresh();
            let found = subscriber.table().lookup(Ipv4Addr::new(10, 1, 2, 9));
            assert!(found.is_none_or(|found| hops.contains(&found)), "{found:?}");
        }
    });
}

proptest! {
    #[test]
    fn changed_table_is_the_one_built_from_what_is_left(
        changes in prop::collection::vec((0_u32..12, 20_u8..=26, any::<bool>()), 0..80),
        probes in prop::collection::vec(0_u32..1 << 12, 40),
    ) {
        let (mut publisher, mut subscriber) = channel(network(), 24);
        let mut left = BTreeMap::new();
        for (&(number, len, added), id) in changes.iter().zip(0..) {
            let addr = Ipv4Addr::from_bits(0x0a01_0000 + (number << 7));
            let subnet = Ipv4Network::containing(addr, len).unwrap();
            let next_hop = added.then(|| hop(id));
            publisher.apply(&[RouteChange { subnet, next_hop }]).unwrap();
            match next_hop {
                Some(next_hop) => { left.insert(subnet, next_hop); }
                None => { left.remove(&subnet); }
            }
        }
        let routes = left.iter().map(|(&subnet, &next_hop)| Route { subnet, next_hop });
        let built = RouteTable::build(network(), 24, routes);
        subscriber.refresh();
        prop_assert_eq!(subscriber.table().len(), left.len());
        prop_assert_eq!(publisher.num_routes(), left.len());
        for probe in probes {
            let dst = Ipv4Addr::from_bits(0x0a01_0000 + probe);
            prop_assert_eq!(subscriber.table().lookup(dst), built.lookup(dst), "{}", dst);
        }
    }
}
