//! [`Lease`]: who holds a subnet, and how that is written in the registry.
//!
//! An entry is a key and a value. The key ends in the subnet, `10.5.52.0-24`; the value is a JSON
//! object that names the holder. Where entries are kept, and how long, is [`super::kv::registry`]'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::Ipv4Network;
use serde::Serialize;
use tokio::time::Instant;

use super::kv::registry::Entry;
use crate::control::util::json_object::{Object, WrongType};
use crate::routes::{Prefix, unusable};

/// One node's claim to a subnet.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The slice of the overlay.
    pub subnet: Ipv4Network,
    /// Who holds it.
    pub attrs: LeaseAttrs,
    /// When the registry drops it unless it is renewed. Known for our own lease only; `None` for
    /// a peer's, and for a reservation, which never expires.
    pub expires: Option<Instant>,
    /// Where it stands in the registry.
    pub entry: Entry,
}

/// What a lease says about its holder.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseAttrs {
    /// The address peers send to. An entry written without one reads as 0.0.0.0, as stock reads it.
    pub public_ip: Ipv4Addr,
    /// The backend that wrote the lease; `None` for udp, which never says so.
    pub backend_type: Option<String>,
    /// What that backend wants its peers to know.
    pub backend_data: Option<serde_json::Value>,
}

/// A change in who holds what. Order matters.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseEvent {
    /// The lease is new, or has new attributes.
    Added(Lease),
    /// Nobody holds the subnet any more.
    Removed(Ipv4Network),
}

/// Why an entry is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The key does not end in a subnet.
    #[error("the key does not end in a subnet such as 10.5.52.0-24")]
    Key,
    /// The value is far longer than any lease. It was not read.
    #[error("the value has {0} bytes; no lease has as many")]
    TooLong(usize),
    /// The entry is longer than a message may be. Not even its length is known.
    #[error("the value has more bytes than a message may have; no lease has as many")]
    Giant,
    /// There are keys below it, and no value.
    #[error("it is a directory")]
    Directory,
    /// The value is no JSON object.
    #[error("the value is not a JSON object: {0}")]
    Json(String),
    /// A member of the object has the wrong type.
    #[error(transparent)]
    Member(#[from] WrongType),
}

impl Lease {
    /// Whether this is a reservation: written by the operator, without an expiry.
    pub fn is_reservation(&self) -> bool {
        self.entry.ttl_lease.is_none()
    }
}

impl LeaseAttrs {
    /// What a udp node says of itself: its public IP and nothing else, as stock's udp backend.
    pub fn udp(public_ip: Ipv4Addr) -> Self {
        Self { public_ip, backend_type: None, backend_data: None }
    }

    /// Reads an entry's value; unknown members are ignored, and `PublicIPv6` is one of them.
    ///
    /// # Errors
    /// [`LeaseError`] naming the member.
    pub fn from_json(value: &[u8]) -> Result<Self, LeaseError> {
        const IP: &str = "an IPv4 address in quotes";
        // serde_json repeats a text of any length in its error.
        let object = Object::parse(value)
            .map_err(|error| LeaseError::Json(excerpt(error.to_string().as_bytes(), MAX_REASON)))?;
        let public_ip = match object.text("PublicIP", IP)? {
            Some(text) => {
                let addr = text.parse().map(|addr: IpAddr| addr.to_canonical());
                // Go reads the IPv4-mapped form, ::ffff:192.0.2.1, as IPv4, too.
                let Ok(IpAddr::V4(addr)) = addr else {
                    return Err(WrongType::new("PublicIP", &text, IP).into());
                };
                addr
            }
            None => Ipv4Addr::UNSPECIFIED,
        };
        let backend_type: Option<String> = object.read("BackendType", "a text")?;
        Ok(Self {
            public_ip,
            backend_type: backend_type.filter(|name| !name.is_empty()),
            backend_data: object.read("BackendData", "JSON of a bearable depth")?,
        })
    }

    /// The node that they name. An address that no node can have names none.
    pub fn owner(&self) -> Option<Ipv4Addr> {
        Some(self.public_ip).filter(|&addr| unusable(addr).is_none())
    }

    /// The entry's value, byte for byte as stock flannel writes it: members in the order of
    /// `LeaseAttrs` in flannel's `pkg/lease/lease.go`, no white space.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Value<'a> {
            #[serde(rename = "PublicIP")]
            public_ip: Ipv4Addr,
            #[serde(rename = "PublicIPv6")]
            public_ipv6: Option<Ipv6Addr>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backend_type: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backend_data: &'a Option<serde_json::Value>,
        }
        let value = Value {
            public_ip: self.public_ip,
            public_ipv6: None,
            backend_type: &self.backend_type,
            backend_data: &self.backend_data,
        };
        // Writing to memory fails only for maps with keys that are no text; there are none here.
        serde_json::to_string(&value).unwrap_or_default()
    }
}

/// Most of a JSON error that is shown, in characters.
const MAX_REASON: usize = 120;

/// The beginning of a text from outside, on one line: at most `max` characters of it, escaped.
pub(crate) fn excerpt(text: &[u8], max: usize) -> String {
    // A character has at most 4 bytes.
    let start = &text[..text.len().min(4 * (max + 1))];
    let start = String::from_utf8_lossy(start);
    let mut shown: String = start.chars().take(max).flat_map(char::escape_debug).collect();
    if start.chars().nth(max).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for LeaseAttrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.public_ip)
    }
}

/// The last part of the key of `subnet`'s entry: `10.5.52.0-24`.
pub fn print_key(subnet: Ipv4Network) -> String {
    format!("{}-{}", subnet.network(), subnet.prefix())
}

/// The subnet a key ends in; anything may precede it, and `&fd00:12:13::-56` may follow it on a
/// dual-stack network. Host bits are cleared.
///
/// The rules are those of `ParseSubnetKey` in flannel's `pkg/subnet/subnet.go`: IPv4 lengths up
/// to 31, IPv6 lengths up to 127, lower-case IPv6.
///
/// # Errors
/// [`LeaseError::Key`].
pub fn parse_key(key: &str) -> Result<Ipv4Network, LeaseError> {
    let v4 = match key.rsplit_once('&') {
        Some((v4, v6)) if is_v6_range(v6) => v4,
        _ => key,
    };
    parse_v4_range(v4).ok_or(LeaseError::Key)
}

fn is_v6_range(text: &str) -> bool {
    let Some((addr, len)) = text.rsplit_once('-') else {
        return false;
    };
    let lower_case = addr.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b':'));
    lower_case && addr.parse::<Ipv6Addr>().is_ok() && parse_digits(len, 127).is_some()
}

fn parse_v4_range(text: &str) -> Option<Ipv4Network> {
    let (addr, len) = text.rsplit_once('-')?;
    let start = addr.rmatch_indices('.').nth(2).map(|(dot, _)| first_digit_of_run(&addr[..dot]))?;
    let addr: Ipv4Addr = addr[start..].parse().ok()?;
    Ipv4Network::containing(addr, parse_digits(len, 31)?).ok()
}

/// Where the run of digits that ends `text` begins.
fn first_digit_of_run(text: &str) -> usize {
    text.trim_end_matches(|c: char| c.is_ascii_digit()).len()
}

/// A number of plain digits, so without the sign that `u8::from_str` would take.
fn parse_digits(text: &str, max: u8) -> Option<u8> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number <= max)
}

#[cfg(test)]
mod tests;
