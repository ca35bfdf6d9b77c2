//! The cases. Each leaves the lab so that the next can go on.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::{CaseError, Meeting};
use crate::lab::Lab;
use crate::lab::LabError;
use crate::lab::host::wait::wait_for;
use crate::lab::network::backend::Backend;
use crate::lab::network::node::Node;
use crate::lab::network::pods::Pod;
use crate::lab::network::topology::GATEWAY;
use crate::lab::traffic::{Generator, Report, tcp, udp};

const TWILL: usize = 0;
const OTHER: usize = 1;

/// flannel's default port of the udp backend.
const PORT: u16 = 8285;

/// IPv4 20 and ICMP 8, before a ping's payload.
const PING_HEADERS: u16 = 28;

/// Longer than any flanneld waits before it renews, shorter than any margin (60 minutes).
const SHORT_TTL: u32 = 180;

/// How long a flanneld may take to renew such a lease, or to see a peer come or go.
const NOTICED: Duration = Duration::from_secs(60);

pub(super) fn twill_first(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    join_in_turn(lab, meeting, [TWILL, OTHER])
}

pub(super) fn other_first(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    join_in_turn(lab, meeting, [OTHER, TWILL])
}

fn join_in_turn(lab: &mut Lab, meeting: &Meeting, order: [usize; 2]) -> Result<(), CaseError> {
    for index in order {
        let node = &mut lab.nodes_mut()[index];
        node.start()?;
        node.wait_ready()?;
        node.attach_pods(1)?;
    }
    assert_whole(lab, meeting)
}

/// With DF set, a packet that anybody on the way would cut does not come back.
pub(super) fn longest_packet(lab: &mut Lab, _: &Meeting) -> Result<(), CaseError> {
    let mtu = |node: &Node| node.overlay().map_or(0, |overlay| overlay.env.mtu);
    let mtu = lab.nodes().iter().map(mtu).min().unwrap_or(0);
    for (from, to) in [(TWILL, OTHER), (OTHER, TWILL)] {
        let (from, to) = (pod(lab, from)?, pod(lab, to)?);
        let size = mtu.saturating_sub(PING_HEADERS);
        let ping = from.netns.tool("ping").words(&format!("-n -c 3 -i 0.1 -W 5 -M do -s {size}"));
        let said = ping.arg(to.addr.to_string()).output().map_err(LabError::from)?;
        if !said.stdout.contains(" 0% packet loss") {
            let what = format!("of packets of {mtu} bytes {} lost some", from.name);
            return Err(CaseError::Wrong(what));
        }
    }
    Ok(())
}

pub(super) fn twill_restarts(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    restart(lab, meeting, TWILL)
}

pub(super) fn other_restarts(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    restart(lab, meeting, OTHER)
}

fn restart(lab: &mut Lab, meeting: &Meeting, index: usize) -> Result<(), CaseError> {
    let node = &mut lab.nodes_mut()[index];
    let before = node.overlay().map(|overlay| overlay.env);
    node.terminate()?;
    node.start()?;
    let env = node.wait_ready()?.env;
    if Some(env) != before {
        return Err(CaseError::Wrong(format!("it came back with {}", env.subnet)));
    }
    assert_whole(lab, meeting)
}

pub(super) fn twill_renews(lab: &mut Lab, _: &Meeting) -> Result<(), CaseError> {
    // Both at once, as each takes its time to notice.
    for index in [TWILL, OTHER] {
        let key = key(&lab.nodes()[index])?;
        lab.etcd().shorten_lease(&key, SHORT_TTL)?;
    }
    renew(lab, TWILL)
}

pub(super) fn other_renews(lab: &mut Lab, _: &Meeting) -> Result<(), CaseError> {
    renew(lab, OTHER)
}

/// A node must renew a lease that is about to end. The test shortens the lease instead of waiting.
fn renew(lab: &mut Lab, index: usize) -> Result<(), CaseError> {
    let key = key(&lab.nodes()[index])?;
    let etcd = lab.etcd();
    wait_for(&format!("lease {key} to be renewed"), NOTICED, || {
        Ok(etcd.lease_ttl(&key)?.filter(|ttl| *ttl > SHORT_TTL.into()))
    })?;
    Ok(())
}

pub(super) fn twill_follows(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    follow(lab, TWILL, meeting.backend)
}

pub(super) fn other_follows(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    follow(lab, OTHER, meeting.backend)
}

/// The underlay's gateway is the peer. With udp it sees whether packets are sent to it; otherwise
/// the node's kernel shows whether it has a route.
fn follow(lab: &mut Lab, index: usize, backend: Backend) -> Result<(), CaseError> {
    let port = SocketAddrV4::new(GATEWAY, PORT);
    let bound = lab.underlay().netns().enter(|| UdpSocket::bind(port));
    let socket = bound.map_err(LabError::io(format!("bind {port}")))?;
    let (netns, from) = (lab.nodes()[index].netns().clone(), pod(lab, index)?.clone());
    let (key, addr) = free_subnet(lab)?;
    let has_route = || match backend {
        Backend::Udp => reaches_peer(&from, addr, &socket),
        Backend::Vxlan | Backend::HostGw => {
            let routes = netns.ip(&format!("-4 route show {}", key.replace('-', "/")))?;
            Ok(!routes.trim().is_empty())
        }
    };
    let etcd = lab.etcd();
    etcd.put_lease(&key, backend, GATEWAY)?;
    wait_for(&format!("a route of {} to the new peer", from.name), NOTICED, || {
        Ok(has_route()?.then_some(()))
    })?;
    etcd.delete_lease(&key)?;
    wait_for(&format!("{} to forget the peer that is gone", from.name), NOTICED, || {
        Ok((!has_route()?).then_some(()))
    })?;
    Ok(())
}

/// A subnet of the lab's network that is free, and an address in it.
fn free_subnet(lab: &mut Lab) -> Result<(String, Ipv4Addr), LabError> {
    let leases = lab.etcd().leases()?;
    let numbers = (1..=u8::MAX).map(|number| (format!("10.5.{number}.0-24"), number));
    let mut free = numbers.rev().filter(|(key, _)| leases.iter().all(|(taken, _)| taken != key));
    let (key, number) = free.next().ok_or(LabError::TooMany { what: "leases", most: 255 })?;
    Ok((key, Ipv4Addr::new(10, 5, number, 2)))
}

/// Whether a ping to `addr` arrives at `socket` as one datagram: the packet and nothing else.
fn reaches_peer(from: &Pod, addr: Ipv4Addr, socket: &UdpSocket) -> Result<bool, LabError> {
    let failed = || LabError::io("listen for datagrams");
    socket.set_nonblocking(true).map_err(failed())?;
    let mut buffer = [0; 2048];
    while socket.recv(&mut buffer).is_ok() {}
    let ping = from.netns.tool("ping").words("-n -q -c 1 -W 1").arg(addr.to_string());
    ping.output()?;
    loop {
        match socket.recv(&mut buffer) {
            // An IPv4 header whose addresses are the ping's (RFC 791).
            Ok(len) if len >= 20 && buffer[12..16] == from.addr.octets() => {
                return Ok(buffer[16..20] == addr.octets());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(failed()(error)),
        }
    }
}

/// The subnet reserved for each node, as its key has it.
const RESERVED: [&str; 2] = ["10.5.177.0-24", "10.5.66.0-24"];

pub(super) fn reserved(lab: &mut Lab, meeting: &Meeting) -> Result<(), CaseError> {
    for (index, subnet) in RESERVED.into_iter().enumerate() {
        let addr = lab.nodes()[index].addr();
        // An operator writes an address and no more, whatever the backend.
        lab.etcd().put_lease(subnet, Backend::Udp, addr)?;
    }
    lab.start_all()?;
    for (node, subnet) in lab.nodes().iter().zip(RESERVED) {
        let got = key(node)?;
        if got != subnet {
            return Err(CaseError::Wrong(format!("{} has {got}, not {subnet}", node.name())));
        }
    }
    assert_whole(lab, meeting)
}

/// Stock's becomes an ordinary lease when it is first used; ours must not.
pub(super) fn reservation_stays(lab: &mut Lab, _: &Meeting) -> Result<(), CaseError> {
    match lab.etcd().lease_ttl(RESERVED[TWILL])? {
        Some(..0) => Ok(()),
        ttl => Err(CaseError::Wrong(format!("its lease ends in {ttl:?} seconds"))),
    }
}

/// Both pods reach each other, and what they send arrives whole, in both directions.
fn assert_whole(lab: &Lab, meeting: &Meeting) -> Result<(), CaseError> {
    lab.wait_reachable()?;
    let generator = Generator { flannel_lab: meeting.flannel_lab.clone() };
    for (from, to) in [(TWILL, OTHER), (OTHER, TWILL)] {
        let (from, to) = (pod(lab, from)?, pod(lab, to)?);
        let _server = generator.serve(&to.netns, &lab.names().dir())?;
        let (up, down, time) = (4 << 20, 4 << 20, Duration::ZERO);
        let flow = generator.tcp(&from.netns, to.addr, tcp::Plan { up, down, time })?;
        // The last two are the longest that fit, and what is sent in fragments.
        let (sizes, time) = (vec![16, 36, 1000, 1444, 4000], Duration::from_secs(10));
        let plan = udp::Plan { sizes, count: 100, time };
        let datagrams = generator.udp(&from.netns, to.addr, &plan)?;
        for report in [flow, datagrams] {
            let Report { sent, answered, corrupt, .. } = report;
            if corrupt > 0 || answered < sent {
                let what = format!("of {sent} flows or datagrams of {}", from.name);
                let how = format!("{answered} were answered and {corrupt} corrupt");
                return Err(CaseError::Wrong(format!("{what} {how}")));
            }
        }
    }
    Ok(())
}

fn pod(lab: &Lab, index: usize) -> Result<&Pod, LabError> {
    let node = &lab.nodes()[index];
    node.pods().first().ok_or_else(|| LabError::NotReady { node: node.name() })
}

fn key(node: &Node) -> Result<String, LabError> {
    let overlay = node.overlay().ok_or_else(|| LabError::NotReady { node: node.name() })?;
    Ok(overlay.env.key())
}
