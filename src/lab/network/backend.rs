//! [`Backend`]: how packets travel between a lab's nodes.

use clap::ValueEnum;
use serde_json::Value;

/// The backends that labs know, by flannel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
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
    /// A network config such as flannel's documentation shows.
    pub fn config(self) -> String {
        match self {
            Self::Udp => super::DEFAULT_CONFIG.to_owned(),
            Self::Vxlan => r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#.to_owned(),
            Self::HostGw => r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#.to_owned(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_read_from_the_config() {
        for backend in [Backend::Udp, Backend::Vxlan, Backend::HostGw] {
            assert_eq!(Backend::of(&backend.config()), backend);
        }
        assert_eq!(
            Backend::of(r#"{"network":"10.5.0.0/16","backend":{"type":"VXLAN"}}"#),
            Backend::Vxlan
        );
        assert_eq!(Backend::of("oops"), Backend::Udp);
    }
}
