use super::*;
use crate::control::cli::commands::ping::observe::{Lease, Longest};
use crate::control::cli::commands::survey::{Device, FixedMac, WayProblem};

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const REFUSED: Port = Port::Refused { by: Some(PEER), error: IcmpError::Unreachable(3) };

fn own() -> Own {
    Own {
        addr: [192, 0, 2, 1].into(),
        public_ip: [192, 0, 2, 1].into(),
        network: "10.5.0.0/16".parse().unwrap(),
        subnet: Some("10.5.7.0/24".parse().unwrap()),
        device: Some(Device { name: "flannel0".to_owned(), mtu: 1472 }),
        wire: Wire::Udp { port: 8285 },
    }
}

fn peer() -> Peer {
    let lease = Lease { subnet: "10.5.9.0/24".parse().unwrap(), other_backend: None };
    Peer { lease: Some(lease), ..Peer::at(PEER) }
}

fn series(to: Ipv4Addr, received: u32) -> Series {
    let failure = (received < 3).then_some(Answer::Silence);
    Series { to, sent: 3, received, median: None, failure }
}

/// Of a peer that answers everything.
fn well() -> Observed {
    Observed {
        underlay: series(PEER, 3),
        port: None,
        overlay: Some(series([10, 5, 9, 0].into(), 3)),
        tcp: None,
        forwards: Some(true),
        passes: Some(true),
        pod: None,
        underlay_mtu: None,
        overlay_mtu: Some(Longest { passed: Some(1472), wanted: 1472 }),
    }
}

/// Of one whose overlay is silent.
fn silent(port: Port, echoes: u32) -> Observed {
    let overlay = Some(series([10, 5, 9, 0].into(), 0));
    let (forwards, overlay_mtu) = (None, None);
    let underlay = series(PEER, echoes);
    Observed { underlay, port: Some(port), overlay, forwards, overlay_mtu, ..well() }
}

#[track_caller]
fn says(seen: &Observed, text: &str) {
    let verdict = verdict(&own(), &peer(), seen);
    assert!(!verdict.ok && verdict.text.contains(text), "{verdict:?}");
    assert!(verdict.advice.is_some(), "{verdict:?}");
}

#[test]
fn peer_that_answers_everything_is_well() {
    assert!(verdict(&own(), &peer(), &well()).ok);
}

#[test]
fn closed_filtered_and_refused_ports_are_told_apart() {
    says(&silent(REFUSED, 3), "UDP 8285 is closed at 192.0.2.9: flanneld is not running there");
    says(&silent(Port::Silent, 3), "nothing on UDP 8285: it is filtered there or on the way");
    says(&silent(Port::Silent, 0), "answers nothing at all");
    let by = Some([192, 0, 2, 254].into());
    let refused = Port::Refused { by, error: IcmpError::Unreachable(13) };
    says(&silent(refused, 3), "refused by 192.0.2.254: administratively prohibited");
    says(
        &silent(Port::NotSent(SendFault::Forbidden), 3),
        "this host's own firewall drops UDP 8285",
    );
    let own_host = Some(own().addr);
    let arp = Port::Refused { by: own_host, error: IcmpError::Unreachable(1) };
    says(&silent(arp, 0), "192.0.2.9 does not answer ARP on this host's own link");
    says(&silent(Port::Answered, 3), "none that goes through this host's overlay device");
}

#[test]
fn lease_and_route_come_before_the_port() {
    let lease = Lease { other_backend: Some("vxlan".to_owned()), ..peer().lease.unwrap() };
    let other = Peer { lease: Some(lease), ..peer() };
    let found = verdict(&own(), &other, &silent(Port::Silent, 3));
    assert_eq!(found.text, "the lease of 192.0.2.9 is for vxlan, and this network is for udp");
    let [text, advice] = ["route x", "remove it"].map(str::to_owned);
    let shadowed = Peer { way_problem: Some(WayProblem { text, advice }), ..peer() };
    assert_eq!(verdict(&own(), &shadowed, &silent(Port::Silent, 3)).text, "route x");
    let stranger = Peer { lease: None, ..peer() };
    let found = verdict(&own(), &stranger, &Observed { overlay: None, ..silent(REFUSED, 3) });
    assert!(found.text.starts_with("192.0.2.9 is neither in Network 10.5.0.0/16 nor"));
}

#[test]
fn long_packets_and_forwarding_count_when_short_ones_pass() {
    let overlay_mtu = Some(Longest { passed: Some(1372), wanted: 1472 });
    says(&Observed { overlay_mtu, ..well() }, "more than 1372 bytes are lost");
    says(&Observed { forwards: Some(false), ..well() }, "forwards nothing to its containers");
    let pod = Some(series([10, 5, 9, 5].into(), 0));
    says(&Observed { pod, ..well() }, "10.5.9.5 does not answer");
    let overlay = Some(series([10, 5, 9, 0].into(), 1));
    says(&Observed { overlay, ..well() }, "2 of 3 packets");
    let overlay = Some(series([10, 5, 9, 0].into(), 0));
    let found = verdict(&own(), &peer(), &Observed { overlay, ..well() });
    assert!(found.ok && found.text.contains("a rule in INPUT there drops ICMP echo"));
}

#[test]
fn packet_that_is_lost_without_a_word_is_a_doubt() {
    assert_eq!(verdict(&own(), &peer(), &well()).doubt, None);
    let found = verdict(&own(), &peer(), &Observed { passes: Some(false), ..well() });
    assert!(found.ok && found.doubt.unwrap().0.contains("a rule in FORWARD drops it"));
}

#[test]
fn without_a_device_of_ours_a_port_that_is_not_refused_is_no_fault() {
    let before = Own { device: None, ..own() };
    let seen = Observed { overlay: None, ..silent(Port::Silent, 3) };
    assert!(verdict(&before, &peer(), &seen).ok);
    assert!(!verdict(&before, &peer(), &Observed { overlay: None, ..silent(REFUSED, 3) }).ok);
}

#[test]
fn host_gw_has_no_port() {
    let plain = Own { wire: Wire::Plain, ..own() };
    let seen = Observed { port: None, ..silent(Port::Silent, 3) };
    let found = verdict(&plain, &peer(), &seen);
    assert!(!found.ok && found.text.contains("no bridge for containers"), "{found:?}");
    let seen = Observed { port: None, ..silent(Port::Silent, 0) };
    assert!(verdict(&plain, &peer(), &seen).text.contains("does not answer ICMP echo"));
}

#[test]
fn peer_that_drops_icmp_is_reached_by_tcp() {
    let seen = Observed { tcp: Some(true), ..silent(Port::Silent, 0) };
    let found = verdict(&own(), &peer(), &seen);
    assert!(found.ok && found.doubt.unwrap().0.starts_with("no ICMP comes back, though TCP does"));
    let narrow = Peer { path_mtu: Some(1372), ..peer() };
    let found = verdict(&own(), &narrow, &seen);
    assert!(!found.ok && found.text.contains("packets of more than 1372 bytes are lost"));
    assert!(found.advice.unwrap().contains("raise that MTU to 1500"));
}

#[test]
fn permanent_neighbour_entry_of_a_silent_peer_is_named() {
    let (mac, link) = ("02:00:00:00:00:99".to_owned(), "eth0".to_owned());
    let fixed = |addr| Some(FixedMac { addr, mac: mac.clone(), link: link.clone() });
    let wrong = Peer { fixed_mac: fixed(PEER), ..peer() };
    let found = verdict(&own(), &wrong, &silent(Port::Silent, 0));
    assert!(found.text.contains("to MAC 02:00:00:00:00:99 on eth0"), "{found:?}");
    assert!(found.advice.unwrap().ends_with("ip neigh del 192.0.2.9 dev eth0"));
    let router = Peer { fixed_mac: fixed([192, 0, 2, 254].into()), ..peer() };
    let found = verdict(&own(), &router, &silent(Port::Silent, 0));
    assert!(found.text.contains("what is for 192.0.2.254, the router to 192.0.2.9"), "{found:?}");
    assert!(verdict(&own(), &wrong, &well()).ok, "it is right where the peer answers");
}
