//! [`PeerTable`]: the peers as `flanneld status` and `flanneld peers` print them.

use std::collections::HashMap;
use std::time::Duration;

use ipnetwork::Ipv4Network;

use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::table::{Align, Table};
use crate::control::cli::term::{WIDTH, units, wrap};
use crate::control::observe::api::{Peer, PeerKind, Traffic};

/// Time between the two readings that rates are made from.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Two readings of the peers.
pub(super) struct PeerTable<'a> {
    before: HashMap<Ipv4Network, &'a Peer>,
    now: &'a [Peer],
    seconds: f64,
}

impl<'a> PeerTable<'a> {
    /// From two readings, each with the time of the daemon's clock in milliseconds.
    pub(super) fn new(before: (u64, &'a [Peer]), now: (u64, &'a [Peer])) -> Self {
        let seconds = now.0.saturating_sub(before.0).max(1) as f64 / 1000.0;
        let before = before.1.iter().map(|peer| (peer.subnet, peer)).collect();
        Self { before, now: now.1, seconds }
    }

    pub(super) fn render(&self, paint: Paint) -> String {
        if self.now.is_empty() {
            return "no peers: no other node has a lease\n".to_owned();
        }
        let mut table = Table::new(&[
            ("PEER", Align::Left),
            ("SUBNET", Align::Left),
            ("KIND", Align::Left),
            ("HEARD", Align::Right),
            ("OUT", Align::Right),
            ("IN", Align::Right),
            ("MTU", Align::Right),
        ]);
        for peer in self.now {
            let before = self.before.get(&peer.subnet);
            let rate = |way: fn(&Peer) -> Option<Traffic>| {
                let then = before.and_then(|before| way(before));
                self.rate(then, way(peer))
            };
            let cells = vec![
                peer.public_ip.to_string(),
                peer.subnet.to_string(),
                kind(peer).to_owned(),
                peer.last_heard_seconds.map_or("-".to_owned(), heard),
                rate(|peer| peer.sent),
                rate(|peer| peer.received),
                peer.path_mtu.map_or("-".to_owned(), |mtu| mtu.to_string()),
            ];
            let problem = peer.problem.iter().flat_map(|problem| wrap(problem, WIDTH - 4));
            let notes = problem.map(|line| paint.red(&format!("    {line}"))).collect();
            table.row(cells, notes);
        }
        table.render(paint)
    }

    /// Bits a second, in at most 6 characters.
    fn rate(&self, before: Option<Traffic>, now: Option<Traffic>) -> String {
        let Some(now) = now else { return "-".to_owned() };
        // A counter that is less than before restarted at zero.
        let before = before.map_or(now.bytes, |before| before.bytes);
        let bytes = now.bytes.checked_sub(before).unwrap_or(now.bytes);
        units::scaled(bytes as f64 * 8.0 / self.seconds, "")
    }
}

fn kind(peer: &Peer) -> &str {
    match peer.kind {
        PeerKind::Twill => "twill",
        PeerKind::Stock => "stock",
        PeerKind::OtherBackend | PeerKind::Unknown => &peer.backend,
    }
}

fn heard(seconds: u64) -> String {
    if seconds < 600 { format!("{seconds} s") } else { "long".to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn peer(number: u8, bytes: u64) -> Peer {
        Peer {
            public_ip: [192, 168, 100, number].into(),
            subnet: format!("10.244.{number}.0/24").parse().unwrap(),
            public_ipv6: None,
            ipv6_subnet: None,
            kind: PeerKind::Twill,
            backend: "udp".to_owned(),
            last_heard_seconds: Some(3),
            sent: Some(Traffic { packets: bytes / 100, bytes }),
            received: Some(Traffic::default()),
            path_mtu: None,
            problem: None,
        }
    }

    #[test]
    fn rows_fit_a_terminal_and_a_problem_stands_below_its_peer() {
        let before = [peer(101, 0), peer(2, 0)];
        let mut far = peer(101, 1_562_500_000);
        (far.subnet, far.path_mtu) = ("10.244.101.128/25".parse().unwrap(), Some(65507));
        far.problem =
            Some("UDP 8285 is closed there: ".to_owned() + &"port unreachable ".repeat(6));
        far.last_heard_seconds = Some(599);
        let now = [far, peer(2, 0)];
        let text = PeerTable::new((0, &before), (500, &now)).render(Paint::off());
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("192.168.100.101  10.244.101.128/25  twill  599 s"), "{text}");
        assert!(lines[2].starts_with("    UDP 8285 is closed there"), "{text}");
        assert!(lines.last().unwrap().starts_with("192.168.100.2 "), "{text}");
    }

    #[test]
    fn rates_come_from_the_two_readings() {
        let (before, now) = ([peer(1, 1000)], [peer(1, 126_000)]);
        let table = PeerTable::new((1000, &before), (2000, &now));
        assert_eq!(table.rate(before[0].sent, now[0].sent), "1.00 M");
        assert_eq!(table.rate(now[0].sent, before[0].sent), "8.00 k", "it restarted");
        assert_eq!(table.rate(None, None), "-");
        assert_eq!(table.rate(None, now[0].sent), "0", "it has just come");
    }
}
