//! [`PeerLeases`]: who the other nodes are, by their leases.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::{Lease, LeaseEvent};

/// The peers by subnet. A clone is cheap, and is not changed by what comes later.
#[derive(Debug, Clone, Default)]
pub(in crate::control) struct PeerLeases(Arc<BTreeMap<Ipv4Network, PeerLease>>);

/// What a lease says of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct PeerLease {
    pub(in crate::control) subnet: Ipv4Network,
    pub(in crate::control) ipv6_subnet: Option<Ipv6Network>,
    pub(in crate::control) public_ip: Ipv4Addr,
    pub(in crate::control) public_ipv6: Option<Ipv6Addr>,
    /// The name of its backend.
    pub(in crate::control) backend: String,
    /// Whether the lease says what only this program says.
    pub(in crate::control) is_twill: bool,
}

impl PeerLeases {
    /// Takes over changes of leases, in order.
    pub(in crate::control::node) fn apply(&mut self, events: &[LeaseEvent]) {
        let peers = Arc::make_mut(&mut self.0);
        for event in events {
            match event {
                LeaseEvent::Added(lease) => drop(peers.insert(lease.subnet, PeerLease::of(lease))),
                LeaseEvent::Removed(subnet) => drop(peers.remove(subnet)),
            }
        }
    }

    /// All of them, by subnet.
    pub(in crate::control) fn values(&self) -> impl Iterator<Item = &PeerLease> {
        self.0.values()
    }
}

impl PeerLease {
    fn of(lease: &Lease) -> Self {
        let attrs = &lease.attrs;
        // Stock's udp backend writes no data, and that of the others has none of these members.
        let data = attrs.v4.backend_data.as_ref();
        let spreads_flows = data.is_some_and(|data| data.get("AnySourcePort").is_some());
        Self {
            subnet: lease.subnet,
            ipv6_subnet: lease.ipv6_subnet,
            public_ip: attrs.public_ip(),
            public_ipv6: attrs.v6.public_ip,
            backend: attrs.backend_type.clone().unwrap_or_else(|| "udp".to_owned()),
            is_twill: spreads_flows || HostId::read(attrs).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subnet::lease::LeaseAttrs;

    fn lease(json: &str) -> Lease {
        let attrs = LeaseAttrs::from_json(json.as_bytes()).unwrap();
        Lease { subnet: "10.5.2.0/24".parse().unwrap(), ipv6_subnet: None, attrs, expires: None }
    }

    #[test]
    fn lease_shows_whose_it_is() {
        for (json, backend, is_twill) in [
            (r#"{"PublicIP":"192.0.2.1"}"#, "udp", false),
            (r#"{"PublicIP":"192.0.2.1","BackendData":{"AnySourcePort":true}}"#, "udp", true),
            (r#"{"PublicIP":"192.0.2.1","BackendData":{"HostID":"node/1f"}}"#, "udp", true),
            (
                r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
                "vxlan",
                false,
            ),
        ] {
            let peer = PeerLease::of(&lease(json));
            assert_eq!((peer.backend.as_str(), peer.is_twill), (backend, is_twill), "{json}");
        }
    }

    #[test]
    fn peers_follow_their_leases_and_a_clone_does_not() {
        let mut peers = PeerLeases::default();
        let of = |ip: &str| LeaseEvent::Added(lease(&format!(r#"{{"PublicIP":"{ip}"}}"#)));
        peers.apply(&[of("192.0.2.1"), of("192.0.2.2")]);
        let before = peers.clone();
        let ips =
            |peers: &PeerLeases| peers.values().map(|peer| peer.public_ip).collect::<Vec<_>>();
        assert_eq!(ips(&peers), ["192.0.2.2".parse::<Ipv4Addr>().unwrap()]);
        peers.apply(&[LeaseEvent::Removed("10.5.2.0/24".parse().unwrap())]);
        assert!(ips(&peers).is_empty());
        assert_eq!(ips(&before).len(), 1);
    }
}
