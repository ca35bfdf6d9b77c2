//! The leases of all nodes.

use super::super::facts::Facts;
use super::super::finding::Finding;
use crate::control::cli::commands::survey::LeaseFact;
use crate::control::config::daemon::RegistryKind;

pub(super) fn entries(facts: &Facts) -> Vec<Finding> {
    let malformed = &facts.registry.malformed;
    let Some(first) = malformed.first() else { return Vec::new() };
    let more = match malformed.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let text = format!("{first}{more}");
    let advice = match &facts.config.registry {
        RegistryKind::Kubernetes(_) => {
            "kubectl describe node NAME shows its annotations and podCIDR"
        }
        RegistryKind::Etcd | RegistryKind::File(_) => {
            "delete it if no node writes it: stock nodes may choke on it"
        }
    };
    vec![Finding::warn("entries", text, advice)]
}

/// Leases of nodes that have another backend: nobody in this network reaches them.
pub(super) fn backends(facts: &Facts) -> Vec<Finding> {
    let Some(network) = &facts.registry.network else { return Vec::new() };
    let ours = network.backend.backend_type().to_string();
    let others = facts.registry.leases.iter().filter(|lease| lease.backend != ours);
    let finding = |lease: &LeaseFact| {
        let LeaseFact { subnet, public_ip, backend } = lease;
        let text = format!(
            "lease {subnet} of {public_ip} is for {backend}, and the network is for {ours}: its pods \
             are out of reach"
        );
        let advice = format!(
            "restart flanneld at {public_ip}, or delete the lease if that host is gone; a prefix \
             has one backend"
        );
        Finding::fail("backend", text, advice)
    };
    others.map(finding).collect()
}

/// Whether another lease has our public IP.
pub(super) fn has_two_leases(facts: &Facts) -> bool {
    let Some(own) = &facts.own else { return false };
    facts.registry.leases.iter().filter(|lease| lease.public_ip == own.public_ip).count() > 1
}

/// Whether our own lease is one of two that cannot both be right.
pub(super) fn is_ours_doubtful(facts: &Facts) -> bool {
    let own = facts.own.as_ref().and_then(|own| Some((own.public_ip, own.subnet?)));
    let overlaps = own.is_some_and(|(public_ip, subnet)| {
        facts.registry.leases.iter().any(|lease| {
            let is_other = lease.public_ip != public_ip;
            let overlaps =
                lease.subnet.contains(subnet.network()) || subnet.contains(lease.subnet.network());
            is_other && overlaps
        })
    });
    overlaps || has_two_leases(facts)
}

/// What the running daemon knows of the other host that has our public IP.
fn rival(facts: &Facts) -> Option<&str> {
    let said = |name: &str| {
        let found = facts.said.iter().find(|said| said.name == name);
        found.map(|said| said.text.as_str()).filter(|text| text.contains("public IP"))
    };
    said("lease").or(said("conflicts"))
}

/// Leases that cannot both be right.
pub(super) fn duplicates(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "duplicates";
    let mut found = Vec::new();
    let mut leases: Vec<&LeaseFact> = facts.registry.leases.iter().collect();
    leases.sort_by_key(|lease| (lease.public_ip, lease.subnet));
    for pair in leases.windows(2) {
        if let [one, two] = pair
            && one.public_ip == two.public_ip
        {
            let text = format!(
                "{} has two leases, {} and {}: two hosts with one public IP, or an old lease",
                one.public_ip, one.subnet, two.subnet
            );
            let is_ours = facts.own.as_ref().is_some_and(|own| own.public_ip == one.public_ip);
            let rival = rival(facts).filter(|_| is_ours).map(|said| format!(" ({said})"));
            let advice =
                "give each host a --public-ip of its own; delete the lease that no host uses";
            found.push(Finding::fail(NAME, text + &rival.unwrap_or_default(), advice));
        }
    }
    leases.sort_by_key(|lease| lease.subnet);
    for pair in leases.windows(2) {
        if let [one, two] = pair
            && one.subnet.contains(two.subnet.network())
        {
            let text = format!(
                "lease {} of {} overlaps {} of {}",
                one.subnet, one.public_ip, two.subnet, two.public_ip
            );
            found.push(Finding::fail(NAME, text, "delete the lease that no host uses"));
        }
    }
    found
}

/// Addresses of other nodes that this host has.
pub(super) fn addresses(facts: &Facts) -> Vec<Finding> {
    let public_ip = facts.own.as_ref().map(|own| own.public_ip);
    let others = facts.registry.leases.iter().filter(|lease| Some(lease.public_ip) != public_ip);
    let finding = |lease: &LeaseFact| {
        let LeaseFact { subnet, public_ip, .. } = lease;
        let name = &facts.links.iter().find(|it| it.has(*public_ip))?.link.name;
        let text = format!(
            "{name} of this host has {public_ip}, which the lease {subnet} names: packets to that node end \
             here"
        );
        let advice = format!(
            "ip addr del {public_ip} dev {name}; or delete the lease, if it is an old one of this host"
        );
        Some(Finding::warn("addresses", text, advice))
    };
    others.filter_map(finding).collect()
}

pub(super) fn own(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "lease";
    let Some(own) = &facts.own else { return Vec::new() };
    if facts.registry.problem.is_some() {
        return Vec::new();
    }
    let ours = facts.registry.leases.iter().find(|lease| lease.public_ip == own.public_ip);
    let holder = facts.registry.leases.iter().find(|lease| Some(lease.subnet) == own.subnet);
    let is_running = !facts.daemons.is_empty();
    match (ours, holder, own.subnet) {
        (Some(lease), _, _) => {
            let text = format!("{} is leased by {}", lease.subnet, own.public_ip);
            vec![Finding::ok(NAME, text)]
        }
        (None, Some(holder), Some(subnet)) => {
            let text = format!(
                "subnet.env says {subnet}, which {} has leased: two hosts have the same subnet",
                holder.public_ip
            );
            vec![Finding::fail(NAME, text, "systemctl restart flanneld, then what uses subnet.env")]
        }
        (None, None, _) if is_running => {
            let text = format!("flanneld runs, and {} has no lease", own.public_ip);
            let advice =
                "flanneld status; is that its registry (-- FLAGS), and does it wait for it?";
            vec![Finding::fail(NAME, text, advice)]
        }
        (None, _, _) => vec![Finding::ok(NAME, "none yet: flanneld leases one at its start")],
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::Said;
    use super::super::daemons::says;
    use super::super::fixture::{facts, lease, levels, only};
    use super::*;
    use crate::control::host::net::LinkAddr;

    #[test]
    fn healthy_leases_have_no_fault() {
        for check in [entries, backends, duplicates, own] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn lease_of_another_backend_names_its_host() {
        let mut facts = facts();
        facts.registry.leases.push(lease("10.5.11.0/24", "192.0.2.11", "vxlan"));
        let found = only(backends(&facts));
        assert!(found.text.starts_with("lease 10.5.11.0/24 of 192.0.2.11 is for vxlan"));
    }

    #[test]
    fn one_public_ip_with_two_leases_and_overlaps_fail() {
        let mut facts = facts();
        facts.registry.leases.push(lease("10.5.11.0/24", "192.0.2.1", "udp"));
        assert!(only(duplicates(&facts)).text.starts_with("192.0.2.1 has two leases"));
        let text = "lease: host b had our public IP first".to_owned();
        facts.said = vec![Said { name: "lease".to_owned(), is_failure: true, text }];
        assert!(only(duplicates(&facts)).text.ends_with("(lease: host b had our public IP first)"));
        assert!(says(&facts).is_empty(), "one line");
        facts.registry.leases.pop();
        facts.registry.leases.push(lease("10.5.9.128/25", "192.0.2.11", "udp"));
        let text = "lease 10.5.9.0/24 of 192.0.2.9 overlaps 10.5.9.128/25 of 192.0.2.11";
        assert_eq!(only(duplicates(&facts)).text, text);
    }

    #[test]
    fn address_of_another_node_on_this_host_warns() {
        let mut facts = facts();
        assert_eq!(addresses(&facts), []);
        let addr = LinkAddr { addr: [192, 0, 2, 9].into(), prefix_len: 32 };
        facts.links[0].addrs.push(addr);
        let found = only(addresses(&facts));
        assert!(
            found.text.starts_with("lo of this host has 192.0.2.9, which the lease 10.5.9.0/24")
        );
    }

    #[test]
    fn own_lease_that_is_gone_or_anothers_fails() {
        let mut facts = facts();
        facts.registry.leases.remove(0);
        assert_eq!(levels(&own(&facts)), (0, 1));
        facts.registry.leases.push(lease("10.5.7.0/24", "192.0.2.11", "udp"));
        assert!(only(own(&facts)).text.contains("which 192.0.2.11 has leased"));
        facts.registry.leases.pop();
        facts.daemons.clear();
        assert_eq!(levels(&own(&facts)), (0, 0), "before the start");
        facts.registry.malformed = vec!["entry x: the value is".to_owned(), "entry y".to_owned()];
        assert!(only(entries(&facts)).text.ends_with("(and 1 more)"));
    }
}
