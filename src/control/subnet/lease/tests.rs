use proptest::prelude::*;

use super::*;

const VXLAN: &str = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;

fn subnet(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn attrs(json: &str) -> Result<LeaseAttrs, LeaseError> {
    LeaseAttrs::from_json(json.as_bytes())
}

#[test]
fn key_ends_in_the_subnet_whatever_precedes_it() {
    for key in [
        "10.12.13.0-24",
        "10.12.13.0-24&fd00:12:13::-56",
        "/coreos.com/network/subnets/10.12.13.0-24",
        "10.12.13.0-24/10.12.13.0-24",
        "9.10.12.13.0-24",
        "&10.12.13.0-24",
        "10.12.13.7-24",
        "10.12.13.0-024",
        "10.12.13.0-24&::-0",
        "10.12.13.0-24&fd00:12:13::-127",
    ] {
        assert_eq!(parse_key(key), Ok(subnet("10.12.13.0/24")), "{key}");
    }
}

#[test]
fn key_without_a_whole_subnet_at_its_end_is_rejected() {
    for key in [
        "10",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "&2001::-56",
        "10.12.13.0-24&2001-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-32",
        "10.12.13.0-256",
        "10.12.13.0-+24",
        "10.12.13.0-",
        "1010.12.13.0-24",
        "10.012.13.0-24",
        "10.123.4-24",
        "10.12.13.0-24&FD00::-56",
        "10.12.13.0-24&fd00::-128",
        "10.12.13.0-24&fd00::1.2.3.4-56",
        "10.12.13.0-24/",
        "-24",
        "&",
        "",
        "ü.1.2.3-24",
    ] {
        assert_eq!(parse_key(key), Err(LeaseError::Key), "{key}");
    }
}

#[test]
fn value_is_written_byte_for_byte_as_stock_writes_it() {
    let udp = LeaseAttrs::udp(Ipv4Addr::new(192, 168, 64, 3));
    assert_eq!(udp.to_json(), r#"{"PublicIP":"192.168.64.3","PublicIPv6":null}"#);
    assert_eq!(attrs(VXLAN).unwrap().to_json(), VXLAN);
}

#[test]
fn value_of_every_stock_version_is_read() {
    let udp = LeaseAttrs::udp(Ipv4Addr::new(192, 168, 64, 3));
    for json in [
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":null}"#,
        r#"{"PublicIP":"192.168.64.3"}"#,
        r#"{"publicip":"192.168.64.3","PUBLICIPV6":"fd00::1"}"#,
        r#" {"PublicIP" : "10.0.0.1", "Extra": [1, {}], "PublicIP": "192.168.64.3"} "#,
        r#"{"PublicIP":"192.168.64.3","BackendType":"","BackendData":null,"BackendV6Data":{}}"#,
        r#"{"PublicIP":"192.168.64.3","BackendType":null}"#,
    ] {
        assert_eq!(attrs(json).as_ref(), Ok(&udp), "{json}");
    }
    let host_gw = attrs(r#"{"PublicIP":"1.2.3.4","BackendType":"host-gw"}"#).unwrap();
    assert_eq!(host_gw.backend_type.as_deref(), Some("host-gw"));
    assert_eq!(attrs("{}").map(|attrs| attrs.public_ip), Ok(Ipv4Addr::UNSPECIFIED));
}

#[test]
fn value_that_is_no_lease_is_an_error_that_names_the_member() {
    for (json, start) in [
        ("", "the value is not a JSON object: "),
        ("null", "the value is not a JSON object: "),
        ("[]", "the value is not a JSON object: "),
        ("{} {}", "the value is not a JSON object: "),
        (r#"{"PublicIP":null}"#, "PublicIP: null is not "),
        (r#"{"PublicIP":"fd00::1"}"#, "PublicIP: fd00::1 is not "),
        (r#"{"PublicIP":"1.2.3"}"#, "PublicIP: 1.2.3 is not "),
        (r#"{"PublicIP":16843009}"#, "PublicIP: 16843009 is not "),
        (r#"{"PublicIP":"1.2.3.4","BackendType":7}"#, "BackendType: 7 is not "),
    ] {
        let error = attrs(json).unwrap_err().to_string();
        assert!(error.starts_with(start), "{json}: {error}");
    }
}

proptest! {
    #[test]
    fn printed_key_parses_back(addr: u32, len in 0_u8..=31) {
        let subnet = Ipv4Network::containing(addr.into(), len).unwrap();
        prop_assert_eq!(parse_key(&print_key(subnet)), Ok(subnet));
    }

    #[test]
    fn any_key_and_value_read_without_a_panic(key in ".*", value: Vec<u8>) {
        let _ = parse_key(&key);
        let _ = LeaseAttrs::from_json(&value);
    }

    #[test]
    fn whatever_precedes_a_key_and_whatever_ipv6_subnet_follows_it_parses_to_the_same(
        before in "(.{0,8}[^0-9])?",
        addr: u32,
        len in 0_u8..=31,
        v6 in proptest::option::of((any::<u128>(), 0_u8..=127)),
    ) {
        let subnet = Ipv4Network::containing(addr.into(), len).unwrap();
        let v6 = v6.map_or(String::new(), |(addr, len)| {
            format!("&{}-{len}", Ipv6Addr::from_bits(addr | 1 << 127))
        });
        prop_assert_eq!(parse_key(&format!("{before}{}{v6}", print_key(subnet))), Ok(subnet));
    }

    #[test]
    fn written_value_reads_back(ip: u32, backend_type in proptest::option::of("[a-z]{1,8}")) {
        let attrs = LeaseAttrs {
            public_ip: ip.into(),
            backend_data: backend_type.as_ref().map(|name| serde_json::json!({ "Name": name })),
            backend_type,
        };
        prop_assert_eq!(LeaseAttrs::from_json(attrs.to_json().as_bytes()), Ok(attrs));
    }
}
