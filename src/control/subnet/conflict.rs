//! [`Conflict`]: another lease that cannot be right if ours is.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::{Serialize, Serializer};

use super::host_id::HostId;

/// Another claim that cannot be right if ours is. Part of the JSON that `/stats` serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What is wrong.
    pub kind: ConflictKind,
    /// Our subnet.
    pub subnet: Ipv4Network,
    /// Our public IP.
    pub owner: Ipv4Addr,
    /// The other lease's subnet.
    pub other_subnet: Ipv4Network,
    /// The other lease's public IP.
    pub other_owner: Ipv4Addr,
    /// The host that the other lease names, if it names one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_optional_text")]
    pub other_host: Option<HostId>,
}

/// How two claims contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// Another node holds some of our addresses.
    Overlap,
    /// A second lease carries our public IP.
    SamePublicIp,
    /// Another node that has our public IP renews our lease.
    SharedLease,
}

impl ConflictKind {
    /// Every kind, with its name in `/stats` and in the metrics.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Overlap, "overlap"),
        (Self::SamePublicIp, "same-public-ip"),
        (Self::SharedLease, "shared-lease"),
    ];
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, subnet, owner, other_subnet, other_owner, other_host } = self;
        let host = match other_host {
            Some(host) => format!(" (host {host})"),
            None => String::new(),
        };
        match kind {
            ConflictKind::Overlap => write!(
                f,
                "our lease {subnet} of {owner} overlaps lease {other_subnet} of {other_owner}{host}; \
                 delete the wrong one"
            ),
            ConflictKind::SamePublicIp => write!(
                f,
                "our lease {subnet} of {owner} and lease {other_subnet} of {other_owner}{host} carry one \
                 public IP; delete the second if it was left behind, or give its node another \
                 --public-ip"
            ),
            ConflictKind::SharedLease => write!(
                f,
                "our lease {subnet} of {owner} is also written by another node of public IP \
                 {other_owner}{host}; give one of them another --public-ip"
            ),
        }
    }
}

fn as_optional_text<S: Serializer>(
    host: &Option<HostId>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&host.as_ref().map(HostId::to_string).unwrap_or_default())
}
