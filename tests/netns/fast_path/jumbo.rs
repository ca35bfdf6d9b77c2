//! Long frames that come one by one: the vxlan device's GRO merges their segments.

use twill::lab::{Lab, LabSpec};

use super::{assert_nothing_dropped, assert_rules_hold, stats, wait_for_it, wait_for_sparse};
use crate::harness::{assert_tcp_is_whole, assert_udp_is_whole, eventually, ping, pod, spec};

#[test]
fn kernel_carries_jumbo_frames_which_the_vxlan_device_merges_until_its_gro_is_off() {
    let lab = Lab::up(LabSpec { frames_only: true, mtu: 9000, ..spec("fast-jumbo", 2) }).unwrap();
    wait_for_it(&lab);
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    assert_tcp_is_whole(&lab, from, to, 64);
    assert_tcp_is_whole(&lab, to, from, 64);
    let stats_of_b = stats(&lab.nodes()[1]);
    let number = |key: &str| stats_of_b[key].as_u64().unwrap();
    let (merged, frames) = (number("merged"), number("gpe_in"));
    assert!(frames > 64 << 20 >> 14 && merged > 100 && frames > 2 * merged, "{stats_of_b}");
    assert!(number("gpe_out") <= frames - merged, "{stats_of_b}");

    // Two fragments, the longest packet, one that is too long for it, options, an end of TTL.
    for (args, expected) in [
        ("-c 2 -i 0.2 -s 12000", true),
        ("-c 2 -i 0.2 -M do -s 8944", true),
        ("-c 1 -W 2 -M do -s 8960", false),
        ("-c 2 -i 0.2 -T tsonly", true),
        ("-c 1 -W 2 -t 2", false),
    ] {
        let (ok, said) = ping(from, args, to.addr);
        assert_eq!(ok, expected, "{args}: {said}");
    }
    assert_udp_is_whole(&lab, from, to, &[64, 1400, 9000]);
    assert_nothing_dropped(&lab);
    assert_rules_hold(&lab);

    let b = &lab.nodes()[1];
    b.netns().tool("ethtool").words("-K flannel0.gpe gro off").run().unwrap();
    eventually("the fast path is off", || {
        assert_tcp_is_whole(&lab, from, to, 256);
        stats(b)["active"] == false
    });
    let reason = stats(b)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("stay single frames on flannel0.gpe"), "{reason}");
    wait_for_sparse(b, "stay single frames on flannel0.gpe");
    assert_tcp_is_whole(&lab, from, to, 64);
}
