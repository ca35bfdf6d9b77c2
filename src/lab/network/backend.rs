//! [`Backend`]: how packets travel between a lab's nodes.

use std::fmt;
use std::net::Ipv4Addr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The backends that labs know, by flannel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A TUN device and UDP datagrams.
    #[default]
    Udp,
    /// The kernel's vxlan tunnel.
    Vxlan,
    /// Plain routes.
    HostGw,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Vxlan, Self::HostGw];

    /// A network config such as flannel's documentation shows.
    pub fn config(self) -> String {
        match self {
            Self::Udp => super::DEFAULT_CONFIG.to_owned(),
            Self::Vxlan => r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#.to_owned(),
            Self::HostGw => r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#.to_owned(),
        }
    }

    /// What a node of this backend with the address `ip` writes as its lease: the value of an etcd
    /// key, as flannel's pkg/subnet/etcd writes it.
    pub fn lease_value(self, ip: Ipv4Addr) -> String {
        let more = match self {
            Self::Udp => String::new(),
            Self::Vxlan => {
                let [a, b, c, d] = ip.octets();
                let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
                format!(r#","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#)
            }
            Self::HostGw => r#","BackendType":"host-gw""#.to_owned(),
        };
        format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null{more}}}"#)
    }

    /// The backend of this network config, in any letter case as flanneld reads it; udp if it
    /// names none.
    pub fn of(config: &str) -> Self {
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let member = |value: &Value, name: &str| {
            let members = value.as_object()?;
            let mut named = members.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            named.next_back().map(|(_, value)| value.clone())
        };
        let kind = member(&config, "Backend").and_then(|backend| member(&backend, "Type"));
        let kind = kind.as_ref().and_then(Value::as_str).unwrap_or_default();
        Self::from_str(kind, true).unwrap_or_default()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_read_from_the_config() {
        for backend in Backend::ALL {
            assert_eq!(Backend::of(&backend.config()), backend);
        }
        assert_eq!(
            Backend::of(r#"{"network":"10.5.0.0/16","backend":{"type":"VXLAN"}}"#),
            Backend::Vxlan
        );
        assert_eq!(Backend::of("oops"), Backend::Udp);
    }

    #[test]
    fn leases_are_those_of_each_backend() {
        let [udp, vxlan, host_gw] =
            Backend::ALL.map(|backend| backend.lease_value(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(udp, r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
        assert!(vxlan.ends_with(r#"{"VNI":1,"VtepMAC":"02:00:c0:00:02:01"}}"#), "{vxlan}");
        assert!(host_gw.ends_with(r#""PublicIPv6":null,"BackendType":"host-gw"}"#), "{host_gw}");
    }
}
