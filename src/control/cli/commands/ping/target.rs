//! Whom a text on the command line means.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::observe::{Lease, Peer};
use crate::control::cli::commands::survey::{LeaseFact, Own};

/// Why a text means no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::control::cli) enum TargetError {
    #[error(
        "{0:?} is neither an address nor a subnet, nor a host name with an IPv4 address: give a node's \
         public IP, its subnet, or the address of a container; flanneld peers lists them"
    )]
    NoAddress(String),
    #[error("{0} is this node: give another one; flanneld peers lists them")]
    Ourselves(String),
    #[error("no node has leased the subnet of {what}: flanneld peers lists those that are leased")]
    NotLeased { what: String },
}

/// How long a name may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(3);

/// The address of a host name; anything else as it is.
pub(in crate::control::cli) async fn looked_up(text: &str) -> String {
    // The resolver takes 10.5.9 for an address.
    let is_name = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    if !text.chars().all(is_name) || !text.contains(|c: char| c.is_ascii_alphabetic()) {
        return text.to_owned();
    }
    let found = timeout(LOOK_UP, lookup_host((text, 0))).await;
    let mut addrs = found.ok().and_then(Result::ok).into_iter().flatten();
    addrs.find(|addr| addr.is_ipv4()).map_or(text.to_owned(), |addr| addr.ip().to_string())
}

/// The peer that `text` names among `leases`.
pub(in crate::control::cli) fn find(
    text: &str,
    own: &Own,
    ours: &str,
    leases: &[LeaseFact],
) -> Result<Peer, TargetError> {
    let no_address = || TargetError::NoAddress(text.to_owned());
    let (addr, is_range) = match (text.parse::<Ipv4Addr>(), text.parse::<Ipv4Network>()) {
        (Ok(addr), _) => (addr, false),
        (Err(_), Ok(range)) => (range.network(), true),
        (Err(_), Err(_)) => return Err(no_address()),
    };
    let is_ours = |lease: &&LeaseFact| Some(lease.subnet) == own.subnet;
    if addr == own.addr || addr == own.public_ip {
        return Err(TargetError::Ourselves(text.to_owned()));
    }
    if let Some(lease) = leases.iter().find(|lease| lease.public_ip == addr) {
        return Ok(peer(lease, None, ours));
    }
    match leases.iter().find(|lease| lease.subnet.contains(addr)) {
        Some(lease) if is_ours(&lease) => Err(TargetError::Ourselves(text.to_owned())),
        Some(lease) => {
            let is_pod = !is_range && addr != own.node_addr(lease.subnet);
            Ok(peer(lease, is_pod.then_some(addr), ours))
        }
        None if is_range || own.network.contains(addr) => {
            Err(TargetError::NotLeased { what: text.to_owned() })
        }
        None => Ok(Peer::at(addr)),
    }
}

impl Peer {
    /// A host of which no more is known than its address.
    pub(in crate::control::cli) const fn at(public_ip: Ipv4Addr) -> Self {
        let (fixed_mac, path_mtu) = (None, None);
        Self { public_ip, lease: None, pod: None, way_problem: None, fixed_mac, path_mtu }
    }
}

/// The node that holds `lease`; `ours` is the network's backend.
pub(in crate::control::cli) fn peer(lease: &LeaseFact, pod: Option<Ipv4Addr>, ours: &str) -> Peer {
    let other_backend = (lease.backend != ours).then(|| lease.backend.clone());
    let found = Lease { subnet: lease.subnet, other_backend };
    Peer { lease: Some(found), pod, ..Peer::at(lease.public_ip) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::cli::commands::survey::{Device, Wire};

    fn found(text: &str) -> Result<Peer, TargetError> {
        let own = Own {
            addr: [192, 0, 2, 1].into(),
            public_ip: [203, 0, 113, 1].into(),
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: Some("10.5.7.0/24".parse().unwrap()),
            device: Some(Device { name: "flannel0".to_owned(), mtu: 1472 }),
            wire: Wire::Udp { port: 8285 },
        };
        let lease = |subnet: &str, public_ip: &str, backend: &str| LeaseFact {
            subnet: subnet.parse().unwrap(),
            public_ip: public_ip.parse().unwrap(),
            backend: backend.to_owned(),
        };
        let leases = [
            lease("10.5.7.0/24", "203.0.113.1", "udp"),
            lease("10.5.9.0/24", "192.0.2.9", "udp"),
            lease("10.5.10.0/24", "192.0.2.10", "vxlan"),
        ];
        find(text, &own, "udp", &leases)
    }

    #[test]
    fn public_ip_subnet_and_container_lead_to_the_node() {
        for (text, pod) in [
            ("192.0.2.9", None),
            ("10.5.9.0/24", None),
            ("10.5.9.7/24", None),
            ("10.5.9.0", None),
            ("10.5.9.7", Some([10, 5, 9, 7].into())),
        ] {
            let peer = found(text).unwrap();
            assert_eq!((peer.public_ip, peer.pod), ([192, 0, 2, 9].into(), pod), "{text}");
            assert_eq!(peer.lease.unwrap().other_backend, None);
        }
        let other = found("10.5.10.7").unwrap().lease.unwrap().other_backend;
        assert_eq!(other.as_deref(), Some("vxlan"));
        assert_eq!(found("192.0.2.77").unwrap().lease, None);
    }

    #[tokio::test]
    async fn host_name_is_looked_up() {
        assert_eq!(looked_up("localhost").await, "127.0.0.1");
        for text in ["", "10.5.9", "10.5.9.0/24", "::1", "a host"] {
            assert_eq!(looked_up(text).await, text);
        }
    }

    #[test]
    fn what_means_no_peer_is_refused_in_one_line() {
        for text in ["", "n2", "10.5.9", "::1", "10.5.9.0/33", "192.0.2.9:8285"] {
            assert_eq!(found(text), Err(TargetError::NoAddress(text.to_owned())), "{text}");
        }
        for text in ["192.0.2.1", "203.0.113.1", "10.5.7.0/24", "10.5.7.9"] {
            assert_eq!(found(text), Err(TargetError::Ourselves(text.to_owned())), "{text}");
        }
        for text in ["10.5.11.9", "10.6.0.0/24"] {
            assert!(matches!(found(text), Err(TargetError::NotLeased { .. })), "{text}");
        }
    }
}
