//! Whether a match of a rule fits a packet.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde_json::Value;

use crate::control::host::firewall::trace::words::is_link;
use crate::control::host::firewall::trace::{Fit, Packet};
use crate::routes::Prefix;

/// Whether what `left` reads from the packet is `right`, which is no set.
pub(super) fn of_packet(left: &Value, right: &Value, packet: &Packet) -> Fit {
    let key = |name: &str| left[name]["key"].as_str();
    if let Some(key) = key("meta") {
        return of_meta(key, right, packet);
    }
    if key("ct") == Some("state") {
        return Fit::of(right == "new");
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip"), Some("saddr")) => is_in(right, packet.src),
        (Some("ip"), Some("daddr")) => is_in(right, packet.dst),
        (Some("ip"), Some("protocol")) => is_protocol(right, packet),
        (Some("ip6"), Some(_)) => Fit::No,
        (Some("ether"), Some("type")) => Fit::of(right == "ip"),
        (Some(protocol @ ("tcp" | "udp" | "th")), Some(field)) => {
            let is_other = (protocol == "tcp" && packet.protocol != 6)
                || (protocol == "udp" && packet.protocol != 17);
            match (is_other, field) {
                (true, _) => Fit::No,
                (false, "dport") => {
                    packet.dst_port.map_or(Fit::Unknown, |port| is_port(right, port))
                }
                (false, "sport") => {
                    packet.src_port.map_or(Fit::Unknown, |port| is_port(right, port))
                }
                (false, _) => Fit::Unknown,
            }
        }
        (Some("icmp"), Some(_)) if packet.protocol != 1 => Fit::No,
        (Some(_) | None, _) => Fit::Unknown,
    }
}

fn of_meta(key: &str, right: &Value, packet: &Packet) -> Fit {
    let link = |name: &Option<String>| match (name, right.as_str()) {
        (Some(name), Some(pattern)) => Fit::of(is_link(pattern, '*', name)),
        (_, _) => Fit::Unknown,
    };
    match key {
        "iifname" | "iif" => link(&packet.in_link),
        "oifname" | "oif" => link(&packet.out_link),
        "l4proto" => is_protocol(right, packet),
        "nfproto" => Fit::of(right == "ipv4"),
        "protocol" => Fit::of(right == "ip"),
        _ => Fit::Unknown,
    }
}

/// An element of a set may have a comment or a timeout.
pub(super) fn unwrapped(element: &Value) -> &Value {
    element.get("elem").and_then(|elem| elem.get("val")).unwrap_or(element)
}

fn is_in(right: &Value, addr: Ipv4Addr) -> Fit {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<Ipv4Addr>().ok());
    if let Some(only) = parse(right) {
        return Fit::of(only == addr);
    }
    let prefix = &right["prefix"];
    if let (Some(first), Some(len)) = (parse(&prefix["addr"]), prefix["len"].as_u64()) {
        let range = u8::try_from(len).ok().and_then(|len| Ipv4Network::containing(first, len).ok());
        return range.map_or(Fit::Unknown, |range| Fit::of(range.contains(addr)));
    }
    match (parse(&right["range"][0]), parse(&right["range"][1])) {
        (Some(first), Some(last)) => Fit::of((first..=last).contains(&addr)),
        (_, _) => Fit::Unknown,
    }
}

fn is_port(right: &Value, port: u16) -> Fit {
    let port = u64::from(port);
    let range = &right["range"];
    match (right.as_u64(), range[0].as_u64(), range[1].as_u64()) {
        (Some(only), _, _) => Fit::of(only == port),
        (None, Some(first), Some(last)) => Fit::of((first..=last).contains(&port)),
        (None, _, _) => Fit::Unknown,
    }
}

fn is_protocol(right: &Value, packet: &Packet) -> Fit {
    let number = match right.as_str() {
        Some("icmp") => Some(1),
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some(_) => None,
        None => right.as_u64(),
    };
    let known = number.map(|number| Fit::of(number == u64::from(packet.protocol)));
    // Any other protocol's name.
    known.unwrap_or(if right.is_string() { Fit::No } else { Fit::Unknown })
}
