//! [`IfaceSpec`]: an external interface as the operator names it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use regex::Regex;

use crate::routes::unusable;

/// An external interface as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfaceSpec {
    /// The interface that has this address; the address is then what is bound to.
    Addr(Ipv4Addr),
    /// The interface of this name, with the best of its addresses.
    Name(String),
    /// The first interface that has an address which matches; if there is none, the first whose
    /// name does.
    Regex(IfaceRegex),
    /// The interface by which this address is reached, with the address that is sent from then.
    CanReach(Ipv4Addr),
}

/// A regular expression for addresses and names of interfaces. Its syntax is RE2's, as in Go, and
/// it matches anywhere in the text.
#[derive(Debug, Clone)]
pub struct IfaceRegex(Regex);

/// A text that is no [`IfaceRegex`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no regular expression")]
pub struct RegexError(String);

/// A text that is no [`IfaceSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing at all.
    #[error("the name or IPv4 address of an interface is needed")]
    Empty,
    /// The underlay is IPv4.
    #[error("the underlay is IPv4: {0} cannot be its address")]
    Ipv6(Ipv6Addr),
    /// Nothing can be sent from it to another host.
    #[error("{addr} is {what}: the address of an interface that peers can send to is needed")]
    Unusable {
        /// The address.
        addr: Ipv4Addr,
        /// What it is instead.
        what: &'static str,
    },
}

impl FromStr for IfaceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Empty);
        }
        // With a zone, or in brackets as in a URL, it is one too.
        let bare = text.split('%').next().unwrap_or(text);
        if let Ok(addr) = bare.trim_matches(['[', ']']).parse() {
            return Err(SpecError::Ipv6(addr));
        }
        let Ok(addr) = text.parse() else { return Ok(Self::Name(text.to_owned())) };
        match unusable(addr) {
            Some(what) => Err(SpecError::Unusable { addr, what }),
            None => Ok(Self::Addr(addr)),
        }
    }
}

impl IfaceRegex {
    pub(super) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for IfaceRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for IfaceRegex {}

impl FromStr for IfaceRegex {
    type Err = RegexError;

    fn from_str(text: &str) -> Result<Self, RegexError> {
        Regex::new(text).map(Self).map_err(|_| RegexError(text.to_owned()))
    }
}

impl fmt::Display for IfaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "--iface {addr}"),
            Self::Name(name) => write!(f, "--iface {name}"),
            Self::Regex(regex) => write!(f, "--iface-regex {}", regex.0),
            Self::CanReach(addr) => write!(f, "--iface-can-reach {addr}"),
        }
    }
}
