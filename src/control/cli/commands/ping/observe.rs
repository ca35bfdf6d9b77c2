//! Asks one peer, underlay and overlay apart. Blocks.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use serde::{Serialize, Serializer};

use crate::control::cli::commands::survey::{FixedMac, Own, WayProblem, Wire};
use crate::control::host::probe::{
    Answer, ECHO_HEADERS_LEN, Echo, IcmpError, Port, ProbeError, Question, ask_port, longest,
    vxlan_packet,
};

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Peer {
    pub(in crate::control::cli) public_ip: Ipv4Addr,
    /// Its lease; `None` if no lease has this public IP.
    pub(in crate::control::cli) lease: Option<Lease>,
    /// A container of it that is to be asked, too.
    pub(in crate::control::cli) pod: Option<Ipv4Addr>,
    /// Why packets to it leave by another way.
    pub(in crate::control::cli) way_problem: Option<WayProblem>,
    /// The neighbour entry that somebody has set for good, if its packets go to that.
    pub(in crate::control::cli) fixed_mac: Option<FixedMac>,
    /// The longest packet that passes to it, as the running daemon has found.
    pub(in crate::control::cli) path_mtu: Option<u16>,
}

/// What counts of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Lease {
    pub(in crate::control::cli) subnet: Ipv4Network,
    /// The backend that it is for, if that is another than ours.
    pub(in crate::control::cli) other_backend: Option<String>,
}

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(in crate::control::cli) struct Plan {
    /// Echoes per layer.
    pub(in crate::control::cli) count: u32,
    /// Whether the first reply is enough.
    pub(in crate::control::cli) is_brief: bool,
    /// How long to wait for each.
    pub(in crate::control::cli) wait: Duration,
    /// Whether the longest packets that pass are looked for.
    pub(in crate::control::cli) finds_mtu: bool,
}

/// Several echoes to one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::control::cli) struct Series {
    pub(in crate::control::cli) to: Ipv4Addr,
    pub(in crate::control::cli) sent: u32,
    pub(in crate::control::cli) received: u32,
    /// Of the replies.
    #[serde(rename = "median_micros", serialize_with = "micros")]
    pub(in crate::control::cli) median: Option<Duration>,
    /// What came instead of the last reply.
    #[serde(skip)]
    pub(in crate::control::cli) failure: Option<Answer>,
}

/// What became of long packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::control::cli) struct Longest {
    /// The longest that passed, in bytes.
    pub(in crate::control::cli) passed: Option<u16>,
    /// The longest that was to pass.
    pub(in crate::control::cli) wanted: u16,
}

/// All that was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control::cli) struct Observed {
    pub(in crate::control::cli) underlay: Series,
    /// The backend's port at the peer; `None` if it was not asked.
    pub(in crate::control::cli) port: Option<Port>,
    /// The peer's own address on the overlay; `None` if this host or the peer is not on it.
    pub(in crate::control::cli) overlay: Option<Series>,
    /// Whether it answers TCP there; `None` if it was not asked.
    pub(in crate::control::cli) tcp: Option<bool>,
    /// Whether the peer forwards packets to its containers.
    pub(in crate::control::cli) forwards: Option<bool>,
    /// Whether a packet for a container passes the peer's rules.
    pub(in crate::control::cli) passes: Option<bool>,
    pub(in crate::control::cli) pod: Option<Series>,
    pub(in crate::control::cli) underlay_mtu: Option<Longest>,
    pub(in crate::control::cli) overlay_mtu: Option<Longest>,
}

/// Asks `peer`.
///
/// # Errors
/// [`ProbeError`] if this process may not.
pub(in crate::control::cli) fn observe(
    own: &Own,
    peer: &Peer,
    plan: Plan,
) -> Result<Observed, ProbeError> {
    let echo = Echo::open(None)?;
    let mut asker = Asker { own, plan, echo, outer: Echo::open(Some(own.addr))? };
    let on_overlay = own.overlay_addr().and(peer.lease.as_ref()).map(|lease| lease.subnet);
    let overlay = on_overlay.map(|subnet| asker.series(false, own.node_addr(subnet)));
    let answers = overlay.as_ref().is_some_and(|series| series.received > 0);
    let time = overlay.as_ref().and_then(|series| series.median);
    let soon = time.map_or(plan.wait, |time| patience(time, plan.wait));
    let tries = if answers { 3 } else { 1 };
    let forwards = on_overlay.and_then(|subnet| asker.forwards(subnet, tries, soon));
    let works = answers || forwards == Some(true);
    let underlay = asker.series(true, peer.public_ip);
    let port = if works { None } else { asker.port(peer.public_ip, on_overlay) };
    let is_silent = port == Some(Port::Silent);
    let tcp = on_overlay.filter(|_| is_silent);
    let tcp = tcp.map(|subnet| answers_tcp(own.node_addr(subnet), plan.wait));
    let is_open = forwards == Some(true) && peer.pod.is_none();
    let passes = on_overlay.filter(|_| is_open).map(|subnet| asker.passes(subnet));
    let pod = peer.pod.filter(|_| own.overlay_addr().is_some());
    let pod = pod.map(|addr| asker.series(false, addr));
    let outer = underlay.median.map_or(plan.wait, |time| patience(time, plan.wait));
    let underlay_mtu = plan.finds_mtu.then(|| asker.underlay_mtu(peer.public_ip, outer));
    let long = on_overlay.filter(|_| works);
    let overlay_mtu = long.map(|subnet| asker.overlay_mtu(subnet, answers, soon));
    // What is not known of a peer that is not reached.
    let forwards = forwards.filter(|_| works);
    Ok(Observed { underlay, port, overlay, tcp, forwards, passes, pod, underlay_mtu, overlay_mtu })
}

struct Asker<'a> {
    own: &'a Own,
    plan: Plan,
    /// From the address that the kernel chooses.
    echo: Echo,
    /// From our address on the underlay.
    outer: Echo,
}

impl Asker<'_> {
    /// Once there was a reply, a brief series asks a few times more, and waits less for each.
    fn series(&mut self, is_outer: bool, to: Ipv4Addr) -> Series {
        const MORE: u32 = 7;
        let (mut sent, mut times, mut failure) = (0, Vec::<Duration>::new(), None);
        let (mut left, mut wait) = (self.plan.count, self.plan.wait);
        while left > 0 {
            let echo = if is_outer { &mut self.outer } else { &mut self.echo };
            (sent, left) = (sent + 1, left - 1);
            let answer = echo.ask(Question::new(to, wait));
            if let Answer::Reply { time } = answer {
                if self.plan.is_brief && times.is_empty() {
                    (left, wait) = (MORE, patience(time, self.plan.wait).max(LATE).min(wait));
                }
                times.push(time);
            } else {
                failure = Some(answer);
            }
        }
        times.sort();
        let median = times.get(times.len() / 2).copied();
        let received = u32::try_from(times.len()).unwrap_or(u32::MAX);
        Series { to, sent, received, median, failure }
    }

    fn port(&mut self, to: Ipv4Addr, subnet: Option<Ipv4Network>) -> Option<Port> {
        let to = SocketAddrV4::new(to, self.own.wire.port()?);
        let payload = matches!(self.own.wire, Wire::Vxlan { .. }).then(vxlan_packet);
        let ends = self.own.overlay_addr().zip(subnet.map(|subnet| self.own.node_addr(subnet)));
        let ends = ends.map(|ends| (ends, &mut self.echo));
        Some(ask_port(self.own.addr, to, ends, payload, self.plan.wait))
    }

    /// The TTL of a packet for a container ends at the peer's kernel: one that forwards says so. One
    /// that does not is silent (`ip_error` in net/ipv4/route.c), whatever its rules.
    fn forwards(&mut self, subnet: Ipv4Network, tries: u32, wait: Duration) -> Option<bool> {
        let question = self.to_kernel(subnet, wait)?;
        let mut answers = |question| match self.echo.ask(question) {
            Answer::Reply { .. } | Answer::Refused { .. } => true,
            Answer::NotSent(_) | Answer::Silence => false,
        };
        if (0..tries).any(|_| answers(question)) {
            return Some(true);
        }
        // Of a peer that answers otherwise: it sends each host one such error a second, once a few were
        // sent in a row (`net.ipv4.icmp_ratelimit`).
        Some(
            tries > 1 && {
                thread::sleep(ICMP_PERIOD);
                answers(Question { wait: self.plan.wait, ..question })
            },
        )
    }

    /// A packet for a container of which there is none, most likely, whose TTL ends at the peer.
    fn to_kernel(&self, subnet: Ipv4Network, wait: Duration) -> Option<Question> {
        let container = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
        let ttl = Some(1 + self.own.wire.ttl_cost());
        (container != self.own.node_addr(subnet))
            .then(|| Question { ttl, ..Question::new(container, wait) })
    }

    /// A container answers, or the peer's kernel says that there is none, which it finds out in three
    /// seconds: `mcast_solicit` and `retrans_time` in arp(7).
    fn passes(&mut self, subnet: Ipv4Network) -> bool {
        const FIRST: Duration = Duration::from_millis(300);
        const NONE: Duration = Duration::from_secs(4);
        // Most bridges give the first container the second address.
        let first = Ipv4Addr::from_bits(subnet.network().to_bits() | 2);
        if self.echo.ask(Question::new(first, self.plan.wait.min(FIRST))).is_reply() {
            return true;
        }
        let last = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
        let ttl = Some(2 + self.own.wire.ttl_cost());
        match self.echo.ask(Question { ttl, ..Question::new(last, NONE) }) {
            Answer::Reply { .. } | Answer::Refused { .. } | Answer::NotSent(_) => true,
            Answer::Silence => false,
        }
    }

    fn underlay_mtu(&mut self, to: Ipv4Addr, wait: Duration) -> Longest {
        let wanted = self.own.device.as_ref().map_or(1500, |device| device.mtu);
        let wanted = wanted.saturating_add(self.own.wire.overhead());
        Longest { passed: passed(&mut self.outer, Question::new(to, wait), wanted), wanted }
    }

    /// Of packets to the peer's own address, or if that does not answer, to its kernel.
    fn overlay_mtu(&mut self, subnet: Ipv4Network, answers: bool, wait: Duration) -> Longest {
        let to_node = Question::new(self.own.node_addr(subnet), wait);
        let question = if answers { None } else { self.to_kernel(subnet, wait) };
        let wanted = self.own.device.as_ref().map_or(0, |device| device.mtu);
        Longest { passed: passed(&mut self.echo, question.unwrap_or(to_node), wanted), wanted }
    }
}

/// A connection to the discard port, which hardly any host has: it is refused unless packets end on
/// the way, whatever becomes of ICMP.
fn answers_tcp(addr: Ipv4Addr, wait: Duration) -> bool {
    const DISCARD: u16 = 9;
    // A first packet that is lost is sent again after a second: RFC 6298.
    const LEAST: Duration = Duration::from_millis(1500);
    match TcpStream::connect_timeout(&(addr, DISCARD).into(), wait.max(LEAST)) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// How long to wait for more answers of a node that took `time`: many times as long, as most of what
/// is asked of it is lost if anything is.
fn patience(time: Duration, most: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(150);
    (time * 10).clamp(LEAST.min(most), most)
}

/// After this time an answer of a node that did answer counts as lost.
const LATE: Duration = Duration::from_millis(400);

/// Default of `net.ipv4.icmp_ratelimit`: icmp(7).
const ICMP_PERIOD: Duration = Duration::from_millis(1000);

/// The longest packet of at most `max` bytes that arrives.
fn passed(echo: &mut Echo, question: Question, max: u16) -> Option<u16> {
    longest(ECHO_HEADERS_LEN, max, |len| {
        // Two tries: one reply may be lost for another reason.
        (0..2).any(|_| match echo.ask(Question { len, ..question }) {
            Answer::Reply { .. } | Answer::Refused { error: IcmpError::TimeExceeded, .. } => true,
            Answer::Refused { .. } | Answer::NotSent(_) | Answer::Silence => false,
        })
    })
}

fn micros<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    micros.serialize(serializer)
}
