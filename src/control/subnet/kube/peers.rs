//! [`Peers`]: the leases of all other nodes, and what a change of a node makes of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::node::Node;
use super::pod_cidr::subnets_of;
use crate::control::config::network::Subnets;
use crate::control::subnet::conflict::{Conflict, ConflictKind};
use crate::control::subnet::lease::{Lease, LeaseEvent};

/// The leases of all other nodes, by the nodes' names.
///
/// A node whose annotations do not read changes nothing: what was known of it stays, until it is
/// deleted or says that it takes part no longer. Stock compares some annotations only, and forgets
/// none of a node that is there.
#[derive(Debug)]
pub(super) struct Peers {
    name: String,
    own: Subnets,
    public_ip: Ipv4Addr,
    known: BTreeMap<String, Lease>,
    /// Which nodes name a subnet. The first of them has it.
    holders: HashMap<Ipv4Network, BTreeSet<String>>,
    /// What is wrong with a node, by its name.
    malformed: BTreeMap<String, String>,
    conflicts: BTreeMap<String, Conflict>,
}

impl Peers {
    /// No peers yet, of node `name`.
    pub(super) fn new(name: String, own: Subnets, public_ip: Ipv4Addr) -> Self {
        Self {
            name,
            own,
            public_ip,
            known: BTreeMap::new(),
            holders: HashMap::new(),
            malformed: BTreeMap::new(),
            conflicts: BTreeMap::new(),
        }
    }

    /// How many nodes do not read.
    pub(super) fn num_malformed(&self) -> usize {
        self.malformed.len()
    }

    /// Every conflict with our lease.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts.values().cloned().collect()
    }

    /// All of them by name.
    pub(super) fn all(&self) -> &BTreeMap<String, Lease> {
        &self.known
    }

    /// Takes over leases of an earlier run.
    pub(super) fn restore(&mut self, leases: BTreeMap<String, Lease>) -> Vec<LeaseEvent> {
        leases.into_iter().flat_map(|(name, lease)| self.put(name, lease)).collect()
    }

    /// Takes over a node as it is now.
    pub(super) fn observe(&mut self, node: &Node) -> Vec<LeaseEvent> {
        if node.name == self.name {
            return Vec::new();
        }
        let lease = match lease_of(node) {
            Ok(lease) => lease,
            Err(reason) => {
                let before = self.malformed.insert(node.name.clone(), reason.clone());
                if before.as_ref() != Some(&reason) {
                    tracing::warn!("Error turning node {:?} to lease: {reason}", node.name);
                }
                return Vec::new();
            }
        };
        if self.malformed.remove(&node.name).is_some() {
            tracing::info!("node {:?} reads again", node.name);
        }
        match lease {
            Some(lease) => self.put(node.name.clone(), lease),
            None => self.forget(&node.name),
        }
    }

    /// Takes over a deletion.
    pub(super) fn delete(&mut self, name: &str) -> Vec<LeaseEvent> {
        self.malformed.remove(name);
        self.forget(name)
    }

    /// Takes over all nodes there are. Without `is_complete` those that are not among them stay.
    pub(super) fn replace(&mut self, nodes: &[Node], is_complete: bool) -> Vec<LeaseEvent> {
        let mut events = Vec::new();
        if is_complete {
            let listed: HashSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            let known = self.known.keys().chain(self.malformed.keys());
            let gone: Vec<String> =
                known.filter(|name| !listed.contains(name.as_str())).cloned().collect();
            events.extend(gone.iter().flat_map(|name| self.delete(name)));
        }
        events.extend(nodes.iter().flat_map(|node| self.observe(node)));
        events
    }

    /// Our public IP is another now.
    pub(super) fn follow(&mut self, public_ip: Ipv4Addr) {
        self.public_ip = public_ip;
        let all: Vec<(String, Lease)> =
            self.known.iter().map(|(name, lease)| (name.clone(), lease.clone())).collect();
        all.iter().for_each(|(name, lease)| self.compare(name, lease));
    }

    fn put(&mut self, name: String, lease: Lease) -> Vec<LeaseEvent> {
        if self.known.get(&name) == Some(&lease) {
            return Vec::new();
        }
        self.compare(&name, &lease);
        let mut events = match self.known.get(&name) {
            Some(before) if before.subnet != lease.subnet => self.forget(&name),
            Some(_) | None => Vec::new(),
        };
        let subnet = lease.subnet;
        self.holders.entry(subnet).or_default().insert(name.clone());
        self.known.insert(name.clone(), lease);
        if self.holder(subnet) == Some(name.as_str()) {
            events.extend(self.current(subnet));
        }
        events
    }

    fn forget(&mut self, name: &str) -> Vec<LeaseEvent> {
        self.resolve(name);
        let Some(Lease { subnet, .. }) = self.known.remove(name) else { return Vec::new() };
        let had_it = self.holder(subnet) == Some(name);
        if let Some(names) = self.holders.get_mut(&subnet) {
            names.remove(name);
            if names.is_empty() {
                self.holders.remove(&subnet);
            }
        }
        if had_it { self.current(subnet).into_iter().collect() } else { Vec::new() }
    }

    fn holder(&self, subnet: Ipv4Network) -> Option<&str> {
        self.holders.get(&subnet)?.first().map(String::as_str)
    }

    /// What the backend is to know of a subnet; nothing of our own.
    fn current(&self, subnet: Ipv4Network) -> Option<LeaseEvent> {
        if subnet == self.own.v4 {
            return None;
        }
        let lease = self.holder(subnet).and_then(|name| self.known.get(name)).cloned();
        Some(lease.map_or(LeaseEvent::Removed(subnet), LeaseEvent::Added))
    }

    fn compare(&mut self, name: &str, lease: &Lease) {
        let kind = if lease.attrs.public_ip() == self.public_ip {
            ConflictKind::SamePublicIp
        } else if self.own.overlap(lease.subnets()) {
            ConflictKind::Overlap
        } else {
            return self.resolve(name);
        };
        let conflict = Conflict {
            kind,
            subnet: self.own.v4,
            owner: self.public_ip,
            other_subnet: lease.subnet,
            other_owner: lease.attrs.public_ip(),
            other_host: None,
        };
        if self.conflicts.get(name) != Some(&conflict) {
            tracing::error!("conflict with node {name:?}: {conflict}");
            self.conflicts.insert(name.to_owned(), conflict);
        }
    }

    fn resolve(&mut self, name: &str) {
        if let Some(conflict) = self.conflicts.remove(name) {
            tracing::info!("conflict with node {name:?} is over: {conflict}");
        }
    }
}

/// A node's lease; `None` if it takes no part, or has no range yet.
pub(super) fn lease_of(node: &Node) -> Result<Option<Lease>, String> {
    if !node.annotations.is_managed() {
        return Ok(None);
    }
    let subnets = subnets_of(node).map_err(|error| error.to_string())?;
    let Some(Subnets { v4, v6 }) = subnets else { return Ok(None) };
    let attrs = node.annotations.attrs().map_err(|error| error.to_string())?;
    Ok(Some(Lease { subnet: v4, ipv6_subnet: v6, attrs, expires: None }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::config::kube::AnnotationPrefix;
    use crate::control::subnet::kube::annotations::Annotations;
    use crate::control::util::test_log::Logs;

    fn node(name: &str, cidrs: &[&str], pairs: &[(&str, &str)]) -> Node {
        let prefix: AnnotationPrefix = "flannel.alpha.coreos.com".parse().unwrap();
        let all: BTreeMap<String, String> = [("kube-subnet-manager", "true")]
            .iter()
            .chain(pairs)
            .map(|(name, value)| (prefix.key(name), (*value).to_owned()))
            .collect();
        Node {
            name: name.to_owned(),
            annotations: Annotations::read(all, &prefix),
            pod_cidrs: cidrs.iter().map(|&cidr| cidr.to_owned()).collect(),
            ..Node::default()
        }
    }

    fn at(name: &str, cidr: &str, ip: &str) -> Node {
        node(name, &[cidr], &[("public-ip", ip)])
    }

    fn peers() -> Peers {
        let own = Subnets { v4: "10.244.1.0/24".parse().unwrap(), v6: None };
        Peers::new("nodea".to_owned(), own, [192, 0, 2, 1].into())
    }

    /// Such as `+10.244.2.0/24 of 192.0.2.2` and `-10.244.2.0/24`.
    fn texts(events: &[LeaseEvent]) -> Vec<String> {
        let text = |event: &LeaseEvent| match event {
            LeaseEvent::Added(lease) => format!("+{} of {}", lease.subnet, lease.attrs),
            LeaseEvent::Removed(subnet) => format!("-{subnet}"),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn every_change_of_a_node_is_a_change_of_its_lease() {
        let mut peers = peers();
        let b = at("nodeb", "10.244.2.0/24", "192.0.2.2");
        assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
        assert_eq!(texts(&peers.observe(&b)), [""; 0], "nothing is different");
        let moved = at("nodeb", "10.244.2.0/24", "192.0.2.22");
        assert_eq!(texts(&peers.observe(&moved)), ["+10.244.2.0/24 of 192.0.2.22"]);
        let renumbered = at("nodeb", "10.244.7.0/24", "192.0.2.22");
        let events = texts(&peers.observe(&renumbered));
        assert_eq!(events, ["-10.244.2.0/24", "+10.244.7.0/24 of 192.0.2.22"]);
        let left = node("nodeb", &["10.244.7.0/24"], &[("kube-subnet-manager", "false")]);
        assert_eq!(texts(&peers.observe(&left)), ["-10.244.7.0/24"], "the annotation is gone");
        assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
        assert_eq!(texts(&peers.delete("nodeb")), ["-10.244.2.0/24"]);
    }

    /// Stock sees a change only if both families have one.
    #[test]
    fn change_of_one_family_is_seen() {
        let dual = |v4: &str, v6: &str| {
            let cidrs = ["10.244.2.0/24", "fd00:2::/64"];
            node("nodeb", &cidrs, &[("public-ip", v4), ("public-ipv6", v6)])
        };
        let mut peers = peers();
        peers.observe(&dual("192.0.2.2", "fd71::2"));
        assert_eq!(peers.observe(&dual("192.0.2.22", "fd71::2")).len(), 1);
        assert_eq!(peers.observe(&dual("192.0.2.22", "fd71::22")).len(), 1);
        let type_only = |kind| {
            let pairs = [("public-ip", "192.0.2.22"), ("backend-type", kind)];
            node("nodeb", &["10.244.2.0/24", "fd00:2::/64"], &pairs)
        };
        assert_eq!(peers.observe(&type_only("vxlan")).len(), 1);
        assert_eq!(peers.observe(&type_only("host-gw")).len(), 1);
    }

    #[test]
    fn list_without_a_node_removes_it_unless_the_list_is_in_doubt() {
        let mut peers = peers();
        let (b, c) =
            (at("nodeb", "10.244.2.0/24", "192.0.2.2"), at("nodec", "10.244.3.0/24", "192.0.2.3"));
        assert_eq!(peers.replace(&[b.clone(), c.clone()], true).len(), 2);
        assert_eq!(texts(&peers.replace(&[], false)), [""; 0]);
        assert_eq!(texts(&peers.replace(&[c], true)), ["-10.244.2.0/24"]);
        assert_eq!(peers.all().len(), 1);
    }

    #[test]
    fn fault_of_a_peer_is_said_once_and_changes_nothing() {
        let logs = Logs::capture();
        let mut peers = peers();
        peers.observe(&at("nodeb", "10.244.2.0/24", "192.0.2.2"));
        for _ in 0..3 {
            assert_eq!(peers.observe(&at("nodeb", "10.244.2.0/24", "oops")), []);
            assert_eq!(peers.observe(&node("nodec", &["10.244.3.0/24"], &[])), []);
        }
        assert_eq!((peers.all().len(), peers.num_malformed()), (1, 2));
        let line = "Error turning node \"nodeb\" to lease: annotation public-ip is \"oops\"";
        assert_eq!(logs.count(line), 1);
        assert_eq!(logs.count("Error turning node \"nodec\" to lease: it has no annotation"), 1);
        assert_eq!(texts(&peers.delete("nodeb")), ["-10.244.2.0/24"]);
        assert_eq!(peers.num_malformed(), 1);
        peers.observe(&at("nodec", "10.244.3.0/24", "192.0.2.3"));
        assert_eq!((peers.num_malformed(), logs.count("node \"nodec\" reads again")), (0, 1));
    }

    #[test]
    fn of_two_nodes_with_one_range_the_first_has_it_and_the_second_gets_it_after() {
        let mut peers = peers();
        let (b, c) =
            (at("nodeb", "10.244.2.0/24", "192.0.2.2"), at("nodec", "10.244.2.0/24", "192.0.2.3"));
        assert_eq!(texts(&peers.observe(&c)), ["+10.244.2.0/24 of 192.0.2.3"]);
        assert_eq!(texts(&peers.observe(&b)), ["+10.244.2.0/24 of 192.0.2.2"]);
        assert_eq!(texts(&peers.delete("nodeb")), ["+10.244.2.0/24 of 192.0.2.3"]);
        assert_eq!(texts(&peers.delete("nodec")), ["-10.244.2.0/24"]);
    }

    #[test]
    fn node_with_our_range_or_address_is_a_conflict() {
        let logs = Logs::capture();
        let mut peers = peers();
        assert_eq!(texts(&peers.observe(&at("nodea", "10.244.1.0/24", "192.0.2.1"))), [""; 0]);
        assert_eq!(texts(&peers.observe(&at("nodeb", "10.244.1.0/24", "192.0.2.2"))), [""; 0]);
        assert_eq!(peers.observe(&at("nodec", "10.244.3.0/24", "192.0.2.1")).len(), 1);
        assert_eq!((peers.conflicts().len(), logs.count("conflict with node")), (2, 2));
        peers.follow([192, 0, 2, 9].into());
        peers.delete("nodeb");
        assert_eq!((peers.conflicts().len(), logs.count("is over")), (0, 2));
    }
}
