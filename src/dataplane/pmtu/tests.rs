use super::*;

fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc000_0200 + number)
}

fn longest(cache: &PathMtuCache, number: u32) -> Option<u16> {
    cache.current().longest_to(peer(number))
}

#[test]
fn path_takes_what_is_left_behind_the_outer_headers() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    assert_eq!(cache.current().narrowest(), usize::MAX);
    assert_eq!(cache.learn(peer(1), 1400, now), Some(1372));
    assert_eq!(cache.learn(peer(2), 1000, now), Some(972));
    assert_eq!((longest(&cache, 1), longest(&cache, 2)), (Some(1372), Some(972)));
    assert_eq!((longest(&cache, 3), cache.current().narrowest()), (None, 972));
}

#[test]
fn only_a_change_is_news() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    assert!(cache.expects(peer(1), 1472));
    assert_eq!(cache.learn(peer(1), 1400, now), Some(1372));
    assert_eq!(cache.learn(peer(1), 1400, now), None);
    assert!(cache.expects(peer(1), 1372) && !cache.expects(peer(1), 1373));
    assert_eq!(cache.learn(peer(1), 1300, now), Some(1272));
}

#[test]
fn path_recovers_after_ten_minutes_or_when_the_kernel_says_so() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    cache.learn(peer(1), 1400, now);
    cache.learn(peer(2), 1300, now + Duration::from_secs(60));
    cache.refresh(now + LIFETIME - Duration::from_millis(1));
    assert_eq!(longest(&cache, 1), Some(1372));
    cache.refresh(now + LIFETIME);
    assert_eq!((longest(&cache, 1), longest(&cache, 2)), (None, Some(1272)));
    assert_eq!(cache.learn(peer(2), 1500, now + LIFETIME), None);
    assert_eq!((longest(&cache, 2), cache.current().narrowest()), (None, usize::MAX));
}

#[test]
fn news_about_a_narrow_path_renews_its_time() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    cache.learn(peer(1), 1400, now);
    cache.learn(peer(1), 1400, now + LIFETIME / 2);
    cache.refresh(now + LIFETIME);
    assert_eq!(longest(&cache, 1), Some(1372));
    cache.refresh(now + LIFETIME + LIFETIME / 2);
    assert_eq!(longest(&cache, 1), None);
}

#[test]
fn impossible_path_is_not_believed() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    for outer_mtu in [0, 28, 68, 95, 1500, 9000, u32::MAX] {
        assert_eq!(cache.learn(peer(1), outer_mtu, now), None);
        assert_eq!(longest(&cache, 1), None, "{outer_mtu}");
    }
    assert_eq!(cache.learn(peer(1), 96, now), Some(68));
    // A forged lie does not take the truth away.
    assert_eq!(cache.learn(peer(1), 95, now), None);
    assert_eq!(longest(&cache, 1), Some(68));
}

#[test]
fn what_one_worker_learns_all_know_at_their_next_refresh() {
    let (mut one, now) = (PathMtuCache::new(1472), Instant::now());
    let mut other = one.clone();
    one.learn(peer(1), 1400, now);
    other.learn(peer(2), 1300, now);
    one.refresh(now);
    for cache in [&one, &other] {
        assert_eq!((longest(cache, 1), longest(cache, 2)), (Some(1372), Some(1272)));
    }
}

#[test]
fn flood_of_peers_is_bounded_and_the_oldest_makes_room() {
    let (mut cache, now) = (PathMtuCache::new(1472), Instant::now());
    for number in 0..3000 {
        cache.learn(peer(number), 1400, now + Duration::from_millis(number.into()));
    }
    assert_eq!(cache.current().narrow.len(), MAX_PEERS);
    assert_eq!((longest(&cache, 2999), longest(&cache, 1975)), (Some(1372), None));
    assert!(longest(&cache, 3000 - 1024).is_some());
}

#[test]
fn cache_that_is_off_learns_nothing() {
    let (mut cache, now) = (PathMtuCache::off(), Instant::now());
    assert_eq!(cache.learn(peer(1), 600, now), None);
    assert_eq!(cache.current().narrowest(), usize::MAX);
    assert!(!cache.expects(peer(1), 1472), "a refusal is no news");
}
