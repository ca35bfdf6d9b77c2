//! An emulator of a stock node: flannel's udp backend as its peers see it, and no more.
//!
//! One thread, one packet per system call, a buffer of exactly `FLANNEL_MTU` bytes; longer
//! datagrams are cut, nothing received is checked (flannel `pkg/backend/udp/proxy_amd64.c`).
//! Not here: masquerading, ICMP for destinations without a route.

mod lease;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;
use tun_rs::{DeviceBuilder, SyncDevice};

use self::lease::{Config, Leases};
use crate::lab::LabError;
use crate::lab::host::command::Tool;
use crate::lab::host::signals;

/// The flags it understands, out of stock's; the others are accepted and ignored.
#[derive(Debug, Default)]
struct Flags {
    endpoint: String,
    iface: String,
    subnet_file: PathBuf,
}

/// Subnet → the public IP of the node that leases it; replaced as a whole.
type Peers = Arc<Mutex<Arc<Vec<(Ipv4Network, Ipv4Addr)>>>>;

/// Both headers that stock's backend puts before a packet: IPv4 20, UDP 8.
const ENCAP_OVERHEAD: u16 = 28;

/// Runs until SIGTERM. `args` are stock's flags, in the form `-name=value`.
///
/// # Errors
/// [`LabError`] of the step of its set-up that failed.
pub fn run(args: &[String]) -> Result<(), LabError> {
    signals::catch().map_err(LabError::io("catch SIGTERM"))?;
    let flags = Flags::parse(args);
    let leases = Leases::new(&flags.endpoint)?;
    let (public_ip, link_mtu) = interface(&flags.iface)?;
    let config = leases.wait_for_config()?;
    let subnet = leases.acquire(&config, public_ip, lease::previous(&flags.subnet_file))?;
    let mtu = link_mtu - ENCAP_OVERHEAD;
    let tun = open_tun(&config, subnet, mtu).map_err(LabError::io("create flannel0"))?;
    let addr = SocketAddrV4::new(public_ip, config.port);
    let udp = UdpSocket::bind(addr.into()).map_err(LabError::io(format!("bind {addr}")))?;
    write_subnet_file(&flags.subnet_file, &config, subnet, mtu)?;
    let peers = Peers::default();
    let followed = Arc::clone(&peers);
    thread::spawn(move || {
        leases.follow(subnet, public_ip, |now| {
            *followed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        });
    });
    let proxy = Proxy { tun, udp, port: config.port, mtu, peers };
    proxy.run().map_err(LabError::io("forward packets"))
}

impl Flags {
    fn parse(args: &[String]) -> Self {
        let mut flags = Self::default();
        for arg in args {
            match arg.trim_start_matches('-').split_once('=') {
                Some(("etcd-endpoints", value)) => value.clone_into(&mut flags.endpoint),
                Some(("iface", value)) => value.clone_into(&mut flags.iface),
                Some(("subnet-file", value)) => flags.subnet_file = value.into(),
                Some(_) | None => {}
            }
        }
        flags
    }
}

/// Address and MTU of an interface.
fn interface(name: &str) -> Result<(Ipv4Addr, u16), LabError> {
    let text = Tool::new("ip").words("-j -4 addr show dev").arg(name).run()?;
    let links: Value = serde_json::from_str(&text).unwrap_or_default();
    let addr = links[0]["addr_info"][0]["local"].as_str().and_then(|addr| addr.parse().ok());
    let mtu = links[0]["mtu"].as_u64().and_then(|mtu| u16::try_from(mtu).ok());
    let usable = mtu.filter(|mtu| *mtu > ENCAP_OVERHEAD);
    addr.zip(usable)
        .ok_or_else(|| LabError::Unreadable { what: format!("address of {name}"), text })
}

fn open_tun(config: &Config, subnet: Ipv4Network, mtu: u16) -> io::Result<SyncDevice> {
    let tun = DeviceBuilder::new().name("flannel0").mtu(mtu).build_sync()?;
    tun.set_nonblocking(true)?;
    let ip = |args: String| Tool::new("ip").words(&args).run().map_err(io::Error::other);
    ip(format!("addr add {}/32 dev flannel0", subnet.network()))?;
    // Stock leaves the scope at its default, universe; `ip` would choose link.
    ip(format!("route add {} dev flannel0 scope global", config.network))?;
    Ok(tun)
}

fn write_subnet_file(
    path: &Path,
    config: &Config,
    subnet: Ipv4Network,
    mtu: u16,
) -> Result<(), LabError> {
    let bridge = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    let text = format!(
        "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={bridge}/{}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n",
        config.network,
        subnet.prefix()
    );
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(LabError::io(format!("write {}", path.display())))
}

/// The packet loop and what it works on.
struct Proxy {
    tun: SyncDevice,
    udp: UdpSocket,
    port: u16,
    mtu: u16,
    peers: Peers,
}

impl Proxy {
    fn run(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let tun = self.tun.as_raw_fd();
        poll.registry().register(&mut SourceFd(&tun), Token(0), Interest::READABLE)?;
        poll.registry().register(&mut self.udp, Token(1), Interest::READABLE)?;
        let mut events = Events::with_capacity(2);
        let mut buffer = vec![0; usize::from(self.mtu)];
        while !signals::interrupted() {
            match poll.poll(&mut events, Some(Duration::from_millis(100))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let peers = Arc::clone(&self.peers.lock().unwrap_or_else(PoisonError::into_inner));
            // One of each in turn until both are empty, without polling: stock's order.
            while self.egress(&mut buffer, &peers)? | self.ingress(&mut buffer)? {}
        }
        Ok(())
    }

    /// One packet from the TUN to a peer; whether there was one.
    fn egress(&self, buffer: &mut [u8], peers: &[(Ipv4Network, Ipv4Addr)]) -> io::Result<bool> {
        let Some(len) = unless_empty(self.tun.recv(buffer))? else {
            return Ok(false);
        };
        let packet = &mut buffer[..len];
        if let Some(dst) = destination(packet)
            && let Some((_, peer)) = peers.iter().find(|(subnet, _)| subnet.contains(dst))
            && decrement_ttl(packet)
        {
            // A full socket or an unreachable peer loses the packet, as on any network.
            drop(self.udp.send_to(packet, SocketAddrV4::new(*peer, self.port).into()));
        }
        Ok(true)
    }

    /// One datagram from the socket to the TUN; whether there was one.
    fn ingress(&self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some((len, _)) = unless_empty(self.udp.recv_from(buffer))? else {
            return Ok(false);
        };
        let packet = &mut buffer[..len];
        if destination(packet).is_some() && decrement_ttl(packet) {
            // What the kernel does not take for a packet is lost.
            drop(self.tun.send(packet));
        }
        Ok(true)
    }
}

fn unless_empty<T>(received: io::Result<T>) -> io::Result<Option<T>> {
    match received {
        Ok(received) => Ok(Some(received)),
        // An ICMP error to an earlier datagram shows up as a refused receive.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes 16 to 19 of whatever is long enough for an IPv4 header.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    Some(bytes.into())
}

/// TTL − 1 with the header checksum patched as in RFC 1624; false when the packet ends here.
///
/// TTL 0 wraps to 255 and spoils the checksum: so does stock's.
fn decrement_ttl(packet: &mut [u8]) -> bool {
    packet[8] = packet[8].wrapping_sub(1);
    let sum = u16::from_be_bytes([packet[10], packet[11]]);
    let (patched, carry) = sum.overflowing_add(0x0100);
    packet[10..12].copy_from_slice(&(patched + u16::from(carry)).to_be_bytes());
    packet[8] != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of the header's words, which is 0xffff when its checksum is right (RFC 1071).
    fn header_sum(packet: &[u8]) -> u16 {
        packet[..20].chunks(2).fold(0, |sum: u16, word| {
            let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
            sum + u16::from(carry)
        })
    }

    #[test]
    fn checksum_stays_right_at_every_ttl() {
        for ttl in 1..=255 {
            let mut packet =
                [0x45, 0, 0, 20, 1, 2, 0x40, 0, ttl, 17, 0, 0, 10, 5, 1, 2, 10, 5, 2, 3];
            let sum = !header_sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(decrement_ttl(&mut packet), ttl > 1);
            assert_eq!((packet[8], header_sum(&packet)), (ttl - 1, 0xffff), "ttl {ttl}");
        }
    }

    #[test]
    fn flags_may_have_one_dash_or_two() {
        let args = ["-iface=eth0", "--etcd-endpoints=http://192.0.2.1:2379", "-v=1", "--ip-masq"];
        let flags = Flags::parse(&args.map(str::to_owned));
        assert_eq!(flags.iface, "eth0");
        assert_eq!(flags.endpoint, "http://192.0.2.1:2379");
    }
}
