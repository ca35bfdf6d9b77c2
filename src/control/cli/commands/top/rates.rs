//! [`TopRates`]: what two readings of the daemon's counters differ by.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::Serialize;

use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::commands::drops::Rates;
use crate::control::observe::api::{Drops, Peer, Peers, Traffic, Way, Worker, Workers, paths};

/// All counters at about one time.
pub(super) struct Reading {
    pub(super) peers: Peers,
    pub(super) workers: Workers,
    pub(super) drops: Drops,
}

impl Reading {
    pub(super) async fn take(client: &Client) -> Result<Self, ToolError> {
        Ok(Self {
            peers: client.get(paths::PEERS).await?,
            workers: client.get(paths::WORKERS).await?,
            drops: client.get(paths::DROPS).await?,
        })
    }
}

/// Rates by worker, peer and drop reason; also the JSON of `flanneld top --json`.
#[derive(Debug, Serialize)]
pub(super) struct TopRates {
    pub(super) workers: Vec<WorkerRates>,
    /// The busiest first.
    pub(super) peers: Vec<PeerRates>,
    pub(super) drops: Vec<DropRate>,
}

#[derive(Debug, Serialize)]
pub(super) struct WorkerRates {
    pub(super) number: usize,
    /// Of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_percent: Option<f64>,
    pub(super) egress: WayRates,
    pub(super) ingress: WayRates,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct WayRates {
    pub(super) bits_per_second: f64,
    pub(super) packets_per_second: f64,
    /// Packets for each system call that brought some.
    pub(super) batch: f64,
    pub(super) drops_per_second: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct PeerRates {
    pub(super) public_ip: Ipv4Addr,
    pub(super) subnet: Ipv4Network,
    /// Rates are not known if the kernel forwards.
    pub(super) sent_bits_per_second: Option<f64>,
    pub(super) sent_packets_per_second: Option<f64>,
    pub(super) received_bits_per_second: Option<f64>,
    pub(super) received_packets_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct DropRate {
    pub(super) reason: String,
    pub(super) direction: String,
    pub(super) packets_per_second: f64,
}

impl TopRates {
    pub(super) fn new(before: &Reading, now: &Reading) -> Self {
        let drop_rates = Rates::new(&before.drops, &now.drops);
        let drops = now.drops.drops.iter().map(|row| DropRate {
            reason: row.reason.clone(),
            direction: row.direction.clone(),
            packets_per_second: drop_rates.of(row),
        });
        Self {
            workers: workers(&before.workers, &now.workers),
            peers: peers(&before.peers, &now.peers),
            drops: drops.filter(|drop| drop.packets_per_second > 0.0).collect(),
        }
    }
}

fn workers(before: &Workers, now: &Workers) -> Vec<WorkerRates> {
    let seconds = seconds(before.at_millis, now.at_millis);
    let rates = |worker: &Worker| {
        let then = before.workers.iter().find(|it| it.number == worker.number);
        let cpu = worker.cpu_millis.zip(then.and_then(|then| then.cpu_millis));
        WorkerRates {
            number: worker.number,
            cpu_percent: cpu.map(|(now, then)| growth(then, now) / seconds / 10.0),
            egress: way(then.map(|it| it.egress), worker.egress, seconds),
            ingress: way(then.map(|it| it.ingress), worker.ingress, seconds),
        }
    };
    now.workers.iter().map(rates).collect()
}

fn way(before: Option<Way>, now: Way, seconds: f64) -> WayRates {
    let before = before.unwrap_or(now);
    let packets = growth(before.packets, now.packets);
    WayRates {
        bits_per_second: growth(before.bytes, now.bytes) * 8.0 / seconds,
        packets_per_second: packets / seconds,
        batch: packets / growth(before.reads, now.reads).max(1.0),
        drops_per_second: growth(before.drops, now.drops) / seconds,
    }
}

fn peers(before: &Peers, now: &Peers) -> Vec<PeerRates> {
    let seconds = seconds(before.at_millis, now.at_millis);
    let earlier: HashMap<Ipv4Network, &Peer> =
        before.peers.iter().map(|peer| (peer.subnet, peer)).collect();
    let rate = |then: Option<Traffic>, now: Option<Traffic>| {
        let then = then.or(now);
        let growth = |count: fn(&Traffic) -> u64| {
            let (then, now) = then.as_ref().zip(now.as_ref())?;
            Some(growth(count(then), count(now)) / seconds)
        };
        (growth(|it| it.bytes).map(|bytes| bytes * 8.0), growth(|it| it.packets))
    };
    let rates = |peer: &Peer| {
        let then = earlier.get(&peer.subnet);
        let sent = rate(then.and_then(|it| it.sent), peer.sent);
        let received = rate(then.and_then(|it| it.received), peer.received);
        PeerRates {
            public_ip: peer.public_ip,
            subnet: peer.subnet,
            sent_bits_per_second: sent.0,
            sent_packets_per_second: sent.1,
            received_bits_per_second: received.0,
            received_packets_per_second: received.1,
            problem: peer.problem.clone(),
        }
    };
    let mut peers: Vec<PeerRates> = now.peers.iter().map(rates).collect();
    let busy = |peer: &PeerRates| {
        let (sent, received) = (peer.sent_bits_per_second, peer.received_bits_per_second);
        sent.unwrap_or_default() + received.unwrap_or_default()
    };
    peers.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    peers
}

fn seconds(before: u64, now: u64) -> f64 {
    now.saturating_sub(before).max(1) as f64 / 1000.0
}

/// A counter that is less than before restarted at zero.
fn growth(before: u64, now: u64) -> f64 {
    now.checked_sub(before).unwrap_or(now) as f64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::cli::commands::peer_table::tests::peer;

    pub(crate) fn reading(at_millis: u64, packets: u64) -> Reading {
        let way = Way { packets, bytes: packets * 1000, reads: packets / 20, ..Way::default() };
        let worker = Worker {
            number: 0,
            cpu_millis: Some(at_millis / 4),
            egress: way,
            ingress: Way::default(),
            queue_overflows: 0,
            sleeps: 0,
        };
        Reading {
            peers: Peers { at_millis, peers: vec![peer(1, 0), peer(2, packets * 1000)] },
            workers: Workers { at_millis, workers: vec![worker] },
            drops: Drops::default(),
        }
    }

    #[test]
    fn rates_are_per_second_and_the_busiest_peer_is_first() {
        let rates = TopRates::new(&reading(1000, 0), &reading(1500, 10_000));
        let worker = &rates.workers[0];
        assert_eq!(worker.cpu_percent, Some(25.0));
        assert_eq!(worker.egress.packets_per_second, 20_000.0);
        assert_eq!(worker.egress.bits_per_second, 160.0e6);
        assert_eq!(worker.egress.batch, 20.0);
        assert_eq!(worker.ingress.batch, 0.0);
        assert_eq!(rates.peers[0].subnet, peer(2, 0).subnet);
        assert_eq!(rates.peers[0].sent_bits_per_second, Some(160.0e6));
    }
}
