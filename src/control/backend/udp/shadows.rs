//! Routes of the host that shadow the overlay: what is longer than the Network's route takes the
//! packets for a peer's subnet elsewhere, and nothing else would report that.
//!
//! Examples are a bridge with a peer's subnet, and routes that another backend left. The routes
//! inside the Network are read when one of them changes, and once a minute, because the kernel does
//! not report routes that it removes with their link; never so often that it takes more than a
//! twentieth of a core.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::engine_handle::EngineHandle;
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::net;
use crate::control::host::net::{
    HostChange, HostChanges, HostNet, KernelError, Netlink, RoutesInside,
};
use crate::control::subnet::lease::LeaseEvent;

/// Time between two reads without an event.
const PERIOD: Duration = Duration::from_secs(60);

/// The same while a route shadows a peer: the kernel may not announce that it goes.
const PERIOD_WHEN_SHADOWED: Duration = Duration::from_secs(5);

/// Debounce window for netlink events.
const SETTLE: Duration = Duration::from_millis(100);

/// A read that took one second is followed by a pause of twenty.
const REST: u32 = 20;

/// The peers' subnets, and a signal when they change.
#[derive(Debug, Default)]
pub(super) struct PeerSubnets {
    subnets: Mutex<BTreeSet<Ipv4Network>>,
    changed: Notify,
}

impl PeerSubnets {
    /// Takes over changes in the peers' leases.
    pub(super) fn apply(&self, events: &[LeaseEvent]) {
        let mut subnets = self.lock();
        for event in events {
            match event {
                LeaseEvent::Added(lease) => subnets.insert(lease.subnet),
                LeaseEvent::Removed(subnet) => subnets.remove(subnet),
            };
        }
        drop(subnets);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Ipv4Network>> {
        self.subnets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A route that takes packets for a peer away from the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shadow {
    route: Ipv4Network,
    link: Option<u32>,
    peer: Ipv4Network,
    /// The table that a rule of the operator's leads to, if it is not by `main` or `local`.
    table: Option<u32>,
}

/// Watches the routes inside one Network.
#[derive(Debug)]
pub(super) struct Shadows {
    pub(crate) network: Ipv4Network,
    /// Our own subnet: a bridge for it is what it is there for.
    pub(super) own: Ipv4Network,
    pub(super) peers: Arc<PeerSubnets>,
    pub(super) engine: Arc<EngineHandle>,
    pub(super) state: watch::Sender<Conditions>,
}

impl Shadows {
    /// Reports shadows for as long as it is polled.
    pub(super) async fn keep(self) {
        if let Err(error) = self.try_keep().await {
            warn!("cannot tell whether other routes shadow the overlay: {error}: {}", error.source);
        }
    }

    async fn try_keep(&self) -> Result<(), KernelError> {
        let (connection, net, mut changes) = net::watch()?;
        tokio::spawn(connection);
        let mut routes = RoutesInside::new();
        let mut is_due = true;
        let mut rested = Instant::now();
        loop {
            if is_due {
                // The routes are read now, so the events queued so far are covered.
                changes.drain();
                let (network, started) = (self.network, Instant::now());
                let read = spawn_blocking(move || net::routes_inside(network)).await;
                routes = match read {
                    Ok(read) => read?,
                    Err(_) => return Ok(()),
                };
                rested = Instant::now() + started.elapsed() * REST;
            }
            let is_shadowed = self.check(&net, &routes).await;
            let period = if is_shadowed { PERIOD_WHEN_SHADOWED } else { PERIOD };
            tokio::select! {
                is_open = self.relevant_change(&mut changes, is_shadowed) => {
                    if !is_open {
                        return Ok(());
                    }
                    pass(&mut changes, rested.max(Instant::now() + SETTLE)).await;
                    is_due = true;
                }
                () = self.peers.changed.notified() => {
                    // Debounce: leases come in bursts, too.
                    sleep(SETTLE).await;
                    is_due = false;
                }
                () = sleep(period) => {
                    pass(&mut changes, rested).await;
                    is_due = true;
                }
            }
        }
    }

    /// Waits for a change that may matter; `false` if there will be none any more.
    async fn relevant_change(&self, changes: &mut HostChanges, is_shadowed: bool) -> bool {
        while let Some(change) = changes.next().await {
            let matters = match change {
                HostChange::Route(dst) => dst != self.network && self.network.overlaps(dst),
                HostChange::Missed => true,
                // Routes go with their link.
                HostChange::Link(_) | HostChange::Addr(..) => is_shadowed,
            };
            if matters {
                return true;
            }
        }
        false
    }

    /// Finds the `routes` that shadow a peer, and reports them. Returns whether there are any.
    async fn check(&self, net: &Netlink, routes: &RoutesInside) -> bool {
        let overlay = net.link(&self.engine.name()).await.ok().map(|link| link.index);
        let suspects = suspects(routes, &self.peers.lock(), self.own, overlay);
        let mut shadows = Vec::new();
        for shadow in suspects {
            // Rules of the operator may bypass this route: only the kernel knows.
            let way = net.matched_route(first_host(shadow.route)).await.ok().flatten();
            let is_overlays = way.is_some_and(|way| overlay.is_some() && way.link == overlay);
            if !is_overlays {
                shadows.push(shadow);
            }
        }
        if shadows.is_empty() {
            shadows.extend(self.by_a_rule(net, overlay).await);
        }
        let part = match shadows.as_slice() {
            [] => Condition::Ok,
            [first, others @ ..] => {
                let link = match first.link {
                    Some(index) => net.link_at(index).await.ok().flatten().map(|link| link.name),
                    None => None,
                };
                Condition::Failed(reason(first, link.as_deref(), others.len()))
            }
        };
        let is_shadowed = !part.is_ok();
        self.report(part);
        is_shadowed
    }

    /// The route that a rule of the operator's leads to instead of the overlay's. Only one
    /// peer is checked: such rules are for ranges, and mostly for everything.
    async fn by_a_rule(&self, net: &Netlink, overlay: Option<u32>) -> Option<Shadow> {
        let peer = *self.peers.lock().first()?;
        let way = net.matched_route(first_host(peer)).await.ok().flatten()?;
        let leads_elsewhere = overlay.is_some() && way.link != overlay;
        (way.is_in_table_of_a_rule() && leads_elsewhere).then_some(Shadow {
            route: way.dst,
            link: way.link,
            peer,
            table: Some(way.table),
        })
    }

    fn report(&self, part: Condition) {
        let is_news = self.state.borrow().get("peer_routes") != part;
        if !is_news {
            return;
        }
        match &part {
            Condition::Ok => info!("no other route shadows the overlay any more"),
            Condition::Degraded(reason) | Condition::Failed(reason) => warn!("{reason}"),
        }
        self.state.send_modify(|state| state.set("peer_routes", part));
    }
}

/// Waits until then, and drops the events that arrive meanwhile.
async fn pass(changes: &mut HostChanges, until: Instant) {
    let mut until = pin!(sleep_until(until));
    loop {
        tokio::select! {
            () = &mut until => return,
            Some(_) = changes.next() => {}
        }
    }
}

/// One line that names route and link and says what to do.
fn reason(shadow: &Shadow, link: Option<&str>, num_others: usize) -> String {
    let Shadow { route, peer, .. } = shadow;
    let by = link.map_or("without a link".to_owned(), |link| format!("dev {link}"));
    let others = Others(num_others);
    if let Some(table) = shadow.table {
        return format!(
            "route {route} {by} of table {table} takes packets for peer subnet {peer} away from the \
             overlay: have `ip rule` look the Network up in table main first"
        );
    }
    format!(
        "route {route} {by} takes packets for peer subnet {peer} away from the overlay{others}: \
         delete it, or give that link a range outside the Network"
    )
}

struct Others(usize);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(", and 1 more route does the like"),
            many => write!(f, ", and {many} more routes do the like"),
        }
    }
}

/// The routes that share an address with a peer's subnet and do not lead into the overlay device.
/// What is within our own subnet is our host's.
fn suspects(
    routes: &RoutesInside,
    peers: &BTreeSet<Ipv4Network>,
    own: Ipv4Network,
    overlay: Option<u32>,
) -> Vec<Shadow> {
    let is_within_own = |route: Ipv4Network| own.prefix() <= route.prefix() && own.overlaps(route);
    let leads_elsewhere = |link: Option<u32>| link.is_none() || link != overlay;
    let others =
        routes.iter().filter(|(route, link)| leads_elsewhere(**link) && !is_within_own(**route));
    let shadow = |(route, link): (&Ipv4Network, &Option<u32>)| {
        let peer = peer_within(peers, *route)?;
        Some(Shadow { route: *route, link: *link, peer, table: None })
    };
    others.filter_map(shadow).collect()
}

/// The first peer's subnet that shares an address with `route`.
fn peer_within(peers: &BTreeSet<Ipv4Network>, route: Ipv4Network) -> Option<Ipv4Network> {
    let around = peers.range(..route).next_back().filter(|peer| peer.overlaps(route));
    let behind = || peers.range(route..).next().filter(|peer| peer.overlaps(route));
    around.or_else(behind).copied()
}

/// An address that is neither the network's nor, mostly, the bridge's own: both may be routes of
/// their own.
fn first_host(route: Ipv4Network) -> std::net::Ipv4Addr {
    let room = route.broadcast().to_bits() - route.network().to_bits();
    std::net::Ipv4Addr::from_bits(route.network().to_bits() + room.min(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(texts: &[&str]) -> BTreeSet<Ipv4Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_routes_to_peers_that_lead_elsewhere_are_shadows() {
        let peers = subnets(&["10.1.2.0/24", "10.1.3.0/24", "10.1.200.0/24"]);
        let own = "10.1.15.0/24".parse().unwrap();
        for (route, link, peer) in [
            ("10.1.2.0/24", Some(3), Some("10.1.2.0/24")),
            ("10.1.2.128/25", Some(3), Some("10.1.2.0/24")),
            ("10.1.3.1/32", Some(1), Some("10.1.3.0/24")),
            ("10.1.0.0/20", Some(3), Some("10.1.2.0/24")),
            ("10.1.200.0/24", None, Some("10.1.200.0/24")),
            ("10.1.2.0/24", Some(7), None),
            ("10.1.4.0/24", Some(3), None),
            ("10.1.15.0/24", Some(3), None),
            ("10.1.15.1/32", Some(1), None),
            ("10.1.16.0/20", Some(3), None),
        ] {
            let routes = RoutesInside::from([(route.parse().unwrap(), link)]);
            let found = suspects(&routes, &peers, own, Some(7));
            let found: Vec<String> = found.iter().map(|shadow| shadow.peer.to_string()).collect();
            assert_eq!(found, Vec::from_iter(peer), "{route}");
        }
        // Without a device no route is its own.
        let blackhole = RoutesInside::from([("10.1.2.0/24".parse().unwrap(), None)]);
        assert_eq!(suspects(&blackhole, &peers, own, None).len(), 1);
    }

    #[test]
    fn reason_names_route_and_link() {
        let [route, peer] = ["10.1.2.0/25", "10.1.2.0/24"].map(|text| text.parse().unwrap());
        let shadow = Shadow { route, link: Some(3), peer, table: None };
        let line = reason(&shadow, Some("docker0"), 2);
        let start = "route 10.1.2.0/25 dev docker0 takes packets for peer subnet 10.1.2.0/24 away \
                     from the overlay, and 2 more routes do the like: ";
        assert!(line.starts_with(start), "{line}");
        assert!(reason(&shadow, None, 0).contains("without a link takes"));
        let by_rule = Shadow { table: Some(52), ..shadow };
        assert!(reason(&by_rule, Some("tun9"), 0).contains("dev tun9 of table 52 takes"));
    }
}
