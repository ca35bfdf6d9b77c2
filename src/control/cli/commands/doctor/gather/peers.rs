//! Asks the peers, many at once, for a bounded time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;
use tokio::task::spawn_blocking;

use super::super::facts::PeerFact;
use crate::control::cli::commands::ping::observe::{Peer, Plan, observe};
use crate::control::cli::commands::ping::target;
use crate::control::cli::commands::ping::verdict::verdict;
use crate::control::cli::commands::survey::{
    LeaseFact, Own, RegistryFacts, fixed_mac, way_problem,
};
use crate::control::host::net::{LinkDetails, Netlink};

/// Peers that are asked at the same time: each has a thread and three sockets.
const AT_ONCE: usize = 32;

/// After this time no more are asked.
const BUDGET: Duration = Duration::from_secs(12);

/// As little as a peer that is well needs: a reply of each layer, one long packet, one answer of its
/// kernel.
const PLAN: Plan =
    Plan { count: 2, is_brief: true, wait: Duration::from_millis(700), finds_mtu: false };

/// Asks up to `max` of the other nodes in the registry, with the path MTUs that the running daemon has
/// found; returns how many were not.
pub(super) async fn ask(
    netlink: &Netlink,
    own: &Own,
    links: &[LinkDetails],
    (registry, path_mtus): (&RegistryFacts, &BTreeMap<Ipv4Addr, u16>),
    max: usize,
) -> (Vec<PeerFact>, usize) {
    let Some(network) = &registry.network else { return (Vec::new(), 0) };
    let ours = network.backend.backend_type().to_string();
    // A lease of another backend has a line of its own.
    let is_peers = |lease: &&LeaseFact| {
        Some(lease.subnet) != own.subnet
            && lease.public_ip != own.public_ip
            && lease.backend == ours
    };
    let leases: Vec<&LeaseFact> = registry.leases.iter().filter(is_peers).collect();
    let mut peers = Vec::new();
    for lease in leases.iter().take(max) {
        let mut peer = target::peer(lease, None, &ours);
        let ends = (own.node_addr(lease.subnet), lease.public_ip);
        peer.way_problem = way_problem(netlink, own, links, ends).await;
        peer.fixed_mac = fixed_mac(netlink, links, lease.public_ip).await;
        peer.path_mtu = path_mtus.get(&lease.public_ip).copied();
        peers.push((peer, lease.subnet));
    }
    let own = own.clone();
    let asked = spawn_blocking(move || {
        let deadline = Instant::now() + BUDGET;
        let mut found = Vec::new();
        for some in peers.chunks(AT_ONCE) {
            if Instant::now() < deadline {
                thread::scope(|scope| {
                    let ask = |one: &'_ (Peer, Ipv4Network)| {
                        let (own, (peer, subnet)) = (&own, one.clone());
                        scope.spawn(move || ask_one(own, &peer, subnet))
                    };
                    let asked: Vec<_> = some.iter().map(ask).collect();
                    found.extend(asked.into_iter().filter_map(|it| it.join().ok().flatten()));
                });
            }
        }
        found
    });
    let found = asked.await.unwrap_or_default();
    let num_unasked = leases.len() - found.len();
    (found, num_unasked)
}

fn ask_one(own: &Own, peer: &Peer, subnet: Ipv4Network) -> Option<PeerFact> {
    let seen = observe(own, peer, PLAN).ok()?;
    Some(PeerFact { public_ip: peer.public_ip, subnet, verdict: verdict(own, peer, &seen) })
}
