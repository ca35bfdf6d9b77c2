//! What a backend keeps in the kernel's tables for its peers, and the difference between what is
//! wanted and what is there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::mac::Mac;

/// By which link a route leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The backend's own device. The gateway is the peer's address on it, which no connected route
    /// leads to: the route is `onlink`.
    Overlay,
    /// The external interface. The gateway is on one of its connected networks.
    Underlay,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The next hop.
    pub gateway: Ipv4Addr,
    /// The link.
    pub via: Via,
}

/// Entries of the kernel's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Permanent neighbours on the overlay device.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Permanent entries of the overlay device's forwarding database.
    pub fdb: BTreeMap<Mac, Ipv4Addr>,
    /// Routes of the main table.
    pub routes: BTreeMap<Ipv4Network, Hop>,
}

/// Names one entry. The order is that in which a peer's entries are made: a route never leads to a
/// neighbour that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The neighbour with this address.
    Neighbour(Ipv4Addr),
    /// The forwarding entry for this address.
    Fdb(Mac),
    /// The route to this subnet.
    Route(Ipv4Network),
}

/// One thing to do to the kernel's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Add the neighbour, or give it another address.
    SetNeighbour(Ipv4Addr, Mac),
    /// Delete the neighbour.
    DeleteNeighbour(Ipv4Addr),
    /// Add the forwarding entry, or give it another destination.
    SetFdb(Mac, Ipv4Addr),
    /// Delete the forwarding entry to this destination.
    DeleteFdb(Mac, Ipv4Addr),
    /// Add the route, or let it lead elsewhere.
    SetRoute(Ipv4Network, Hop),
    /// Delete the route.
    DeleteRoute(Ipv4Network, Hop),
}

impl Entries {
    /// The names of all entries.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let neighbours = self.neighbours.keys().copied().map(Key::Neighbour);
        let fdb = self.fdb.keys().copied().map(Key::Fdb);
        neighbours.chain(fdb).chain(self.routes.keys().copied().map(Key::Route))
    }

    /// What makes the entry `key` of these entries that of `wanted`; `None` if it is.
    pub fn change(&self, key: Key, wanted: &Self) -> Option<Change> {
        match key {
            Key::Neighbour(addr) => differ(
                (self.neighbours.get(&addr), wanted.neighbours.get(&addr)),
                |mac| Change::SetNeighbour(addr, mac),
                |_| Change::DeleteNeighbour(addr),
            ),
            Key::Fdb(mac) => differ(
                (self.fdb.get(&mac), wanted.fdb.get(&mac)),
                |dst| Change::SetFdb(mac, dst),
                |dst| Change::DeleteFdb(mac, dst),
            ),
            Key::Route(subnet) => differ(
                (self.routes.get(&subnet), wanted.routes.get(&subnet)),
                |hop| Change::SetRoute(subnet, hop),
                |hop| Change::DeleteRoute(subnet, hop),
            ),
        }
    }

    /// Takes note that `change` was made.
    pub fn record(&mut self, change: Change) {
        match change {
            Change::SetNeighbour(addr, mac) => drop(self.neighbours.insert(addr, mac)),
            Change::DeleteNeighbour(addr) => drop(self.neighbours.remove(&addr)),
            Change::SetFdb(mac, dst) => drop(self.fdb.insert(mac, dst)),
            Change::DeleteFdb(mac, _) => drop(self.fdb.remove(&mac)),
            Change::SetRoute(subnet, hop) => drop(self.routes.insert(subnet, hop)),
            Change::DeleteRoute(subnet, _) => drop(self.routes.remove(&subnet)),
        }
    }
}

fn differ<T: PartialEq + Copy>(
    (there, wanted): (Option<&T>, Option<&T>),
    set: impl FnOnce(T) -> Change,
    delete: impl FnOnce(T) -> Change,
) -> Option<Change> {
    match (there, wanted) {
        (Some(there), Some(wanted)) if there == wanted => None,
        (_, Some(wanted)) => Some(set(*wanted)),
        (Some(there), None) => Some(delete(*there)),
        (None, None) => None,
    }
}

impl Change {
    /// Whether it takes an entry away.
    pub const fn is_deletion(self) -> bool {
        match self {
            Self::DeleteNeighbour(_) | Self::DeleteFdb(..) | Self::DeleteRoute(..) => true,
            Self::SetNeighbour(..) | Self::SetFdb(..) | Self::SetRoute(..) => false,
        }
    }
}

/// In the words of `ip` and `bridge`, so that an operator can repeat it by hand.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetNeighbour(addr, mac) => write!(f, "set neighbour {addr} lladdr {mac}"),
            Self::DeleteNeighbour(addr) => write!(f, "delete neighbour {addr}"),
            Self::SetFdb(mac, dst) => write!(f, "set FDB entry {mac} dst {dst}"),
            Self::DeleteFdb(mac, dst) => write!(f, "delete FDB entry {mac} dst {dst}"),
            Self::SetRoute(subnet, hop) => write!(f, "set route {subnet} via {}", hop.gateway),
            Self::DeleteRoute(subnet, hop) => {
                write!(f, "delete route {subnet} via {}", hop.gateway)
            }
        }
    }
}
