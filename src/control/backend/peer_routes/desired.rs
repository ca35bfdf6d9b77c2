//! [`Desired`]: the entries of the kernel's tables that the peers' leases ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::entries::{Entries, Hop, Key};
use super::mac::Mac;

/// What one peer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerEntries {
    /// Where the route to its subnet leads.
    pub hop: Hop,
    /// Behind a tunnel: the address of its tunnel device, and the host that has it.
    pub vtep: Option<(Mac, Ipv4Addr)>,
}

/// The entries of all peers.
#[derive(Debug, Default)]
pub struct Desired {
    peers: BTreeMap<Ipv4Network, PeerEntries>,
    /// A device may hold several subnets. The kernel keeps one destination per address: that of
    /// the first subnet, whatever the order in which the leases were written.
    holders: BTreeMap<Mac, BTreeSet<Ipv4Network>>,
    /// The subnets that begin with one address, which is their gateway: leases from before
    /// `SubnetLen` was changed and from after. The neighbour is that of the last of them.
    gateways: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Network>>,
    entries: Entries,
}

impl Desired {
    /// What the tables are to hold.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The peers by subnet.
    pub fn peers(&self) -> &BTreeMap<Ipv4Network, PeerEntries> {
        &self.peers
    }

    /// Gives the peer of `subnet` these entries, or none. Returns what may have changed, in the
    /// order in which it is to be programmed.
    pub fn set(&mut self, subnet: Ipv4Network, peer: Option<PeerEntries>) -> BTreeSet<Key> {
        let before = match peer {
            Some(peer) => self.peers.insert(subnet, peer),
            None => self.peers.remove(&subnet),
        };
        let mut touched = BTreeSet::from([Key::Route(subnet)]);
        if let Some(PeerEntries { hop, vtep: Some((mac, _)) }) = before {
            touched.extend([Key::Neighbour(hop.gateway), Key::Fdb(mac)]);
            if let Some(holders) = self.gateways.get_mut(&hop.gateway) {
                holders.remove(&subnet);
            }
            if let Some(holders) = self.holders.get_mut(&mac) {
                holders.remove(&subnet);
            }
        }
        if let Some(PeerEntries { hop, vtep: Some((mac, _)) }) = peer {
            touched.extend([Key::Neighbour(hop.gateway), Key::Fdb(mac)]);
            self.gateways.entry(hop.gateway).or_default().insert(subnet);
            self.holders.entry(mac).or_default().insert(subnet);
        }
        match peer {
            Some(PeerEntries { hop, .. }) => self.entries.routes.insert(subnet, hop),
            None => self.entries.routes.remove(&subnet),
        };
        for key in &touched {
            match key {
                Key::Neighbour(gateway) => self.settle_neighbour(*gateway),
                Key::Fdb(mac) => self.settle(*mac),
                Key::Route(_) => {}
            }
        }
        touched
    }

    /// The other subnets whose peers have the tunnel address `mac` too, but on another host than
    /// `host`: one of them does not get its packets.
    pub fn rivals(&self, mac: Mac, host: Ipv4Addr) -> Vec<Ipv4Network> {
        let holders = self.holders.get(&mac).into_iter().flatten();
        let elsewhere = |subnet: &&Ipv4Network| self.host_of(**subnet).is_some_and(|it| it != host);
        holders.filter(elsewhere).copied().collect()
    }

    fn settle_neighbour(&mut self, gateway: Ipv4Addr) {
        let last = self.gateways.get(&gateway).and_then(BTreeSet::last);
        match last.and_then(|subnet| self.peers.get(subnet)?.vtep) {
            Some((mac, _)) => drop(self.entries.neighbours.insert(gateway, mac)),
            None => {
                self.entries.neighbours.remove(&gateway);
                self.gateways.remove(&gateway);
            }
        }
    }

    fn settle(&mut self, mac: Mac) {
        let first = self.holders.get(&mac).and_then(BTreeSet::first).copied();
        match first.and_then(|subnet| self.host_of(subnet)) {
            Some(host) => drop(self.entries.fdb.insert(mac, host)),
            None => {
                self.entries.fdb.remove(&mac);
                self.holders.remove(&mac);
            }
        }
    }

    fn host_of(&self, subnet: Ipv4Network) -> Option<Ipv4Addr> {
        Some(self.peers.get(&subnet)?.vtep?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::backend::peer_routes::entries::{Change, Via};
    use crate::routes::Prefix;

    fn subnet(third: u8) -> Ipv4Network {
        Ipv4Network::containing(Ipv4Addr::new(10, 5, third, 0), 24).unwrap()
    }

    fn mac(last: u8) -> Mac {
        Mac::from_slice(&[2, 0, 0, 0, 0, last]).unwrap()
    }

    fn host(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn tunnelled(third: u8, last: u8, mac_of: u8) -> PeerEntries {
        let hop = Hop { gateway: subnet(third).network(), via: Via::Overlay };
        PeerEntries { hop, vtep: Some((mac(mac_of), host(last))) }
    }

    /// What turns `there` into what is desired, for these keys.
    fn changes(desired: &Desired, there: &mut Entries, touched: &BTreeSet<Key>) -> Vec<String> {
        let changes: Vec<Change> =
            touched.iter().filter_map(|key| there.change(*key, desired.entries())).collect();
        changes.iter().for_each(|change| there.record(*change));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn peer_gets_neighbour_then_fdb_entry_then_route_and_loses_all_three() {
        let (mut desired, mut there) = (Desired::default(), Entries::default());
        let touched = desired.set(subnet(2), Some(tunnelled(2, 7, 1)));
        let made = changes(&desired, &mut there, &touched);
        let expected = [
            "set neighbour 10.5.2.0 lladdr 02:00:00:00:00:01",
            "set FDB entry 02:00:00:00:00:01 dst 192.0.2.7",
            "set route 10.5.2.0/24 via 10.5.2.0",
        ];
        assert_eq!(made, expected);
        let touched = desired.set(subnet(2), None);
        assert_eq!(changes(&desired, &mut there, &touched).len(), 3);
        assert_eq!(there, Entries::default());
    }

    #[test]
    fn changed_mac_leaves_no_old_entry() {
        let (mut desired, mut there) = (Desired::default(), Entries::default());
        let touched = desired.set(subnet(2), Some(tunnelled(2, 7, 1)));
        changes(&desired, &mut there, &touched);
        let touched = desired.set(subnet(2), Some(tunnelled(2, 7, 9)));
        let made = changes(&desired, &mut there, &touched);
        let expected = [
            "set neighbour 10.5.2.0 lladdr 02:00:00:00:00:09",
            "delete FDB entry 02:00:00:00:00:01 dst 192.0.2.7",
            "set FDB entry 02:00:00:00:00:09 dst 192.0.2.7",
        ];
        assert_eq!(made, expected);
        assert_eq!(&there, desired.entries());
    }

    #[test]
    fn device_with_two_subnets_keeps_its_fdb_entry_until_the_last_one_goes() {
        let mut desired = Desired::default();
        desired.set(subnet(2), Some(tunnelled(2, 7, 1)));
        desired.set(subnet(3), Some(tunnelled(3, 7, 1)));
        assert!(desired.rivals(mac(1), host(7)).is_empty(), "one host");
        desired.set(subnet(2), None);
        assert_eq!(desired.entries().fdb.get(&mac(1)), Some(&host(7)));
        desired.set(subnet(3), None);
        assert_eq!(desired.entries(), &Entries::default());
    }

    #[test]
    fn subnets_of_two_lengths_share_a_neighbour_until_the_last_of_them_goes() {
        let long = Ipv4Network::containing(subnet(2).network(), 25).unwrap();
        let neighbour =
            |desired: &Desired| desired.entries().neighbours.get(&long.network()).copied();
        for gone in [subnet(2), long] {
            let mut desired = Desired::default();
            desired.set(subnet(2), Some(tunnelled(2, 7, 1)));
            desired.set(long, Some(tunnelled(2, 7, 1)));
            desired.set(gone, None);
            assert_eq!(neighbour(&desired), Some(mac(1)), "{gone} is gone");
            desired.set(if gone == long { subnet(2) } else { long }, None);
            assert_eq!(desired.entries(), &Entries::default());
            assert!(desired.gateways.is_empty() && desired.holders.is_empty());
        }
    }

    #[test]
    fn two_hosts_with_one_address_are_rivals_and_the_first_subnet_wins_in_any_order() {
        for order in [[2, 3], [3, 2]] {
            let mut desired = Desired::default();
            for third in order {
                desired.set(subnet(third), Some(tunnelled(third, third, 1)));
            }
            assert_eq!(desired.entries().fdb.get(&mac(1)), Some(&host(2)));
            assert_eq!(desired.rivals(mac(1), host(2)), [subnet(3)]);
        }
    }

    #[test]
    fn direct_route_takes_the_place_of_a_tunnelled_one() {
        let (mut desired, mut there) = (Desired::default(), Entries::default());
        let touched = desired.set(subnet(2), Some(tunnelled(2, 7, 1)));
        changes(&desired, &mut there, &touched);
        let hop = Hop { gateway: host(7), via: Via::Underlay };
        let touched = desired.set(subnet(2), Some(PeerEntries { hop, vtep: None }));
        changes(&desired, &mut there, &touched);
        let routes = BTreeMap::from([(subnet(2), hop)]);
        assert_eq!(there, Entries { routes, ..Entries::default() });
    }
}
