//! `BackendData` of a vxlan lease: `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`, as `vxlanLeaseAttrs`
//! in flannel's `pkg/backend/vxlan/vxlan.go`.

use serde::Serialize;

use crate::control::backend::peer_routes::Mac;
use crate::control::subnet::lease::LeaseAttrs;

/// `BackendType` of our leases. Stock compares it letter by letter.
pub(super) const BACKEND_TYPE: &str = "vxlan";

/// Why a lease does not say where its device is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeaseDataError {
    #[error("it has no BackendData: its VtepMAC is not known")]
    Missing,
    #[error("BackendData has no VtepMAC")]
    NoMac,
    #[error("BackendData.VtepMAC is {0}, not an Ethernet address in quotes")]
    Mac(String),
    #[error("BackendData.VtepMAC is {0}, which no device can have")]
    UnusableMac(Mac),
}

/// Adds to what our lease says the device that peers are to send to.
pub(super) fn advertise(attrs: LeaseAttrs, vni: u32, mac: Mac) -> LeaseAttrs {
    /// The order of the members is stock's.
    #[derive(Serialize)]
    struct Data {
        #[serde(rename = "VNI")]
        vni: u32,
        #[serde(rename = "VtepMAC")]
        vtep_mac: String,
    }
    let data = Data { vni, vtep_mac: mac.to_string() };
    // To write a number and a text cannot fail.
    let attrs = attrs.with_data(serde_json::to_value(data).ok());
    LeaseAttrs { backend_type: Some(BACKEND_TYPE.to_owned()), ..attrs }
}

/// The device that a lease says its node has. As in Go, the case of the member's name does not
/// count, and of several the last is taken. The VNI is not compared: stock before 0.14 wrote none.
pub(super) fn vtep_mac(attrs: &LeaseAttrs) -> Result<Mac, LeaseDataError> {
    let data = attrs.v4.backend_data.as_ref().ok_or(LeaseDataError::Missing)?;
    let members = data.as_object().ok_or(LeaseDataError::NoMac)?;
    let mut named = members.iter().filter(|(name, _)| name.eq_ignore_ascii_case("VtepMAC"));
    let value = named.next_back().map(|(_, value)| value).ok_or(LeaseDataError::NoMac)?;
    let shown = || LeaseDataError::Mac(value.to_string().chars().take(40).collect());
    let mac: Mac = value.as_str().ok_or_else(shown)?.parse().map_err(|_| shown())?;
    if mac.is_usable() { Ok(mac) } else { Err(LeaseDataError::UnusableMac(mac)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<Mac, LeaseDataError> {
        let json = format!(r#"{{"PublicIP":"192.0.2.1","BackendType":"vxlan"{data}}}"#);
        vtep_mac(&LeaseAttrs::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn lease_has_the_bytes_of_stocks() {
        let attrs = LeaseAttrs::udp([192, 168, 70, 2].into());
        let attrs = advertise(attrs, 1, "16:33:a3:4f:a8:da".parse().unwrap());
        let json = r#"{"PublicIP":"192.168.70.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"16:33:a3:4f:a8:da"}}"#;
        assert_eq!(attrs.to_json(), json);
        assert!(vtep_mac(&attrs).is_ok());
    }

    #[test]
    fn data_of_every_version_is_read() {
        for data in [
            r#"{"VtepMAC":"16:33:A3:4f:a8:da"}"#,
            r#"{"vtepmac":"16:33:a3:4f:a8:da","more":[1]}"#,
            r#"{"VNI":7,"VtepMAC":"16-33-a3-4f-a8-da"}"#,
        ] {
            let mac = read(&format!(r#","BackendData":{data}"#)).unwrap();
            assert_eq!(mac.to_string(), "16:33:a3:4f:a8:da", "{data}");
        }
    }

    #[test]
    fn lease_without_a_usable_address_says_what_it_lacks() {
        for (data, message) in [
            ("", "it has no BackendData"),
            (r#","BackendData":null"#, "it has no BackendData"),
            (r#","BackendData":{}"#, "BackendData has no VtepMAC"),
            (r#","BackendData":[]"#, "BackendData has no VtepMAC"),
            (r#","BackendData":"x""#, "BackendData has no VtepMAC"),
            (r#","BackendData":{"VtepMAC":""}"#, r#"BackendData.VtepMAC is """#),
            (r#","BackendData":{"VtepMAC":7}"#, "BackendData.VtepMAC is 7"),
            (r#","BackendData":{"VtepMAC":null}"#, "BackendData.VtepMAC is null"),
            (r#","BackendData":{"VtepMAC":"00:00:00:00:00:00"}"#, "which no device can have"),
            (r#","BackendData":{"VtepMAC":"01:00:00:00:00:00"}"#, "which no device can have"),
        ] {
            let error = read(data).unwrap_err().to_string();
            assert!(error.contains(message), "{data}: {error}");
        }
    }
}
