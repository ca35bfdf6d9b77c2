//! How the fast path comes and goes.

use twill::lab::host::netns::Netns;
use twill::lab::network::daemon::Daemon;
use twill::lab::{Lab, LabSpec};

use super::{assert_nothing_dropped, count, stats, wait_for_it};
use crate::harness::{FLANNELD, assert_tcp_is_whole, eventually, ping, pod, spec, up};

/// What is attached to devices in a node's namespace, as bpftool would show it.
fn links(lab: &Lab, node: usize) -> String {
    lab.nodes()[node].netns().ip("-br link show").unwrap()
}

#[test]
fn device_that_is_deleted_and_interface_that_is_made_again_get_their_programs_back() {
    let lab = up("fast-again", 2);
    wait_for_it(&lab);
    let before = count(&lab.nodes()[0], "egress", "packets");
    for accident in ["link del flannel0", "link del flannel0.gpe", "link set eth0 down"] {
        lab.nodes()[0].netns().ip(accident).unwrap();
        if accident.contains("eth0") {
            lab.nodes()[0].netns().ip("link set eth0 up").unwrap();
            lab.nodes()[0].netns().ip("route replace default via 192.168.64.1").unwrap();
        }
        wait_for_it(&lab);
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
        assert_tcp_is_whole(&lab, pod(&lab, 1), pod(&lab, 0), 4);
    }
    assert!(count(&lab.nodes()[0], "egress", "packets") > before, "counters never go back");
    assert_nothing_dropped(&lab);
}

#[test]
fn daemon_that_is_killed_leaves_nothing_that_the_next_one_does_not_replace() {
    let mut lab = up("fast-kill", 2);
    wait_for_it(&lab);
    for killed in [true, false] {
        let node = &mut lab.nodes_mut()[1];
        if killed {
            node.kill();
        } else {
            assert!(node.terminate().unwrap().success());
        }
        let left = links(&lab, 1);
        assert!(!left.contains("flannel0 "), "{left}");
        assert_eq!(left.contains("flannel0.gpe"), killed, "{left}");
        // Packets to the device that is gone must not stop the host's own stack.
        let reached = lab.nodes()[0].netns().tool("ping").words("-c 1 -W 2 192.168.64.12").run();
        assert!(reached.is_ok(), "{reached:?}");
        let node = &mut lab.nodes_mut()[1];
        node.start().unwrap();
        node.wait_ready().unwrap();
        wait_for_it(&lab);
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    }
    assert_nothing_dropped(&lab);
}

#[test]
fn firewall_that_keeps_superpackets_from_their_device_costs_the_fast_path_and_no_connection() {
    let lab = up("fast-input", 2);
    wait_for_it(&lab);
    let b = &lab.nodes()[1];
    let drop = "-A INPUT -i eth0 -p udp --dport 18285 -j DROP";
    b.netns().tool("iptables").words(drop).run().unwrap();
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 16);
    eventually("the fast path is off", || stats(b)["active"] == false);
    let reason = stats(b)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("let UDP port 18285 in"), "{reason}");
    // The other node learns of it, and the workers carry everything.
    eventually("the peer sends to our workers", || {
        let before = count(b, "ingress", "packets");
        let answered = ping(pod(&lab, 0), "-c 1 -W 1", pod(&lab, 1).addr).0;
        answered && count(b, "ingress", "packets") == before
    });
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    assert_tcp_is_whole(&lab, pod(&lab, 1), pod(&lab, 0), 4);
}

#[test]
fn daemon_that_may_not_load_programs_says_so_once_and_carries_everything_itself() {
    let without = "--bounding-set=-bpf,-sys_admin --inh-caps=-bpf,-sys_admin";
    let before = without.split(' ').map(str::to_owned).chain([FLANNELD.to_owned()]).collect();
    let confined = Daemon { before, ..Daemon::flanneld("/usr/bin/setpriv") };
    let daemons = [("n2".to_owned(), confined)].into();
    let lab = Lab::up(LabSpec { daemons, ..spec("fast-caps", 2) }).unwrap();
    let node = &lab.nodes()[1];
    eventually("the reason is there", || stats(node)["reason"].is_string());
    let reason = stats(node)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("CAP_BPF"), "{reason}");
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    assert_eq!(node.log_tail(1000).matches("fast path is off").count(), 1);
    assert!(!links(&lab, 1).contains(".gpe"), "nothing is left of the attempt");
}

#[test]
fn route_to_a_peer_with_an_mtu_is_left_to_the_workers() {
    let lab = up("fast-mtu", 2);
    wait_for_it(&lab);
    let node = &lab.nodes()[0];
    node.netns().ip("route add 192.168.64.12/32 dev eth0 mtu 1300").unwrap();
    eventually("the workers carry it", || {
        let before = count(node, "egress", "packets");
        let answered = ping(pod(&lab, 0), "-c 1 -W 1", pod(&lab, 1).addr).0;
        answered && count(node, "egress", "packets") == before
    });
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
}

#[test]
fn wire_that_turns_out_to_carry_single_frames_is_left_to_the_workers() {
    let lab = up("fast-cut", 2);
    wait_for_it(&lab);
    let b = &lab.nodes()[1];
    // The port of the underlay's bridge towards it cuts up what it is to deliver.
    let off = "-K n2 tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off";
    let underlay = Netns::named(lab.names().underlay());
    underlay.tool("ethtool").words(off).run().unwrap();
    eventually("the fast path is off", || {
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 128);
        stats(b)["active"] == false
    });
    let reason = stats(b)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("reach eth0 in single frames"), "{reason}");
}
