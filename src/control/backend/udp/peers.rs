//! What a peer's lease makes of the route to its subnet.

use std::net::SocketAddrV4;

use tracing::warn;

use super::source_ports;
use crate::control::lease::{Lease, LeaseAttrs, LeaseEvent};
use crate::routes::NextHop;
use crate::routes::publish::RouteChange;

/// How peers are reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peers {
    /// All of them listen on this port.
    pub(super) port: u16,
    /// Flows may be told apart by their source port, towards peers that take that.
    pub(super) spreads_flows: bool,
}

impl Peers {
    /// The change of route that follows from a change of lease.
    pub(super) fn change(self, event: &LeaseEvent) -> RouteChange {
        match event {
            LeaseEvent::Added(lease) if !names_a_host(lease) => {
                let (subnet, public_ip) = (lease.subnet, lease.attrs.public_ip);
                warn!(%subnet, %public_ip, "lease names no host: there is no route to its subnet");
                RouteChange { subnet, next_hop: None }
            }
            LeaseEvent::Added(lease) => {
                RouteChange { subnet: lease.subnet, next_hop: Some(self.next_hop(&lease.attrs)) }
            }
            LeaseEvent::Removed(subnet) => RouteChange { subnet: *subnet, next_hop: None },
        }
    }

    fn next_hop(self, attrs: &LeaseAttrs) -> NextHop {
        NextHop {
            addr: SocketAddrV4::new(attrs.public_ip, self.port),
            any_source_port: self.spreads_flows && source_ports::are_any(attrs),
        }
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
    use crate::control::registry::{Entry, Revision};

    const PEERS: Peers = Peers { port: 8290, spreads_flows: true };

    #[test]
    fn peer_is_reached_at_its_public_ip_and_our_port() {
        let change = PEERS.change(&LeaseEvent::Added(lease("192.0.2.2")));
        let next_hop = NextHop::new("192.0.2.2:8290".parse().unwrap());
        let subnet = "10.1.2.0/24".parse().unwrap();
        assert_eq!(change, RouteChange { subnet, next_hop: Some(next_hop) });
        let change = PEERS.change(&LeaseEvent::Removed(subnet));
        assert_eq!(change, RouteChange { subnet, next_hop: None });
    }

    #[test]
    fn lease_of_another_backend_is_a_peer_as_well() {
        let mut lease = lease("192.0.2.2");
        lease.attrs.backend_type = Some("vxlan".to_owned());
        assert!(PEERS.change(&LeaseEvent::Added(lease)).next_hop.is_some());
    }

    #[test]
    fn flows_spread_only_if_both_sides_agree() {
        let spreads = |peers: Peers, advertises: bool| {
            let mut lease = lease("192.0.2.2");
            if advertises {
                lease.attrs = source_ports::advertise(lease.attrs);
            }
            peers.change(&LeaseEvent::Added(lease)).next_hop.unwrap().any_source_port
        };
        assert!(spreads(PEERS, true));
        assert!(!spreads(PEERS, false));
        assert!(!spreads(Peers { spreads_flows: false, ..PEERS }, true));
    }

    #[test]
    fn lease_that_names_no_host_takes_its_route_away() {
        for nobody in ["0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            let change = PEERS.change(&LeaseEvent::Added(lease(nobody)));
            assert_eq!(change.next_hop, None, "{nobody}");
        }
    }

    fn lease(public_ip: &str) -> Lease {
        let public_ip: Ipv4Addr = public_ip.parse().unwrap();
        let entry = Entry { key: String::new(), revision: Revision(1), ttl_lease: None };
        let subnet = "10.1.2.0/24".parse().unwrap();
        Lease { subnet, attrs: LeaseAttrs::udp(public_ip), expires: None, entry }
    }
}
