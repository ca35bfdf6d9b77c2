//! What is said of peers in trouble: log lines, warnings and problems.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Event, Trouble, TroubleKind};
use crate::control::util::log_limit::LogLimit;
use crate::dataplane::stats::peer_error::PeerErrorKind;

/// Peers that get into trouble in the same second have a line each up to this number, and one line
/// together beyond it.
const MAX_LINES: usize = 3;

/// A peer by its public IP and its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct PeerName {
    pub(in super::super) addr: Ipv4Addr,
    pub(in super::super) subnet: Option<Ipv4Network>,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)?;
        self.subnet.map_or(Ok(()), |subnet| write!(f, " ({subnet})"))
    }
}

impl PeerName {
    /// The command that says more.
    fn ping(self) -> String {
        let target = self.subnet.map_or(self.addr, |subnet| subnet.network());
        format!("`flanneld ping {target}` says more")
    }
}

/// Logs what happened in a tick.
pub(in super::super) fn log(
    events: &[Event],
    port: u16,
    name: impl Fn(Ipv4Addr) -> PeerName,
    limit: &mut LogLimit,
) {
    let is_silence =
        |event: &&Event| matches!(event, Event::Trouble(_, TroubleKind::Silent { .. }, true));
    let num_silent = events.iter().filter(is_silence).count();
    if num_silent > MAX_LINES && limit.is_due("silent peers") {
        let silent = events.iter().filter(is_silence).filter_map(|event| match event {
            Event::Trouble(addr, ..) => Some(name(*addr)),
            Event::HeardAgain(..) | Event::Ask(_) => None,
        });
        warn!(
            "{} are silent: packets go to them and none come back for 10 s; check this host's own \
             link and firewall first, then that UDP {port} is open both ways: `flanneld peers` \
             lists them",
            list(silent, num_silent)
        );
    }
    for event in events {
        match *event {
            Event::Trouble(addr, kind, is_logged) => {
                let name = name(addr);
                let reason = kind_in_words(kind, port);
                if is_logged && !(num_silent > MAX_LINES && is_silence(&event)) {
                    warn!("peer {name} {reason}; {}", name.ping());
                } else {
                    debug!("peer {name} {reason}");
                }
            }
            Event::HeardAgain(addr, after, true) => {
                info!("peer {} is heard again, after {} s", name(addr), after.as_secs());
            }
            Event::HeardAgain(addr, after, false) => {
                debug!("peer {} is heard again, after {} s", name(addr), after.as_secs());
            }
            Event::Ask(addr) => debug!("peer {}: sending an echo request", name(addr)),
        }
    }
}

/// The warning of `/readyz` about the peers in trouble.
pub(in super::super) fn warning(mut troubled: Vec<PeerName>, num_peers: usize) -> Option<String> {
    troubled.sort_by_key(|name| name.addr);
    let num = troubled.len();
    match troubled.as_slice() {
        [] => None,
        [only] => {
            let (name, ping) = (only, only.ping());
            Some(format!("peer {name} does not answer, though packets go there; {ping}"))
        }
        _ => Some(format!(
            "{} of {num_peers} do not answer, though packets go there: `flanneld peers` says what \
             is known",
            list(troubled.into_iter(), num)
        )),
    }
}

/// `5 peers (a, b, c and 2 others)`.
fn list(names: impl Iterator<Item = PeerName>, num: usize) -> String {
    let shown: Vec<String> = names.take(MAX_LINES).map(|name| name.to_string()).collect();
    match num - shown.len() {
        0 => format!("{num} peers ({})", shown.join(", ")),
        rest => format!("{num} peers ({} and {rest} others)", shown.join(", ")),
    }
}

/// What is wrong with a peer, for status.
pub(in super::super) fn problem(trouble: Trouble, port: u16, now: Instant) -> String {
    let words = kind_in_words(trouble.kind, port);
    let duration: Duration = now - trouble.since;
    format!("{words} (for {} s now)", duration.as_secs())
}

fn kind_in_words(kind: TroubleKind, port: u16) -> String {
    match kind {
        TroubleKind::Silent { num_sent, within } => {
            let packets = if num_sent == 1 { "packet" } else { "packets" };
            format!(
                "is silent: {num_sent} {packets} sent in {} s, none received; check that flanneld \
                 runs there and that UDP {port} is open both ways",
                within.as_secs()
            )
        }
        TroubleKind::Error(kind, reporter) => {
            let reporter = reporter.map(|addr| format!(" from {addr}")).unwrap_or_default();
            error_in_words(kind, &reporter, port)
        }
    }
}

fn error_in_words(kind: PeerErrorKind, from: &str, port: u16) -> String {
    match kind {
        PeerErrorKind::PortUnreachable => format!(
            "cannot be reached: ICMP port unreachable{from}: nothing listens on UDP {port} there, \
             flanneld is not running or has another port, or a firewall rejects it"
        ),
        PeerErrorKind::HostUnreachable => format!(
            "cannot be reached: ICMP host unreachable{from}: the host is down, or has another \
             address"
        ),
        PeerErrorKind::NetUnreachable => {
            format!("cannot be reached: ICMP network unreachable{from}: a router has no route")
        }
        PeerErrorKind::Prohibited => format!(
            "cannot be reached: ICMP administratively prohibited{from}: a firewall rejects UDP \
             {port}"
        ),
        PeerErrorKind::ProtocolUnreachable => {
            format!("cannot be reached: ICMP protocol unreachable{from}")
        }
        PeerErrorKind::SendRefused(libc::EACCES) => {
            "cannot be reached: a prohibit route or rule of this host refuses datagrams to it: ip \
             route get shows which"
                .to_owned()
        }
        PeerErrorKind::SendRefused(libc::EPERM) => format!(
            "cannot be reached: this host's own firewall refuses datagrams to it: look for a rule \
             about UDP {port} in OUTPUT"
        ),
        PeerErrorKind::SendRefused(errno) => format!(
            "cannot be reached: this host's kernel refuses to send: {}",
            io::Error::from_raw_os_error(errno)
        ),
    }
}
