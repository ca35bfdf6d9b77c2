use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;
use crate::routes::Prefix;

fn hop(id: u32) -> NextHop {
    NextHop::new(SocketAddrV4::new(Ipv4Addr::from_bits(id), 8285))
}

fn subnet(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn table(network: &str, subnet_len: u8, subnets: &[&str]) -> RouteTable {
    let routes = subnets.iter().zip(1..);
    RouteTable::build(
        subnet(network),
        subnet_len,
        routes.map(|(text, id)| Route { subnet: subnet(text), next_hop: hop(id) }),
    )
}

#[test]
fn destination_takes_the_route_of_its_subnet() {
    let table = table("10.1.0.0/16", 24, &["10.1.15.0/24", "10.1.16.0/24"]);
    assert_eq!(table.lookup(ip("10.1.16.200")), Some(hop(2)));
    assert_eq!(table.lookup(ip("10.1.15.0")), Some(hop(1)));
}

#[test]
fn addresses_outside_the_network_have_no_route() {
    let table = table("10.1.0.0/16", 24, &["10.1.0.0/24", "10.1.255.0/24"]);
    for dst in ["10.0.255.255", "10.2.0.0", "0.0.0.0", "255.255.255.255", "10.1.7.1"] {
        assert_eq!(table.lookup(ip(dst)), None, "{dst}");
    }
}

#[test]
fn longer_prefix_wins_and_shorter_one_is_the_last_resort() {
    let table = table("10.1.0.0/16", 24, &["10.1.0.0/16", "10.1.15.0/24", "10.1.15.128/25"]);
    assert_eq!(table.lookup(ip("10.1.99.1")), Some(hop(1)));
    assert_eq!(table.lookup(ip("10.1.15.1")), Some(hop(2)));
    assert_eq!(table.lookup(ip("10.1.15.200")), Some(hop(3)));
}

#[test]
fn subnet_outside_the_network_is_still_routed() {
    let table = table("10.1.0.0/16", 24, &["172.30.4.0/24"]);
    assert_eq!(table.lookup(ip("172.30.4.9")), Some(hop(1)));
}

#[test]
fn empty_table_has_no_route() {
    assert_eq!(RouteTable::empty().lookup(ip("10.1.1.1")), None);
    assert!(RouteTable::empty().is_empty());
}

#[test]
fn network_too_finely_cut_for_the_array_is_routed_all_the_same() {
    let table = table("0.0.0.0/0", 30, &["10.1.15.0/30", "200.0.0.4/30"]);
    assert_eq!(table.lookup(ip("200.0.0.7")), Some(hop(2)));
    assert_eq!(table.lookup(ip("10.1.15.4")), None);
}

/// What the table must agree with: try every route, keep the longest match, the later of equals.
fn linear_scan(routes: &[Route], dst: Ipv4Addr) -> Option<NextHop> {
    routes
        .iter()
        .filter(|route| route.subnet.contains(dst))
        .max_by_key(|route| route.subnet.prefix())
        .map(|route| route.next_hop)
}

proptest! {
    #[test]
    fn table_agrees_with_a_linear_scan(
        network_len in 0_u8..=30,
        subnet_bits in 0_u8..=16,
        entries in prop::collection::vec((any::<u32>(), 0_u8..=32, any::<bool>(), any::<bool>()), 0..60),
        probes in prop::collection::vec(any::<u32>(), 0..60),
    ) {
        let network = Ipv4Network::containing(ip("10.20.30.40"), network_len).unwrap();
        let subnet_len = (network_len + subnet_bits).min(32);
        let host_bits = network.broadcast().to_bits() ^ network.network().to_bits();
        // Most entries are leases as flannel makes them; some lie elsewhere or have another length.
        let routes: Vec<Route> = entries.iter().zip(1..).map(|(&(addr, len, inside, lease), id)| {
            let addr = if inside { network.network().to_bits() | addr & host_bits } else { addr };
            let len = if lease { subnet_len } else { len };
            Route { subnet: Ipv4Network::containing(Ipv4Addr::from_bits(addr), len).unwrap(), next_hop: hop(id) }
        }).collect();
        let table = RouteTable::build(network, subnet_len, routes.iter().copied());
        let edges = routes.iter().flat_map(|route| [route.subnet.network(), route.subnet.broadcast()]);
        for dst in edges.chain(probes.into_iter().map(Ipv4Addr::from_bits)) {
            prop_assert_eq!(table.lookup(dst), linear_scan(&routes, dst), "{}", dst);
        }
    }
}
