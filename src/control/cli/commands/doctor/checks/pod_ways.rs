//! The ways of packets of containers through this host.

use super::super::facts::{Facts, PodWay};
use super::super::finding::Finding;
use crate::control::cli::commands::survey::Wire;
use crate::control::host::net::{Forwarded, RouteFields};

pub(super) const NAME: &str = "pod routes";

pub(super) fn pod_ways(facts: &Facts) -> Vec<Finding> {
    let Some(own) = &facts.own else { return Vec::new() };
    let is_out = |way: &&PodWay| !own.subnet.is_some_and(|subnet| subnet.contains(way.dst));
    let (out, back): (Vec<&PodWay>, Vec<&PodWay>) = facts.pod_ways.iter().partition(is_out);
    let found = [out, back].into_iter().filter_map(|ways| {
        let mut bad = ways.iter().filter_map(|way| problem(facts, way));
        let first = bad.next()?;
        let more = match bad.count() {
            0 => String::new(),
            more => format!(" (and {more} more like it)"),
        };
        Some(Finding { text: first.text + &more, ..first })
    });
    // What keeps them from going out mostly keeps them from coming in.
    let mut found: Vec<Finding> = found.take(1).collect();
    if found.is_empty() && !facts.pod_ways.is_empty() {
        found.push(Finding::ok(NAME, "packets of containers take the overlay, out and in"));
    }
    found
}

fn problem(facts: &Facts, way: &PodWay) -> Option<Finding> {
    let shown = format!("ip route get {} from {} iif {}", way.dst, way.src, way.in_link);
    match way.found {
        Forwarded::By(route) if is_right(facts, way, &route) => None,
        Forwarded::By(route) => Some(elsewhere(facts, way, &route, &shown)),
        // An address of the host has a line of its own.
        Forwarded::Here if facts.links.iter().any(|it| it.has(way.dst)) => None,
        Forwarded::Here => {
            let text = format!("a local route keeps packets to container {} on this host", way.dst);
            let advice = format!("{shown}; ip route show table local; ip route del local …");
            Some(Finding::fail(NAME, text, advice))
        }
        Forwarded::Refused(number) => refused(facts, way, number, &shown),
    }
}

/// Whether the packet stays on the overlay.
fn is_right(facts: &Facts, way: &PodWay, route: &RouteFields) -> bool {
    let Some(own) = &facts.own else { return true };
    let link = facts.links.iter().find(|it| Some(it.link.index) == route.link);
    let is_by_link = link.is_some_and(|link| link.link.name == way.out_link);
    let is_out = !own.subnet.is_some_and(|subnet| subnet.contains(way.dst));
    let lease = facts.registry.leases.iter().find(|lease| lease.subnet.contains(way.dst));
    let is_to_peer = lease.is_some_and(|lease| route.gateway == Some(lease.public_ip));
    match own.wire {
        _ if !is_out => is_by_link,
        Wire::Udp { .. } => is_by_link,
        // To a peer on our own link it may send without its device.
        Wire::Vxlan { .. } => is_by_link || is_to_peer,
        Wire::Plain => is_to_peer,
        // A cloud's router is anywhere.
        Wire::Cloud => true,
    }
}

fn elsewhere(facts: &Facts, way: &PodWay, route: &RouteFields, shown: &str) -> Finding {
    let link = facts.links.iter().find(|it| Some(it.link.index) == route.link);
    let by = link.map_or("nowhere", |it| it.link.name.as_str());
    let (dst, table) = (route.dst, route.table);
    if !route.is_in_table_of_a_rule() {
        let via = route.gateway.map(|via| format!(" via {via}")).unwrap_or_default();
        let text = format!(
            "route {dst} by {by}{via} takes packets from container {} to {} away from the overlay",
            way.src, way.dst
        );
        let advice = format!("{shown}; ip route del {dst} dev {by}");
        return Finding::fail(NAME, text, advice);
    }
    let rule = facts.policy_rules.iter().find(|rule| rule.table == table);
    let (rule, del) = match rule {
        Some(rule) => {
            (format!("ip rule {}", rule.priority), format!("ip rule del pref {}", rule.priority))
        }
        None => ("an ip rule".to_owned(), "ip rule".to_owned()),
    };
    let text = format!(
        "{rule} sends packets from container {} to {} to table {table}, whose route {dst} by {by} leads \
         away from the overlay",
        way.src, way.dst
    );
    let advice = format!(
        "{shown}; {del}, or ip rule add to {} lookup main pref 10",
        facts.own.as_ref().map_or(dst, |own| own.network)
    );
    Finding::fail(NAME, text, advice)
}

/// The kernel's error numbers for routes that end: `fib_props` in net/ipv4/fib_semantics.c.
fn refused(facts: &Facts, way: &PodWay, number: i32, shown: &str) -> Option<Finding> {
    let (src, dst) = (way.src, way.dst);
    if number == libc::EXDEV {
        let link = way.in_link.replace('.', "/");
        let text = format!(
            "the strict reverse-path filter of {} drops packets from {src}: the route back to it \
             does not leave by {}",
            way.in_link, way.in_link
        );
        let all = match facts.sysctl("net.ipv4.conf.all.rp_filter") {
            Some("1") => " net.ipv4.conf.all.rp_filter=2",
            Some(_) | None => "",
        };
        let advice = format!("ip route get {src}; sysctl -w net.ipv4.conf.{link}.rp_filter=2{all}");
        return Some(Finding::fail(NAME, text, advice));
    }
    // Switches for forwarding have a line of their own.
    let is_off = |name: &str| facts.sysctl(name) == Some("0");
    let switch = format!("net.ipv4.conf.{}.forwarding", way.in_link.replace('.', "/"));
    if number == libc::EHOSTUNREACH && (is_off("net.ipv4.ip_forward") || is_off(&switch)) {
        return None;
    }
    let ends = facts.routes.iter().filter(|it| it.is_end && it.fields.dst.contains(dst));
    let end = ends.max_by_key(|it| it.fields.dst.prefix());
    let refusing = facts.policy_rules.iter().find(|rule| rule.table == 0);
    let (cause, advice) = match (end, number) {
        (Some(end), _) => {
            let route = end.fields.dst;
            let table = match end.fields.is_in_main_table() {
                true => String::new(),
                false => format!(" table {}", end.fields.table),
            };
            let cause = format!("a route that drops, {route}{table},");
            (cause, format!("ip route show {route}{table}; ip route del {route}{table}"))
        }
        (None, _) if refusing.is_some() => {
            let priority = refusing.map_or(0, |rule| rule.priority);
            (format!("ip rule {priority}"), format!("ip rule del pref {priority}"))
        }
        (None, libc::ENETUNREACH) => ("a missing route".to_owned(), "ip rule; ip route".to_owned()),
        (None, _) => (
            "a rule or a route that drops".to_owned(),
            "ip rule; ip route show table all".to_owned(),
        ),
    };
    let text = format!("{cause} ends packets from {src} to {dst} that come in by {}", way.in_link);
    Some(Finding::fail(NAME, text, format!("{shown}; {advice}")))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;
    use crate::control::host::net::{LinkAddr, PolicyRule, RouteDetails};

    fn route(dst: &str, table: u32, link: Option<u32>) -> RouteFields {
        let dst = dst.parse().unwrap();
        RouteFields { dst, table, link, gateway: None, has_gateway: false, metric: 0 }
    }

    fn with(found: Forwarded) -> Facts {
        let mut facts = facts();
        facts.pod_ways[0].found = found;
        facts
    }

    #[test]
    fn ways_by_device_and_bridge_are_right() {
        assert_eq!(levels(&pod_ways(&facts())), (0, 0));
        assert_eq!(pod_ways(&facts()).len(), 1);
    }

    #[test]
    fn without_a_device_the_router_must_be_the_peer() {
        let to = |gateway: [u8; 4]| RouteFields {
            gateway: Some(gateway.into()),
            has_gateway: true,
            ..route("10.5.9.0/24", 254, Some(2))
        };
        let mut facts = with(Forwarded::By(to([192, 0, 2, 9])));
        facts.own.as_mut().unwrap().wire = Wire::Plain;
        facts.pod_ways[0].out_link = "eth0".to_owned();
        assert_eq!(levels(&pod_ways(&facts)), (0, 0));
        facts.pod_ways[0].found = Forwarded::By(to([192, 0, 2, 254]));
        assert!(only(pod_ways(&facts)).text.contains("by eth0 via 192.0.2.254 takes packets"));
    }

    #[test]
    fn rule_to_another_table_is_named() {
        let mut facts = with(Forwarded::By(route("0.0.0.0/0", 100, Some(2))));
        facts.policy_rules = vec![PolicyRule { priority: 500, table: 100 }];
        let found = only(pod_ways(&facts));
        assert!(found.text.starts_with("ip rule 500 sends packets from container 10.5.7.2 to"));
        let advice = found.advice.unwrap();
        assert!(advice.starts_with("ip route get 10.5.9.2 from 10.5.7.2 iif docker0; ip rule del"));
    }

    #[test]
    fn routes_that_lead_elsewhere_or_drop_are_named() {
        let found = only(pod_ways(&with(Forwarded::By(route("10.5.9.0/24", 254, Some(2))))));
        assert!(found.text.starts_with("route 10.5.9.0/24 by eth0 takes packets"), "{found:?}");
        let mut facts = with(Forwarded::Refused(libc::EINVAL));
        assert!(only(pod_ways(&facts)).text.starts_with("a rule or a route that drops ends"));
        let fields = route("10.5.0.0/16", 254, None);
        facts.routes.push(RouteDetails { fields, protocol: 3, is_end: true });
        let found = only(pod_ways(&facts));
        assert!(found.text.starts_with("a route that drops, 10.5.0.0/16, ends"), "{found:?}");
        let mut by_rule = with(Forwarded::Refused(libc::ENETUNREACH));
        by_rule.policy_rules = vec![PolicyRule { priority: 300, table: 0 }];
        let found = only(pod_ways(&by_rule));
        assert!(found.text.starts_with("ip rule 300 ends packets from 10.5.7.2"), "{found:?}");
        assert!(found.advice.unwrap().ends_with("; ip rule del pref 300"));
        let found = only(pod_ways(&with(Forwarded::Refused(libc::ENETUNREACH))));
        assert!(found.text.starts_with("a missing route ends packets"), "{found:?}");
    }

    #[test]
    fn local_route_is_named_and_an_address_has_a_line_elsewhere() {
        let mut facts = with(Forwarded::Here);
        assert!(only(pod_ways(&facts)).text.starts_with("a local route keeps packets to"));
        facts.links[2].addrs.push(LinkAddr { addr: [10, 5, 9, 2].into(), prefix_len: 32 });
        assert_eq!(levels(&pod_ways(&facts)), (0, 0));
    }

    #[test]
    fn strict_filter_counts_and_switched_off_forwarding_does_not() {
        let mut facts = with(Forwarded::Refused(libc::EXDEV));
        let found = only(pod_ways(&facts));
        assert!(found.text.starts_with("the strict reverse-path filter of docker0"), "{found:?}");
        facts.pod_ways[0].found = Forwarded::Refused(libc::EHOSTUNREACH);
        facts.kernel.sysctls.insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        assert_eq!(levels(&pod_ways(&facts)), (0, 0));
    }
}
