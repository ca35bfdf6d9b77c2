//! The peers' leases, as a route table.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use tracing::warn;

use crate::control::config::NetworkConfig;
use crate::control::lease::{Lease, LeaseEvent};
use crate::routes::{NextHop, Route, RouteTable, Subnet};

/// Who holds which subnet. Our own lease is never in it.
#[derive(Debug)]
pub(super) struct Peers {
    network: Subnet,
    subnet_len: u8,
    port: u16,
    public_ips: BTreeMap<Subnet, Ipv4Addr>,
}

impl Peers {
    /// No peers yet; all of them will listen on `port`.
    pub(super) const fn new(network: &NetworkConfig, port: u16) -> Self {
        let NetworkConfig { network, subnet_len, .. } = *network;
        Self { network, subnet_len, port, public_ips: BTreeMap::new() }
    }

    /// How many subnets there is a route to.
    pub(super) fn len(&self) -> usize {
        self.public_ips.len()
    }

    /// Takes over one change.
    pub(super) fn apply(&mut self, event: &LeaseEvent) {
        match event {
            LeaseEvent::Added(lease) if !names_a_host(lease) => {
                let (subnet, public_ip) = (lease.subnet, lease.attrs.public_ip);
                warn!(%subnet, %public_ip, "lease names no host: there is no route to its subnet");
                self.public_ips.remove(&subnet);
            }
            LeaseEvent::Added(lease) => {
                self.public_ips.insert(lease.subnet, lease.attrs.public_ip);
            }
            LeaseEvent::Removed(subnet) => {
                self.public_ips.remove(subnet);
            }
        }
    }

    /// The routes of all peers.
    pub(super) fn route_table(&self) -> RouteTable {
        let routes = self.public_ips.iter().map(|(&subnet, &public_ip)| Route {
            subnet,
            next_hop: NextHop::new(SocketAddrV4::new(public_ip, self.port)),
        });
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
    use super::*;
    use crate::control::config;
    use crate::control::lease::LeaseAttrs;
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
    fn lease_that_names_no_host_takes_its_route_away() {
        for nobody in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            let mut peers = peers();
            peers.apply(&added("10.1.2.0/24", "192.0.2.2"));
            peers.apply(&added("10.1.2.0/24", nobody));
            assert_eq!((peers.len(), peers.route_table().len()), (0, 0), "{nobody}");
        }
    }

    fn peers() -> Peers {
        Peers::new(&config::parse(r#"{"Network": "10.1.0.0/16"}"#, None).unwrap(), 8290)
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
