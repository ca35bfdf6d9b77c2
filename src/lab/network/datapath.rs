//! [`Datapath`]: what takes packets from one node's pods to another's. The rivals of a measurement.
//!
//! Every datapath uses the same pods, veths and underlay; routes for the peer's subnet, more
//! specific than those of any backend, are all that changes, and the pods' MTU.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::Lab;
use super::backend::Backend;
use super::node::{Node, Overlay};
use crate::lab::LabError;

/// A way from pod to pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// No overlay: nodes route the pods' subnets to each other over the underlay.
    Raw,
    /// The kernel's vxlan device.
    Vxlan,
    /// flanneld, as the spec says.
    Overlay,
    /// flanneld restarted with [`OFFLOAD_OFF`].
    OverlayOffloadOff,
}

/// How flanneld moves one packet per system call, on one thread: as stock does.
pub const OFFLOAD_OFF: &str = "--offload=off --workers=1";

/// A daemon whose help names this flag takes [`OFFLOAD_OFF`]; stock's does not.
const OFFLOAD_FLAG: &str = "-offload";

/// A vxlan header and the three below it: VXLAN 8, UDP 8, IPv4 20, inner Ethernet 14 (RFC 7348).
const VXLAN_OVERHEAD: u16 = 50;

/// The two nodes between which datapaths are compared: the first two of a lab.
const PAIR: [usize; 2] = [0, 1];

impl Datapath {
    /// All, fastest first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Vxlan, Self::Overlay, Self::OverlayOffloadOff];

    /// Its name in reports on `lab`: `twill` only if both ends are.
    pub fn name(self, lab: &Lab) -> String {
        let overlay = match twills(lab) {
            2 => "twill",
            1 => "twill and another",
            _ => "another flanneld",
        };
        let overlay = format!("{overlay} {}", lab.spec().backend());
        match self {
            Self::Raw => "raw".to_owned(),
            Self::Vxlan => "vxlan".to_owned(),
            Self::Overlay => overlay,
            Self::OverlayOffloadOff => format!("{overlay} {OFFLOAD_OFF}"),
        }
    }

    /// Makes this datapath the one between the lab's first two nodes; gives the pods' MTU.
    ///
    /// # Errors
    /// [`LabError`] of the node that could not be switched.
    pub fn activate(self, lab: &mut Lab) -> Result<u16, LabError> {
        let underlay_mtu = lab.mtu();
        self.run_daemons(lab)?;
        let (ends, mtu) = (ends(lab)?, overlay(&lab.nodes()[PAIR[0]])?.env.mtu);
        let mtu = match self {
            Self::Raw => underlay_mtu,
            Self::Vxlan => underlay_mtu - VXLAN_OVERHEAD,
            Self::Overlay | Self::OverlayOffloadOff => mtu,
        };
        for (end, peer) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            for half in halves(peer.subnet) {
                let route = match self {
                    Self::Raw => format!("replace {half} via {} dev eth0", peer.node.addr()),
                    Self::Vxlan => format!("replace {half} via {} dev vxlan0 onlink", peer.vtep()),
                    Self::Overlay | Self::OverlayOffloadOff => format!("flush exact {half}"),
                };
                end.node.netns().ip(&format!("route {route}"))?;
            }
            end.node.set_pod_mtu(mtu)?;
        }
        Ok(mtu)
    }

    /// Restarts the daemons of the pair if they do not run the way this datapath wants.
    fn run_daemons(self, lab: &mut Lab) -> Result<(), LabError> {
        let off = match self {
            Self::Raw | Self::Vxlan => return Ok(()), // they do not ask flanneld
            Self::Overlay => false,
            Self::OverlayOffloadOff => true,
        };
        let mut restarted = Vec::new();
        for index in PAIR {
            let mut wanted = lab.spec().daemon_of(&lab.nodes()[index].name());
            if off && wanted.knows(OFFLOAD_FLAG) {
                wanted = wanted.with(OFFLOAD_OFF);
            }
            let node = &mut lab.nodes_mut()[index];
            if *node.daemon() != wanted {
                node.terminate()?;
                node.set_daemon(wanted);
                node.start()?;
                restarted.push(index);
            }
        }
        for index in restarted {
            lab.nodes_mut()[index].wait_ready()?;
        }
        lab.save()
    }
}

/// Whether a node of the pair can run with [`OFFLOAD_OFF`] at all.
pub fn offload_can_be_off(lab: &Lab) -> bool {
    lab.spec().backend() == Backend::Udp && twills(lab) > 0
}

/// How many nodes of the pair run a flanneld that takes twill's flags.
fn twills(lab: &Lab) -> usize {
    let pair = PAIR.iter().filter_map(|index| lab.nodes().get(*index));
    pair.filter(|node| node.daemon().knows(OFFLOAD_FLAG)).count()
}

/// Creates the vxlan devices of the pair, with static neighbours, as flannel's vxlan backend does.
///
/// # Errors
/// [`LabError::Command`].
pub fn prepare(lab: &Lab) -> Result<(), LabError> {
    let ends = ends(lab)?;
    for (end, peer) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        let netns = end.node.netns();
        let (local, remote) = (end.node.addr(), peer.node.addr());
        netns.ip_batch(&[
            format!(
                "link add vxlan0 address {} type vxlan id 42 dstport 4789 local {local} dev eth0 \
                 nolearning",
                end.mac()
            ),
            format!("addr add {}/32 dev vxlan0", end.vtep()),
            "link set vxlan0 up".to_owned(),
            format!("neigh add {} lladdr {} dev vxlan0", peer.vtep(), peer.mac()),
        ])?;
        let fdb = format!("fdb add {} dev vxlan0 dst {remote}", peer.mac());
        netns.tool("bridge").words(&fdb).run()?;
    }
    Ok(())
}

/// One node of the pair and what its peer must know of it.
struct End<'lab> {
    node: &'lab Node,
    index: usize,
    subnet: Ipv4Network,
}

impl<'lab> End<'lab> {
    fn new(index: usize, node: &'lab Node) -> Result<Self, LabError> {
        Ok(Self { node, index, subnet: overlay(node)?.env.subnet })
    }

    /// Address of its vxlan device.
    fn vtep(&self) -> String {
        format!("192.168.65.{}", self.index + 1)
    }

    /// MAC address of its vxlan device, locally administered.
    fn mac(&self) -> String {
        format!("02:74:77:00:00:{:02x}", self.index + 1)
    }
}

/// Both halves of a subnet: vxlan and host-gw have a route for the whole of it.
fn halves(subnet: Ipv4Network) -> [String; 2] {
    let (first, len) = (subnet.network().to_bits(), subnet.prefix() + 1);
    let second = first + (1 << (32 - u32::from(len)));
    [first, second].map(|bits| format!("{}/{len}", Ipv4Addr::from_bits(bits)))
}

fn ends(lab: &Lab) -> Result<[End<'_>; 2], LabError> {
    let [Some(first), Some(second)] = PAIR.map(|index| lab.nodes().get(index)) else {
        return Err(LabError::TooFew { what: "nodes", least: PAIR.len() });
    };
    Ok([End::new(0, first)?, End::new(1, second)?])
}

fn overlay(node: &Node) -> Result<&Overlay, LabError> {
    node.overlay().ok_or_else(|| LabError::NotReady { node: node.name() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_more_specific() {
        assert_eq!(halves("10.5.7.0/24".parse().unwrap()), ["10.5.7.0/25", "10.5.7.128/25"]);
    }
}
