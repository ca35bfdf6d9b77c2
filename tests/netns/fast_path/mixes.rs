//! Nodes whose kernels, by tc or with XDP, or whose workers carry packets, and stock nodes: in one
//! overlay, on both kinds of wire.

use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use super::{by_workers, carries_ping, count, is_active, stats};
use crate::harness::{
    FLANNEL_LAB, FLANNELD, assert_tcp_is_whole, assert_udp_is_whole, eventually, ping, pod, spec,
};

/// By what a node carries TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stock,
    Workers,
    Tc,
    Xdp,
}

impl Kind {
    fn daemon(self) -> Daemon {
        match self {
            Self::Stock => Daemon::stock_emulator(FLANNEL_LAB),
            Self::Workers => Daemon::flanneld(FLANNELD).with("--fast-path=off"),
            Self::Tc => Daemon::flanneld(FLANNELD),
            Self::Xdp => Daemon::flanneld(FLANNELD).with("--fast-path=xdp"),
        }
    }

    fn is_fast(self) -> bool {
        matches!(self, Self::Tc | Self::Xdp)
    }

    /// Whether its kernel carries bulk TCP too. By tc alone that is for wires that carry superpackets.
    fn bulk_tcp(self, frames_only: bool) -> bool {
        self == Self::Xdp || (self == Self::Tc && !frames_only)
    }
}

/// Where superpackets pass, and where single frames do.
const WIRES: [(&str, bool, &[Kind]); 2] = [
    ("fast-w1", false, &[Kind::Workers, Kind::Tc, Kind::Xdp, Kind::Stock]),
    ("fast-w2", true, &[Kind::Workers, Kind::Tc, Kind::Xdp, Kind::Xdp, Kind::Stock]),
];

#[test]
fn nodes_of_all_kinds_understand_each_other_on_both_wires() {
    for (topic, frames_only, kinds) in WIRES {
        let name = |index: usize| format!("n{}", index + 1);
        let daemons =
            kinds.iter().enumerate().map(|(index, kind)| (name(index), kind.daemon())).collect();
        let lab = Lab::up(LabSpec { daemons, frames_only, ..spec(topic, kinds.len()) }).unwrap();
        for (node, _) in lab.nodes().iter().zip(kinds).filter(|(_, kind)| kind.is_fast()) {
            eventually("the fast path is on", || is_active(node));
        }
        for from in 0..kinds.len() {
            for to in from + 1..kinds.len() {
                let pair = [from, to].map(|index| (index, kinds[index]));
                if pair.iter().all(|(_, kind)| kind.is_fast()) {
                    eventually("the kernels carry a ping", || {
                        carries_ping(&lab, from, to) && carries_ping(&lab, to, from)
                    });
                }
                let bulk_tcp = pair.iter().all(|(_, kind)| kind.bulk_tcp(frames_only));
                assert_understood(&lab, pair, bulk_tcp);
            }
        }
        for node in lab.nodes().iter().zip(kinds).filter(|(_, kind)| kind.is_fast()) {
            let stats = stats(node.0);
            for hook in ["egress", "ingress", "xdp"] {
                assert_eq!(stats[hook]["dropped"], 0, "{stats}");
            }
        }
    }
}

/// What one node's kernel and workers carried so far.
fn carried(node: &Node) -> [u64; 4] {
    let kernel = |hook| count(node, hook, "packets");
    [kernel("egress"), kernel("ingress"), kernel("xdp"), by_workers(node, "egress")]
}

fn assert_understood(lab: &Lab, pair: [(usize, Kind); 2], bulk_tcp: bool) {
    let [(from, _), (to, _)] = pair;
    let is_fast = pair.iter().all(|(_, kind)| kind.is_fast());
    let ours = pair.iter().filter(|(_, kind)| *kind != Kind::Stock);
    let ours: Vec<_> = ours.map(|(index, kind)| (&lab.nodes()[*index], *kind)).collect();
    let before: Vec<_> = ours.iter().map(|(node, _)| carried(node)).collect();
    assert_tcp_is_whole(lab, pod(lab, from), pod(lab, to), 4);
    for ((node, kind), before) in ours.iter().zip(before) {
        let now = carried(node);
        let [egress, ingress, xdp, workers] = [0, 1, 2, 3].map(|at| now[at] - before[at]);
        let said = format!("{pair:?}, {}: {}", node.name(), stats(node));
        if bulk_tcp {
            assert!(egress > 2000 && ingress > 2000 && workers < 50, "{said}");
            assert_eq!(xdp == ingress, *kind == Kind::Xdp, "{said}");
        } else {
            // Of two fast ones, kernels may carry the acknowledgements.
            assert!(workers > 2000 && (is_fast || egress + ingress + xdp == 0), "{said}");
        }
    }
    assert_udp_is_whole(lab, pod(lab, from), pod(lab, to), &[64, 1400, 9000]);
    for (here, there) in [(from, to), (to, from)] {
        let to = pod(lab, there).addr;
        // Fragments, one that just fits, options.
        for args in ["-c 1 -s 4000", "-c 1 -M do -s 1444", "-c 1 -T tsonly"] {
            let (ok, said) = ping(pod(lab, here), args, to);
            assert!(ok, "{args} of {pair:?}: {said}");
        }
        // Stock's daemon answers nothing.
        if lab.nodes()[here].daemon().is_stock_emulator() {
            continue;
        }
        let (_, said) = ping(pod(lab, here), "-c 1 -W 5 -t 2", to);
        assert!(said.contains("Time to live exceeded"), "{pair:?}: {said}");
    }
}
