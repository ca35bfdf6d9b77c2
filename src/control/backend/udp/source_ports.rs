//! Which peers take datagrams from any source port: docs/adr/0004-source-ports.md; and which have a
//! kernel that takes what ours sends: docs/adr/0026-fast-path.md.
//!
//! A node that does says so in its lease, in `BackendData`, which stock's udp backend neither
//! writes nor reads: `{"PublicIP":"…","PublicIPv6":null,"BackendData":{"AnySourcePort":true}}`.

use serde_json::json;

use crate::control::config::daemon::SourcePorts;
use crate::control::host::iface::ExternalInterface;
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::lease::LeaseAttrs;
use crate::routes::KernelReceive;

/// Members of `BackendData`.
const ANY_SOURCE_PORT: &str = "AnySourcePort";
const KERNEL_RECEIVE: &str = "KernelReceive";
const KERNEL_RECEIVE_SPARSE: &str = "KernelReceiveSparse";

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
    with_member(attrs, ANY_SOURCE_PORT)
}

/// Adds to what our lease says what our kernel takes of what peers' kernels send.
pub(super) fn advertise_kernel(attrs: LeaseAttrs, takes: KernelReceive) -> LeaseAttrs {
    match takes {
        KernelReceive::Nothing => attrs,
        KernelReceive::Sparse => with_member(attrs, KERNEL_RECEIVE_SPARSE),
        KernelReceive::All => with_member(attrs, KERNEL_RECEIVE),
    }
}

/// Whether a lease says that its node takes datagrams from any source port. The data of another
/// backend says no such thing.
pub(super) fn are_any(attrs: &LeaseAttrs) -> bool {
    has_member(attrs, ANY_SOURCE_PORT)
}

/// What a lease says that its node's kernel takes of what ours sends.
pub(super) fn kernel_receive(attrs: &LeaseAttrs) -> KernelReceive {
    if has_member(attrs, KERNEL_RECEIVE) {
        return KernelReceive::All;
    }
    let is_sparse = has_member(attrs, KERNEL_RECEIVE_SPARSE);
    if is_sparse { KernelReceive::Sparse } else { KernelReceive::Nothing }
}

fn with_member(mut attrs: LeaseAttrs, member: &str) -> LeaseAttrs {
    let data = attrs.v4.backend_data.get_or_insert_with(|| json!({}));
    data[member] = json!(true);
    attrs
}

fn has_member(attrs: &LeaseAttrs, member: &str) -> bool {
    let is_udp = attrs.backend_type.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("udp"));
    let data = attrs.v4.backend_data.as_ref();
    is_udp && data.and_then(|data| data.get(member)) == Some(&json!(true))
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
    fn kernel_that_takes_packets_is_advertised_together_with_the_ports() {
        let attrs = || LeaseAttrs::udp([192, 0, 2, 1].into());
        for (takes, data) in [
            (KernelReceive::All, r#"{"KernelReceive":true}"#),
            (KernelReceive::Sparse, r#"{"KernelReceiveSparse":true}"#),
        ] {
            let both = advertise_kernel(advertise(attrs()), takes);
            assert!(are_any(&both) && kernel_receive(&both) == takes);
            let alone = advertise_kernel(attrs(), takes);
            assert!(!are_any(&alone) && kernel_receive(&alone) == takes);
            let json =
                format!(r#"{{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{data}}}"#);
            assert_eq!(alone.to_json(), json);
        }
        let nothing = advertise_kernel(advertise(attrs()), KernelReceive::Nothing);
        assert_eq!(kernel_receive(&nothing), KernelReceive::Nothing);
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
