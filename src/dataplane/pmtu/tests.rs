use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::paths::MAX_PEERS;
use super::*;
use crate::dataplane::io::underlay_error::TooLong;

const MS: Duration = Duration::from_millis(1);

fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc000_0200 + number)
}

/// The first bytes of some datagram of ours.
fn bytes(number: u32) -> Quote {
    Quote::of(&[&number.to_be_bytes(), &[0x5a; Quote::LEN]])
}

/// What a router says that quotes `quote`.
const fn icmp(outer_mtu: u32, quote: Quote) -> TooLong {
    TooLong { outer_mtu, is_local: false, quote }
}

fn longest(cache: &PathMtuCache, number: u32) -> Option<u16> {
    cache.current().longest_to(peer(number))
}

fn treatment(cache: &PathMtuCache) -> Treatment {
    cache.current().treatment(peer(1), 1472)
}

fn events(cache: &mut PathMtuCache) -> Vec<Event> {
    cache.take_events().map(|(_, event)| event).collect()
}

/// A sender of long packets to `peer(1)`, one each millisecond, and what its time went by with.
#[derive(Default)]
struct Flow {
    num_probes: u32,
    in_fragments: Duration,
    refused: Duration,
}

impl Flow {
    /// One packet; returns the probe if it is one.
    fn send(&mut self, cache: &mut PathMtuCache, now: Instant) -> Option<Quote> {
        cache.refresh(now);
        match treatment(cache) {
            Treatment::Whole => {}
            Treatment::InFragments => self.in_fragments += MS,
            Treatment::Refused(_) => self.refused += MS,
            Treatment::Probe => {
                self.num_probes += 1;
                assert!(cache.claim_probe(peer(1), bytes(1000 + self.num_probes)));
                return Some(bytes(1000 + self.num_probes));
            }
        }
        None
    }

    /// One packet at each of these milliseconds after `start`.
    fn send_all(&mut self, cache: &mut PathMtuCache, start: Instant, times: Range<u32>) {
        for ms in times {
            self.send(cache, start + ms * MS);
        }
    }
}

#[test]
fn path_takes_what_is_left_behind_the_outer_headers() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    assert_eq!(cache.current().narrowest(), usize::MAX);
    cache.learn(peer(1), 1400, now);
    cache.learn(peer(2), 1000, now);
    assert_eq!((longest(&cache, 1), longest(&cache, 2)), (Some(1372), Some(972)));
    assert_eq!((longest(&cache, 3), cache.current().narrowest()), (None, 972));
    assert_eq!(treatment(&cache), Treatment::Refused(1372));
    assert_eq!(cache.current().treatment(peer(1), 1372), Treatment::Whole);
    cache.learn(peer(1), 1400, now);
    assert_eq!(events(&mut cache), [Event::Narrowed(1372), Event::Narrowed(972)]);
}

#[test]
fn claim_is_believed_only_when_the_bytes_of_a_probe_come_back() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    cache.handle_claim(peer(1), &icmp(1400, bytes(1)), now);
    assert_eq!((longest(&cache, 1), treatment(&cache)), (None, Treatment::Probe));
    assert!(cache.claim_probe(peer(1), bytes(2)));
    assert!(!cache.claim_probe(peer(1), bytes(3)), "one is enough");
    assert_eq!(treatment(&cache), Treatment::InFragments);
    for number in [1, 3] {
        cache.handle_claim(peer(1), &icmp(1400, bytes(number)), now + MS);
        assert_eq!(longest(&cache, 1), None, "not the probe");
    }
    cache.handle_claim(peer(1), &icmp(1400, bytes(2)), now + 50 * MS);
    assert_eq!(treatment(&cache), Treatment::Refused(1372));
    assert_eq!(cache.current().snapshot()[0].mtu, 1372);
    assert!(events(&mut cache).contains(&Event::Narrowed(1372)));
}

#[test]
fn answer_that_comes_late_is_an_answer() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    cache.handle_claim(peer(1), &icmp(1400, bytes(1)), start);
    let mut flow = Flow::default();
    let probe = flow.send(&mut cache, start).unwrap();
    flow.send_all(&mut cache, start, 1..500);
    cache.handle_claim(peer(1), &icmp(1400, probe), start + 500 * MS);
    assert_eq!(longest(&cache, 1), Some(1372));
}

#[test]
fn one_forged_icmp_is_disproved_in_two_seconds_and_the_next_costs_nothing() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    let mut flow = Flow::default();
    cache.handle_claim(peer(1), &icmp(600, bytes(1)), start);
    flow.send_all(&mut cache, start, 0..2000);
    assert_eq!((treatment(&cache), flow.num_probes), (Treatment::Whole, 3));
    assert_eq!(flow.refused, Duration::ZERO);
    assert!(events(&mut cache).contains(&Event::Disproved));
    let spent = flow.in_fragments;
    cache.handle_claim(peer(1), &icmp(600, bytes(1)), start + 2000 * MS);
    flow.send_all(&mut cache, start, 2000..9000);
    assert_eq!((flow.in_fragments, flow.refused), (spent, Duration::ZERO));
}

/// A thousand a second for a minute, of either kind.
#[test]
fn flood_of_forged_icmps_is_as_good_as_none() {
    for quote in [bytes(1), Quote::EMPTY, Quote::of(&[&[0x45; 8]])] {
        let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
        let mut flow = Flow::default();
        for ms in 0..60_000 {
            flow.send(&mut cache, start + ms * MS);
            cache.handle_claim(peer(1), &icmp(1000, quote), start + ms * MS);
        }
        assert_eq!(flow.refused, Duration::ZERO);
        assert!(flow.in_fragments < Duration::from_secs(6), "{:?}", flow.in_fragments);
        assert!(flow.num_probes < 300, "{}", flow.num_probes);
        assert!(events(&mut cache).iter().filter(|&&event| event == Event::Refused).count() > 9000);
        // Under the same flood the truth still counts, if it comes with proof.
        cache.handle_claim(peer(1), &icmp(1000, bytes(1)), start + 60_000 * MS);
        let probe = (60_000..90_000).find_map(|ms| {
            cache.handle_claim(peer(1), &icmp(1000, bytes(1)), start + ms * MS);
            flow.send(&mut cache, start + ms * MS)
        });
        cache.handle_claim(peer(1), &icmp(1400, probe.unwrap()), start + 90_000 * MS);
        assert_eq!(longest(&cache, 1), Some(1372));
    }
}

/// RFC 792 asks routers for 8 bytes behind the outer IP header, which is UDP's.
#[test]
fn router_that_quotes_nothing_of_ours_is_believed_after_three_answers() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    let mut flow = Flow::default();
    cache.handle_claim(peer(1), &icmp(1400, Quote::EMPTY), start);
    let mut answer_at = None;
    for ms in 0..10_000 {
        let now = start + ms * MS;
        if flow.send(&mut cache, now).is_some() {
            answer_at = Some(now + 80 * MS);
        }
        if answer_at == Some(now) {
            cache.handle_claim(peer(1), &icmp(1400, Quote::EMPTY), now);
        }
        if longest(&cache, 1).is_some() {
            break;
        }
    }
    assert_eq!((longest(&cache, 1), flow.num_probes), (Some(1372), 3));
    assert_eq!(flow.refused, Duration::ZERO);
}

#[test]
fn path_that_is_wide_again_recovers_within_seconds() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    let mut flow = Flow::default();
    cache.learn(peer(1), 1400, start);
    flow.send_all(&mut cache, start, 0..3500);
    assert_eq!((longest(&cache, 1), treatment(&cache)), (None, Treatment::Whole));
    assert_eq!(flow.num_probes, 3);
    assert_eq!(events(&mut cache), [Event::Narrowed(1372), Event::Recovered]);
}

#[test]
fn path_that_stays_narrow_is_probed_ever_more_seldom() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    let mut flow = Flow::default();
    cache.learn(peer(1), 1400, start);
    for second in 0..3600 {
        for ms in 0..2 {
            let now = start + Duration::from_secs(second) + ms * MS;
            if let Some(probe) = flow.send(&mut cache, now) {
                cache.handle_claim(peer(1), &icmp(1400, probe), now);
            }
        }
        assert_eq!(longest(&cache, 1), Some(1372), "after {second} s");
    }
    assert!((10..=20).contains(&flow.num_probes), "{}", flow.num_probes);
}

#[test]
fn path_that_takes_more_than_known_is_widened_to_that() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    let mut flow = Flow::default();
    cache.learn(peer(1), 1000, start);
    let probe = (0..2000).find_map(|ms| flow.send(&mut cache, start + ms * MS)).unwrap();
    cache.handle_claim(peer(1), &icmp(1400, probe), start + 2000 * MS);
    assert_eq!(longest(&cache, 1), Some(1372));
    assert_eq!(events(&mut cache), [Event::Narrowed(972), Event::Widened(1372)]);
}

#[test]
fn claim_about_a_path_that_nobody_uses_is_forgotten() {
    let (mut cache, start) = (PathMtuCache::new(1472), Instant::now());
    cache.handle_claim(peer(1), &icmp(1000, bytes(1)), start);
    cache.refresh(start + Duration::from_secs(11));
    assert_eq!((treatment(&cache), cache.current().narrowest()), (Treatment::Whole, usize::MAX));
    assert_eq!(cache.next_event, None);
}

#[test]
fn narrow_path_is_forgotten_after_ten_minutes_without_news() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    cache.learn(peer(1), 1400, now);
    cache.refresh(now + path::LIFETIME - MS);
    assert_eq!(longest(&cache, 1), Some(1372));
    cache.refresh(now + path::LIFETIME);
    assert_eq!(longest(&cache, 1), None);
}

#[test]
fn impossible_path_is_not_believed() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    for outer_mtu in [1, 28, 67, 68, 95, 1500, 9000, u32::MAX] {
        cache.handle_claim(peer(1), &icmp(outer_mtu, bytes(1)), now);
        cache.learn(peer(1), outer_mtu, now);
        assert_eq!((longest(&cache, 1), treatment(&cache)), (None, Treatment::Whole));
    }
    for outer_mtu in [96, 551] {
        cache.handle_claim(peer(1), &icmp(outer_mtu, Quote::EMPTY), now);
        assert_eq!(treatment(&cache), Treatment::Whole, "{outer_mtu} without proof");
    }
    cache.handle_claim(peer(1), &icmp(96, bytes(1)), now);
    assert!(cache.claim_probe(peer(1), bytes(2)));
    cache.handle_claim(peer(1), &icmp(96, bytes(2)), now);
    assert_eq!(longest(&cache, 1), Some(68), "with proof");
}

#[test]
fn router_that_names_no_mtu_has_the_next_usual_one() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    for (round, expected) in (0..).zip([1492 - 28, 1006 - 28, 508 - 28]) {
        cache.handle_claim(peer(1), &icmp(0, bytes(1)), now);
        cache.refresh(now + Duration::from_secs(5 * round));
        assert!(cache.claim_probe(peer(1), bytes(2)));
        cache.handle_claim(peer(1), &icmp(0, bytes(2)), now);
        assert_eq!(longest(&cache, 1), Some(expected));
        cache.refresh(now + Duration::from_secs(5 * round + 4));
    }
}

#[test]
fn what_one_worker_learns_all_know_at_their_next_refresh() {
    let (mut one, now) = (PathMtuCache::new(1472), Instant::now());
    let mut other = one.clone();
    one.learn(peer(1), 1400, now);
    other.learn(peer(2), 1300, now);
    one.handle_claim(peer(3), &icmp(1400, bytes(1)), now);
    other.refresh(now);
    assert!(other.claim_probe(peer(3), bytes(2)) && !one.claim_probe(peer(3), bytes(4)));
    one.handle_claim(peer(3), &icmp(1400, bytes(2)), now);
    one.refresh(now);
    other.refresh(now);
    for cache in [&one, &other] {
        let all = [1, 2, 3].map(|number| longest(cache, number));
        assert_eq!(all, [Some(1372), Some(1272), Some(1372)]);
    }
}

#[test]
fn flood_of_peers_is_bounded_and_the_oldest_makes_room() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    for number in 0..3000 {
        cache.learn(peer(number), 1400, now + Duration::from_millis(number.into()));
    }
    assert_eq!(cache.current().paths.len(), MAX_PEERS);
    assert_eq!((longest(&cache, 2999), longest(&cache, 1975)), (Some(1372), None));
    assert!(longest(&cache, 3000 - 1024).is_some());
}

#[test]
fn cache_that_is_off_learns_nothing() {
    let (mut cache, now) = (PathMtuCache::off(), Instant::now());
    cache.learn(peer(1), 600, now);
    cache.handle_claim(peer(1), &icmp(600, bytes(1)), now);
    assert_eq!((longest(&cache, 1), treatment(&cache)), (None, Treatment::Whole));
    assert_eq!(cache.current().narrowest(), usize::MAX);
}

#[test]
fn limit_of_a_route_outlives_claims_and_device_and_goes_with_the_route() {
    let shared = SharedPaths::default();
    shared.limit(&[(peer(1), Some(1400)), (peer(2), Some(90)), (peer(3), Some(100_000))]);
    let mut cache = PathMtuCache::sharing(shared.clone(), 1472);
    assert_eq!(cache.current().narrowest(), 68);
    assert_eq!([1, 2, 3].map(|n| longest(&cache, n)), [Some(1372), Some(68), None]);
    assert_eq!(cache.current().treatment(peer(1), 1372), Treatment::Whole);
    assert_eq!(treatment(&cache), Treatment::Refused(1372));

    let start = Instant::now();
    cache.learn(peer(1), 1300, start);
    assert_eq!(treatment(&cache), Treatment::Refused(1272), "the less of the two");
    cache.refresh(start + 700 * 1000 * MS);
    assert_eq!(treatment(&cache), Treatment::Refused(1372), "what was learned is forgotten");
    let paths: Vec<_> = shared.snapshot().iter().map(|path| (path.peer, path.mtu)).collect();
    assert_eq!(paths, [(peer(1), 1372), (peer(2), 68)]);

    let mut again = PathMtuCache::sharing(shared.clone(), 1472);
    assert_eq!(treatment(&again), Treatment::Refused(1372));
    shared.limit(&[(peer(1), None), (peer(2), None)]);
    again.refresh(start);
    assert_eq!(again.current().narrowest(), usize::MAX);
    assert_eq!(treatment(&again), Treatment::Whole);
}
