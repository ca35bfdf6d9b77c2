//! The peers' leases, as a route table.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use tracing::warn;

use super::source_ports;
use crate::control::config::NetworkConfig;
use crate::control::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::routes::{NextHop, Route, RouteTable, Subnet};

/// Who holds which subnet. Our own lease is never in it.
#[derive(Debug)]
pub(super) struct Peers {
    network: Subnet,
    subnet_len: u8,
    port: u16,
    /// Flows may be told apart by their source port, towards peers that take that.
    spreads_flows: bool,
    next_hops: BTreeMap<Subnet, NextHop>,
}

impl Peers {
    /// No peers yet; all of them will listen on `port`.
    pub(super) const fn new(network: &NetworkConfig, port: u16, spreads_flows: bool) -> Self {
        let NetworkConfig { network, subnet_len, .. } = *network;
        Self { network, subnet_len, port, spreads_flows, next_hops: BTreeMap::new() }
    }

    /// How many subnets there is a route to.
    pub(super) fn len(&self) -> usize {
        self.next_hops.len()
    }

    /// Takes over one change.
    pub(super) fn apply(&mut self, event: &LeaseEvent) {
        match event {
            LeaseEvent::Added(lease) if !names_a_host(lease) => {
                let (subnet, public_ip) = (lease.subnet, lease.attrs.public_ip);
                warn!(%subnet, %public_ip, "lease names no host: there is no route to its subnet");
                self.next_hops.remove(&subnet);
            }
            LeaseEvent::Added(lease) => {
                self.next_hops.insert(lease.subnet, self.next_hop(&lease.attrs));
            }
            LeaseEvent::Removed(subnet) => {
                self.next_hops.remove(subnet);
            }
        }
    }

    fn next_hop(&self, attrs: &LeaseAttrs) -> NextHop {
        NextHop {
            addr: SocketAddrV4::new(attrs.public_ip, self.port),
            any_source_port: self.spreads_flows && source_ports::are_any(attrs),
        }
    }

    /// The routes of all peers.
    pub(super) fn route_table(&self) -> RouteTable {
        let routes = self.next_hops.iter();
        let routes = routes.map(|(&subnet, &next_hop)| Route { subnet, next_hop });
        RouteTable::build(self.network, self.subnet_len, routes)
    }
}

/// The kernel takes 0.0.0.0 for this very host, and a group address would fan out.
const fn names_a_host(lease: &Lease) -> bool {
    let ip = lease.attrs.public_ip;
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::control::config;
    use crate::control::registry::{Entry, Revision};

    #[test]
    fn peer_is_reached_at_its_public_ip_and_our_port() {
        let mut peers = peers();
        peers.apply(&added("10.1.2.0/24", "192.0.2.2"));
        assert_eq!(peers.route_table().lookup(ip("10.1.2.9")), Some(hop("192.0.2.2:8290")));
        peers.apply(&added("10.1.2.0/24", "192.0.2.3"));
        assert_eq!(peers.route_table().lookup(ip("10.1.2.9")), Some(hop("192.0.2.3:8290")));
        assert_eq!(peers.len(), 1);
        peers.apply(&LeaseEvent::Removed("10.1.2.0/24".parse().unwrap()));
        assert_eq!(peers.route_table().lookup(ip("10.1.2.9")), None);
    }

    #[test]
    fn lease_of_another_backend_is_a_peer_as_well() {
        let mut peers = peers();
        let LeaseEvent::Added(mut lease) = added("10.1.2.0/24", "192.0.2.2") else { panic!() };
        lease.attrs.backend_type = Some("vxlan".to_owned());
        peers.apply(&LeaseEvent::Added(lease));
        assert_eq!(peers.route_table().lookup(ip("10.1.2.9")), Some(hop("192.0.2.2:8290")));
    }

    #[test]
    fn flows_spread_only_if_both_sides_agree() {
        let advertised = |peers: &mut Peers, advertises: bool| {
            let LeaseEvent::Added(mut lease) = added("10.1.2.0/24", "192.0.2.2") else { panic!() };
            if advertises {
                lease.attrs = source_ports::advertise(lease.attrs);
            }
            peers.apply(&LeaseEvent::Added(lease));
            peers.route_table().lookup(ip("10.1.2.9")).unwrap().any_source_port
        };
        let mut ours = peers();
        assert!(advertised(&mut ours, true));
        assert!(!advertised(&mut ours, false));
        let mut behind_nat = Peers { spreads_flows: false, ..peers() };
        assert!(!advertised(&mut behind_nat, true));
    }

    #[test]
    fn lease_that_names_no_host_takes_its_route_away() {
        for nobody in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            let mut peers = peers();
            peers.apply(&added("10.1.2.0/24", "192.0.2.2"));
            peers.apply(&added("10.1.2.0/24", nobody));
            assert_eq!((peers.len(), peers.route_table().len()), (0, 0), "{nobody}");
        }
    }

    fn peers() -> Peers {
        Peers::new(&config::parse(r#"{"Network": "10.1.0.0/16"}"#, None).unwrap(), 8290, true)
    }

    fn added(subnet: &str, public_ip: &str) -> LeaseEvent {
        let entry = Entry { key: String::new(), revision: Revision(1), ttl_lease: None };
        let attrs = LeaseAttrs::udp(ip(public_ip));
        LeaseEvent::Added(Lease { subnet: subnet.parse().unwrap(), attrs, expires: None, entry })
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn hop(text: &str) -> NextHop {
        NextHop::new(text.parse().unwrap())
    }
}
