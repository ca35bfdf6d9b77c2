//! Which free subnet to ask for. Pure: the listing and the dice come in, a subnet goes out.

use ipnetwork::Ipv4Network;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::control::config::network::NetworkConfig;
use crate::routes::Prefix;

/// How many free subnets are thrown into the hat, as in flannel's
/// `pkg/subnet/etcd/local_manager.go`.
const MAX_CANDIDATES: usize = 100;

/// A free subnet, chosen at random among the first 100, or `None` when all are taken.
///
/// Free is what overlaps no `taken` range, whatever its length. Choosing at random keeps nodes
/// that start together from all asking for the same one.
pub fn pick(
    config: &NetworkConfig,
    taken: impl IntoIterator<Item = Ipv4Network>,
    rng: &mut impl Rng,
) -> Option<Ipv4Network> {
    let mut taken: Vec<Ipv4Network> = taken.into_iter().collect();
    taken.sort_unstable();
    let free: Vec<Ipv4Network> = free(config, &taken).take(MAX_CANDIDATES).collect();
    free.choose(rng).copied()
}

/// The subnets that overlap no range in `taken`, which is sorted by first address; in order.
///
/// Walks both lists once. `blocked` is the last address of all ranges that begin at or before
/// the end of the subnet at hand, so the subnet is free if it begins after that.
fn free(config: &NetworkConfig, taken: &[Ipv4Network]) -> impl Iterator<Item = Ipv4Network> {
    let mut taken = taken.iter().peekable();
    let mut blocked = None;
    subnets(config).filter(move |subnet| {
        while let Some(range) = taken.next_if(|range| range.network() <= subnet.broadcast()) {
            blocked = blocked.max(Some(range.broadcast()));
        }
        blocked < Some(subnet.network())
    })
}

/// Every subnet from `SubnetMin` to `SubnetMax`.
fn subnets(config: &NetworkConfig) -> impl Iterator<Item = Ipv4Network> {
    let len = config.subnet_len;
    let size = 1_usize << (32 - u32::from(len));
    let addrs = config.subnet_min.to_bits()..=config.subnet_max.to_bits();
    addrs.step_by(size).filter_map(move |addr| Ipv4Network::containing(addr.into(), len).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::control::config::network::parse;

    fn config(text: &str) -> NetworkConfig {
        parse(text, None).unwrap()
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
        let config = NetworkConfig {
            network,
            subnet_len: 30,
            subnet_min: last,
            subnet_max: last,
            ..config(r#"{"Network": "10.3.0.0/16"}"#)
        };
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(pick(&config, [], &mut rng), Some(subnet("255.255.255.252/30")));
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
            let all_free: Vec<Ipv4Network> = subnets(&config)
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
