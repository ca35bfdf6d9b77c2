//! Offloads: different ones on both ends, ones that the kernel refuses, and ones that change.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use twill::dataplane::Offloads;
use twill::lab::network::daemon::Daemon;
use twill::lab::traffic::tcp;
use twill::lab::{Lab, LabSpec};

use crate::flows::{self, Plan};
use crate::harness::{
    FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, generator, overlay, pod, spec, up, workers,
};

const OFF: &str = "--offload=off --workers=1";

/// A lab of two nodes that run these.
fn lab(topic: &str, daemons: [Daemon; 2]) -> Lab {
    let nodes = ["n1".to_owned(), "n2".to_owned()].into_iter();
    let daemons: BTreeMap<_, _> = nodes.zip(daemons).collect();
    Lab::up(LabSpec { daemons, ..spec(topic, 2) }).unwrap()
}

fn flanneld(flags: &str) -> Daemon {
    Daemon::flanneld(FLANNELD).with(flags)
}

fn assert_traffic_is_whole_both_ways(lab: &Lab) {
    for (from, to) in [(0, 1), (1, 0)] {
        assert_tcp_is_whole(lab, pod(lab, from), pod(lab, to), 16);
        assert_udp_is_whole(lab, pod(lab, from), pod(lab, to), &[16, 36, 1444, 5000]);
    }
}

#[test]
fn offloads_on_neither_end() {
    assert_traffic_is_whole_both_ways(&lab("off2", [flanneld(OFF), flanneld(OFF)]));
}

#[test]
fn some_offloads_and_many_workers() {
    let flags = ["--offload=gso,gro --workers=4", "--offload=tso"];
    assert_traffic_is_whole_both_ways(&lab("some", flags.map(flanneld)));
}

#[test]
fn wire_that_carries_frames_only() {
    let lab = Lab::up(LabSpec { frames_only: true, ..spec("frames", 2) }).unwrap();
    assert_traffic_is_whole_both_ways(&lab);
}

/// The kernel does not segment a GSO batch into datagrams that need fragments: such batches must
/// not be retried in a loop.
#[test]
fn overlay_that_fills_the_link_wastes_no_runs() {
    let lab = lab("fills", ["--mtu=1500", "--mtu=1500 --offload=gso,gro"].map(flanneld));
    assert_traffic_is_whole_both_ways(&lab);
    for node in lab.nodes() {
        for worker in workers(node) {
            let gso = &worker["offload_state"]["gso"];
            assert!(gso["fallbacks"].as_u64().unwrap() < 10, "{worker}");
            assert!(gso["in_use"] == true, "{worker}");
        }
    }
}

/// Port of the traffic server in every pod.
const SERVER: u16 = 7007;

/// Streams of TCP and UDP between two nodes, both ways at once; nothing may be corrupt. UDP goes in
/// turn: the bursts of all pairs together are longer than the queue of an overlay device.
fn assert_streams_are_whole(lab: &Lab, from: usize, to: usize, udp_turn: &Mutex<()>) {
    let (from, to) = (pod(lab, from), pod(lab, to));
    let server = SocketAddrV4::new(to.addr, SERVER);
    let plan = tcp::Plan { up: 1 << 20, down: 1 << 20, time: Duration::ZERO };
    let report = from.netns.enter(|| tcp::send(server, plan)).unwrap();
    assert_eq!(
        (report.answered, report.corrupt),
        (1, 0),
        "{} to {}: {report:?}",
        from.name,
        to.name
    );
    let plan = Plan { num_flows: 5, num_datagrams: 32, num_senders: 1 };
    let _turn = udp_turn.lock();
    for (from, to) in [(from, to), (to, from)] {
        let report = flows::run(from, to, plan);
        assert_eq!(report.corrupt, 0, "{} to {}: {report:?}", from.name, to.name);
        assert!(report.received * 2 > report.sent, "{} to {}: {report:?}", from.name, to.name);
    }
}

/// A node for each of the 16 choices, and each of them with every other.
#[test]
fn every_choice_of_offloads_understands_every_other() {
    let daemon = |offloads: Offloads| flanneld(&format!("--offload={offloads} --workers=2"));
    let choices: Vec<_> = Offloads::combinations().collect();
    let names = (1..=choices.len()).map(|number| format!("n{number}"));
    let daemons = names.zip(choices.iter().copied().map(daemon)).collect();
    let lab = Lab::up(LabSpec { daemons, ..spec("choices", choices.len()) }).unwrap();
    for (node, offloads) in lab.nodes().iter().zip(&choices) {
        for worker in workers(node) {
            assert_eq!(worker["offloads"], offloads.to_string(), "as asked for");
        }
    }
    let dir = lab.names().dir();
    let servers: Vec<_> = (0..choices.len())
        .map(|node| generator().serve(&pod(&lab, node).netns, &dir).unwrap())
        .collect();
    let (lab, udp_turn) = (&lab, &Mutex::new(()));
    for from in 0..choices.len() {
        thread::scope(|scope| {
            for to in from + 1..choices.len() {
                scope.spawn(move || assert_streams_are_whole(lab, from, to, udp_turn));
            }
        });
    }
    drop(servers);
}

#[test]
fn links_that_lose_and_regain_their_offloads_spoil_nothing() {
    let lab = up("flapping", 2);
    let _server = generator().serve(&pod(&lab, 1).netns, &lab.names().dir()).unwrap();
    let to = SocketAddrV4::new(pod(&lab, 1).addr, SERVER);
    let switch = |what: &str, on: bool| {
        let on = if on { "on" } else { "off" };
        for node in lab.nodes() {
            for device in ["eth0", &overlay(node).device] {
                let words = what.split(' ').map(|feature| format!(" {feature} {on}"));
                let words = words.collect::<String>();
                // A device without the feature refuses to switch it, which is fine.
                drop(node.netns().tool("ethtool").words(&format!("-K {device}{words}")).output());
            }
        }
    };
    thread::scope(|scope| {
        let (from, lab) = (pod(&lab, 0), &lab);
        let flow = scope.spawn(move || {
            let plan = tcp::Plan { up: 8 << 20, down: 8 << 20, time: Duration::from_secs(4) };
            from.netns.enter(|| tcp::send(to, plan)).unwrap()
        });
        let mut num_rounds = 0;
        let start = Instant::now();
        while !flow.is_finished() {
            for what in ["tx", "gro", "tso gso tx-udp-segmentation", "tx tso gso gro rx"] {
                switch(what, false);
                assert_no_corruption(lab);
                switch(what, true);
            }
            num_rounds += 1;
        }
        assert!(num_rounds > 0, "{:?}", start.elapsed());
        let report = flow.join().unwrap();
        assert_eq!((report.answered, report.corrupt), (report.sent, 0), "{report:?}");
    });
    assert_traffic_is_whole_both_ways_still(&lab);
}

fn assert_no_corruption(lab: &Lab) {
    let plan = Plan { num_flows: 10, num_datagrams: 32, num_senders: 1 };
    let report = flows::run(pod(lab, 1), pod(lab, 0), plan);
    assert_eq!(report.corrupt, 0, "{report:?}");
    assert!(report.received * 2 > report.sent, "{report:?}");
}

fn assert_traffic_is_whole_both_ways_still(lab: &Lab) {
    assert_no_corruption(lab);
    for node in lab.nodes() {
        for worker in workers(node) {
            assert_eq!(worker["offloads"], Offloads::AUTO.to_string());
        }
    }
}

/// A seccomp program (`seccomp(2)`) that makes a kernel look as if it were older than 4.18: it
/// knows neither `UDP_SEGMENT` nor `UDP_GRO`, nor UDP superpackets at the TUN.
fn old_kernel() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    let fail = |errno: i32| 0x0005_0000 | errno.cast_unsigned();
    // Offsets in `struct seccomp_data`: call number, then low halves of arguments.
    let (number, arg) = (0, |index: u32| 16 + 8 * index);
    let call = |number: libc::c_long| u32::try_from(number).unwrap();
    let tunsetoffload = u32::try_from(libc::TUNSETOFFLOAD).unwrap();
    let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let program: [(u16, u8, u8, u32); 15] = [
        (LOAD, 0, 0, number),
        (JUMP_IF_EQUAL, 0, 6, call(libc::SYS_setsockopt)),
        (LOAD, 0, 0, arg(1)),
        (JUMP_IF_EQUAL, 0, 10, libc::SOL_UDP.cast_unsigned()),
        (LOAD, 0, 0, arg(2)),
        (JUMP_IF_EQUAL, 1, 0, libc::UDP_SEGMENT.cast_unsigned()),
        (JUMP_IF_EQUAL, 0, 7, libc::UDP_GRO.cast_unsigned()),
        (RETURN, 0, 0, fail(libc::ENOPROTOOPT)),
        (JUMP_IF_EQUAL, 0, 5, call(libc::SYS_ioctl)),
        (LOAD, 0, 0, arg(1)),
        (JUMP_IF_EQUAL, 0, 3, tunsetoffload),
        (LOAD, 0, 0, arg(2)),
        (JUMP_IF_ANY_BIT, 0, 1, uso),
        (RETURN, 0, 0, fail(libc::EINVAL)),
        (RETURN, 0, 0, ALLOW),
    ];
    let bytes = |(code, if_true, if_false, k): (u16, u8, u8, u32)| {
        let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
        [code[0], code[1], if_true, if_false, k[0], k[1], k[2], k[3]]
    };
    program.into_iter().flat_map(bytes).collect()
}

#[test]
fn kernel_without_most_offloads_is_told_of_and_carries_everything() {
    let filter = NamedTempFile::new().unwrap();
    fs::write(filter.path(), old_kernel()).unwrap();
    let script = format!(
        "exec bwrap --die-with-parent --cap-add ALL --dev-bind / / --seccomp 9 9<{} {FLANNELD} \"$@\"",
        filter.path().display()
    );
    let before = ["-c".to_owned(), script, "sh".to_owned()].to_vec();
    let daemon = Daemon { before, ..Daemon::flanneld("sh") };
    let lab = lab("old-kernel", [daemon.with("--workers=2"), flanneld("")]);
    for worker in workers(&lab.nodes()[0]) {
        assert_eq!(worker["offloads"], "tso");
        for (offload, error) in
            [("uso", "Invalid argument"), ("gso", "Protocol not"), ("gro", "Protocol not")]
        {
            let state = &worker["offload_state"][offload];
            assert_eq!((&state["asked"], &state["in_use"]), (&true.into(), &false.into()));
            let why_not = state["why_not"].as_str().unwrap();
            assert!(why_not.starts_with(&format!("refused at start: {error}")), "{why_not}");
        }
    }
    assert_traffic_is_whole_both_ways(&lab);
}
