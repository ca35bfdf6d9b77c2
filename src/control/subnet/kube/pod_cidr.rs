//! A node's `podCIDR`s as subnets.

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::node::Node;
use crate::control::config::network::{NetworkConfig, Subnets};
use crate::routes::Prefix;

/// Why a node's ranges are not the subnets of a lease. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PodCidrError {
    /// It is no range.
    #[error("node {node:?} has podCIDR {text:?}, which is not a range such as 10.244.1.0/24")]
    Text {
        /// Whose.
        node: String,
        /// What was found.
        text: String,
    },
    /// More than one of each family.
    #[error(
        "node {node:?} has {num} podCIDRs ({all}); one is right, or one of IPv4 and one of IPv6"
    )]
    TooMany {
        /// Whose.
        node: String,
        /// How many.
        num: usize,
        /// All of them.
        all: String,
    },
    /// None of IPv4.
    #[error("node {node:?} has no IPv4 podCIDR, only {v6}: this flanneld carries IPv4 only")]
    NoIpv4 {
        /// Whose.
        node: String,
        /// What it has.
        v6: Ipv6Network,
    },
    /// Ours is not part of the network.
    #[error(
        "subnet {:?} specified in the flannel net config doesn't contain {:?} PodCIDR of the \
         {node:?} node: make it the cluster's --cluster-cidr", .network.to_string(), .cidr.to_string()
    )]
    Outside {
        /// `Network` or `IPv6Network`.
        network: IpNetwork,
        /// The range.
        cidr: IpNetwork,
        /// Whose.
        node: String,
    },
}

/// The ranges of a node; `None` while it has none.
pub(super) fn subnets_of(node: &Node) -> Result<Option<Subnets>, PodCidrError> {
    let name = || node.name.clone();
    let all = &node.pod_cidrs;
    if all.len() > 2 {
        let (num, all) = (all.len(), all.join(", "));
        return Err(PodCidrError::TooMany { node: name(), num, all });
    }
    let (mut v4, mut v6) = (None, None);
    for text in all {
        match (Ipv4Network::parse(text), Ipv6Network::parse(text)) {
            (Ok(cidr), _) => v4 = Some(cidr),
            (Err(_), Ok(cidr)) => v6 = Some(cidr),
            (Err(_), Err(_)) => {
                let text = text.chars().take(60).collect();
                return Err(PodCidrError::Text { node: name(), text });
            }
        }
    }
    match (v4, v6) {
        (Some(v4), v6) => Ok(Some(Subnets { v4, v6 })),
        (None, Some(v6)) => Err(PodCidrError::NoIpv4 { node: name(), v6 }),
        (None, None) => Ok(None),
    }
}

/// The subnets of our own lease: the families that this network leases.
pub(super) fn own_subnets(
    node: &Node,
    network: &NetworkConfig,
) -> Result<Option<Subnets>, PodCidrError> {
    let Some(Subnets { v4, v6 }) = subnets_of(node)? else { return Ok(None) };
    check(network.v4.network, v4, node)?;
    let v6 = match (network.leased_v6(), v6) {
        (Some(range), Some(v6)) => {
            check(range.network, v6, node)?;
            Some(v6)
        }
        (_, _) => None,
    };
    Ok(Some(Subnets { v4, v6 }))
}

fn check<P: Prefix>(network: P, cidr: P, node: &Node) -> Result<(), PodCidrError> {
    if contains(network, cidr) {
        return Ok(());
    }
    let (network, cidr, node) = (network.into(), cidr.into(), node.name.clone());
    Err(PodCidrError::Outside { network, cidr, node })
}

/// Whether `outer` has every address of `inner`.
fn contains<P: Prefix>(outer: P, inner: P) -> bool {
    outer.prefix_len() <= inner.prefix_len() && outer.overlaps(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::network::parse;

    fn node(cidrs: &[&str]) -> Node {
        let pod_cidrs = cidrs.iter().map(|&cidr| cidr.to_owned()).collect();
        Node { name: "nodea".to_owned(), pod_cidrs, ..Node::default() }
    }

    fn network() -> NetworkConfig {
        parse(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#, None).unwrap()
    }

    /// The vectors of `pkg/subnet/kube/kube_test.go`.
    #[test]
    fn range_is_contained_or_not() {
        let v4 = |outer: &str, inner: &str| {
            contains(Ipv4Network::parse(outer).unwrap(), Ipv4Network::parse(inner).unwrap())
        };
        for inside in ["10.244.0.0/16", "10.244.0.0/24", "10.244.255.0/24"] {
            assert!(v4("10.244.0.0/16", inside), "{inside}");
        }
        for outside in ["10.244.0.0/15", "192.168.0.0/24"] {
            assert!(!v4("10.244.0.0/16", outside), "{outside}");
        }
        let v6 = |inner: &str| {
            let outer = Ipv6Network::parse("2001:db8:1234::/48").unwrap();
            contains(outer, Ipv6Network::parse(inner).unwrap())
        };
        for inside in ["2001:db8:1234::/48", "2001:db8:1234::/64", "2001:db8:1234:ffff::/64"] {
            assert!(v6(inside), "{inside}");
        }
        for outside in ["2001:db8:1234::/47", "fe02::/32"] {
            assert!(!v6(outside), "{outside}");
        }
    }

    #[test]
    fn ranges_of_any_length_and_order_are_taken() {
        let subnets = own_subnets(&node(&["10.244.1.0/24"]), &network()).unwrap().unwrap();
        assert_eq!(subnets.v4.to_string(), "10.244.1.0/24");
        let both = own_subnets(&node(&["fd00:1::/64", "10.244.0.0/20"]), &network());
        assert_eq!(both.unwrap().unwrap().v4.to_string(), "10.244.0.0/20");
        assert_eq!(own_subnets(&node(&[]), &network()), Ok(None));
    }

    #[test]
    fn udp_on_dual_stack_leases_both_families() {
        let config = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:1::/48"}"#;
        let network = parse(config, None).unwrap();
        let both = own_subnets(&node(&["10.244.1.0/24", "fd00:1:0:7::/64"]), &network);
        assert_eq!(both.unwrap().unwrap().v6.unwrap().to_string(), "fd00:1:0:7::/64");
        let error = own_subnets(&node(&["10.244.1.0/24", "fd09::/64"]), &network).unwrap_err();
        let line = r#"subnet "fd00:1::/48" specified in the flannel net config doesn't contain "fd09::/64""#;
        assert!(error.to_string().starts_with(line), "{error}");
    }

    #[test]
    fn each_fault_is_one_line_with_the_node() {
        for (cidrs, message) in [
            (
                &["10.99.0.0/24"][..],
                r#"subnet "10.244.0.0/16" specified in the flannel net config doesn't contain "10.99.0.0/24" PodCIDR of the "nodea" node"#,
            ),
            (
                &["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"],
                r#"node "nodea" has 3 podCIDRs"#,
            ),
            (&["10.244.1.0"], r#"node "nodea" has podCIDR "10.244.1.0", which is not a range"#),
            (&["fd00::/64"], r#"node "nodea" has no IPv4 podCIDR, only fd00::/64"#),
        ] {
            let error = own_subnets(&node(cidrs), &network()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
