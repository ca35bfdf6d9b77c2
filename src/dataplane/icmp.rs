//! ICMP errors to the sender of a dropped packet (RFC 792, RFC 1122 §3.2.2, RFC 1812 §4.3).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv4Network;

use super::packet::checksum::{Sum, write_ipv4_checksum};
use super::packet::classify::Inner;
use super::packet::headers::{IPV4_HEADER_LEN, ipv4, protocol, set_u16};
use super::stats::drop_reason::DropReason;

/// Longest reply: IPv4 header, ICMP header, the offender's header and 8 bytes behind it.
pub const MAX_REPLY_LEN: usize = IPV4_HEADER_LEN + 8 + 60 + 8;

/// Which error is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// No lease covers the destination.
    NetUnreachable,
    /// The TTL expired here.
    TimeExceeded,
    /// The packet is too long for the path to the peer and has DF.
    FragmentationNeeded {
        /// Length of the longest packet that fits, in bytes (RFC 1191 §4).
        mtu: u16,
    },
}

impl IcmpError {
    /// The error that a router sends for `reason`, if any. `path_mtu` is for packets that are too long
    /// for their path.
    pub const fn for_drop(reason: DropReason, path_mtu: u16) -> Option<Self> {
        match reason {
            DropReason::TooBigForPath => Some(Self::FragmentationNeeded { mtu: path_mtu }),
            DropReason::NoRoute => Some(Self::NetUnreachable),
            DropReason::TtlExpired => Some(Self::TimeExceeded),
            DropReason::TooShort
            | DropReason::NotIpv4
            | DropReason::BadHeaderLength
            | DropReason::BadTotalLength
            | DropReason::BadHeaderChecksum
            | DropReason::BadFragment
            | DropReason::BadSuperpacket
            | DropReason::Oversized
            | DropReason::MartianSource
            | DropReason::NotOurSubnet
            | DropReason::Recursion
            | DropReason::NoBuffers
            | DropReason::SendRefused
            | DropReason::TunRefused => None,
        }
    }

    /// Type, code, next-hop MTU, and the TTL the reply starts with.
    const fn fields(self) -> (u8, u8, u16, u8) {
        match self {
            // The TTL is stock's (`send_net_unreachable` in proxy_amd64.c): the way back is short.
            Self::NetUnreachable => (3, 0, 0, 8),
            Self::TimeExceeded => (11, 0, 0, 64),
            Self::FragmentationNeeded { mtu } => (3, 4, mtu, 64),
        }
    }

    /// Writes the reply to `reply` and returns its length, or `None` where a router must not reply. `quote` starts with the offender's header, which `offender` describes; at most 8
    /// bytes behind it are quoted, and never a byte that is not the offender's.
    pub fn reply(
        self,
        offender: &Inner,
        quote: &[u8],
        src: Ipv4Addr,
        reply: &mut [u8; MAX_REPLY_LEN],
    ) -> Option<usize> {
        if !may_be_answered(offender, quote) {
            return None;
        }
        let quote = &quote[..quote.len().min(offender.header_len + 8)];
        let len = IPV4_HEADER_LEN + 8 + quote.len();
        let (icmp_type, code, mtu, ttl) = self.fields();

        let (ip, icmp) = reply[..len].split_at_mut(IPV4_HEADER_LEN);
        ip.fill(0);
        ip[0] = 0x45;
        set_u16(ip, ipv4::TOTAL_LEN, u16::try_from(len).ok()?);
        ip[ipv4::TTL] = ttl;
        ip[ipv4::PROTOCOL] = protocol::ICMP;
        ip[ipv4::SRC..ipv4::DST].copy_from_slice(&src.octets());
        ip[ipv4::DST..].copy_from_slice(&offender.src.octets());
        write_ipv4_checksum(ip);

        icmp[..8].copy_from_slice(&[icmp_type, code, 0, 0, 0, 0, 0, 0]);
        set_u16(icmp, 6, mtu);
        icmp[8..].copy_from_slice(quote);
        let checksum = Sum::of(icmp).checksum();
        icmp[2..4].copy_from_slice(&checksum);
        Some(len)
    }
}

/// Whether an ICMP error may be sent about this packet (RFC 1122 §3.2.2): never about an ICMP
/// error, a fragment without transport header, or a packet to or from anything but one host.
fn may_be_answered(offender: &Inner, quote: &[u8]) -> bool {
    let is_icmp_error = offender.protocol == protocol::ICMP
        && !matches!(quote.get(offender.header_len), Some(0 | 8 | 13..=18));
    let are_hosts = is_host(offender.src) && is_host(offender.dst);
    !is_icmp_error && !offender.is_later_fragment && are_hosts
}

/// Whether `addr` can be one host's: not "this network", loopback, multicast, class E, broadcast.
const fn is_host(addr: Ipv4Addr) -> bool {
    !matches!(addr.octets()[0], 0 | 127 | 224..)
}

/// Whether an error about `offender` would go to a host of `network`. Other sources do not belong to
/// the overlay, so a reply would go to an unrelated host. `subnet` is our own lease; both ranges have
/// a broadcast address.
pub fn is_from_network(offender: &Inner, network: Ipv4Network, subnet: Ipv4Network) -> bool {
    let is_broadcast = |addr| {
        [network, subnet].iter().any(|range| range.prefix() < 31 && addr == range.broadcast())
    };
    network.contains(offender.src) && !is_broadcast(offender.src) && !is_broadcast(offender.dst)
}

/// Rate limits of ICMP errors. *Fragmentation needed* has a limit of its own: senders depend on it,
/// and a flood of the other errors must not use it up.
#[derive(Debug)]
pub struct IcmpLimits {
    fragmentation_needed: IcmpLimit,
    others: IcmpLimit,
}

impl IcmpLimits {
    /// Full token buckets.
    pub const fn new(now: Instant) -> Self {
        Self { fragmentation_needed: IcmpLimit::new(now), others: IcmpLimit::new(now) }
    }

    /// Whether `error` may be sent now. If so, it counts as sent.
    pub fn allow(&mut self, error: IcmpError, now: Instant) -> bool {
        match error {
            IcmpError::FragmentationNeeded { .. } => self.fragmentation_needed.allow(now),
            IcmpError::NetUnreachable | IcmpError::TimeExceeded => self.others.allow(now),
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct IcmpLimit {
    tokens: u32,
    /// When the newest token was added; the time since then counts towards the next.
    refilled: Instant,
}

/// Errors that may be sent at once; Linux has the same limit (`icmp_msgs_burst`).
const BURST: u32 = 50;
/// Time for one more token: 1,000 a second, as in Linux for many years (`icmp_msgs_per_sec`).
const INTERVAL: Duration = Duration::from_millis(1);

impl IcmpLimit {
    /// A full bucket.
    const fn new(now: Instant) -> Self {
        Self { tokens: BURST, refilled: now }
    }

    /// Takes one token, if there is one.
    fn allow(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(elapsed.as_nanos() / INTERVAL.as_nanos()).unwrap_or(BURST);
        if earned < BURST - self.tokens {
            self.tokens += earned;
            self.refilled += INTERVAL * earned;
        } else {
            self.tokens = BURST;
            self.refilled = self.refilled.max(now);
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests;
