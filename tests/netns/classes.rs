//! TCP and everything else pass different workers, so that neither waits for the other.

use twill::lab::network::node::Node;

use crate::harness::{assert_tcp_is_whole, assert_udp_is_whole, ping, pod, up_on_workers, workers};

/// Packets from the underlay: those of TCP's workers, and those of the others.
fn received(node: &Node) -> [u64; 2] {
    let packets: Vec<u64> =
        workers(node).iter().map(|worker| worker["ingress"]["packets"].as_u64().unwrap()).collect();
    let (tcp, other) = packets.split_at(packets.len() / 2);
    [tcp, other].map(|workers| workers.iter().sum())
}

/// What both classes of `node` received while `traffic` ran.
fn received_during(node: &Node, traffic: impl FnOnce()) -> [u64; 2] {
    let before = received(node);
    traffic();
    let after = received(node);
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn tcp_and_the_rest_have_different_workers() {
    let lab = up_on_workers("classes", 2);
    let [client, server] = [pod(&lab, 0), pod(&lab, 1)];
    for node in lab.nodes() {
        let tcp = received_during(node, || assert_tcp_is_whole(&lab, client, server, 8));
        assert!(tcp[0] > 100 && tcp[1] == 0, "TCP: {tcp:?} on {}", node.name());
        let udp = received_during(node, || assert_udp_is_whole(&lab, client, server, &[64, 1400]));
        assert!(udp[0] == 0 && udp[1] >= 500, "UDP: {udp:?} on {}", node.name());
        let long = "-c 20 -i 0.01 -s 4000 -W 15";
        let icmp = received_during(node, || assert!(ping(client, long, server.addr).0));
        assert!(icmp[0] == 0 && icmp[1] >= 60, "fragments of ICMP: {icmp:?} on {}", node.name());
    }
}
