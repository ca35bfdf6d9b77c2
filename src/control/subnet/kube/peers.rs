//! [`Peers`]: the leases of all other nodes, and what a change of a node makes of them.

#[cfg(test)]
mod tests;

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
