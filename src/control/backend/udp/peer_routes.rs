//! [`PeerRoutes`]: the routes to the peers, from their leases and the kernel's own routes.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval, sleep_until};
use tracing::{info, warn};

use super::engine_handle::EngineHandle;
use super::heard;
use super::heard::{Echo, Event, Heard, Reading, TICK};
use super::peers::{AddrChange, Peers};
use super::ways::{RouteLookup, Verdict, Ways};
use crate::control::backend::PeerHealth;
use crate::control::backend::capture::{CaptureError, CaptureRequest};
use crate::control::host::net::{HostNet, Netlink, Way};
use crate::control::subnet::lease::LeaseEvent;
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;
use crate::dataplane::capture::Filter;
use crate::dataplane::engine::Counters;
use crate::dataplane::fast_path::{FastPath, FastPathSink};
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;
use crate::dataplane::stats::PathSnapshot;
use crate::routes::publish::{FibSink, RouteChange, RoutePublisher};

/// Time between a peer's leaving and two sweeps that free its counters: by then the workers have
/// sent all packets that were in progress for it.
const SWEEP_PERIOD: Duration = Duration::from_secs(10);

/// After this many peers left, do not wait: few compared with the counters that workers have.
const MANY_LEFT: usize = 256;

/// The routes to the peers.
#[derive(Debug)]
pub(super) struct PeerRoutes<F = RoutePublisher> {
    peers: Peers,
    fib: F,
    /// The kernel's table of the same routes, and what it counts.
    fast_path: Option<FastPathSink>,
    counters: Counters,
    /// To and from the task that asks the kernel for the way to each peer.
    addrs: mpsc::UnboundedSender<AddrChange>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    /// That task; it ends with us.
    _ways: JoinSet<()>,
    /// MTUs that were set on the host's routes to peers.
    route_mtus: HashMap<Ipv4Addr, u32>,
    sweep: Sweep,
    heard: Heard,
    echo: Echo,
    ticks: Interval,
    log: LogLimit,
}

/// When the counters of peers that left are freed.
#[derive(Debug)]
struct Sweep {
    due: Instant,
    /// Sweeps to come.
    num_due: u32,
    /// Peers that left since the last one.
    num_left: usize,
}

/// The host's routes, for datagrams from our address.
#[derive(Debug)]
pub(super) struct KernelRouteLookup {
    pub(super) net: Netlink,
    /// Knows our address, and the overlay device's name.
    pub(super) engine: Arc<EngineHandle>,
}

impl PeerRoutes {
    /// How many routes there are.
    pub(super) fn num_routes(&self) -> usize {
        self.fib.num_routes()
    }
}

impl<F> PeerRoutes<F> {
    /// How each peer is, by public IP. Paths that are not among `narrow` take packets of `mtu` bytes.
    pub(super) fn health(&self, narrow: &[PathSnapshot], mtu: u16) -> Vec<PeerHealth> {
        let now = Instant::now();
        let narrow: HashMap<_, _> = narrow.iter().map(|path| (path.peer, path.mtu)).collect();
        let problem = |trouble| heard::problem(trouble, self.peers.port(), now);
        let health = |addr| PeerHealth {
            public_ip: addr,
            last_heard_seconds: self.heard.last_heard(addr).map(|last| (now - last).as_secs()),
            path_mtu: narrow.get(&addr).copied().unwrap_or(mtu).min(mtu),
            problem: self.heard.trouble(addr).map(problem),
        };
        let mut peers: Vec<PeerHealth> = self.peers.addrs().map(health).collect();
        peers.sort_by_key(|peer| peer.public_ip);
        peers
    }

    /// The packets that a capture is asked for.
    ///
    /// # Errors
    /// [`CaptureError::UnknownPeer`].
    pub(super) fn capture_filter(&self, request: &CaptureRequest) -> Result<Filter, CaptureError> {
        let mut subnets = request.subnets.clone();
        for addr in &request.peers {
            let of_peer = self.peers.subnets_of(*addr);
            if of_peer.is_empty() {
                return Err(CaptureError::UnknownPeer(*addr));
            }
            subnets.extend(of_peer);
        }
        Ok(Filter {
            subnets,
            direction: request.direction,
            only_dropped: request.only_dropped,
            snap_len: request.snap_len,
        })
    }

    /// A warning about the peers in trouble, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        let troubled = self.heard.troubled().map(|(addr, _)| addr);
        let troubled = troubled.filter(|addr| self.peers.has(*addr));
        let troubled = troubled.map(|addr| self.peers.name(addr)).collect();
        heard::warning(troubled, self.peers.addrs().count())
    }
}

impl<F: FibSink> PeerRoutes<F> {
    /// Those of `peers`, of whom there are none yet; `lookup` says by which way each is reached.
    pub(super) fn new(
        peers: Peers,
        fib: F,
        counters: Counters,
        network: Ipv4Network,
        lookup: impl RouteLookup + Send + Sync + 'static,
    ) -> Self {
        let (addrs, changes) = mpsc::unbounded_channel();
        let (sender, verdicts) = mpsc::unbounded_channel();
        let ways = Ways::new(lookup, network, changes, sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            ways.ask().await;
        });
        let sweep = Sweep { due: Instant::now(), num_due: 0, num_left: 0 };
        Self {
            peers,
            fib,
            fast_path: None,
            counters,
            addrs,
            verdicts,
            _ways: tasks,
            route_mtus: HashMap::new(),
            sweep,
            heard: Heard::default(),
            echo: Echo::open(),
            ticks: interval(TICK),
            log: LogLimit::default(),
        }
    }

    /// The same, for peers that the kernel serves, too.
    pub(super) fn with_fast_path(mut self, path: Arc<FastPath>) -> Self {
        self.fast_path = Some(FastPathSink::new(path));
        self
    }

    /// Sets the addresses that are ours now.
    pub(super) const fn set_own(&mut self, own: [Ipv4Addr; 2]) {
        self.peers.set_own(own);
    }

    /// Changes the forwarding routes. A refusal is logged; the other changes are made.
    fn publish(&mut self, changes: &[RouteChange]) {
        let second = self.fast_path.as_mut().map(|fib| fib.apply(changes));
        for result in [Some(self.fib.apply(changes)), second] {
            if let Some(Err(error)) = result {
                warn!("{}", error_chain(&error));
            }
        }
    }

    /// Applies changes of the peers' leases, in order.
    pub(super) fn apply(&mut self, events: &[LeaseEvent]) {
        let mut addrs = Vec::new();
        let changes: Vec<RouteChange> =
            events.iter().map(|event| self.peers.change(event, &mut addrs)).collect();
        self.publish(&changes);
        for change in addrs {
            if let AddrChange::Left(addr) = change {
                self.sweep.leave();
                if self.route_mtus.remove(&addr).is_some() {
                    self.counters.limit_paths(&[(addr, None)]);
                }
            }
            // Without that task the routes follow the leases alone.
            let _ = self.addrs.send(change);
        }
        if self.sweep.num_left >= MANY_LEFT {
            self.free_counters();
        }
    }

    /// Applies the kernel's answers, and frees counters, for as long as it is polled.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn follow(&mut self) -> Infallible {
        loop {
            tokio::select! {
                Some(verdict) = self.verdicts.recv() => {
                    self.take_verdicts(verdict);
                }
                () = sleep_until(self.sweep.due), if self.sweep.num_due > 0 => {
                    self.sweep.num_due -= 1;
                    self.free_counters();
                }
                _ = self.ticks.tick() => self.compare_counters(),
            }
        }
    }

    /// Applies this verdict and those that are queued.
    fn take_verdicts(&mut self, verdict: Verdict) {
        let mut mtus = Vec::new();
        let mut next = Some(verdict);
        while let Some(verdict) = next {
            let Verdict { addr, mtu, .. } = verdict;
            let changes = self.peers.take_verdict(verdict);
            self.publish(&changes);
            let is_new = mtu != self.route_mtus.get(&addr).copied();
            if is_new && self.peers.has(addr) {
                log_mtu(addr, mtu);
                self.remember(addr, mtu);
                mtus.push((addr, mtu));
            }
            next = self.verdicts.try_recv().ok();
        }
        if !mtus.is_empty() {
            self.counters.limit_paths(&mtus);
        }
    }

    fn remember(&mut self, addr: Ipv4Addr, mtu: Option<u32>) {
        match mtu {
            Some(mtu) => self.route_mtus.insert(addr, mtu),
            None => self.route_mtus.remove(&addr),
        };
    }

    /// Finds out who was heard in the last second, and who is silent.
    fn compare_counters(&mut self) {
        let (counters, peers) = (&self.counters, &self.peers);
        let errors = counters.take_peer_errors();
        let errors: Vec<_> = errors.filter(|error| error.to.port() == peers.port()).collect();
        let (now, fast_path) = (Instant::now(), self.fast_path.as_ref());
        // Not read while nothing is carried.
        let by_kernel = LazyCell::new(|| fast_path.map(FastPathSink::carried).unwrap_or_default());
        let carried = |addr| {
            let [sent, received] = by_kernel.get(&addr).copied().unwrap_or_default();
            let [sent_too, received_too] = counters.carried(addr);
            [sent + sent_too, received + received_too]
        };
        let from_others = counters.received_from_others()
            + fast_path.map_or(0, FastPathSink::received_from_others);
        let total = counters.total() + fast_path.map_or(0, FastPathSink::total);
        let reading = Reading { now, carried, from_others, total };
        let events = self.heard.tick(&reading, peers.addrs(), &errors);
        for event in &events {
            if let Event::Ask(addr) = event
                && let Some(subnet) = peers.name(*addr).subnet
            {
                self.echo.ask(subnet.network());
            }
        }
        heard::log(&events, peers.port(), |addr| peers.name(addr), &mut self.log);
    }

    fn free_counters(&mut self) {
        self.counters.keep_peers(|peer| self.peers.has(peer));
        self.heard.keep(|peer| self.peers.has(peer));
        self.sweep.num_left = 0;
        self.sweep.due = Instant::now() + SWEEP_PERIOD;
    }
}

fn log_mtu(peer: Ipv4Addr, mtu: Option<u32>) {
    match mtu {
        Some(mtu) => {
            let longest = mtu.saturating_sub(ENCAP_OVERHEAD_V4);
            info!(%peer, mtu, "this host's route to the peer has an MTU: longest packet {longest}");
        }
        None => info!(%peer, "this host's route to the peer has no MTU of its own any more"),
    }
}

impl Sweep {
    fn leave(&mut self) {
        if self.num_due == 0 {
            self.due = Instant::now() + SWEEP_PERIOD;
        }
        self.num_due = 2;
        self.num_left += 1;
    }
}

impl RouteLookup for KernelRouteLookup {
    async fn overlay(&self) -> Option<u32> {
        let name = self.engine.name();
        self.net.link(&name).await.ok().map(|link| link.index)
    }

    async fn way(&self, addr: Ipv4Addr) -> Option<(Way, Option<u32>)> {
        self.net.way_from(self.engine.own()[0], addr).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::control::subnet::lease::{Lease, LeaseAttrs};
    use crate::control::util::test_log::Logs;
    use crate::dataplane::stats::peers::PeerCount;
    use crate::routes::Prefix;
    use crate::routes::publish::{self, FibError};

    /// A host on which 10.1.245.0/24 leaves by the overlay device, and all else by another.
    #[derive(Debug)]
    struct Host;

    impl RouteLookup for Host {
        async fn overlay(&self) -> Option<u32> {
            Some(7)
        }

        async fn way(&self, addr: Ipv4Addr) -> Option<(Way, Option<u32>)> {
            Some((Way::Link(if addr.octets()[..3] == [10, 1, 245] { 7 } else { 2 }), None))
        }
    }

    fn routes() -> (PeerRoutes, Counters) {
        let (publisher, _subscriber) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
        routes_in(publisher)
    }

    fn routes_in<F: FibSink>(fib: F) -> (PeerRoutes<F>, Counters) {
        let network = "10.1.0.0/16".parse().unwrap();
        let counters = Counters::new(2);
        let peers = Peers::new(8285, true, [[192, 0, 2, 1].into(); 2]);
        (PeerRoutes::new(peers, fib, counters.clone(), network, Host), counters)
    }

    /// A table that refuses the route to 10.1.2.0/24, and the changes it made.
    #[derive(Debug, Default)]
    struct FullTable(Vec<RouteChange>);

    impl FibSink for FullTable {
        fn apply(&mut self, changes: &[RouteChange]) -> Result<(), FibError> {
            let is_refused = |change: &&RouteChange| change.subnet.network().octets()[2] == 2;
            self.0.extend(changes.iter().filter(|change| !is_refused(change)));
            changes.iter().find(is_refused).map_or(Ok(()), |change| {
                let source = io::Error::from_raw_os_error(libc::ENOSPC);
                Err(FibError { subnet: change.subnet, table: "full table", source })
            })
        }
    }

    #[tokio::test]
    async fn refused_route_is_logged_and_the_others_are_made() {
        let logs = Logs::capture();
        let (mut routes, _) = routes_in(FullTable::default());
        let events = [1, 2, 3].map(|n| LeaseEvent::Added(lease(n, [192, 0, 2, n].into())));
        routes.apply(&events);
        let made: Vec<u8> = routes.fib.0.iter().map(|c| c.subnet.network().octets()[2]).collect();
        assert_eq!(made, [1, 3]);
        let expected = "change the route to 10.1.2.0/24 in the full table: No space left on device";
        assert_eq!(logs.count(expected), 1);
    }

    fn lease(subnet: u8, public_ip: Ipv4Addr) -> Lease {
        let subnet = Ipv4Network::containing([10, 1, subnet, 0].into(), 24).unwrap();
        Lease { ipv6_subnet: None, subnet, attrs: LeaseAttrs::udp(public_ip), expires: None }
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_the_kernel_routes_into_the_overlay_has_no_route() {
        let (mut routes, _) = routes();
        let events = [(245, [10, 1, 245, 5]), (2, [10, 1, 3, 5]), (4, [192, 0, 2, 4])];
        routes.apply(&events.map(|(n, ip)| LeaseEvent::Added(lease(n, ip.into()))));
        assert_eq!(routes.num_routes(), 3, "at once");
        let followed = tokio::time::timeout(Duration::from_secs(1), routes.follow()).await;
        assert!(followed.is_err(), "it goes on");
        assert_eq!(routes.num_routes(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_come_and_go_leave_their_counters_to_others() {
        let (mut routes, counters) = routes();
        for number in 0..10_000_u32 {
            let ip = Ipv4Addr::from_bits(0x0b00_0000 + number);
            let subnet = u8::try_from(number % 100).unwrap();
            routes.apply(&[LeaseEvent::Added(lease(subnet, ip))]);
            counters.count(usize::try_from(number % 2).unwrap(), ip, 1 + u64::from(number));
            assert_eq!(counters.carried(ip), [1 + u64::from(number), 0], "peer {number}");
        }
        let has_other = counters.to_peers().iter().any(|count| count.peer.is_unspecified());
        assert!(!has_other, "none was counted with others");
        let followed = tokio::time::timeout(3 * SWEEP_PERIOD, routes.follow()).await;
        assert!(followed.is_err());
        let mut left: Vec<PeerCount> = counters.to_peers();
        left.sort_by_key(|count| count.peer);
        let expected = (9_900..10_000).map(|number| Ipv4Addr::from_bits(0x0b00_0000 + number));
        assert!(left.iter().map(|count| count.peer).eq(expected), "{left:?}");
    }
}
