//! What stands in etcd, in a registry file, and beside `subnet.env`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde_json::Value;
use serde_json::value::RawValue;

use super::assert_one_line;
use crate::control::config::backend::BackendType;
use crate::control::config::network::{self, SubnetRange};
use crate::control::node::subnet_env;
use crate::control::subnet::kv::registry::file::document::{Document, expires};
use crate::control::subnet::kv::registry::{Entry, Revision, Stored, read_entry};
use crate::control::subnet::kv::state_file::{PersistedLeases, StateFile};
use crate::control::subnet::lease::{Lease, LeaseAttrs, parse_key, print_key};
use crate::routes::Prefix;

/// `<prefix>/config`: a config that is taken is one that can be leased from.
///
/// # Panics
/// It is not, or the message is no line.
pub fn network_config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    for backend in [None, Some(BackendType::Udp)] {
        let network = match network::parse(text, backend) {
            Ok(network) => network,
            Err(error) => {
                assert_one_line(&error);
                continue;
            }
        };
        subnet_range(&network.v4);
        network.v6.iter().for_each(subnet_range);
        network.warning().iter().for_each(assert_one_line);
    }
}

fn subnet_range<P: Prefix>(range: &SubnetRange<P>) {
    let (first, last) = range.network.bounds();
    assert!(range.network.prefix_len() < range.subnet_len, "{range}");
    for addr in [range.subnet_min, range.subnet_max] {
        let subnet = P::containing(addr, range.subnet_len).unwrap();
        assert_eq!(subnet.bounds().0, P::number(addr), "an aligned bound: {range}");
        assert!(range.accepts(subnet) && (first..=last).contains(&P::number(addr)), "{range}");
    }
    assert!(range.subnet_min <= range.subnet_max, "{range}");
}

/// A key below `<prefix>/subnets/`: the subnet it names is the one its printed form names.
///
/// # Panics
/// It is another.
pub fn lease_key(bytes: &[u8]) {
    let Ok(key) = str::from_utf8(bytes) else { return };
    if let Ok(subnets) = parse_key(key) {
        assert!(subnets.v4.prefix() <= 31, "{subnets}");
        assert!(subnets.v6.is_none_or(|v6| (1..=127).contains(&v6.prefix())), "{subnets}");
        assert_eq!(parse_key(&print_key(subnets)), Ok(subnets));
    }
}

/// The value of such a key: what was understood is written so that it reads the same.
///
/// # Panics
/// It reads differently, or the message is no line.
pub fn lease_value(bytes: &[u8]) {
    match LeaseAttrs::from_json(bytes) {
        Ok(attrs) => {
            assert_eq!(LeaseAttrs::from_json(attrs.to_json().as_bytes()).as_ref(), Ok(&attrs));
            assert_one_line(&attrs);
        }
        Err(error) => assert_one_line(&error),
    }
}

/// A registry file: writing it back loses nothing, and a lease can be added to whatever it holds.
///
/// # Panics
/// Something is lost, or the message is no line.
pub fn registry_file(bytes: &[u8]) {
    let mut document = match Document::parse(bytes) {
        Ok(document) => document,
        Err(error) => return assert_one_line(&error),
    };
    for (key, raw) in document.entries() {
        let entry = Entry { key: key.to_owned(), revision: Revision(1), ttl_lease: None };
        if let Err(malformed) = read_entry(entry, raw.get().as_bytes()) {
            assert_one_line(&malformed.reason);
        }
        if let Err(fault) = expires(raw) {
            assert_one_line(&fault);
        }
    }
    let again = Document::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(contents(&again), contents(&document));

    let now = SystemTime::now();
    let (key, attrs) = ("10.1.99.0-24", LeaseAttrs::udp([192, 0, 2, 99].into()));
    let mut expected = contents(&document);
    document.put(key, &attrs, Some(now)).unwrap();
    let written = Document::parse(document.to_string().as_bytes()).unwrap();
    let entry = written.entries()[key];
    assert_eq!(LeaseAttrs::from_json(entry.get().as_bytes()), Ok(attrs));
    assert!(expires(entry).unwrap().is_some_and(|at| at >= now), "{entry}");
    let mut found = contents(&written);
    expected.retain(|(other, _)| other != key);
    found.retain(|(other, _)| other != key);
    assert_eq!(found, expected, "entries of others stay as they were");
}

/// Every entry with what it says.
fn contents(document: &Document) -> Vec<(String, Value)> {
    let says =
        |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into());
    document.entries().into_iter().map(|(key, raw)| (key.to_owned(), says(raw))).collect()
}

/// `subnet.state.json`: a state that is taken is saved and taken again.
///
/// # Panics
/// It is not, or the message is no line.
pub fn state_file(bytes: &[u8]) {
    let file = StateFile::next_to(Path::new("subnet.env"), "etcd key /config".to_owned());
    let previous = "10.1.5.0/24".parse().ok();
    let remembered = match file.read(bytes, previous, None) {
        Ok(remembered) => remembered,
        Err(error) => return assert_one_line(&error),
    };
    let PersistedLeases { own, peers } = &remembered.past;
    let text = file.text(&remembered.config.text, own, peers.iter()).unwrap();
    let again = file.read(text.as_bytes(), previous, None).unwrap();
    assert_eq!(again.config.network, remembered.config.network);
    assert_eq!((again.past.own.subnet, &again.past.own.attrs), (own.subnet, &own.attrs));
    let holders = |peers: &[Stored<Lease>]| -> BTreeMap<String, LeaseAttrs> {
        peers.iter().map(|peer| (peer.entry.key.clone(), peer.attrs.clone())).collect()
    };
    assert_eq!(holders(&again.past.peers), holders(peers));
}

/// `subnet.env`, which may have been written by anybody: a range is one that can be written.
///
/// # Panics
/// It is not.
pub fn subnet_env(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let v4 = |name| subnet_env::range_in::<Ipv4Network>(&text, name);
    let v6 = |name| subnet_env::range_in::<Ipv6Network>(&text, name);
    // A range of one address has no first host for a bridge, and is never leased.
    let subnet = v4("FLANNEL_SUBNET").filter(|it| it.prefix() < 32);
    let v6_subnet = v6("FLANNEL_IPV6_SUBNET").filter(|it| it.prefix() < 128);
    if let (Some(network), Some(subnet)) = (v4("FLANNEL_NETWORK"), subnet) {
        let v6 = v6("FLANNEL_IPV6_NETWORK").zip(v6_subnet);
        let env = subnet_env::SubnetEnv { network, subnet, v6, mtu: 1472, ip_masq: false };
        let written = env.to_string();
        let read = |name| subnet_env::range_in(&written, name);
        assert_eq!(read("FLANNEL_NETWORK").zip(read("FLANNEL_SUBNET")), Some((network, subnet)));
        let read = |name| subnet_env::range_in(&written, name);
        assert_eq!(read("FLANNEL_IPV6_NETWORK").zip(read("FLANNEL_IPV6_SUBNET")), v6);
    }
}
