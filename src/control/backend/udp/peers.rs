//! What a peer's lease makes of the route to its subnet.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnetwork::Ipv4Network;
use tracing::{info, warn};

use super::heard::PeerName;
use super::source_ports;
use super::ways::{NoWay, Verdict};
use crate::control::subnet::lease::{Lease, LeaseAttrs, LeaseEvent, print_key};
use crate::routes::publish::RouteChange;
use crate::routes::{KernelReceive, NextHop};

/// The peers, by their leases, and how each is reached.
#[derive(Debug)]
pub(super) struct Peers {
    /// All of them listen on this port.
    port: u16,
    /// Flows may have source ports of their own, towards peers that accept that.
    spreads_flows: bool,
    /// Addresses at which we are ourselves.
    own: [Ipv4Addr; 2],
    leases: HashMap<Ipv4Network, Known>,
    /// The public IPs of all leases.
    addrs: HashMap<Ipv4Addr, Addr>,
}

/// What is known of one lease.
#[derive(Debug)]
struct Known {
    key: String,
    next_hop: NextHop,
    /// The backend of a node that does not read datagrams at our port.
    other_backend: Option<String>,
}

/// A public IP.
#[derive(Debug, Default)]
struct Addr {
    /// The subnets of its leases, one as a rule.
    subnets: Vec<Ipv4Network>,
    /// Why nothing can be sent there.
    no_way: Option<NoWay>,
    /// Somebody gave the route to it an MTU, which only the workers respect.
    has_mtu: bool,
}

/// What is to be done about a public IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddrChange {
    /// A lease names it: ask the kernel for the way to it.
    Came(Ipv4Addr),
    /// No lease names it any more.
    Left(Ipv4Addr),
}

impl Peers {
    /// None yet; all will listen on `port`, and we are at the addresses `own`.
    pub(super) fn new(port: u16, spreads_flows: bool, own: [Ipv4Addr; 2]) -> Self {
        Self { port, spreads_flows, own, leases: HashMap::new(), addrs: HashMap::new() }
    }

    /// We are at the addresses `own` from now on. A peer may be where we were.
    pub(super) const fn set_own(&mut self, own: [Ipv4Addr; 2]) {
        self.own = own;
    }

    /// Where all of them listen.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// The public IPs of all leases, in no order.
    pub(super) fn addrs(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addrs.keys().copied()
    }

    /// The subnets of the peer with this public IP, or with this address in one of them.
    pub(super) fn subnets_of(&self, addr: Ipv4Addr) -> Vec<Ipv4Network> {
        match self.addrs.get(&addr) {
            Some(known) => known.subnets.clone(),
            None => self.leases.keys().filter(|subnet| subnet.contains(addr)).copied().collect(),
        }
    }

    /// The name of the peer at a public IP, for people.
    pub(super) fn name(&self, addr: Ipv4Addr) -> PeerName {
        let known = self.addrs.get(&addr);
        PeerName { addr, subnet: known.and_then(|known| known.subnets.first()).copied() }
    }

    /// Whether a lease names this public IP.
    pub(super) fn has(&self, addr: Ipv4Addr) -> bool {
        self.addrs.contains_key(&addr)
    }

    /// The change of route that follows from a change of lease. Adds to `addrs` what it means for
    /// public IPs.
    pub(super) fn change(
        &mut self,
        event: &LeaseEvent,
        addrs: &mut Vec<AddrChange>,
    ) -> RouteChange {
        match event {
            LeaseEvent::Added(lease) => self.add(lease, addrs),
            LeaseEvent::Removed(subnet) => {
                if let Some(before) = self.leases.remove(subnet) {
                    self.leave(*subnet, *before.next_hop.addr.ip(), addrs);
                }
                RouteChange { subnet: *subnet, next_hop: None }
            }
        }
    }

    fn add(&mut self, lease: &Lease, addrs: &mut Vec<AddrChange>) -> RouteChange {
        let (subnet, ip, key) = (lease.subnet, lease.attrs.public_ip(), print_key(lease.subnets()));
        let next_hop = self.next_hop(&lease.attrs);
        let other_backend =
            lease.attrs.backend_type.clone().filter(|kind| !kind.eq_ignore_ascii_case("udp"));
        let known = Known { key: key.clone(), next_hop, other_backend: other_backend.clone() };
        let before = self.leases.insert(subnet, known);
        // Stock sends to every lease, and so do we: the node may change its backend any moment.
        if let Some(kind) = &other_backend
            && before.as_ref().is_none_or(|before| before.other_backend != other_backend)
        {
            warn!(
                "lease {key} is that of a node with the {kind} backend: {ip} will not answer, set \
                 one Backend.Type for all nodes and restart flanneld there"
            );
        }
        let before = before.map(|known| *known.next_hop.addr.ip());
        if before != Some(ip) {
            if let Some(before) = before {
                self.leave(subnet, before, addrs);
            }
            let plain = NoWay::of_address(ip, &self.own);
            let addr = self.addrs.entry(ip).or_insert_with(|| {
                if plain.is_none() {
                    addrs.push(AddrChange::Came(ip));
                }
                Addr { subnets: Vec::new(), no_way: plain, has_mtu: false }
            });
            addr.subnets.push(subnet);
            if let Some(no_way) = addr.no_way {
                warn_no_way(&key, subnet, ip, no_way);
            }
        }
        RouteChange { subnet, next_hop: self.addrs.get(&ip).and_then(|addr| addr.reach(next_hop)) }
    }

    fn leave(&mut self, subnet: Ipv4Network, ip: Ipv4Addr, addrs: &mut Vec<AddrChange>) {
        let Some(addr) = self.addrs.get_mut(&ip) else { return };
        addr.subnets.retain(|other| *other != subnet);
        if addr.subnets.is_empty() {
            self.addrs.remove(&ip);
            addrs.push(AddrChange::Left(ip));
        }
    }

    /// The changes of routes that follow from what the kernel says of the way to a public IP.
    pub(super) fn take_verdict(&mut self, verdict: Verdict) -> Vec<RouteChange> {
        let Verdict { addr: ip, no_way, mtu } = verdict;
        let Some(addr) = self.addrs.get_mut(&ip) else { return Vec::new() };
        let before = (addr.no_way, addr.has_mtu);
        (addr.no_way, addr.has_mtu) = (no_way, mtu.is_some());
        if before == (addr.no_way, addr.has_mtu) {
            return Vec::new();
        }
        let is_way_new = before.0 != no_way;
        let change = |subnet: &Ipv4Network| {
            let Known { key, next_hop, .. } = self.leases.get(subnet)?;
            match no_way {
                Some(no_way) if is_way_new => warn_no_way(key, *subnet, ip, no_way),
                None if is_way_new => {
                    info!(%subnet, public_ip = %ip, "the peer has a way again, and its route");
                }
                Some(_) | None => {}
            }
            Some(RouteChange { subnet: *subnet, next_hop: addr.reach(*next_hop) })
        };
        addr.subnets.iter().filter_map(change).collect()
    }

    fn next_hop(&self, attrs: &LeaseAttrs) -> NextHop {
        NextHop {
            addr: SocketAddrV4::new(attrs.public_ip(), self.port),
            any_source_port: self.spreads_flows && source_ports::are_any(attrs),
            kernel_receive: source_ports::kernel_receive(attrs),
        }
    }
}

impl Addr {
    /// How a peer there is reached, if it is.
    fn reach(&self, next_hop: NextHop) -> Option<NextHop> {
        // The programs know no MTU of a route.
        let kernel_receive =
            if self.has_mtu { KernelReceive::Nothing } else { next_hop.kernel_receive };
        self.no_way.is_none().then_some(NextHop { kernel_receive, ..next_hop })
    }
}

fn warn_no_way(key: &str, subnet: Ipv4Network, public_ip: Ipv4Addr, no_way: NoWay) {
    warn!("lease {key} names no peer: {public_ip} is {no_way}; there is no route to {subnet}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::util::test_log::Logs;
    use crate::routes::Prefix;

    const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];

    fn peers(spreads_flows: bool) -> Peers {
        Peers::new(8290, spreads_flows, OWN)
    }

    fn subnet() -> Ipv4Network {
        "10.1.2.0/24".parse().unwrap()
    }

    fn lease(public_ip: &str) -> Lease {
        let public_ip: Ipv4Addr = public_ip.parse().unwrap();
        Lease {
            ipv6_subnet: None,
            subnet: subnet(),
            attrs: LeaseAttrs::udp(public_ip),
            expires: None,
        }
    }

    /// The next hop after these leases, and what became of public IPs.
    fn after(
        peers: &mut Peers,
        events: impl IntoIterator<Item = LeaseEvent>,
    ) -> (Option<NextHop>, Vec<AddrChange>) {
        let mut addrs = Vec::new();
        let changes = events.into_iter().map(|event| peers.change(&event, &mut addrs));
        let next_hop = changes.last().unwrap().next_hop;
        (next_hop, addrs)
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn peer_is_reached_at_its_public_ip_and_our_port() {
        let mut peers = peers(true);
        let (next_hop, addrs) = after(&mut peers, [LeaseEvent::Added(lease("192.0.2.2"))]);
        assert_eq!(next_hop, Some(NextHop::new("192.0.2.2:8290".parse().unwrap())));
        assert_eq!(addrs, [AddrChange::Came(ip("192.0.2.2"))]);
        let (next_hop, addrs) = after(&mut peers, [LeaseEvent::Removed(subnet())]);
        assert_eq!((next_hop, addrs), (None, vec![AddrChange::Left(ip("192.0.2.2"))]));
        assert!(peers.addrs.is_empty() && peers.leases.is_empty(), "nothing is left");
    }

    #[test]
    fn lease_of_another_backend_is_a_peer_as_well_with_one_warning() {
        let logs = Logs::capture();
        let mut peers = peers(true);
        for (kind, num_warnings) in [
            (Some("vxlan"), 1),
            (Some("vxlan"), 1),
            (Some("host-gw"), 2),
            (None, 2),
            (Some("udp"), 2),
        ] {
            let mut lease = lease("192.0.2.2");
            lease.attrs.backend_type = kind.map(str::to_owned);
            assert!(after(&mut peers, [LeaseEvent::Added(lease)]).0.is_some());
            assert_eq!(logs.count("WARN"), num_warnings, "{kind:?}");
        }
        let line = &logs.lines_with("vxlan backend")[0];
        assert!(line.contains("lease 10.1.2.0-24") && line.contains("192.0.2.2"), "{line}");
    }

    #[test]
    fn flows_spread_only_if_both_sides_agree() {
        let spreads = |mut peers: Peers, advertises: bool| {
            let mut lease = lease("192.0.2.2");
            if advertises {
                lease.attrs = source_ports::advertise(lease.attrs);
            }
            after(&mut peers, [LeaseEvent::Added(lease)]).0.unwrap().any_source_port
        };
        assert!(spreads(peers(true), true));
        assert!(!spreads(peers(true), false));
        assert!(!spreads(peers(false), true));
    }

    #[test]
    fn lease_that_names_no_peer_takes_its_route_away_and_is_logged_once() {
        for unusable in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.255.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.51.100.1",
        ] {
            let logs = Logs::capture();
            let mut peers = peers(true);
            let events = ["192.0.2.2", unusable, unusable].map(|ip| LeaseEvent::Added(lease(ip)));
            let (next_hop, addrs) = after(&mut peers, events);
            assert_eq!(next_hop, None, "{unusable}");
            let peer = ip("192.0.2.2");
            assert_eq!(addrs, [AddrChange::Came(peer), AddrChange::Left(peer)], "no lookup");
            assert_eq!(logs.count("WARN"), 1);
            let line = &logs.lines_with("WARN")[0];
            assert!(line.contains("lease 10.1.2.0-24") && line.contains(unusable), "{line}");
        }
    }

    #[test]
    fn route_follows_what_the_kernel_says_of_the_way() {
        let logs = Logs::capture();
        let mut peers = peers(true);
        let addr = ip("10.1.2.5");
        let (next_hop, _) = after(&mut peers, [LeaseEvent::Added(lease("10.1.2.5"))]);
        let into_overlay = Verdict { addr, no_way: Some(NoWay::Overlay), mtu: None };
        assert_eq!(
            peers.take_verdict(into_overlay),
            [RouteChange { subnet: subnet(), next_hop: None }]
        );
        assert_eq!(peers.take_verdict(into_overlay), [], "no news");
        let again = after(&mut peers, [LeaseEvent::Added(lease("10.1.2.5"))]);
        assert_eq!(again, (None, vec![]), "written again: still without a way");
        assert_eq!(logs.count("WARN"), 1);
        let line = &logs.lines_with("WARN")[0];
        assert!(line.contains("lease 10.1.2.0-24 names no peer: 10.1.2.5"), "{line}");

        let by_underlay = Verdict { addr, no_way: None, mtu: None };
        assert_eq!(peers.take_verdict(by_underlay), [RouteChange { subnet: subnet(), next_hop }]);
        assert_eq!(peers.take_verdict(Verdict { addr: ip("192.0.2.9"), ..into_overlay }), []);
    }

    #[test]
    fn kernel_sends_to_peers_that_say_so_unless_the_route_there_has_an_mtu() {
        let mut peers = peers(true);
        let mut lease = lease("192.0.2.2");
        lease.attrs = source_ports::advertise_kernel(lease.attrs, KernelReceive::All);
        let (next_hop, _) = after(&mut peers, [LeaseEvent::Added(lease)]);
        assert_eq!(next_hop.unwrap().kernel_receive, KernelReceive::All);
        let verdict = |mtu| Verdict { addr: ip("192.0.2.2"), no_way: None, mtu };
        for (mtu, kernel_receive) in
            [(Some(1300), KernelReceive::Nothing), (None, KernelReceive::All)]
        {
            let changes = peers.take_verdict(verdict(mtu));
            let next_hops: Vec<_> = changes.iter().map(|change| change.next_hop.unwrap()).collect();
            assert_eq!(next_hops.len(), 1);
            assert_eq!(next_hops[0].kernel_receive, kernel_receive, "{mtu:?}");
        }
    }

    #[test]
    fn ten_thousand_peers_that_come_and_go_leave_nothing() {
        let mut peers = peers(true);
        for number in 0..10_000_u32 {
            let ip = Ipv4Addr::from_bits(0x0b00_0000 + number).to_string();
            let mut lease = lease(&ip);
            lease.subnet =
                Ipv4Network::containing((0x0a01_0000 + (number % 4) * 256).into(), 24).unwrap();
            after(&mut peers, [LeaseEvent::Added(lease)]);
        }
        assert_eq!((peers.leases.len(), peers.addrs.len()), (4, 4));
    }
}
