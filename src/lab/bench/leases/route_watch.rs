//! [`RouteWatch`]: when the sending node gets the route of a lease, and when it loses it.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;

use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::wait::wait_for;
use crate::lab::network::topology::GATEWAY;

/// Watches one lease, whose node is the underlay's gateway.
#[derive(Debug)]
pub(super) enum RouteWatch {
    /// Packets from a pod show a route of the udp backend.
    Packets {
        pod: UdpSocket,
        /// The port of the lease's node.
        peer: UdpSocket,
        /// An address within the lease.
        addr: Ipv4Addr,
    },
    /// The kernel reports its routes.
    Kernel { reports: OwnedFd, subnet: Ipv4Addr },
}

/// Port of the udp backend (flannel `pkg/backend/udp/udp_amd64.go`, `defaultPort`).
const PORT: u16 = 8285;

/// How long a packet is waited for before the next is sent.
const PERIOD: Duration = Duration::from_micros(500);

/// So many packets that do not arrive, one after the other, show that there is no route.
const NUM_LOST: usize = 20;

/// Attempts between two looks at the clock and at Ctrl-C.
const ATTEMPTS: usize = 100;

/// How long a daemon may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// `RTMGRP_IPV4_ROUTE`, `RTM_NEWROUTE`, `RTM_DELROUTE` and `RTA_DST` of linux/rtnetlink.h.
const GROUP_IPV4_ROUTE: u32 = 0x40;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
const ATTRIBUTE_DESTINATION: u16 = 1;

impl RouteWatch {
    /// Sends from `pod` to an address within `subnet`, and listens for it in `underlay`.
    pub(super) fn packets(pod: &Netns, underlay: &Netns, subnet: Ipv4Addr) -> io::Result<Self> {
        let pod = pod.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let peer = underlay.enter(|| UdpSocket::bind((GATEWAY, PORT)))?;
        peer.set_read_timeout(Some(PERIOD))?;
        Ok(Self::Packets { pod, peer, addr: Ipv4Addr::from_bits(subnet.to_bits() + 2) })
    }

    /// Listens to the routes of `node`.
    pub(super) fn kernel(node: &Netns, subnet: Ipv4Addr) -> io::Result<Self> {
        let reports = node.enter(|| {
            let route = SockProtocol::NetlinkRoute;
            let kind = (AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route);
            let reports = socket(kind.0, kind.1, kind.2, kind.3)?;
            bind(reports.as_raw_fd(), &NetlinkAddr::new(0, GROUP_IPV4_ROUTE))?;
            setsockopt(&reports, ReceiveTimeout, &TimeVal::new(0, 100_000))?;
            Ok(reports)
        })?;
        Ok(Self::Kernel { reports, subnet })
    }

    /// Waits until the node has the route, or has it no more.
    ///
    /// # Errors
    /// [`LabError::NotInTime`].
    pub(super) fn wait(&self, is_there: bool) -> Result<(), LabError> {
        let what = format!("a route to {} {}", if is_there { "come" } else { "go" }, GATEWAY);
        wait_for(&what, PATIENCE, || {
            let changed = match (self, is_there) {
                (Self::Packets { pod, peer, addr }, true) => {
                    (0..ATTEMPTS).any(|_| arrives(pod, peer, *addr))
                }
                (Self::Packets { pod, peer, addr }, false) => {
                    (0..NUM_LOST).all(|_| !arrives(pod, peer, *addr))
                }
                (Self::Kernel { reports, subnet }, _) => {
                    let kind = if is_there { NEW_ROUTE } else { DELETED_ROUTE };
                    reported(reports, kind, *subnet)
                }
            };
            Ok(changed.then_some(()))
        })
    }
}

/// Whether a datagram from the pod to `addr` comes out of the lease's node soon.
fn arrives(pod: &UdpSocket, peer: &UdpSocket, addr: Ipv4Addr) -> bool {
    let mut datagram = [0; 256];
    // Until there is a route, ICMP errors come back.
    drop(pod.send_to(&[0; 8], (addr, PORT)));
    peer.recv(&mut datagram).is_ok_and(|len| carries(&datagram[..len], addr))
}

/// Whether `datagram` is an encapsulated IPv4 packet for `addr` (RFC 791 §3.1).
fn carries(datagram: &[u8], addr: Ipv4Addr) -> bool {
    datagram.get(16..20) == Some(&addr.octets())
}

/// Whether one of the next reports is of this kind and about `subnet`.
fn reported(reports: &OwnedFd, kind: u16, subnet: Ipv4Addr) -> bool {
    let mut report = [0; 4096];
    (0..ATTEMPTS)
        .map_while(|_| {
            recv(reports.as_raw_fd(), &mut report, MsgFlags::empty())
                .ok()
                .map(|len| is_about(&report[..len], kind, subnet))
        })
        .any(|is_it| is_it)
}

/// Whether a netlink message has this type, and the attribute of a destination that is `subnet`.
fn is_about(message: &[u8], kind: u16, subnet: Ipv4Addr) -> bool {
    let mut attribute = [0; 8];
    attribute[..2].copy_from_slice(&8_u16.to_ne_bytes());
    attribute[2..4].copy_from_slice(&ATTRIBUTE_DESTINATION.to_ne_bytes());
    attribute[4..].copy_from_slice(&subnet.octets());
    message.get(4..6) == Some(&kind.to_ne_bytes())
        && message.windows(8).any(|window| window == attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagram_is_known_by_its_inner_destination() {
        let mut packet = [0; 36];
        packet[16..20].copy_from_slice(&[10, 0, 0, 66]);
        assert!(carries(&packet, Ipv4Addr::new(10, 0, 0, 66)));
        assert!(!carries(&packet, Ipv4Addr::new(10, 0, 0, 67)));
        assert!(!carries(&packet[..18], Ipv4Addr::new(10, 0, 0, 66)));
    }

    #[test]
    fn report_is_known_by_its_type_and_destination() {
        let subnet = Ipv4Addr::new(10, 0, 0, 64);
        let mut message = vec![0; 28];
        message[4..6].copy_from_slice(&NEW_ROUTE.to_ne_bytes());
        message.extend([8_u16.to_ne_bytes(), ATTRIBUTE_DESTINATION.to_ne_bytes()].concat());
        message.extend(subnet.octets());
        assert!(is_about(&message, NEW_ROUTE, subnet));
        assert!(!is_about(&message, DELETED_ROUTE, subnet));
        assert!(!is_about(&message, NEW_ROUTE, Ipv4Addr::new(10, 0, 0, 128)));
        assert!(!is_about(&[], NEW_ROUTE, subnet));
    }
}
