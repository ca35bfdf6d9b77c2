//! Which peers take datagrams from any source port: docs/adr/0004-source-ports.md.
//!
//! A node that does says so in its lease, in `BackendData`, which stock's udp backend neither
//! writes nor reads: `{"PublicIP":"…","PublicIPv6":null,"BackendData":{"AnySourcePort":true}}`.

use serde_json::json;

use crate::control::config::daemon::SourcePorts;
use crate::control::host::iface::ExternalInterface;
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::LeaseAttrs;

/// The member of `BackendData`.
const MEMBER: &str = "AnySourcePort";

/// Whether flows to and from us may use any source port. Behind a NAT only the network's own port is
/// known to pass.
pub(super) fn spreads_flows(iface: &ExternalInterface, choice: SourcePorts) -> bool {
    choice == SourcePorts::Auto && iface.public_ip == iface.addr
}

/// What our lease is to say of us.
pub(super) fn attrs(
    iface: &ExternalInterface,
    choice: SourcePorts,
    host: Option<&HostId>,
) -> LeaseAttrs {
    let attrs = LeaseAttrs::udp(iface.public_ip);
    let attrs = if spreads_flows(iface, choice) { advertise(attrs) } else { attrs };
    match (choice, host) {
        (SourcePorts::Auto, Some(host)) => host.sign(attrs),
        (SourcePorts::Auto, None) | (SourcePorts::Shared, _) => attrs,
    }
}

/// Adds to what our lease says that we take datagrams from any source port.
pub(super) fn advertise(attrs: LeaseAttrs) -> LeaseAttrs {
    attrs.with_data(Some(json!({ MEMBER: true })))
}

/// Whether a lease says that its node takes datagrams from any source port. The data of another
/// backend says no such thing.
pub(super) fn are_any(attrs: &LeaseAttrs) -> bool {
    let is_udp = attrs.backend_type.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("udp"));
    let data = attrs.v4.backend_data.as_ref();
    is_udp && data.and_then(|data| data.get(MEMBER)) == Some(&json!(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_is_understood() {
        let attrs = advertise(LeaseAttrs::udp([192, 0, 2, 1].into()));
        let json =
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{"AnySourcePort":true}}"#;
        assert_eq!(attrs.to_json(), json);
        assert!(are_any(&LeaseAttrs::from_json(json.as_bytes()).unwrap()));
    }

    #[test]
    fn stock_and_other_leases_advertise_nothing() {
        for json in [
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#,
            r#"{"PublicIP":"192.0.2.1","BackendData":null}"#,
            r#"{"PublicIP":"192.0.2.1","BackendData":[true]}"#,
            r#"{"PublicIP":"192.0.2.1","BackendData":{"AnySourcePort":"true"}}"#,
            r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"AnySourcePort":true}}"#,
        ] {
            assert!(!are_any(&LeaseAttrs::from_json(json.as_bytes()).unwrap()), "{json}");
        }
    }
}
