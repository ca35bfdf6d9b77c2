//! [`Ways`]: asks the kernel by which way it would send to each peer.
//!
//! A lease may name an address that leads to no peer: this host's own, a broadcast address, or one
//! that the kernel routes into the overlay, so that a datagram would come back. A query takes about
//! 20 µs, too long for 10,000 leases in the loop that follows the leases, so a separate task makes
//! them: a route is added at once, and withdrawn if the address is unusable.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::peers::AddrChange;
use crate::control::host::net::Way;
use crate::routes::unusable;

/// How often the ways are asked for again that lie in the overlay's range, or were none: routes
/// change, and the kernel does not announce each that goes.
const PERIOD: Duration = Duration::from_secs(10);

/// Number of periods in which each of the other ways is queried once.
const SHARES: usize = 60;

/// Least number of queries in each period.
const LEAST_SHARE: usize = 100;

/// Why nothing can be sent to a public IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWay {
    /// No host can have it: what it is instead.
    Unusable(&'static str),
    Own,
    Multicast,
    Broadcast,
    Overlay,
}

/// What the kernel says of the way to a public IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) addr: Ipv4Addr,
    pub(super) no_way: Option<NoWay>,
    /// The MTU of that route, if it has one of its own.
    pub(super) mtu: Option<u32>,
}

/// Whom to ask.
pub(super) trait RouteLookup {
    /// The overlay device's number, while there is one.
    fn overlay(&self) -> impl Future<Output = Option<u32>> + Send;

    /// By which way the kernel would send to `addr`, and the MTU that was set on that route;
    /// `None` if it does not say, or has none now.
    fn way(&self, addr: Ipv4Addr) -> impl Future<Output = Option<(Way, Option<u32>)>> + Send;
}

/// Asks about all public IPs of the peers, and again from time to time.
#[derive(Debug)]
pub(super) struct Ways<R> {
    lookup: R,
    network: Ipv4Network,
    changes: mpsc::UnboundedReceiver<AddrChange>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    /// The last answer for every public IP.
    known: BTreeMap<Ipv4Addr, (Option<NoWay>, Option<u32>)>,
    /// The last one asked for again in its turn.
    asked_last: Ipv4Addr,
    /// Shares of a way that are due and not asked for yet.
    credit: usize,
}

impl NoWay {
    /// What an address says by itself, on a host that has the addresses `own`.
    pub(super) fn of_address(addr: Ipv4Addr, own: &[Ipv4Addr]) -> Option<Self> {
        let unusable = unusable(addr).map(Self::Unusable);
        unusable.or_else(|| own.contains(&addr).then_some(Self::Own))
    }

    fn of_way(way: Way, overlay: Option<u32>) -> Option<Self> {
        match way {
            Way::Here => Some(Self::Own),
            Way::Broadcast => Some(Self::Broadcast),
            Way::Multicast => Some(Self::Multicast),
            Way::Link(link) => (overlay == Some(link)).then_some(Self::Overlay),
        }
    }
}

impl fmt::Display for NoWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unusable(what) => what,
            Self::Own => "an address of this host",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Overlay => "routed into the overlay device itself",
        })
    }
}

impl<R: RouteLookup> Ways<R> {
    pub(super) fn new(
        lookup: R,
        network: Ipv4Network,
        changes: mpsc::UnboundedReceiver<AddrChange>,
        verdicts: mpsc::UnboundedSender<Verdict>,
    ) -> Self {
        let (known, asked_last) = (BTreeMap::new(), Ipv4Addr::UNSPECIFIED);
        Self { lookup, network, changes, verdicts, known, asked_last, credit: 0 }
    }

    /// Asks until the receiver of the verdicts is dropped.
    pub(super) async fn ask(mut self) -> Option<Infallible> {
        let mut next_round = Instant::now() + PERIOD;
        loop {
            tokio::select! {
                change = self.changes.recv() => {
                    let mut new = BTreeSet::new();
                    self.take(change?, &mut new);
                    while let Ok(change) = self.changes.try_recv() {
                        self.take(change, &mut new);
                    }
                    self.ask_for(new).await;
                }
                () = sleep_until(next_round) => {
                    let due = self.due();
                    self.ask_for(due).await;
                    next_round = Instant::now() + PERIOD;
                }
            }
        }
    }

    fn take(&mut self, change: AddrChange, new: &mut BTreeSet<Ipv4Addr>) {
        match change {
            AddrChange::Came(addr) => {
                self.known.insert(addr, (None, None));
                new.insert(addr);
            }
            AddrChange::Left(addr) => {
                self.known.remove(&addr);
                new.remove(&addr);
            }
        }
    }

    /// What is to be asked for again in this round.
    fn due(&mut self) -> BTreeSet<Ipv4Addr> {
        let is_suspect =
            |addr: Ipv4Addr, no_way: Option<NoWay>| no_way.is_some() || self.network.contains(addr);
        let known = self.known.iter().filter(|(addr, (no_way, _))| is_suspect(**addr, *no_way));
        let mut due: BTreeSet<_> = known.map(|(addr, _)| *addr).collect();
        self.credit += self.known.len();
        let share = (self.credit / SHARES).max(LEAST_SHARE);
        self.credit %= SHARES;
        let after = (Bound::Excluded(self.asked_last), Bound::Unbounded);
        let in_turn: Vec<_> = self.known.range(after).take(share).map(|(addr, _)| *addr).collect();
        let is_end = in_turn.len() < share;
        let last = if is_end { Some(Ipv4Addr::UNSPECIFIED) } else { in_turn.last().copied() };
        self.asked_last = last.unwrap_or(self.asked_last);
        due.extend(in_turn);
        due
    }

    /// Asks about `addrs`, and reports the answers that changed.
    async fn ask_for(&mut self, addrs: BTreeSet<Ipv4Addr>) {
        if addrs.is_empty() {
            return;
        }
        let overlay = self.lookup.overlay().await;
        for addr in addrs {
            // Without an answer it stays as it was: a host that has no route now may have one soon.
            let Some((way, mtu)) = self.lookup.way(addr).await else { continue };
            let no_way = NoWay::of_way(way, overlay);
            if let Some(known) = self.known.get_mut(&addr)
                && std::mem::replace(known, (no_way, mtu)) != (no_way, mtu)
            {
                // The receiver is gone only while the daemon stops.
                let _ = self.verdicts.send(Verdict { addr, no_way, mtu });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A kernel that knows these ways, and counts the questions.
    #[derive(Debug, Clone, Default)]
    struct Map(Arc<Mutex<(HashMap<Ipv4Addr, Way>, usize)>>);

    impl Map {
        fn set(&self, addr: &str, way: Way) {
            self.0.lock().unwrap().0.insert(addr.parse().unwrap(), way);
        }

        fn num_asked(&self) -> usize {
            self.0.lock().unwrap().1
        }
    }

    impl RouteLookup for Map {
        async fn overlay(&self) -> Option<u32> {
            Some(7)
        }

        async fn way(&self, addr: Ipv4Addr) -> Option<(Way, Option<u32>)> {
            let mut map = self.0.lock().unwrap();
            map.1 += 1;
            map.0.get(&addr).map(|way| (*way, None))
        }
    }

    type Ends = (mpsc::UnboundedSender<AddrChange>, mpsc::UnboundedReceiver<Verdict>);

    fn start(map: &Map) -> Ends {
        let (sender, changes) = mpsc::unbounded_channel();
        let (verdicts, receiver) = mpsc::unbounded_channel();
        let ways = Ways::new(map.clone(), "10.1.0.0/16".parse().unwrap(), changes, verdicts);
        tokio::spawn(ways.ask());
        (sender, receiver)
    }

    fn came(addr: &str) -> AddrChange {
        AddrChange::Came(addr.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_way_that_is_none_is_told() {
        let map = Map::default();
        let (sender, mut verdicts) = start(&map);
        for (addr, way, no_way) in [
            ("10.1.2.5", Way::Link(7), NoWay::Overlay),
            ("203.0.113.9", Way::Link(7), NoWay::Overlay),
            ("192.0.2.255", Way::Broadcast, NoWay::Broadcast),
            ("10.88.0.1", Way::Here, NoWay::Own),
        ] {
            map.set(addr, way);
            map.set("192.0.2.2", Way::Link(2));
            sender.send(came("192.0.2.2")).unwrap();
            sender.send(came("192.0.2.3")).unwrap(); // no route to it
            sender.send(came(addr)).unwrap();
            let expected = Verdict { addr: addr.parse().unwrap(), no_way: Some(no_way), mtu: None };
            assert_eq!(verdicts.recv().await, Some(expected), "and nothing of the others");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn route_that_changes_is_noticed_both_ways() {
        let map = Map::default();
        map.set("10.1.2.5", Way::Link(7));
        let (sender, mut verdicts) = start(&map);
        sender.send(came("10.1.2.5")).unwrap();
        assert_eq!(verdicts.recv().await.unwrap().no_way, Some(NoWay::Overlay));
        map.set("10.1.2.5", Way::Link(2));
        let start = Instant::now();
        assert_eq!(verdicts.recv().await.unwrap().no_way, None);
        map.set("10.1.2.5", Way::Link(7));
        assert_eq!(verdicts.recv().await.unwrap().no_way, Some(NoWay::Overlay));
        assert!(start.elapsed() <= 3 * PERIOD, "{:?}", start.elapsed());
        sender.send(AddrChange::Left("10.1.2.5".parse().unwrap())).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_ways_are_asked_for_in_turn() {
        let map = Map::default();
        let (sender, _verdicts) = start(&map);
        for number in 0..10_000_u32 {
            sender.send(AddrChange::Came((0x0b00_0000 + number).into())).unwrap();
        }
        tokio::time::sleep(PERIOD / 2).await;
        assert_eq!(map.num_asked(), 10_000);
        tokio::time::sleep(PERIOD).await;
        assert_eq!(map.num_asked(), 10_000 + 10_000 / SHARES, "a share each period");
        tokio::time::sleep(PERIOD * u32::try_from(SHARES).unwrap()).await;
        assert!((19_900..20_500).contains(&map.num_asked()), "{}", map.num_asked());
    }
}
