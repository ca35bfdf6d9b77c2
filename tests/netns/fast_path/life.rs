//! How the fast path comes and goes.

use serde_json::Value;
use twill::lab::host::netns::Netns;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use super::seccomp::Filter;
use super::{assert_nothing_dropped, count, is_active, stats, wait_for_it, wait_for_sparse};
use crate::harness::{FLANNELD, assert_tcp_is_whole, eventually, ping, pod, spec, up};

/// What is attached to devices in a node's namespace, as bpftool would show it.
fn links(node: &Node) -> String {
    node.netns().ip("-br link show").unwrap()
}

/// Whether every hook of the fast path is in use, on the device that has this name now.
pub(super) fn hooks_are_alive(node: &Node) -> bool {
    let stats = stats(node);
    let hooks = stats["hooks"].as_array().unwrap();
    let is_alive = |hook: &Value| {
        let device = hook["device"].as_str()?;
        let links = node.netns().ip(&format!("-o link show {device}")).ok()?;
        let index = links.split(':').next()?.parse::<u64>().ok();
        let is_whole = hook["attached_by"] == "tcx" && hook["program_id"].as_u64() > Some(0);
        (hook["ifindex"].as_u64() == index && is_whole).then_some(())
    };
    let mut of_auto = hooks.iter().filter(|hook| hook["name"] != "xdp");
    hooks.len() == 4 && of_auto.all(|hook| is_alive(hook).is_some())
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
        eventually("hooks on the devices of now", || hooks_are_alive(&lab.nodes()[0]));
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
        let left = links(&lab.nodes()[1]);
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
    wait_for_sparse(b, "let UDP port 18285 in");
    assert!(!links(b).contains(".gpe"), "nothing goes through it");
    wait_for_it(&lab);
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
}

#[test]
fn daemon_that_may_not_load_programs_says_why_once_and_carries_everything_itself() {
    let filter = Filter::new(None, libc::EPERM);
    let before = |program: &str, args: &[&str]| {
        let before = args.iter().chain(&[FLANNELD]).map(|arg| (*arg).to_owned()).collect();
        Daemon { before, ..Daemon::flanneld(program) }
    };
    let without_bpf = ["--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"];
    let confined = [
        ("prlimit", before("/usr/bin/prlimit", &["--memlock=0:0"]), None),
        (
            "setpriv",
            before("/usr/bin/setpriv", &without_bpf),
            Some("it takes CAP_BPF: in systemd's unit"),
        ),
        ("bwrap", filter.daemon(), Some("allow it, in systemd's unit by SystemCallFilter")),
    ];
    let daemons =
        (1..).zip(&confined).map(|(number, (_, daemon, _))| (format!("n{number}"), daemon.clone()));
    let lab = Lab::up(LabSpec { daemons: daemons.collect(), ..spec("fast-caps", 3) }).unwrap();
    for (node, (program, _, expected)) in lab.nodes().iter().zip(&confined) {
        let Some(expected) = expected else {
            eventually("locked memory is of no concern", || is_active(node));
            continue;
        };
        eventually("the reason is there", || stats(node)["reason"].is_string());
        let stats = stats(node);
        let reason = stats["reason"].as_str().unwrap();
        assert!(reason.contains(expected), "{program}: {reason}");
        for hook in stats["hooks"].as_array().unwrap() {
            assert_eq!(hook["reason"], reason, "{hook}");
        }
        let said = node.log_tail(1000).matches("fast path is off").count();
        assert_eq!(said, 1, "{program}: one line");
        assert!(!links(node).contains(".gpe"), "nothing is left of the attempt");
    }
    for (from, to) in [(0, 1), (1, 2)] {
        assert_tcp_is_whole(&lab, pod(&lab, from), pod(&lab, to), 4);
    }
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
    wait_for_sparse(b, "reach eth0 in single frames");
}

#[test]
fn host_with_ipsec_policies_has_no_fast_path_for_as_long_as_it_has_them() {
    let lab = up("fast-ipsec", 2);
    wait_for_it(&lab);
    let a = &lab.nodes()[0];
    let policy = "src 0.0.0.0/0 dst 203.0.113.5/32 dir out";
    let tmpl = "tmpl proto esp mode transport";
    a.netns().ip(&format!("xfrm policy add {policy} {tmpl}")).unwrap();
    eventually("the fast path is off", || !is_active(a));
    let reason = stats(a)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("IPsec policies"), "{reason}");
    let before = count(a, "egress", "packets");
    assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 4);
    assert_eq!(count(a, "egress", "packets"), before);
    a.netns().ip(&format!("xfrm policy delete {policy}")).unwrap();
    wait_for_it(&lab);
}
