//! Filters on clsact qdiscs, which kernels before 6.6 have instead of tcx links. Here the kernel makes
//! no links, as those do not.

use std::collections::BTreeMap;

use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use super::seccomp::Filter;
use super::{assert_nothing_dropped, stats, wait_for_it};
use crate::harness::{assert_tcp_is_whole, eventually, pod, spec};

/// `BPF_LINK_CREATE` of `include/uapi/linux/bpf.h`.
const LINK_CREATE: u32 = 28;

/// The kernel's number for each program that `/stats` says is attached, by its hook.
fn programs(node: &Node) -> BTreeMap<String, (String, u64)> {
    let mut programs = BTreeMap::new();
    for hook in stats(node)["hooks"].as_array().unwrap() {
        let Some(id) = hook["program_id"].as_u64() else { continue };
        assert_eq!(hook["attached_by"], "clsact", "{hook}");
        let text = |key: &str| hook[key].as_str().unwrap().to_owned();
        programs.insert(text("name"), (text("device"), id));
    }
    programs
}

/// Whether every program is where it should be, as `tc` sees it.
fn are_in_place(node: &Node) -> bool {
    let programs = programs(node);
    let is_listed = |(hook, (device, id)): (&String, &(String, u64))| {
        let side = if hook == "egress" { "egress" } else { "ingress" };
        let tc = node.netns().tool("tc").words(&format!("filter show dev {device} {side}"));
        tc.run().is_ok_and(|listed| listed.contains(&format!(" id {id} ")))
    };
    programs.len() == 3 && programs.iter().all(is_listed)
}

fn tc(node: &Node, args: &str) {
    node.netns().tool("tc").words(args).run().unwrap();
}

#[test]
fn filters_that_somebody_deletes_are_made_again_and_one_line_says_so() {
    let filter = Filter::new(Some(LINK_CREATE), libc::EINVAL);
    let mut lab = Lab::up(LabSpec { daemon: filter.daemon(), ..spec("clsact", 2) }).unwrap();
    wait_for_it(&lab);
    let node = &lab.nodes()[0];
    for (number, (deletion, hook)) in (1..).zip([
        ("filter del dev eth0 ingress", "ingress"),
        ("qdisc del dev eth0 clsact", "ingress"),
        ("qdisc del dev flannel0 clsact", "egress"),
    ]) {
        assert!(are_in_place(node), "{}", stats(node));
        let before = programs(node);
        tc(node, deletion);
        // It looks when a link changes, or after ten seconds.
        for len in [1001, 1000] {
            node.netns().ip(&format!("link set eth0 txqueuelen {len}")).unwrap();
        }
        eventually(deletion, || programs(node) != before && are_in_place(node));
        wait_for_it(&lab);
        assert_tcp_is_whole(&lab, pod(&lab, 0), pod(&lab, 1), 2);
        let log = node.log_tail(1000);
        assert_eq!(log.matches("somebody detached the").count(), number, "{log}");
        assert!(log.contains(&format!("detached the {hook} program of the fast path")), "{log}");
    }
    assert_nothing_dropped(&lab);

    let node = &mut lab.nodes_mut()[0];
    node.kill();
    // That was its parent, which takes it along.
    let sockets = |node: &Node| node.netns().tool("ss").words("-Hnltu").run().unwrap();
    let is_closed = |node: &Node| ![":8285 ", ":8080 "].iter().any(|it| sockets(node).contains(it));
    eventually("its sockets are closed", || is_closed(node));
    let left = node.netns().tool("tc").words("filter show dev eth0 ingress").run().unwrap();
    assert!(left.contains("fast_ingress"), "{left}");
    node.start().unwrap();
    node.wait_ready().unwrap();
    wait_for_it(&lab);
    let node = &lab.nodes()[0];
    assert!(are_in_place(node), "{}", stats(node));
    assert!(node.log_tail(1000).contains("a filter that a killed flanneld left on eth0"));
}
