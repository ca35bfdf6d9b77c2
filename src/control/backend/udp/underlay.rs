//! The external interface's current state, and the overlay MTU that it allows.

use tracing::{info, warn};

use crate::control::backend::BackendError;
use crate::control::conditions::Condition;
use crate::control::host::iface::{ExternalInterface, FollowedIface, IfaceChoice};
use crate::control::host::net::Link;
use crate::dataplane::io::udp::LongDatagrams;
use crate::dataplane::packet::headers::ENCAP_OVERHEAD_V4;
use crate::dataplane::pmtu::MIN_IPV4_MTU;

/// The longest IPv4 packet, in bytes: RFC 791, section 3.1. A loopback's MTU is longer.
const MAX_IPV4_LEN: u32 = 65535;

/// The external interface, checked periodically.
#[derive(Debug)]
pub(super) struct Underlay {
    followed: FollowedIface,
    /// MTU of the overlay at the start, in bytes.
    tun_mtu: u16,
    /// The operator chose that MTU.
    is_chosen: bool,
    /// The interface's MTU at the last check, in bytes.
    seen_mtu: u32,
}

impl Underlay {
    /// That of a node which started with the interface `iface` and an overlay MTU of `tun_mtu`.
    pub(super) fn new(
        iface: ExternalInterface,
        choice: IfaceChoice,
        tun_mtu: u16,
        is_chosen: bool,
    ) -> Self {
        let seen_mtu = iface.mtu;
        Self { followed: FollowedIface::new(iface, choice), tun_mtu, is_chosen, seen_mtu }
    }

    /// The interface, and where its address is.
    pub(super) const fn followed(&self) -> &FollowedIface {
        &self.followed
    }

    /// The same, to look at and to change.
    pub(super) const fn followed_mut(&mut self) -> &mut FollowedIface {
        &mut self.followed
    }

    /// The interface that is in use.
    pub(super) const fn iface(&self) -> &ExternalInterface {
        self.followed.iface()
    }

    /// Whether `link` can carry our packets.
    pub(super) fn condition(&self, link: Option<&Link>) -> Condition {
        let ExternalInterface { name, addr, public_ip, .. } = self.iface();
        match link {
            None => Condition::Failed(format!(
                "address {addr} of interface {name} is gone, and peers send to {public_ip} still: \
                 give it back, or give it another if --iface does not name the address"
            )),
            Some(Link { name, is_up: false, .. }) => Condition::Failed(format!(
                "interface {name} is down: bring it up to reach the peers"
            )),
            Some(Link { name, has_carrier: false, .. }) => Condition::Failed(format!(
                "interface {name} has no carrier: is its cable plugged in?"
            )),
            Some(_) => Condition::Ok,
        }
    }

    /// The overlay device's MTU, in bytes, now that `link` carries the underlay: never more than
    /// at the start, because `subnet.env` and the peers' datagrams go by that. Logs changes.
    pub(super) fn tun_mtu(&mut self, link: &Link) -> u16 {
        let room = room(link.mtu).max(MIN_IPV4_MTU);
        let mtu = if self.is_chosen { self.tun_mtu } else { room.min(self.tun_mtu) };
        if link.mtu != self.seen_mtu {
            self.seen_mtu = link.mtu;
            let (name, link_mtu) = (&link.name, link.mtu);
            if room < mtu {
                warn!(
                    "interface {name} has MTU {link_mtu} now, too small for the overlay's chosen \
                     {mtu}: choose {room} or less on all nodes"
                );
            } else if mtu < self.tun_mtu {
                warn!(
                    "interface {name} has MTU {link_mtu} now: the overlay device follows with \
                     {mtu}; restart flanneld and then what reads subnet.env to follow too"
                );
            } else if room > mtu && !self.is_chosen {
                info!(
                    "interface {name} has MTU {link_mtu} now: restart flanneld, here and on all \
                     nodes, to use more than {mtu} in the overlay"
                );
            } else {
                info!("interface {name} has MTU {link_mtu} now: the overlay's is {mtu}");
            }
        }
        mtu
    }
}

/// What an interface's MTU leaves room for, in bytes.
pub(super) fn room(link_mtu: u32) -> u16 {
    let room = link_mtu.min(MAX_IPV4_LEN).saturating_sub(ENCAP_OVERHEAD_V4);
    u16::try_from(room).unwrap_or(u16::MAX)
}

/// MTU of the overlay device at the start, and what becomes of the longest datagrams on a path that
/// does not take them: an operator's choice that the interface itself does not take needs
/// fragments.
///
/// # Errors
/// [`BackendError::SmallMtu`].
pub(super) fn first_tun_mtu(
    iface: &ExternalInterface,
    chosen: Option<u16>,
) -> Result<(u16, LongDatagrams), BackendError> {
    let min = u32::from(MIN_IPV4_MTU) + ENCAP_OVERHEAD_V4;
    if iface.mtu < min {
        return Err(BackendError::SmallMtu { name: iface.name.clone(), mtu: iface.mtu, min });
    }
    let room = room(iface.mtu);
    let mtu = chosen.unwrap_or(room);
    if mtu <= room {
        return Ok((mtu, LongDatagrams::Refused));
    }
    warn!(
        mtu, interface = %iface.name, interface_mtu = iface.mtu,
        "the overlay's MTU is more than the interface leaves room for: \
         outer datagrams will be fragmented"
    );
    Ok((mtu, LongDatagrams::Fragmented))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::util::test_log::Logs;

    fn iface(mtu: u32) -> ExternalInterface {
        let addr = "10.0.0.7".parse().unwrap();
        ExternalInterface { name: "eth0".to_owned(), mtu, addr, public_ip: addr }
    }

    fn underlay(tun_mtu: u16, is_chosen: bool) -> Underlay {
        Underlay::new(iface(1500), IfaceChoice::default(), tun_mtu, is_chosen)
    }

    fn link(mtu: u32) -> Link {
        Link { index: 2, name: "eth0".to_owned(), mtu, is_up: true, has_carrier: true }
    }

    #[test]
    fn first_mtu_leaves_room_for_the_outer_headers() {
        for (link, tun) in [(1500, 1472), (9001, 8973), (1450, 1422), (1280, 1252)] {
            assert_eq!(first_tun_mtu(&iface(link), None).unwrap(), (tun, LongDatagrams::Refused));
        }
    }

    #[test]
    fn first_mtu_stays_within_what_one_datagram_holds() {
        assert_eq!(first_tun_mtu(&iface(65536), None).unwrap().0, 65507);
        assert_eq!(first_tun_mtu(&iface(u32::MAX), None).unwrap().0, 65507);
        assert_eq!(first_tun_mtu(&iface(96), None).unwrap().0, 68);
        let error = first_tun_mtu(&iface(95), None).unwrap_err().to_string();
        assert_eq!(error, "interface eth0 has MTU 95, too small for an overlay: 96 is the least");
    }

    #[test]
    fn chosen_mtu_wins_and_one_that_needs_fragments_is_logged() {
        let logs = Logs::capture();
        let first = |chosen| first_tun_mtu(&iface(1500), Some(chosen)).unwrap();
        assert_eq!(first(1400), (1400, LongDatagrams::Refused));
        assert_eq!(first(1472), (1472, LongDatagrams::Refused));
        assert_eq!(logs.count("WARN"), 0);
        assert_eq!(first(1473), (1473, LongDatagrams::Fragmented));
        assert!(logs.lines_with("will be fragmented")[0].contains("mtu=1473"));
    }

    #[test]
    fn mtu_follows_the_interface_down_and_back_but_not_beyond_the_first() {
        let logs = Logs::capture();
        let mut underlay = underlay(1472, false);
        let followed =
            [1500, 1400, 1400, 1450, 1500, 9000, 20].map(|mtu| underlay.tun_mtu(&link(mtu)));
        assert_eq!(followed, [1472, 1372, 1372, 1422, 1472, 1472, 68]);
        assert_eq!(logs.count("has MTU 1400 now"), 1, "a change is logged once");
        assert_eq!(logs.count("has MTU 9000 now: restart flanneld"), 1);
        assert_eq!(logs.count(" now"), 5);
    }

    #[test]
    fn chosen_mtu_stays_and_one_that_fits_no_longer_is_logged() {
        let logs = Logs::capture();
        let mut underlay = underlay(1400, true);
        assert_eq!([1450, 1300].map(|mtu| underlay.tun_mtu(&link(mtu))), [1400, 1400]);
        assert_eq!(logs.count("WARN"), 1);
        assert_eq!(logs.count("choose 1272 or less on all nodes"), 1);
    }

    #[test]
    fn interface_that_cannot_carry_packets_has_a_reason() {
        let underlay = underlay(1472, false);
        assert!(underlay.condition(Some(&link(1500))).is_ok());
        let reason = |link: Option<Link>| {
            let Condition::Failed(reason) = underlay.condition(link.as_ref()) else {
                panic!("it is ok")
            };
            reason
        };
        let down = Link { is_up: false, has_carrier: false, ..link(1500) };
        assert!(reason(Some(down)).starts_with("interface eth0 is down"));
        let unplugged = Link { has_carrier: false, ..link(1500) };
        assert!(reason(Some(unplugged)).starts_with("interface eth0 has no carrier"));
        assert!(reason(None).starts_with("address 10.0.0.7 of interface eth0 is gone"));
    }
}
