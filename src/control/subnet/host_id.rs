//! [`HostId`]: which host a lease is of, for two that carry one public IP:
//! docs/adr/0011-host-identity.md.
//!
//! It is kept in `BackendData`, which stock's udp backend neither writes nor reads.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::control::subnet::lease::LeaseAttrs;

/// The member of `BackendData`.
const MEMBER: &str = "HostID";

/// A host, during one boot: its name, and a number that no other host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostId(String);

impl HostId {
    /// That of the daemon that writes `subnet_file`: made of what a clone of this machine does not
    /// share. `None` where the kernel does not tell.
    pub fn of(subnet_file: &Path) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let network = fs::read_link("/proc/self/ns/net").ok()?;
        let file = std::path::absolute(subnet_file).ok()?;
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let what = format!("{}\n{}\n{}", boot.trim(), network.display(), file.display());
        Some(Self(format!("{}/{:016x}", name.trim(), hash(what.as_bytes()))))
    }

    /// The host that a lease names.
    pub fn read(attrs: &LeaseAttrs) -> Option<Self> {
        let id = attrs.v4.backend_data.as_ref()?.get(MEMBER)?.as_str()?;
        // What another host writes is shown on one line.
        let shown = id.chars().take(100).flat_map(char::escape_debug).collect();
        Some(Self(shown)).filter(|Self(shown): &Self| !shown.is_empty())
    }

    /// `attrs` with this host in them.
    pub fn sign(&self, mut attrs: LeaseAttrs) -> LeaseAttrs {
        let mut data = match attrs.v4.backend_data.take() {
            Some(Value::Object(data)) => data,
            Some(_) | None => Map::new(),
        };
        data.insert(MEMBER.to_owned(), Value::String(self.0.clone()));
        attrs.with_data(Some(Value::Object(data)))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a, 64 bits: the same in every version of this program. Of the boot's id alone 122 bits are
/// random.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
impl HostId {
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_the_same_at_every_start_and_another_for_another_daemon() {
        let of = |path: &str| HostId::of(Path::new(path)).unwrap();
        assert_eq!(of("/run/a.env"), of("/run/a.env"));
        assert_ne!(of("/run/a.env"), of("/run/b.env"));
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8, "FNV's own test vector");
    }

    #[test]
    fn what_is_signed_is_read_and_the_rest_stays() {
        let attrs = LeaseAttrs::udp([192, 0, 2, 1].into());
        assert_eq!(HostId::read(&attrs), None);
        let host = HostId("node/1f".to_owned());
        let data = serde_json::json!({ "AnySourcePort": true });
        let signed = host.sign(attrs.with_data(Some(data)));
        assert_eq!(
            signed.to_json(),
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{"AnySourcePort":true,"HostID":"node/1f"}}"#
        );
        assert_eq!(HostId::read(&signed), Some(host));
        for data in [r#""HostID""#, r#"{"HostID":7}"#, r#"{"HostID":""}"#, "[]", "null"] {
            let json = format!(r#"{{"PublicIP":"192.0.2.1","BackendData":{data}}}"#);
            assert_eq!(HostId::read(&LeaseAttrs::from_json(json.as_bytes()).unwrap()), None);
        }
    }
}
