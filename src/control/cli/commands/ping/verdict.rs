//! What the answers of a peer mean, and what to do.

use std::net::Ipv4Addr;

use super::observe::{Observed, Peer, Series};
use crate::control::cli::commands::survey::{FixedMac, Own, WayProblem, Wire};
use crate::control::host::probe::{Answer, IcmpError, Port, SendFault};

/// One sentence, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Verdict {
    /// Whether all is well.
    pub(in crate::control::cli) ok: bool,
    /// What is the case.
    pub(in crate::control::cli) text: String,
    /// What to do about it.
    pub(in crate::control::cli) advice: Option<String>,
    /// What may be wrong though all was answered, and what to do about that.
    pub(in crate::control::cli) doubt: Option<(String, String)>,
    /// Whether the cause is on this host.
    pub(in crate::control::cli) is_local: bool,
}

impl Verdict {
    fn well(text: String) -> Self {
        Self { ok: true, text, advice: None, doubt: None, is_local: false }
    }

    fn bad(text: String, advice: impl Into<Option<String>>) -> Self {
        Self { ok: false, text, advice: advice.into(), doubt: None, is_local: false }
    }
}

/// The verdict on `peer`, seen from `own`.
pub(in crate::control::cli) fn verdict(own: &Own, peer: &Peer, seen: &Observed) -> Verdict {
    let answers = seen.overlay.as_ref().is_some_and(|series| series.received > 0);
    let works = answers || seen.forwards == Some(true);
    match &peer.lease {
        None => no_lease(own, peer, seen),
        Some(_) if works => of_overlay(own, peer, seen),
        Some(lease) => {
            if let Some(other) = &lease.other_backend {
                return other_backend(own, peer.public_ip, other);
            }
            if let Some(WayProblem { text, advice }) = peer.way_problem.clone() {
                return Verdict { is_local: true, ..Verdict::bad(text, advice) };
            }
            if seen.tcp == Some(true) {
                return without_icmp(own, peer);
            }
            if let (Some(fixed), 0, Some(Port::Silent) | None) =
                (&peer.fixed_mac, seen.underlay.received, &seen.port)
            {
                return to_fixed_mac(peer.public_ip, fixed);
            }
            of_underlay(own, peer, seen)
        }
    }
}

fn other_backend(own: &Own, public_ip: Ipv4Addr, other: &str) -> Verdict {
    let ours = match own.wire {
        Wire::Udp { .. } => "udp",
        Wire::Vxlan { .. } => "vxlan",
        Wire::Plain => "host-gw",
        Wire::Cloud => "a cloud",
    };
    let text = format!("the lease of {public_ip} is for {other}, and this network is for {ours}");
    let advice =
        format!("restart flanneld at {public_ip}: it reads the network config at its start");
    Verdict::bad(text, advice)
}

/// TCP passes both ways.
fn without_icmp(own: &Own, peer: &Peer) -> Verdict {
    let addr = peer.public_ip;
    let most = own.device.as_ref().map_or(0, |device| device.mtu);
    let advice = format!("at {addr}: iptables -L -nv; let ICMP pass in INPUT, OUTPUT and FORWARD");
    match peer.path_mtu.filter(|mtu| *mtu < most) {
        Some(mtu) => {
            let outer = u32::from(most) + u32::from(own.wire.overhead());
            let text = format!(
                "packets reach {addr}, but its firewall drops ICMP, and packets of more than {mtu} bytes \
                 are lost: an interface or a link between has an MTU below {outer}"
            );
            let advice = format!(
                "{advice}; raise that MTU to {outer}, or set Backend.MTU (flanneld: --mtu) to {mtu} on \
                 every node"
            );
            Verdict::bad(text, advice)
        }
        None => {
            let text = format!("packets reach {addr} and come back");
            let doubt = "no ICMP comes back, though TCP does: its firewall drops ICMP; so long packets \
                         could not be tried, and senders do not learn how long packets may be";
            let doubt = doubt.to_owned();
            Verdict { doubt: Some((doubt, advice)), ..Verdict::well(text) }
        }
    }
}

fn to_fixed_mac(addr: Ipv4Addr, fixed: &FixedMac) -> Verdict {
    let FixedMac { addr: of, mac, link } = fixed;
    let whose = if *of == addr { String::new() } else { format!(" {of}, the router to") };
    let text = format!(
        "{addr} answers nothing, and a permanent neighbour entry sends what is for{whose} {addr} to MAC \
         {mac} on {link}: most likely that is not its own"
    );
    let advice = format!("ip neigh show {of}; ip neigh del {of} dev {link}");
    Verdict { is_local: true, ..Verdict::bad(text, advice) }
}

fn no_lease(own: &Own, peer: &Peer, seen: &Observed) -> Verdict {
    let addr = peer.public_ip;
    let reached = match seen.underlay.received > 0 {
        true => "a host answers there",
        false => "no host answers there",
    };
    let text = format!(
        "{addr} is neither in Network {} nor the public IP of a node: {reached}, and no packet of the \
         overlay goes to it",
        own.network
    );
    let advice = format!(
        "flanneld peers lists the nodes; if {addr} is one: is flanneld running there, with the same etcd \
         and --etcd-prefix?"
    );
    Verdict::bad(text, advice)
}

/// As many packets may be lost by chance.
const MAX_LOST: u32 = 1;

/// The overlay reaches the peer.
fn of_overlay(own: &Own, peer: &Peer, seen: &Observed) -> Verdict {
    let addr = peer.public_ip;
    let Some(overlay) = &seen.overlay else { return of_underlay(own, peer, seen) };
    if let Some(longest) = seen.overlay_mtu
        && longest.passed != Some(longest.wanted)
    {
        let passed = longest.passed.unwrap_or(0);
        let outer = u32::from(longest.wanted) + u32::from(own.wire.overhead());
        let text = format!(
            "packets of more than {passed} bytes are lost on the way to {addr} and back, and the \
             overlay's MTU is {}",
            longest.wanted
        );
        let advice = format!(
            "its interface or a link between has an MTU below {outer}: raise it to {outer}, or set \
             Backend.MTU (flanneld: --mtu) to what passes, on every node"
        );
        return Verdict::bad(text, advice);
    }
    if seen.forwards == Some(false) {
        let text = format!("{addr} answers, and forwards nothing to its containers");
        let advice = format!("at {addr}: sysctl -w net.ipv4.ip_forward=1");
        return Verdict::bad(text, advice);
    }
    match &seen.pod {
        Some(pod) if pod.received == 0 => {
            let text = format!("node {addr} answers and forwards, but {} does not answer", pod.to);
            let advice = format!(
                "at {addr}: is there such a container, and what do `flanneld doctor` and iptables \
                 -L FORWARD say?"
            );
            Verdict::bad(text, advice)
        }
        Some(_) | None if overlay.received == 0 => Verdict::well(format!(
            "packets reach {addr} and come back, though its own address {} does not answer: a rule \
             in INPUT there drops ICMP echo",
            overlay.to
        )),
        Some(_) | None if overlay.received + MAX_LOST < overlay.sent => {
            let lost = overlay.sent - overlay.received;
            let text = format!("{lost} of {} packets to {addr} were lost", overlay.sent);
            Verdict::bad(text, "flanneld drops shows what this host lost".to_owned())
        }
        Some(_) | None => Verdict {
            doubt: doubt(peer, seen),
            ..Verdict::well(format!("packets reach {addr} and come back"))
        },
    }
}

/// A kernel that passes a packet on to a container says so if there is none.
fn doubt(peer: &Peer, seen: &Observed) -> Option<(String, String)> {
    if seen.passes != Some(false) || seen.pod.is_some() {
        return None;
    }
    let text = "the node answers, but a packet for a container is lost there without a word: a rule \
                in FORWARD drops it, or there is no bridge for containers yet";
    let advice = format!("at {}: flanneld doctor; iptables -L FORWARD -nv", peer.public_ip);
    Some((text.to_owned(), advice))
}

/// The overlay does not reach the peer, or was not asked.
fn of_underlay(own: &Own, peer: &Peer, seen: &Observed) -> Verdict {
    let addr = peer.public_ip;
    let is_up = seen.underlay.received > 0;
    let Some(port) = own.wire.port() else { return plain(addr, seen, is_up) };
    let asked = format!("UDP {port}");
    match &seen.port {
        Some(Port::Refused { by, error: IcmpError::Unreachable(3) })
            if by.is_none_or(|by| by == addr) =>
        {
            let text = format!("{asked} is closed at {addr}: flanneld is not running there");
            let advice =
                format!("at {addr}: systemctl status flanneld; or a firewall there rejects it");
            Verdict::bad(text, advice)
        }
        Some(Port::Refused { by: Some(by), error: IcmpError::Unreachable(1) })
            if *by == own.addr =>
        {
            without_arp(addr)
        }
        Some(Port::Refused { by, error }) => {
            let by = by.unwrap_or(addr);
            let text = format!("{asked} to {addr} is refused by {by}: {}", error.words());
            Verdict::bad(text, format!("at {by}: let {asked} pass from {} to {addr}", own.addr))
        }
        Some(Port::NotSent(fault)) => not_sent(fault, &asked, addr),
        Some(Port::Answered) => {
            let text = format!(
                "flanneld at {addr} answers a packet in a datagram of this command, but none that \
                 goes through this host's overlay device"
            );
            let advice = "flanneld doctor, on this host".to_owned();
            Verdict { is_local: true, ..Verdict::bad(text, advice) }
        }
        Some(Port::Silent) if is_up && own.device.is_none() => Verdict::well(format!(
            "{addr} answers, and does not refuse {asked}; this host has no overlay device to ask \
             more: flanneld does not run here"
        )),
        Some(Port::Silent) if is_up => {
            let text = format!(
                "{addr} answers ICMP echo, but nothing on {asked}: it is filtered there or on the \
                 way, or flanneld there hangs"
            );
            let advice = format!(
                "at {addr}, and in the network between: open {asked} from {}; and here from {addr}",
                own.addr
            );
            Verdict::bad(text, advice)
        }
        Some(Port::Silent) | None => silent(addr, &seen.underlay, own),
    }
}

/// The host itself says that the peer, which is on its own link, cannot be reached.
fn without_arp(addr: Ipv4Addr) -> Verdict {
    let text = format!("{addr} does not answer ARP on this host's own link");
    let advice = format!(
        "its host or cable is down, or it has another address, or a rule drops ARP: ip neigh show {addr}; at \
         {addr}: ip -4 addr; sysctl net.ipv4.conf.all.arp_ignore; nft list ruleset arp"
    );
    Verdict::bad(text, advice)
}

fn not_sent(fault: &SendFault, asked: &str, addr: Ipv4Addr) -> Verdict {
    let found = match fault {
        SendFault::Forbidden => Verdict::bad(
            format!("this host's own firewall drops {asked} to {addr}"),
            "iptables -L OUTPUT -nv; nft list ruleset".to_owned(),
        ),
        SendFault::NoRoute => {
            Verdict::bad(format!("this host has no route to {addr}"), "ip route".to_owned())
        }
        SendFault::TooLong => Verdict::bad(format!("{asked} to {addr}: packet too long"), None),
        SendFault::Other(reason) => Verdict::bad(format!("{asked} to {addr}: {reason}"), None),
    };
    Verdict { is_local: true, ..found }
}

fn silent(addr: Ipv4Addr, underlay: &Series, own: &Own) -> Verdict {
    match &underlay.failure {
        Some(Answer::Refused { by, error: IcmpError::Unreachable(1) }) if *by == own.addr => {
            without_arp(addr)
        }
        Some(Answer::Refused { by, error }) => Verdict::bad(
            format!("{addr} cannot be reached: {} says {}", by, error.words()),
            "its host is down, or the lease is an old one of a host that is gone".to_owned(),
        ),
        Some(Answer::NotSent(fault)) => not_sent(fault, "ICMP echo", addr),
        Some(Answer::Silence | Answer::Reply { .. }) | None => Verdict::bad(
            format!("{addr} answers nothing at all, neither ICMP echo nor {}", asked(own)),
            format!(
                "its host is down, or a firewall drops all, or it has no route back to {}, or the lease is \
                 an old one of a host that is gone",
                own.addr
            ),
        ),
    }
}

fn asked(own: &Own) -> String {
    own.wire.port().map_or("the overlay".to_owned(), |port| format!("UDP {port}"))
}

/// Without encapsulation.
fn plain(addr: Ipv4Addr, seen: &Observed, is_up: bool) -> Verdict {
    match &seen.overlay {
        Some(overlay) if is_up => {
            let text = format!(
                "{addr} answers, but not as {}: it has no bridge for containers yet, or a firewall \
                 drops packets that are not for it",
                overlay.to
            );
            let advice = format!("at {addr}: ip -4 addr; flanneld doctor");
            Verdict::bad(text, advice)
        }
        Some(_) | None => Verdict::bad(
            format!("{addr} does not answer ICMP echo"),
            "its host is down, or the lease is an old one of a host that is gone".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests;
