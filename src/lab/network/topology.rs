//! Names, addresses and links: what is where in a lab.
//!
//! ```text
//!   <lab>-net     br0 192.168.64.1/24 ─┬─ etcd ── eth0 192.168.64.2    <lab>-etcd
//!                                      ├─ n1 ──── eth0 192.168.64.11   <lab>-n1
//!                                      └─ n2 ──── eth0 192.168.64.12   <lab>-n2
//!   <lab>-n1      docker0 10.5.7.1/24 ─┬─ p1 ──── eth0 10.5.7.2        <lab>-n1-p1
//!                                      └─ p2 ──── eth0 10.5.7.3        <lab>-n1-p2
//! ```
//!
//! Every lab has an underlay of its own, so all labs use the same addresses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::lab::LabError;
use crate::lab::host::netns::Netns;

/// The names of everything that belongs to one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    lab: String,
}

/// The underlay: a bridge that every node's `eth0` is joined to.
#[derive(Debug)]
pub struct Underlay {
    netns: Netns,
    mtu: u16,
}

/// Where labs keep their state and logs.
pub(crate) const LABS_DIR: &str = "/run/flannel-lab";

/// Most nodes: their addresses are 192.168.64.11 to .210.
pub(in crate::lab) const MAX_NODES: usize = 200;

/// The underlay's own address, the nodes' default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 1);
const PREFIX_LEN: u8 = 24;

/// etcd's address on the underlay.
pub const ETCD_ADDR: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 2);

/// Address of a node on the underlay; the first node is number 1.
pub(super) fn node_addr(number: usize) -> Ipv4Addr {
    let host = u32::try_from(10 + number).unwrap_or(0);
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 64, 0).to_bits() + host)
}

impl Names {
    /// The names of the lab called `lab`.
    ///
    /// # Errors
    /// [`LabError::Name`] when they would not be legal.
    pub fn new(lab: &str) -> Result<Self, LabError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if lab.is_empty() || lab.len() > 32 || lab.starts_with('-') || !lab.chars().all(legal) {
            return Err(LabError::Name(lab.to_owned()));
        }
        Ok(Self { lab: lab.to_owned() })
    }

    /// The lab's name.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// Its directory of state and logs.
    pub fn dir(&self) -> PathBuf {
        Path::new(LABS_DIR).join(&self.lab)
    }

    /// The underlay's namespace.
    pub fn underlay(&self) -> String {
        format!("{}-net", self.lab)
    }

    /// The file that is the registry of a lab without etcd.
    pub fn registry_file(&self) -> PathBuf {
        self.dir().join("registry.json")
    }

    /// etcd's namespace.
    pub fn etcd(&self) -> String {
        format!("{}-etcd", self.lab)
    }

    /// The namespace of a node; the first is number 1.
    pub fn node(&self, number: usize) -> String {
        format!("{}-n{number}", self.lab)
    }

    /// The namespace of a node's pod; both count from 1.
    pub fn pod(&self, node: usize, pod: usize) -> String {
        format!("{}-n{node}-p{pod}", self.lab)
    }

    /// Whether a namespace of this name is the lab's. No name belongs to two labs.
    pub fn owns(&self, netns: &str) -> bool {
        let Some(part) = netns.strip_prefix(&self.lab).and_then(|rest| rest.strip_prefix('-'))
        else {
            return false;
        };
        let numbered = |part: &str, letter| {
            part.strip_prefix(letter).is_some_and(|number| {
                !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
            })
        };
        match part.split_once('-') {
            None => part == "net" || part == "etcd" || numbered(part, 'n'),
            Some((node, pod)) => numbered(node, 'n') && numbered(pod, 'p'),
        }
    }
}

impl Underlay {
    /// Creates the underlay's namespace and bridge.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn create(names: &Names, mtu: u16) -> Result<Self, LabError> {
        let netns = Netns::create(names.underlay())?;
        netns.ip_batch(&[
            format!("link add br0 mtu {mtu} type bridge mcast_snooping 0"),
            format!("addr add {GATEWAY}/{PREFIX_LEN} dev br0"),
            "link set br0 up".to_owned(),
        ])?;
        // A switch, not a firewall. A kernel without br_netfilter has no such setting.
        netns.tool("sysctl").words("-q -e -w net.bridge.bridge-nf-call-iptables=0").run()?;
        Ok(Self { netns, mtu })
    }

    /// Gives `host` an `eth0` with `addr` on the bridge, where its port is called `port`.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn join(&self, host: &Netns, port: &str, addr: Ipv4Addr) -> Result<(), LabError> {
        let (mtu, name) = (self.mtu, host.name());
        self.netns.ip_batch(&[
            format!("link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"),
            format!("link set {port} master br0 up"),
        ])?;
        host.ip_batch(&[
            format!("addr add {addr}/{PREFIX_LEN} dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {GATEWAY}"),
        ])?;
        Ok(())
    }

    /// Its namespace.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// MTU of every `eth0`, in bytes.
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Makes the wire to `host` carry real frames: nothing longer than the MTU leaves `eth0`.
    ///
    /// A veth otherwise hands whole superpackets over, like a NIC that segments for free.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn carry_frames_only(&self, host: &Netns, port: &str) -> Result<(), LabError> {
        let off = "tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off";
        host.tool("ethtool").words("-K eth0").words(off).words("gro on").run()?;
        self.netns.tool("ethtool").words("-K").arg(port).words(off).run()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_labs_are_never_mixed_up() {
        let demo = Names::new("demo").unwrap();
        for netns in [demo.underlay(), demo.etcd(), demo.node(12), demo.pod(1, 2)] {
            assert!(demo.owns(&netns), "{netns}");
            assert!(!Names::new("de").unwrap().owns(&netns), "{netns}");
        }
        let longer = Names::new("demo-n1").unwrap();
        for netns in [longer.underlay(), longer.etcd(), longer.node(1), longer.pod(1, 1)] {
            assert!(longer.owns(&netns), "{netns}");
            assert!(!demo.owns(&netns), "{netns}");
        }
        for netns in ["demo", "demo-", "demo-n", "demo-n1-", "demo-nx", "demo-n1-p", "xdemo-n1"] {
            assert!(!demo.owns(netns), "{netns}");
        }
    }

    #[test]
    fn name_must_be_fit_for_a_file() {
        for name in ["", "-a", "A", "a/b", "a b", "..", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(matches!(Names::new(name), Err(LabError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn every_node_has_an_address() {
        assert_eq!(node_addr(1), Ipv4Addr::new(192, 168, 64, 11));
        assert_eq!(node_addr(MAX_NODES), Ipv4Addr::new(192, 168, 64, 210));
    }
}
