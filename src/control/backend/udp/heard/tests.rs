use std::collections::BTreeMap;

use super::*;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::test_log::Logs;

/// Peers with counters, second by second.
struct Node {
    heard: Heard,
    counters: BTreeMap<Ipv4Addr, [u64; 2]>,
    from_others: u64,
    log: LogLimit,
}

impl Node {
    fn with_peers(num: u32) -> Self {
        let counters = (0..num).map(|number| (ip(number), [0; 2])).collect();
        Self { heard: Heard::default(), counters, from_others: 0, log: LogLimit::default() }
    }

    /// A second passes, in which these peers get packets, those answer, and errors come.
    async fn tick(&mut self, to: &[u32], from: &[u32], errors: &[PeerError]) -> Vec<Event> {
        tokio::time::advance(TICK).await;
        for (way, peers) in [to, from].into_iter().enumerate() {
            for number in peers {
                self.counters.get_mut(&ip(*number)).unwrap()[way] += 10;
            }
        }
        let counters = &self.counters;
        let carried = |addr| counters[&addr];
        let total = counters.values().flatten().sum();
        let from_others = self.from_others;
        let reading = Reading { now: Instant::now(), carried, from_others, total };
        let events = self.heard.tick(&reading, counters.keys().copied(), errors);
        log(&events, 8285, name, &mut self.log);
        events
    }

    /// The same for some seconds.
    async fn ticks(&mut self, seconds: u32, to: &[u32], from: &[u32]) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..seconds {
            events.extend(self.tick(to, from, &[]).await);
        }
        events
    }
}

fn ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc000_0207 + number)
}

fn name(addr: Ipv4Addr) -> PeerName {
    PeerName { addr, subnet: "10.5.7.0/24".parse().ok() }
}

fn error(number: u32, kind: PeerErrorKind) -> PeerError {
    let to = std::net::SocketAddrV4::new(ip(number), 8285);
    PeerError { to, kind, reporter: Some(ip(number)) }
}

fn asked(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Ask(_))).count()
}

#[tokio::test(start_paused = true)]
async fn silent_peer_has_one_line_and_one_when_it_is_heard_again() {
    let logs = Logs::capture();
    let mut node = Node::with_peers(2);
    let events = node.ticks(10, &[0, 1], &[1]).await;
    assert_eq!(asked(&events), 3, "after 5, 7 and 9 seconds");
    assert_eq!((logs.count("WARN"), node.heard.troubled().count()), (0, 0));
    node.ticks(30, &[0, 1], &[1]).await;
    let expected = "peer 192.0.2.7 (10.5.7.0/24) is silent: 110 packets sent in 10 s, none \
                    received; check that flanneld runs there and that UDP 8285 is open both ways; \
                    `flanneld ping 10.5.7.0` says more";
    assert_eq!((logs.count("WARN"), logs.count(expected)), (1, 1), "{:?}", logs.lines_with("WARN"));
    assert_eq!(node.heard.last_heard(ip(0)), None);
    assert_eq!(node.heard.last_heard(ip(1)), Some(Instant::now()));

    let events = node.ticks(20, &[], &[1]).await;
    assert_eq!(asked(&events), 2, "also when no packets go there any more");
    node.ticks(1, &[], &[0]).await;
    assert_eq!(logs.count("peer 192.0.2.7 (10.5.7.0/24) is heard again, after 50 s"), 1);
    assert_eq!((logs.count("WARN"), node.heard.troubled().count()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn peer_that_answers_when_asked_is_not_silent_whatever_flood_goes_there() {
    let logs = Logs::capture();
    let mut node = Node::with_peers(1);
    let mut num_asked = 0;
    for _ in 0..3600 {
        let events = node.tick(&[0], &[], &[]).await;
        if asked(&events) > 0 {
            num_asked += 1;
            assert_eq!(node.tick(&[0], &[0], &[]).await, [], "the answer");
        }
    }
    assert!((500..700).contains(&num_asked), "{num_asked}");
    assert_eq!(logs.count("peer 192.0.2.7") - logs.count("DEBUG"), 0);
}

#[tokio::test(start_paused = true)]
async fn peer_without_packets_is_left_alone() {
    let mut node = Node::with_peers(2);
    assert_eq!(node.ticks(100, &[], &[1]).await, []);
}

#[tokio::test(start_paused = true)]
async fn icmp_names_its_peer_until_that_is_heard() {
    let logs = Logs::capture();
    let mut node = Node::with_peers(2);
    let refused = error(0, PeerErrorKind::PortUnreachable);
    node.tick(&[0], &[], &[refused, error(9, PeerErrorKind::HostUnreachable)]).await;
    assert_eq!(logs.count("WARN"), 1, "192.0.2.16 is no peer");
    let line = &logs.lines_with("WARN")[0];
    let expected = "peer 192.0.2.7 (10.5.7.0/24) cannot be reached: ICMP port unreachable from \
                    192.0.2.7: nothing listens on UDP 8285 there";
    assert!(line.contains(expected), "{line}");
    for _ in 0..20 {
        node.tick(&[0], &[], &[refused]).await;
    }
    assert_eq!(logs.count("WARN"), 1);
    let trouble = node.heard.trouble(ip(0)).unwrap();
    let problem = problem(trouble, 8285, Instant::now());
    assert!(problem.contains("ICMP port unreachable") && problem.contains("(for 20 s now)"));
    node.tick(&[0], &[0], &[refused]).await;
    assert_eq!(node.heard.trouble(ip(0)), None, "an ICMP about a peer that is heard is forged");
    assert_eq!(logs.count("is heard again"), 1);
}

#[tokio::test(start_paused = true)]
async fn peer_that_comes_and_goes_is_logged_three_times_and_again_after_a_calm_time() {
    let logs = Logs::capture();
    let mut node = Node::with_peers(1);
    for _ in 0..10 {
        node.ticks(15, &[0], &[]).await;
        node.ticks(1, &[0], &[0]).await;
    }
    assert_eq!((logs.count("WARN"), logs.count("INFO")), (3, 3));
    node.ticks(600, &[], &[]).await;
    node.ticks(15, &[0], &[]).await;
    assert_eq!(logs.count("WARN"), 4);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_silent_peers_are_few_lines_and_few_requests() {
    let logs = Logs::capture();
    let mut node = Node::with_peers(10_000);
    let all: Vec<u32> = (0..10_000).collect();
    for _ in 0..100 {
        let events = node.tick(&all, &[], &[]).await;
        assert!(asked(&events) <= MAX_ASKED);
    }
    assert_eq!(node.heard.troubled().count(), 10_000);
    assert!(logs.count("WARN") <= 2, "one line a minute: {}", logs.count("WARN"));
    let line = &logs.lines_with("WARN")[0];
    assert!(line.contains(" others) are silent: packets go to them and none come back"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn peers_without_counters_of_their_own_are_not_called_silent() {
    let mut node = Node::with_peers(1);
    for _ in 0..60 {
        node.from_others += 1;
        assert_eq!(node.tick(&[0], &[], &[]).await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn counters_that_restart_are_no_packets() {
    let mut node = Node::with_peers(1);
    node.ticks(1, &[0], &[0]).await;
    let heard = node.heard.last_heard(ip(0));
    node.counters.insert(ip(0), [0; 2]);
    assert_eq!(node.ticks(30, &[], &[]).await, []);
    assert_eq!(node.heard.last_heard(ip(0)), heard);
}

#[tokio::test(start_paused = true)]
async fn counters_of_peers_are_not_read_while_nothing_is_carried_and_all_is_well() {
    let mut node = Node::with_peers(3);
    node.ticks(3, &[0, 1], &[0, 1]).await;
    let nobody = |_| -> [u64; 2] { panic!("read") };
    let total = node.counters.values().flatten().sum();
    let reading = Reading { now: Instant::now(), carried: nobody, from_others: 0, total };
    assert_eq!(node.heard.tick(&reading, [ip(0)].into_iter(), &[]), []);
    node.ticks(1, &[0], &[]).await;
    assert!(asked(&node.ticks(20, &[], &[]).await) > 0, "one waits for an answer");
}

#[test]
fn warning_names_few_and_counts_all() {
    assert_eq!(warning(Vec::new(), 9), None);
    let one = warning(vec![name(ip(0))], 9).unwrap();
    let expected = "peer 192.0.2.7 (10.5.7.0/24) does not answer, though packets go there; \
                    `flanneld ping 10.5.7.0` says more";
    assert_eq!(one, expected);
    let many = warning((0..5).rev().map(|number| name(ip(number))).collect(), 9).unwrap();
    assert!(many.starts_with("5 peers (192.0.2.7 (10.5.7.0/24), "), "{many}");
    assert!(many.contains(" and 2 others) of 9 do not answer"), "{many}");
}
