//! Ports for servers that tests start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use rand::Rng;

use super::rng::rng;

/// Below those that the kernel gives to clients (`net.ipv4.ip_local_port_range`): a client that tries
/// again and again while the server is away could be given the very port, and connect to itself.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// An address of loopback that nobody listens on, another one each time.
pub(crate) fn free_addr() -> SocketAddr {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(rng().random_range(0..PORTS.end)));
    let num_ports = PORTS.end - PORTS.start;
    let next = || PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % num_ports;
    let mut addrs = (0..1000).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, next())));
    addrs.find(|addr| TcpListener::bind(addr).is_ok()).expect("a port is free")
}
