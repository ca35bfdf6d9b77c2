//! Other flannelds of this host, each with a network of its own.
//!
//! A daemon claims its network while it runs: it binds an abstract socket of that name, which belongs
//! to the network namespace, as the rules do, and ends with the process. A stock flanneld claims
//! nothing, so only rules that are certainly our own are removed.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use ipnetwork::Ipv4Network;

use super::rules::Ranges;

/// The claim to one network.
#[derive(Debug)]
pub(super) struct Claim {
    network: Ipv4Network,
    /// `None` while another flanneld of this host has it.
    socket: Option<UnixDatagram>,
}

impl Claim {
    /// Claims `network`.
    pub(super) fn new(network: Ipv4Network) -> Self {
        let mut claim = Self { network, socket: None };
        claim.hold();
        claim
    }

    /// Tries again if the claim failed: at a restart our predecessor may not have ended yet.
    pub(super) fn hold(&mut self) {
        if self.socket.is_none() {
            let name = name_of(self.network);
            self.socket = name.and_then(|name| UnixDatagram::bind_addr(&name)).ok();
        }
    }
}

/// The networks whose rules are from an earlier run, unless they are the ones wanted now:
/// our own, and `previous` if no flanneld that lives has claimed it.
pub(super) fn ours(ranges: Ranges, previous: Option<Ipv4Network>) -> Vec<Ipv4Network> {
    let previous = previous.filter(|network| *network != ranges.network && !is_claimed(*network));
    std::iter::once(ranges.network).chain(previous).collect()
}

fn is_claimed(network: Ipv4Network) -> bool {
    let asked = || UnixDatagram::unbound()?.connect_addr(&name_of(network)?);
    asked().is_ok()
}

fn name_of(network: Ipv4Network) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("flanneld rules {network}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_of_a_flanneld_that_lives_is_not_ours() {
        let [own, previous] =
            ["198.51.100.0/24", "198.51.101.0/24"].map(|text| text.parse().unwrap());
        let ranges = Ranges { network: own, subnet: own };
        assert_eq!(ours(ranges, Some(previous)), [own, previous]);
        assert_eq!(ours(ranges, Some(own)), [own]);
        let neighbour = Claim::new(previous);
        assert_eq!(ours(ranges, Some(previous)), [own]);
        let mut late = Claim::new(previous);
        drop(neighbour);
        assert_eq!(ours(ranges, Some(previous)), [own, previous]);
        late.hold();
        assert_eq!(ours(ranges, Some(previous)), [own]);
        drop(late);
        assert_eq!(ours(ranges, Some(previous)), [own, previous]);
    }
}
