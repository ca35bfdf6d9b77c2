//! Environment variables that are flanneld's or look as if they should be.

use std::ffi::{OsStr, OsString};

use clap::Command;

use super::compat_flags;
use super::go_flags::{Words, variable_flag, variable_of};

/// What the name of every variable of ours begins with.
const PREFIX: &str = "FLANNELD_";

/// Variables of CentOS' and Fedora's package, from /etc/sysconfig/flanneld, and the flags that its
/// start script makes of them. No stock flanneld reads them. The first name of a flag wins.
const PACKAGED: [(&str, &str); 4] = [
    ("FLANNEL_ETCD_ENDPOINTS", "etcd-endpoints"),
    ("FLANNEL_ETCD", "etcd-endpoints"),
    ("FLANNEL_ETCD_PREFIX", "etcd-prefix"),
    ("FLANNEL_ETCD_KEY", "etcd-prefix"),
];

/// Variables that are for others: subnet.env's, and those by which units pass words to flanneld.
const FOR_OTHERS: [&str; 8] = [
    "FLANNEL_NETWORK",
    "FLANNEL_SUBNET",
    "FLANNEL_MTU",
    "FLANNEL_IPMASQ",
    "FLANNEL_IPV6_NETWORK",
    "FLANNEL_IPV6_SUBNET",
    "FLANNEL_OPTIONS",
    "FLANNEL_OPTS",
];

/// What Kubernetes sets in every pod if there is a service called `flannel`.
const OF_SERVICE: [&str; 2] = ["FLANNEL_SERVICE_", "FLANNEL_PORT"];

/// Variables whose names begin like ours, in any letter case.
#[derive(Debug)]
pub(super) struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    /// Takes them out of `all`.
    pub(super) fn of(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let begins = |name: &OsStr, prefix: &str| {
            let start = name.as_encoded_bytes().get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let ours =
            all.into_iter().filter(|(name, _)| begins(name, PREFIX) || begins(name, "FLANNEL_"));
        Self(ours.collect())
    }

    /// The value of `name`, unless it is empty.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        let last = self.0.iter().rev().find(|(found, _)| found.to_str() == Some(name));
        last.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// The variable of CentOS' package for `flag`, and its value, unless that is empty.
    pub(super) fn packaged(&self, flag: &str) -> Option<(&'static str, &OsStr)> {
        let mut names = PACKAGED.iter().filter(|(_, meant)| *meant == flag).map(|(name, _)| *name);
        names.find_map(|name| Some((name, self.value(name)?)))
    }

    /// A line for each that no flag of `command` has, unless it is for another program, or the flag
    /// that it may have been meant for is set.
    pub(super) fn unread(&self, command: &Command, words: &Words) -> Vec<String> {
        let ours: Vec<&str> = command.get_arguments().filter_map(variable_flag).collect();
        let known: Vec<String> =
            ours.iter().copied().chain(compat_flags::variables()).map(variable_of).collect();
        let line = |(name, value): &(OsString, OsString)| {
            let name = name.to_string_lossy();
            let is_for_others = FOR_OTHERS.contains(&&*name)
                || OF_SERVICE.iter().any(|start| name.starts_with(start))
                || PACKAGED.iter().any(|(packaged, _)| *packaged == name);
            if value.is_empty() || is_for_others || known.iter().any(|known| *known == name) {
                return None;
            }
            let upper = name.to_uppercase().replace('-', "_");
            let upper = match upper.starts_with(PREFIX) {
                true => upper,
                false => upper.replacen("FLANNEL_", PREFIX, 1),
            };
            let is_set = words.flags.iter().any(|word| variable_of(&word.name) == upper);
            if is_set && !name.to_uppercase().starts_with(PREFIX) {
                return None;
            }
            Some(match compat_flags::meaning(&upper).or_else(|| nearest(&upper, &ours)) {
                Some(meant) => did_you_mean(&name, &meant),
                None => format!("variable {} is not read: no flag has this name", shown(&name)),
            })
        };
        self.0.iter().filter_map(line).collect()
    }
}

fn did_you_mean(name: &str, meant: &str) -> String {
    format!("variable {} is not read: did you mean {meant}?", shown(name))
}

/// A name in one line, whatever it holds.
fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}

/// The variable of the flag whose name is `variable` but for a slip or two.
fn nearest(variable: &str, flags: &[&str]) -> Option<String> {
    nearest_of(variable, flags.iter().map(|flag| variable_of(flag)))
}

/// That of `names` which is `word` but for a slip or two.
pub(super) fn nearest_of(word: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let distances = names.into_iter().map(|name| (strsim::levenshtein(word, &name), name));
    let (slips, name) = distances.min()?;
    (slips <= 2 && slips < name.len()).then_some(name)
}
