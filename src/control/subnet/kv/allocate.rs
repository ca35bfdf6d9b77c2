//! Which free subnet to ask for. Pure: it takes the listing and random numbers and returns a subnet.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::control::config::network::SubnetRange;
use crate::routes::Prefix;

/// How many free subnets are thrown into the hat, as in flannel's
/// `pkg/subnet/etcd/local_manager.go`.
const MAX_CANDIDATES: usize = 100;

/// A free subnet, chosen at random among the first 100, or `None` when all are taken.
///
/// Free is what overlaps no `taken` range, whatever its length. Choosing at random keeps nodes
/// that start together from all asking for the same one.
pub fn pick<P: Prefix>(
    range: &SubnetRange<P>,
    taken: impl IntoIterator<Item = P>,
    rng: &mut impl Rng,
) -> Option<P> {
    let mut taken: Vec<P> = taken.into_iter().collect();
    taken.sort_unstable();
    let free: Vec<P> = free(range, &taken).take(MAX_CANDIDATES).collect();
    free.choose(rng).copied()
}

/// The subnets from `SubnetMin` to `SubnetMax` that overlap no range in `taken`, which is sorted by
/// first address; in order.
///
/// Walks both lists once. `blocked` is the last address of all ranges that begin at or before
/// the end of the subnet at hand, so the subnet is free if it begins after that. Subnets that end
/// before `blocked` are skipped at one go: an IPv6 network has more than can be walked.
fn free<P: Prefix>(range: &SubnetRange<P>, taken: &[P]) -> impl Iterator<Item = P> {
    let (size, len) = (range.subnet_size(), range.subnet_len);
    let (min, max) = (P::number(range.subnet_min), P::number(range.subnet_max));
    let mut taken = taken.iter().map(|range| range.bounds()).peekable();
    let mut blocked = None;
    let mut next = Some(min);
    std::iter::from_fn(move || {
        loop {
            let first = next.filter(|first| *first <= max)?;
            let last = first + (size - 1);
            while let Some((_, end)) = taken.next_if(|(begin, _)| *begin <= last) {
                blocked = blocked.max(Some(end));
            }
            match blocked.filter(|blocked| *blocked >= first) {
                Some(blocked) => {
                    let num_skipped = (blocked - first) / size + 1;
                    next = num_skipped.checked_mul(size).and_then(|skip| first.checked_add(skip));
                }
                None => {
                    next = first.checked_add(size);
                    return P::containing(P::addr(first), len).ok();
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use ipnetwork::{Ipv4Network, Ipv6Network};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::control::config::network::parse;

    fn config(text: &str) -> SubnetRange<Ipv4Network> {
        parse(text, None).unwrap().v4
    }

    fn subnet(text: &str) -> Ipv4Network {
        text.parse().unwrap()
    }

    #[test]
    fn overlapping_ranges_of_any_length_are_skipped() {
        let config = config(r#"{"Network": "10.3.0.0/16", "SubnetMax": "10.3.4.0"}"#);
        let taken = ["10.3.1.128/30", "10.3.2.0/23", "10.9.0.0/16"].map(subnet);
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(pick(&config, taken, &mut rng), Some(subnet("10.3.4.0/24")));
        assert_eq!(pick(&config, [subnet("10.0.0.0/8")], &mut rng), None);
    }

    #[test]
    fn only_the_first_hundred_free_are_candidates_and_all_of_them_are() {
        let config = config(r#"{"Network": "10.3.0.0/16"}"#);
        let mut rng = StdRng::seed_from_u64(2);
        let picked: std::collections::BTreeSet<Ipv4Network> =
            (0..5000).filter_map(|_| pick(&config, [], &mut rng)).collect();
        assert_eq!(picked.len(), MAX_CANDIDATES);
        assert_eq!(picked.first(), Some(&subnet("10.3.1.0/24")));
        assert_eq!(picked.last(), Some(&subnet("10.3.100.0/24")));
    }

    #[test]
    fn the_last_subnet_of_all_addresses_can_be_picked() {
        // No config has this network, but the arithmetic must not care.
        let network = subnet("255.255.255.0/24");
        let last = "255.255.255.252".parse().unwrap();
        let config = SubnetRange { network, subnet_len: 30, subnet_min: last, subnet_max: last };
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(pick(&config, [], &mut rng), Some(subnet("255.255.255.252/30")));
    }

    #[test]
    fn ranges_too_wide_to_be_walked_are_skipped() {
        let text = r#"{"Network": "10.3.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/16",
                       "IPv6SubnetLen": 120}"#;
        let range = parse(text, None).unwrap().v6.unwrap();
        let taken =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let mut rng = StdRng::seed_from_u64(4);
        let left =
            pick(&range, taken(&["fd00::/17", "fd00:8000::/18", "::/120"]), &mut rng).unwrap();
        let first = Ipv6Network::parse("fd00:c000::/113").unwrap();
        assert!(first.contains(left.network()) && left.prefix() == 120, "{left}");
        assert_eq!(pick(&range, taken(&["fc00::/7", "fd00::/120"]), &mut rng), None);
        assert_eq!(pick(&range, taken(&["::/0"]), &mut rng), None);
    }

    proptest! {
        #[test]
        fn picked_subnet_is_compatible_and_overlaps_nothing(
            network in 8_u8..=24,
            extra in 2_u8..=6,
            taken in proptest::collection::vec((any::<u32>(), 8_u8..=32), 0..60),
            seed: u64,
        ) {
            let text = format!(r#"{{"Network":"10.0.0.0/{network}","SubnetLen":{}}}"#, network + extra);
            let config = config(&text);
            let taken: Vec<Ipv4Network> = taken
                .into_iter()
                .map(|(addr, len)| Ipv4Network::containing((0x0a00_0000 | addr >> 8).into(), len).unwrap())
                .collect();
            let (min, max) = (config.subnet_min.to_bits(), config.subnet_max.to_bits());
            let all_free: Vec<Ipv4Network> = (min..=max)
                .step_by(1 << (32 - config.subnet_len))
                .map(|addr| Ipv4Network::containing(addr.into(), config.subnet_len).unwrap())
                .filter(|subnet| taken.iter().all(|other| !subnet.overlaps(*other)))
                .collect();
            match pick(&config, taken.iter().copied(), &mut StdRng::seed_from_u64(seed)) {
                Some(picked) => {
                    prop_assert!(config.accepts(picked));
                    prop_assert!(all_free[..all_free.len().min(MAX_CANDIDATES)].contains(&picked));
                }
                None => prop_assert!(all_free.is_empty()),
            }
        }
    }
}
