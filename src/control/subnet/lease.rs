//! [`Lease`]: who holds a subnet, and how that is written in the registry.
//!
//! An entry is a key and a value. The key ends in the subnets, `10.5.52.0-24` or
//! `10.5.52.0-24&fd00:5:0:5a::-64`; the value is a JSON object that names the holder. Where entries are kept, and how long, is [`super::kv::registry`]'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::control::config::network::Subnets;
use crate::control::util::json_object::{Object, WrongType};
use crate::routes::{Prefix, unusable};

/// One node's claim to a subnet.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The slice of the overlay.
    pub subnet: Ipv4Network,
    /// The same of IPv6, on a dual-stack network.
    pub ipv6_subnet: Option<Ipv6Network>,
    /// Who holds it.
    pub attrs: LeaseAttrs,
    /// When the registry drops it unless it is renewed. Known for our own lease only; `None` for
    /// a peer's, and for a reservation, which never expires.
    pub expires: Option<Instant>,
}

/// What a lease says about its holder.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseAttrs {
    /// The backend that wrote the lease; `None` for udp, which never says so.
    pub backend_type: Option<String>,
    /// How peers reach the IPv4 subnet.
    pub v4: FamilyAttrs<Ipv4Addr>,
    /// How peers reach the IPv6 subnet.
    pub v6: FamilyAttrs<Ipv6Addr>,
}

/// What a lease says for one address family.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyAttrs<A> {
    /// The address peers send to. 0.0.0.0 reads as none: stock writes it for none.
    pub public_ip: Option<A>,
    /// What the backend wants its peers to know.
    pub backend_data: Option<Value>,
}

impl<A> Default for FamilyAttrs<A> {
    fn default() -> Self {
        Self { public_ip: None, backend_data: None }
    }
}

/// A change in who holds what. Order matters. A source of leases may have its own form `L` of a
/// lease; backends get plain ones.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseEvent<L = Lease> {
    /// The lease is new, or has new attributes.
    Added(L),
    /// Nobody holds the subnet any more.
    Removed(Ipv4Network),
}

/// Why an entry is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The key does not end in a subnet.
    #[error("the key does not end in a subnet such as 10.5.52.0-24")]
    Key,
    /// The key names an IPv6 subnet alone.
    #[error("the key names no IPv4 subnet, and this flanneld carries IPv4 only")]
    NoIpv4,
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
    /// The subnets of both families.
    pub const fn subnets(&self) -> Subnets {
        Subnets { v4: self.subnet, v6: self.ipv6_subnet }
    }
}

impl LeaseAttrs {
    /// What a udp node says of itself: its public IP and nothing else, as stock's udp backend.
    pub fn udp(public_ip: Ipv4Addr) -> Self {
        let public_ip = Some(public_ip).filter(|addr| !addr.is_unspecified());
        let v4 = FamilyAttrs { public_ip, backend_data: None };
        Self { backend_type: None, v4, v6: FamilyAttrs::default() }
    }

    /// The same with other data for the IPv4 subnet's peers.
    #[must_use]
    pub fn with_data(self, backend_data: Option<Value>) -> Self {
        Self { v4: FamilyAttrs { backend_data, ..self.v4 }, ..self }
    }

    /// The address peers send IPv4 to; 0.0.0.0 for none, as stock has it.
    pub fn public_ip(&self) -> Ipv4Addr {
        self.v4.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Reads an entry's value; unknown members are ignored.
    ///
    /// # Errors
    /// [`LeaseError`] naming the member.
    pub fn from_json(value: &[u8]) -> Result<Self, LeaseError> {
        const IP: &str = "an IPv4 address in quotes";
        const IPV6: &str = "an IPv6 address in quotes";
        const DATA: &str = "JSON of a bearable depth";
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
                Some(addr).filter(|addr| !addr.is_unspecified())
            }
            None => None,
        };
        let public_ipv6 = match object.read::<String>("PublicIPv6", IPV6)? {
            Some(text) => match text.parse() {
                Ok(IpAddr::V6(addr)) => Some(addr),
                Ok(IpAddr::V4(addr)) => Some(addr.to_ipv6_mapped()), // Go reads it so, too
                Err(_) => return Err(WrongType::new("PublicIPv6", &text, IPV6).into()),
            },
            None => None,
        };
        let backend_type: Option<String> = object.read("BackendType", "a text")?;
        Ok(Self {
            backend_type: backend_type.filter(|name| !name.is_empty()),
            v4: FamilyAttrs { public_ip, backend_data: object.read("BackendData", DATA)? },
            v6: FamilyAttrs {
                public_ip: public_ipv6,
                backend_data: object.read("BackendV6Data", DATA)?,
            },
        })
    }

    /// The node that they name. An address that no node can have names none.
    pub fn owner(&self) -> Option<Ipv4Addr> {
        self.v4.public_ip.filter(|&addr| unusable(addr).is_none())
    }

    /// The entry's value, byte for byte as stock flannel writes it: members in the order of
    /// `LeaseAttrs` in flannel's `pkg/lease/lease.go`, no white space.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Members<'a> {
            #[serde(rename = "PublicIP")]
            public_ip: Ipv4Addr,
            #[serde(rename = "PublicIPv6")]
            public_ipv6: Option<IpAddr>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backend_type: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backend_data: &'a Option<Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backend_v6_data: &'a Option<Value>,
        }
        let value = Members {
            public_ip: self.public_ip(),
            // Go prints an IPv4-mapped address as IPv4.
            public_ipv6: self.v6.public_ip.map(|addr| addr.to_canonical()),
            backend_type: &self.backend_type,
            backend_data: &self.v4.backend_data,
            backend_v6_data: &self.v6.backend_data,
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
        write!(f, "{}", self.public_ip())
    }
}

/// The last part of the key of these subnets' entry: `10.5.52.0-24`, and `&fd00:5:0:5a::-64` after it
/// if there is an IPv6 subnet.
pub fn print_key(subnets: impl Into<Subnets>) -> String {
    let Subnets { v4, v6 } = subnets.into();
    let v4 = format!("{}-{}", v4.network(), v4.prefix());
    match v6 {
        Some(v6) => format!("{v4}&{}-{}", V6Text(v6.network()), v6.prefix()),
        None => v4,
    }
}

/// An IPv6 address in hexadecimal digits alone: the key's grammar has no dotted quad.
struct V6Text(Ipv6Addr);

impl fmt::Display for V6Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.to_ipv4_mapped(), self.0.segments()) {
            (Some(_), [.., high, low]) => write!(f, "::ffff:{high:x}:{low:x}"),
            (None, _) => self.0.fmt(f),
        }
    }
}

/// The subnets a key ends in; anything may precede them. Host bits are cleared. 0.0.0.0-0 before an
/// IPv6 subnet, and ::-0 after an IPv4 subnet, are stock's way to write none.
///
/// The rules are those of `ParseSubnetKey` in flannel's `pkg/subnet/subnet.go`: IPv4 lengths up
/// to 31, IPv6 lengths up to 127, lower-case IPv6.
///
/// # Errors
/// [`LeaseError::Key`], and [`LeaseError::NoIpv4`] for an IPv6 subnet alone.
pub fn parse_key(key: &str) -> Result<Subnets, LeaseError> {
    let both = key.rsplit_once('&').and_then(|(v4, v6)| Some((v4, parse_v6_range(v6)?)));
    let (v4, v6) = both.map_or((key, None), |(v4, v6)| (v4, Some(v6)));
    let v4 = parse_v4_range(v4).ok_or(LeaseError::Key)?;
    match v6.filter(|v6| v6.prefix() > 0) {
        Some(_) if v4.prefix() == 0 => Err(LeaseError::NoIpv4),
        v6 => Ok(Subnets { v4, v6 }),
    }
}

fn parse_v6_range(text: &str) -> Option<Ipv6Network> {
    let (addr, len) = text.rsplit_once('-')?;
    let lower_case = addr.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b':'));
    let addr: Ipv6Addr = addr.parse().ok().filter(|_| lower_case)?;
    Ipv6Network::containing(addr, parse_digits(len, 127)?).ok()
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
