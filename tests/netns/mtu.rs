//! Packets of the longest length, and longer ones.

use crate::harness::{assert_udp_is_whole, overlay, ping, pod, up};

/// IPv4 20, ICMP 8: a ping's packet is this much longer than its payload.
const PING_OVERHEAD: u16 = 28;

#[test]
fn longest_packet_passes_and_one_byte_more_is_refused() {
    let lab = up("mtu", 2);
    let mtu = overlay(&lab.nodes()[0]).env.mtu;
    assert_eq!(mtu, lab.mtu() - 28);
    // As a pod sees it whose own link would take more, so that the node has to refuse.
    for node in lab.nodes() {
        node.set_pod_mtu(lab.mtu()).unwrap();
    }
    let (from, to) = (pod(&lab, 0), pod(&lab, 1).addr);
    let longest = mtu - PING_OVERHEAD;
    let (reached, said) = ping(from, &format!("-c 3 -i 0.1 -W 2 -M do -s {longest}"), to);
    assert!(reached && said.contains(" 0% packet loss"), "{said}");
    let (reached, said) = ping(from, &format!("-c 1 -W 2 -M do -s {}", longest + 1), to);
    assert!(!reached && said.contains(&format!("mtu = {mtu}")), "{said}");
}

#[test]
fn longer_packets_arrive_in_fragments() {
    let lab = up("frags", 2);
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    for len in [1445, 2000, 9000, 60_000] {
        let (reached, said) = ping(from, &format!("-c 3 -i 0.1 -W 2 -M dont -s {len}"), to.addr);
        assert!(reached && said.contains(" 0% packet loss"), "{said}");
    }
    assert_udp_is_whole(&lab, from, to, &[1445, 9000, 3000]);
}

#[test]
fn jumbo_underlay_has_a_jumbo_overlay() {
    let spec = twill::lab::LabSpec { mtu: 9001, ..crate::harness::spec("jumbo", 2) };
    let lab = twill::lab::Lab::up(spec).unwrap();
    assert_eq!(overlay(&lab.nodes()[0]).env.mtu, 8973);
    crate::harness::assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 16);
    assert_udp_is_whole(&lab, pod(&lab, 1), pod(&lab, 0), &[36, 8900, 8945, 20_000]);
}
