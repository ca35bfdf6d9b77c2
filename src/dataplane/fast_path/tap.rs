//! [`FastPath::tap`]: copies of what the programs carry, for a capture: docs/adr/0035.
//!
//! A packet socket at the underlay gets copies of the datagrams that the programs send and take; a
//! filter in the kernel leaves out all others. Where XDP has taken the outer headers off already, what
//! arrives is the inner packet. The socket exists while its capture does.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, SockFilter, Socket, Type};

use super::config::FastConfig;
use super::path::FastPath;
use super::taken::is_taken;
use crate::dataplane::capture::{Direction, KernelOffer};
use crate::dataplane::io::sys::packet_socket;
use crate::dataplane::packet::headers::{ENCAP_OVERHEAD_V4, IPV4_HEADER_LEN, ipv4, ipv4_at};

/// How often it is looked whether the capture has ended, and where the programs are.
const PERIOD: Duration = Duration::from_millis(100);

/// Packets between two such looks, at most.
const MAX_IN_A_ROW: usize = 256;

/// Bytes of packets that wait for us in the socket; more are lost, and counted.
const RECEIVE_BUFFER: usize = 16 << 20;

const ETHERNET_LEN: usize = 14;
const OUTER_LEN: usize = ETHERNET_LEN + ENCAP_OVERHEAD_V4 as usize;

/// `PACKET_HOST` and `PACKET_OUTGOING` of `include/uapi/linux/if_packet.h`.
const TO_US: u8 = 0;
const FROM_US: u8 = 4;

/// The socket, and for which programs it is.
struct Socketed {
    socket: Socket,
    config: FastConfig,
}

impl FastPath {
    /// Offers what the programs carry, also those that start later, until the capture has ended.
    ///
    /// # Errors
    /// There are programs, and the kernel gives us no packet socket.
    pub fn tap(self: &Arc<Self>, capture: KernelOffer) -> io::Result<()> {
        let path = Arc::clone(self);
        let first = path.config().map(open).transpose()?;
        let run = move || {
            let mut current = first;
            let kept = capture.snap_len().clamp(IPV4_HEADER_LEN, usize::from(u16::MAX));
            let mut buffer = vec![0; OUTER_LEN + kept];
            while !capture.is_over() {
                let wanted = path.config();
                if current.as_ref().map(|it| &it.config) != wanted.as_ref() {
                    current = wanted.and_then(|config| open(config).ok());
                }
                match &current {
                    Some(socketed) => socketed.offer_to(&path, &capture, &mut buffer),
                    None => thread::sleep(PERIOD),
                }
            }
        };
        thread::Builder::new().name("flannel-capture".to_owned()).spawn(run)?;
        Ok(())
    }
}

/// A packet socket where the programs with this `config` send and receive.
fn open(config: FastConfig) -> io::Result<Socketed> {
    // Protocol 0: it gets nothing before it has its filter.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.attach_filter(&filter(&config))?;
    socket.set_read_timeout(Some(PERIOD))?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    // Without CAP_NET_ADMIN it is as large as the host allows.
    let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(|_| nix::Error::EPERM));
    packet_socket::bind(socket.as_fd(), config.underlay.index)?;
    Ok(Socketed { socket, config })
}

/// Classic BPF that takes untagged datagrams to the overlay's port without a checksum, as the programs
/// send and take them. It also takes packets to our subnet: XDP's.
fn filter(config: &FastConfig) -> [SockFilter; 19] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT` of `include/uapi/linux/filter.h`.
    const HAS_TAG: u32 = 0xffff_f030;
    let (own, mask) = config.own_subnet;
    // Without XDP these never have the right destination.
    let own = if config.xdp.is_some() { own.to_bits() } else { u32::MAX };
    [
        (LOAD_HALF, 0, 0, 12),
        (JUMP_IF_EQUAL, 0, 15, 0x0800), // IPv4
        (LOAD_WORD, 0, 0, 30),          // its destination
        (AND, 0, 0, mask),
        (JUMP_IF_EQUAL, 13, 0, own),
        (LOAD_WORD, 0, 0, HAS_TAG),
        (JUMP_IF_EQUAL, 0, 10, 0),
        (LOAD_BYTE, 0, 0, 14),
        (JUMP_IF_EQUAL, 0, 8, 0x45), // no options
        (LOAD_HALF, 0, 0, 20),
        (JUMP_IF_ANY_BIT, 6, 0, 0x3fff), // a fragment
        (LOAD_BYTE, 0, 0, 23),
        (JUMP_IF_EQUAL, 0, 4, 17), // UDP
        (LOAD_HALF, 0, 0, 36),
        (JUMP_IF_EQUAL, 0, 2, config.port.into()),
        (LOAD_HALF, 0, 0, 40), // its checksum
        (JUMP_IF_EQUAL, 1, 0, 0),
        (RETURN, 0, 0, 0), // bytes of the packet that are taken
        (RETURN, 0, 0, u32::MAX),
    ]
    .map(|(code, yes, no, value)| SockFilter::new(code, yes, no, value))
}

impl Socketed {
    /// Offers what arrives, until nothing does or it is time to look around.
    fn offer_to(&self, path: &FastPath, capture: &KernelOffer, buffer: &mut [u8]) {
        let mut control = cmsg_space!(TimeSpec);
        let until = Instant::now() + PERIOD;
        for _ in 0..MAX_IN_A_ROW {
            if capture.is_over() || Instant::now() >= until {
                break;
            }
            let (len, kind, at) = {
                let mut pieces = [IoSliceMut::new(buffer)];
                let fd = self.socket.as_raw_fd();
                let received =
                    recvmsg::<LinkAddr>(fd, &mut pieces, Some(&mut control), MsgFlags::MSG_TRUNC);
                let Ok(received) = received else { break };
                let kind = received.address.map_or(u8::MAX, |from| from.pkttype());
                let at = received.cmsgs().ok().and_then(|mut all| all.find_map(time));
                (received.bytes, kind, at)
            };
            let kept = &buffer[..len.min(buffer.len())];
            if let Some((direction, start)) = self.direction(path, kind, kept, len) {
                let at = at.unwrap_or_else(SystemTime::now);
                capture.offer(direction, &kept[start..], len - start, at);
            }
        }
        capture.count_lost(packet_socket::take_lost(self.socket.as_fd()));
    }

    /// The way of a frame of `len` bytes, of which these are the first, and where its inner packet
    /// begins, if it is one that the programs carry: what they leave to a worker that worker offers.
    fn direction(
        &self,
        path: &FastPath,
        kind: u8,
        frame: &[u8],
        len: usize,
    ) -> Option<(Direction, usize)> {
        let packet = frame.get(ETHERNET_LEN..).filter(|packet| packet.len() >= IPV4_HEADER_LEN)?;
        let (src, dst) = (ipv4_at(packet, ipv4::SRC), ipv4_at(packet, ipv4::DST));
        let (config, peer_of) = (&self.config, |addr| path.peer_of(addr));
        match kind {
            FROM_US
                if src == config.underlay_addr && frame.len() >= OUTER_LEN + IPV4_HEADER_LEN =>
            {
                Some((Direction::Egress, OUTER_LEN))
            }
            // XDP has checked it.
            TO_US if config.xdp.is_some() && config.is_own(dst) => {
                let is_of_peer = !config.is_own(src) && peer_of(src).is_some();
                is_of_peer.then_some((Direction::Ingress, ETHERNET_LEN))
            }
            TO_US if is_taken(config, peer_of, packet, len - ETHERNET_LEN) => {
                Some((Direction::Ingress, OUTER_LEN))
            }
            _ => None,
        }
    }
}

fn time(message: ControlMessageOwned) -> Option<SystemTime> {
    let ControlMessageOwned::ScmTimestampns(at) = message else { return None };
    UNIX_EPOCH.checked_add(Duration::from(at))
}
