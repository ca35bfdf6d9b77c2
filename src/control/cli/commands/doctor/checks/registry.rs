//! The registry and its networks.

use std::time::Duration;

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::cli::commands::survey::OtherNetwork;
use crate::control::config::daemon::RegistryKind;

/// An answer that takes longer is worth a word.
const SLOW: Duration = Duration::from_secs(1);

/// Clocks that differ by this much are worth a word: certificates and logs suffer.
const MAX_SKEW: i64 = 30;

pub(super) fn names(facts: &Facts) -> Vec<Finding> {
    let finding = |name: &String| {
        Finding::fail(
            "names",
            name.clone(),
            "getent hosts NAME; --etcd-endpoints takes addresses, too",
        )
    };
    facts.unresolved.iter().map(finding).collect()
}

pub(super) fn answers(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "registry";
    let registry = &facts.registry;
    let millis = registry.took.as_millis();
    if let Some(problem) = &registry.problem {
        if let RegistryKind::File(path) = &facts.config.registry {
            let path = path.display();
            let advice = format!("ls -l {path}; --registry=file:PATH says where it is");
            return vec![Finding::fail(NAME, problem.clone(), advice)];
        }
        if let RegistryKind::Kubernetes(_) = &facts.config.registry {
            let advice = "kubectl get nodes and kubectl auth can-i list nodes --as \
                          system:serviceaccount:kube-flannel:flannel show whether it answers us";
            return vec![Finding::fail(NAME, problem.clone(), advice)];
        }
        let advice = if facts.are_defaults && facts.daemons.is_empty() {
            "if flanneld of this host has flags, doctor needs them, too: flanneld doctor -- \
             --etcd-endpoints=URL …; curl ENDPOINT/version shows whether etcd answers"
        } else if problem.contains("certificate") {
            "openssl s_client -connect HOST:PORT </dev/null | openssl x509 -noout -subject -issuer \
             -dates -ext subjectAltName shows the certificate; --etcd-cafile names its authority"
        } else {
            "curl ENDPOINT/version shows whether etcd answers; https needs --etcd-cafile, and perhaps \
             --etcd-certfile with --etcd-keyfile"
        };
        return vec![Finding::fail(NAME, problem.clone(), advice)];
    }
    let text = format!("{} answers within {millis} ms", registry.name);
    if registry.took > SLOW {
        let advice = match &facts.config.registry {
            RegistryKind::Kubernetes(_) => "kubectl get --raw /readyz?verbose",
            RegistryKind::Etcd | RegistryKind::File(_) => "etcdctl endpoint status -w table",
        };
        return vec![Finding::warn(NAME, text, advice)];
    }
    vec![Finding::ok(NAME, text)]
}

pub(super) fn config(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "config";
    let registry = &facts.registry;
    if let Some(reason) = &registry.no_network {
        if let RegistryKind::File(path) = &facts.config.registry {
            let path = path.display();
            let advice = format!(
                "write {{\"config\":{{\"Network\":\"10.5.0.0/16\"}}}} to {path}, or the right \
                 --registry=file:PATH"
            );
            return vec![Finding::fail(NAME, reason.clone(), advice)];
        }
        let advice = format!(
            "etcdctl put {}/config '{{\"Network\":\"10.5.0.0/16\"}}', or the right --etcd-prefix",
            facts.config.etcd.prefix
        );
        return vec![Finding::fail(NAME, reason.clone(), advice)];
    }
    let Some(network) = &registry.network else { return Vec::new() };
    let backend = network.backend.backend_type();
    let text = format!("{}: Network {}, backend {backend}", registry.name, network.v4.network);
    let mut found = vec![Finding::ok(NAME, text)];
    if registry.is_v2 {
        let text = "the network is in etcd's v2 store, which flannel from 0.18 on does not read";
        found.push(Finding::warn(NAME, text, "docs/migrating.md; --etcd-api=3 once it is in v3"));
    }
    found
}

/// Networks under other prefixes: nodes that should be together may be apart.
pub(super) fn other_networks(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "prefix";
    let own = &facts.config.etcd.prefix;
    let overlaps = |other: &OtherNetwork| {
        let ours = facts.registry.network.as_ref().map(|network| network.v4.network);
        other
            .network
            .zip(ours)
            .is_some_and(|(one, two)| one.contains(two.network()) || two.contains(one.network()))
    };
    // A node that is alone may be in the wrong place.
    let is_alone = facts.registry.leases.len() < 2;
    let finding = |other: &OtherNetwork| {
        let OtherNetwork { prefix, other_api, network, members } = other;
        if members.is_empty() && !is_alone {
            return None;
        }
        let range = network.map_or("a network".to_owned(), |range| format!("network {range}"));
        let shown: Vec<String> = members.iter().take(3).map(ToString::to_string).collect();
        let more = if members.len() > 3 { ", …" } else { "" };
        let leases = match members.is_empty() {
            true => "without a lease".to_owned(),
            false => format!("with the leases of {}{more}", shown.join(", ")),
        };
        let (place, here) = match other_api {
            Some(number) => (
                format!("the v{number} store of the same etcd has under {prefix}"),
                format!("uses v{}", 5 - number),
            ),
            None => (format!("prefix {prefix} of the same etcd has"), format!("is in {own}")),
        };
        let text = format!("{place} {range} {leases}; this node {here}");
        let advice = match other_api {
            Some(number) => format!(
                "one store for all nodes that should reach each other: --etcd-api={number} here, or \
                 move the others (docs/migrating.md)"
            ),
            None => "the same --etcd-prefix on all nodes that should reach each other".to_owned(),
        };
        Some(if overlaps(other) && !members.is_empty() {
            Finding::fail(NAME, text, advice)
        } else {
            Finding::warn(NAME, text, advice)
        })
    };
    facts.registry.others.iter().filter_map(finding).collect()
}

pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "clock";
    match facts.registry.clock_ahead {
        None => Vec::new(),
        Some(ahead) if ahead.abs() <= MAX_SKEW => {
            vec![Finding::ok(NAME, "that of etcd and ours agree")]
        }
        Some(ahead) => {
            let (seconds, word) = (ahead.abs(), if ahead > 0 { "behind" } else { "ahead of" });
            let text = format!("this host's clock is {seconds} s {word} that of etcd");
            vec![Finding::warn(NAME, text, "timedatectl; chronyc tracking")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;

    #[test]
    fn healthy_registry_has_no_fault() {
        for check in [names, answers, config, other_networks, clock] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn registry_that_does_not_answer_or_has_no_config_fails() {
        let mut facts = facts();
        facts.registry.problem = Some("read network config: refused".to_owned());
        assert_eq!(levels(&answers(&facts)), (0, 1));
        facts.are_defaults = true;
        facts.daemons.clear();
        let found = only(answers(&facts));
        assert!(found.advice.unwrap().contains("flanneld doctor -- --etcd-endpoints=URL"));
        facts.registry.took = Duration::from_secs(2);
        facts.registry.problem = None;
        assert_eq!(levels(&answers(&facts)), (1, 0));
        facts.registry.no_network = Some("etcd key /x/config does not exist".to_owned());
        let found = only(config(&facts));
        assert!(found.advice.unwrap().starts_with("etcdctl put /coreos.com/network/config"));
        facts.unresolved = vec!["name etcd.invalid has no address".to_owned()];
        assert_eq!(levels(&names(&facts)), (0, 1));
    }

    #[test]
    fn advice_about_a_file_does_not_speak_of_etcd() {
        let mut facts = facts();
        facts.config.registry = RegistryKind::File("/srv/net.json".into());
        facts.registry.problem = Some("No such file or directory".to_owned());
        facts.registry.no_network = Some("config does not exist".to_owned());
        for check in [answers, config] {
            let advice = only(check(&facts)).advice.unwrap();
            assert!(advice.contains("/srv/net.json") && !advice.contains("etcd"), "{advice}");
        }
    }

    #[test]
    fn network_in_the_v2_store_warns() {
        let mut facts = facts();
        facts.registry.is_v2 = true;
        assert_eq!(levels(&config(&facts)), (1, 0));
    }

    #[test]
    fn members_of_an_overlapping_network_elsewhere_are_a_failure() {
        let mut facts = facts();
        let other = |network: &str, members: &[Ipv4Addr]| OtherNetwork {
            prefix: "/atomic.io/network".to_owned(),
            other_api: None,
            network: Some(network.parse().unwrap()),
            members: members.to_vec(),
        };
        use std::net::Ipv4Addr;
        facts.registry.others = vec![other("10.5.0.0/16", &[])];
        assert!(other_networks(&facts).is_empty(), "nobody is in it");
        facts.registry.others = vec![other("10.9.0.0/16", &[[192, 0, 2, 5].into()])];
        assert_eq!(levels(&other_networks(&facts)), (1, 0));
        facts.registry.others = vec![other("10.0.0.0/8", &[[192, 0, 2, 5].into()])];
        let found = only(other_networks(&facts));
        assert!(found.text.contains("/atomic.io/network") && found.text.contains("192.0.2.5"));
        facts.registry.others[0].other_api = Some(2);
        let found = only(other_networks(&facts));
        assert!(found.text.starts_with("the v2 store of the same etcd has under /atomic.io"));
        assert!(found.text.ends_with("with the leases of 192.0.2.5; this node uses v3"));
        assert!(found.advice.unwrap().contains("--etcd-api=2 here"));
        facts.registry.others = vec![other("10.5.0.0/16", &[])];
        facts.registry.leases.pop();
        assert_eq!(levels(&other_networks(&facts)), (1, 0), "a node that is alone");
    }

    #[test]
    fn clocks_that_differ_warn_with_the_direction() {
        let mut facts = facts();
        facts.registry.clock_ahead = Some(-3600);
        assert!(only(clock(&facts)).text.contains("3600 s ahead of that of etcd"));
        facts.registry.clock_ahead = Some(31);
        assert!(only(clock(&facts)).text.contains("31 s behind"));
    }
}
