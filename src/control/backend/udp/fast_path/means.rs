//! [`Means`]: by which means the fast path works on an underlay, if it is worth it there.

use std::io;

use super::{Overlay, Place, ShortCut, why_lacking};
use crate::control::config::daemon::FastPathChoice;
use crate::control::config::network::SubnetRange;
use crate::control::host::net::num_ipsec_policies;
use crate::control::util::error_chain::error_chain;
use crate::dataplane::fast_path::{DeviceRef, MAX_SLOTS, VETH, Wire, ethernet_addr, wire};

/// From that MTU on, the kernel is faster than the workers with single frames of TCP as well: it merges
/// them without copying them.
pub(in crate::control::backend::udp) const JUMBO_MTU: u16 = 8000;

/// How single packets become superpackets, or stay some, on their way from the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// A vxlan device removes the outer headers.
    Gpe {
        /// They arrive as single packets, which its GRO merges; else as superpackets.
        merges: bool,
    },
    /// XDP removes the outer headers from what is sent to this link address, and GRO merges it.
    Xdp([u8; 6]),
    /// Nothing merges them: the workers carry TCP in bulk, as they are faster then.
    Sparse,
}

/// Why the fast path is not for an underlay.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) reason: String,
    /// Whether the operator asked for something else.
    pub(super) is_fault: bool,
}

impl Unfit {
    /// The fast path does not fit, and nobody asked for more.
    const fn of_host(reason: String) -> Self {
        Self { reason, is_fault: false }
    }
}

/// Why the workers carry TCP in bulk on an underlay of which nothing else is known.
pub(super) fn single_frames(underlay: &DeviceRef) -> String {
    format!("{} carries single frames, with which workers are faster", underlay.name)
}

impl ShortCut {
    /// How what arrives there is taken, or else why the fast path is not for it.
    pub(super) fn means(&self, place: &Place) -> Result<Means, Unfit> {
        let means = self.means_at(place)?;
        // The programs stand behind the policies of what leaves, and before those of what arrives.
        match num_ipsec_policies() {
            Ok(0) => Ok(means),
            Ok(_) => Err(Unfit::of_host(
                "this host has IPsec policies (`ip xfrm policy`), which the kernel's way would not \
                 keep"
                .to_owned(),
            )),
            Err(error) => Err(Unfit::of_host(error_chain(&error))),
        }
    }

    fn means_at(&self, place: &Place) -> Result<Means, Unfit> {
        self.overlay.check(place)?;
        if self.path.num_slots() == 0 {
            let SubnetRange { network, subnet_len, .. } = self.overlay.network;
            return Err(Unfit::of_host(format!(
                "{network} has more subnets of length {subnet_len} than the {MAX_SLOTS} of its \
                 table: it takes a smaller Network or SubnetLen"
            )));
        }
        let name = &place.underlay.name;
        let failed =
            |error: io::Error| Unfit::of_host(format!("{name} does not say what it is: {error}"));
        let no_bulk_tcp = why_lacking(&self.no_bulk_tcp, &place.underlay);
        let has_tcp = no_bulk_tcp.is_none();
        let lacking = no_bulk_tcp.or_else(|| why_lacking(&self.no_xdp, &place.underlay));
        let wants_xdp = self.choice == FastPathChoice::Xdp && lacking.is_none();
        if wants_xdp && let Some(mac) = ethernet_addr(name).map_err(failed)? {
            return Ok(Means::Xdp(mac));
        }
        match wire(name).map_err(failed)? {
            Wire::Superpackets if has_tcp => Ok(Means::Gpe { merges: false }),
            Wire::Superpackets => Ok(Means::Sparse),
            Wire::Frames { driver } if driver == VETH => {
                let is_long = has_tcp && place.is_jumbo;
                Ok(if is_long { Means::Gpe { merges: true } } else { Means::Sparse })
            }
            Wire::NoEthernet => Err(Unfit {
                reason: format!(
                    "{name} has no Ethernet header: it takes an Ethernet interface, by --iface"
                ),
                is_fault: wants_xdp,
            }),
            Wire::Frames { driver } => Err(match lacking {
                Some(reason) => Unfit { reason, is_fault: true },
                None => {
                    let driver = if driver.is_empty() { "no driver" } else { driver.as_str() };
                    Unfit::of_host(format!(
                        "{name} ({driver}) carries single frames: the workers are faster there"
                    ))
                }
            }),
        }
    }
}

impl Overlay {
    /// Peers' kernels take from us what comes from the address in our lease and from that lease's slot of
    /// their tables. What they refuse may be of no use to their sockets.
    fn check(&self, place: &Place) -> Result<(), Unfit> {
        let Place { underlay_addr, public_ip, .. } = place;
        let (own, subnet_len) = (self.own, self.network.subnet_len);
        if own.prefix() != subnet_len {
            return Err(Unfit::of_host(format!(
                "our lease {own} is no subnet of length {subnet_len}, as the network's others are"
            )));
        }
        if public_ip != underlay_addr {
            return Err(Unfit::of_host(format!(
                "our lease says {public_ip}, and packets leave from {underlay_addr}: peers' kernels \
                 take them from the former alone"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use ipnetwork::Ipv4Network;

    use super::*;
    use crate::dataplane::fast_path::FastPath;

    const OWN: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// Why `lo`, to which nothing else fits, gets no fast path with this choice, lease and PublicIP.
    fn unfit(choice: FastPathChoice, own: &str, public_ip: Ipv4Addr) -> Unfit {
        let network: Ipv4Network = "10.1.0.0/16".parse().unwrap();
        let path = Arc::new(FastPath::new(network, 24));
        let range = SubnetRange {
            network,
            subnet_len: 24,
            subnet_min: network.network(),
            subnet_max: network.broadcast(),
        };
        let overlay = Overlay { network: range, own: own.parse().unwrap(), port: 8285 };
        let device = |name: &str| DeviceRef { index: 1, name: name.to_owned() };
        let place = Place {
            overlay: device("flannel0"),
            overlay_mtu: 1472,
            is_jumbo: false,
            underlay: device("lo"),
            underlay_addr: OWN,
            public_ip,
            source_ports: [0; 8],
        };
        ShortCut::new(choice, overlay, path).means(&place).unwrap_err()
    }

    #[test]
    fn device_without_ethernet_header_has_no_fast_path() {
        for choice in [FastPathChoice::Auto, FastPathChoice::Xdp] {
            let unfit = unfit(choice, "10.1.15.0/24", OWN);
            assert!(unfit.reason.starts_with("lo has no Ethernet header"), "{}", unfit.reason);
            let is_asked_for = choice == FastPathChoice::Xdp;
            assert_eq!(unfit.is_fault, is_asked_for, "a warning if it was asked for");
        }
    }

    #[test]
    fn node_whose_packets_peers_kernels_would_refuse_has_none() {
        for (own, public_ip, expected) in [
            ("10.1.15.0/25", OWN, "our lease 10.1.15.0/25 is no subnet of length 24"),
            ("10.1.14.0/23", OWN, "our lease 10.1.14.0/23 is no subnet of length 24"),
            (
                "10.1.15.0/24",
                [203, 0, 113, 5].into(),
                "says 203.0.113.5, and packets leave from 127",
            ),
        ] {
            let unfit = unfit(FastPathChoice::Auto, own, public_ip);
            assert!(unfit.reason.contains(expected), "{}", unfit.reason);
        }
    }
}
