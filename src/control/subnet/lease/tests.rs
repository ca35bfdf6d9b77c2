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
        "/coreos.com/network/subnets/10.12.13.0-24",
        "10.12.13.0-24/10.12.13.0-24",
        "9.10.12.13.0-24",
        "&10.12.13.0-24",
        "10.12.13.7-24",
        "10.12.13.0-024",
    ] {
        assert_eq!(parse_key(key), Ok(subnet("10.12.13.0/24").into()), "{key}");
    }
}

/// Keys and values that stock flannel 0.20.2 wrote on a dual-stack network.
const DUAL_STACK: [(&str, &str, &str, &str); 2] = [
    (
        "10.5.15.0-24&fd00:5:0:5a::-64",
        "10.5.15.0/24",
        "fd00:5:0:5a::/64",
        r#"{"PublicIP":"192.168.71.1","PublicIPv6":"fd71::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ba:07:c8:33:fe:9b"},"BackendV6Data":{"VNI":1,"VtepMAC":"d6:90:03:80:10:84"}}"#,
    ),
    (
        "10.5.22.0-24&fd00:5:0:4c::-64",
        "10.5.22.0/24",
        "fd00:5:0:4c::/64",
        r#"{"PublicIP":"192.168.71.2","PublicIPv6":"fd71::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:d0:65:46:59:be"},"BackendV6Data":{"VNI":1,"VtepMAC":"fe:b9:3f:59:3c:cd"}}"#,
    ),
];

#[test]
fn dual_stack_entries_are_read_and_written_byte_for_byte_as_stock_writes_them() {
    for (key, v4, v6, value) in DUAL_STACK {
        let subnets = Subnets { v4: subnet(v4), v6: Some(v6.parse().unwrap()) };
        assert_eq!(parse_key(&format!("/coreos.com/network/subnets/{key}")), Ok(subnets));
        assert_eq!(print_key(subnets), key);
        assert_eq!(attrs(value).unwrap().to_json(), value);
    }
}

#[test]
fn key_of_ipv6_alone_says_so_and_no_ipv6_subnet_is_none() {
    assert_eq!(parse_key("0.0.0.0-0&fd00:5:0:2b::-64"), Err(LeaseError::NoIpv4));
    assert_eq!(parse_key("10.12.13.0-24&::-0"), Ok(subnet("10.12.13.0/24").into()));
    let mapped = parse_key("10.12.13.0-24&::ffff:102:304-127").unwrap();
    assert_eq!(print_key(mapped), "10.12.13.0-24&::ffff:102:304-127");
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
        r#"{"publicip":"192.168.64.3","PUBLICIPV6":null}"#,
        r#" {"PublicIP" : "10.0.0.1", "Extra": [1, {}], "PublicIP": "192.168.64.3"} "#,
        r#"{"PublicIP":"192.168.64.3","BackendType":"","BackendData":null,"BackendV6Data":null}"#,
        r#"{"PublicIP":"192.168.64.3","BackendType":null}"#,
    ] {
        assert_eq!(attrs(json).as_ref(), Ok(&udp), "{json}");
    }
    let host_gw = attrs(r#"{"PublicIP":"1.2.3.4","BackendType":"host-gw"}"#).unwrap();
    assert_eq!(host_gw.backend_type.as_deref(), Some("host-gw"));
    assert_eq!(attrs("{}").map(|attrs| attrs.public_ip()), Ok(Ipv4Addr::UNSPECIFIED));
    let v6_only = r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd71::1","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"fe:52:4a:22:3e:23"}}"#;
    assert_eq!(attrs(v6_only).unwrap().to_json(), v6_only);
    let mapped = r#"{"PublicIP":"192.0.2.1","PublicIPv6":"192.0.2.1"}"#;
    assert_eq!(attrs(mapped).unwrap().to_json(), mapped, "as Go reads and prints it");
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
        (r#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00"}"#, "PublicIPv6: fd00 is not "),
        (r#"{"PublicIP":"1.2.3.4","PublicIPv6":6}"#, "PublicIPv6: 6 is not "),
        (r#"{"PublicIP":"1.2.3.4","BackendType":7}"#, "BackendType: 7 is not "),
    ] {
        let error = attrs(json).unwrap_err().to_string();
        assert!(error.starts_with(start), "{json}: {error}");
    }
}

proptest! {
    #[test]
    fn printed_key_parses_back(subnets in subnets()) {
        prop_assert_eq!(parse_key(&print_key(subnets)), Ok(subnets));
    }

    #[test]
    fn any_key_and_value_read_without_a_panic(key in ".*", value: Vec<u8>) {
        let _ = parse_key(&key);
        let _ = LeaseAttrs::from_json(&value);
    }

    #[test]
    fn any_text_of_a_key_s_characters_that_parses_prints_to_the_same_subnets(
        key in "[0-9]{1,3}(\\.[0-9]{1,3}){3}-[0-9]{1,2}(&[0-9a-f:]{0,20}-[0-9]{1,3})?"
    ) {
        if let Ok(subnets) = parse_key(&key) {
            prop_assert_eq!(parse_key(&print_key(subnets)), Ok(subnets));
        }
    }

    #[test]
    fn whatever_precedes_a_key_parses_to_the_same(
        before in "(.{0,8}[^0-9])?",
        subnets in subnets(),
    ) {
        prop_assert_eq!(parse_key(&format!("{before}{}", print_key(subnets))), Ok(subnets));
    }

    #[test]
    fn written_value_reads_back(
        v4 in family(1_u32..),
        v6 in family(0_u128..),
        backend_type in proptest::option::of("[a-z]{1,8}"),
    ) {
        let attrs = LeaseAttrs {
            backend_type,
            v4: FamilyAttrs { public_ip: v4.0.map(Ipv4Addr::from_bits), backend_data: v4.1 },
            v6: FamilyAttrs { public_ip: v6.0.map(Ipv6Addr::from_bits), backend_data: v6.1 },
        };
        prop_assert_eq!(LeaseAttrs::from_json(attrs.to_json().as_bytes()), Ok(attrs));
    }
}

/// Subnets with and without an IPv6 one, of any length that a key can have.
fn subnets() -> impl Strategy<Value = Subnets> {
    let v4 = (any::<u32>(), 1_u8..=31);
    let v6 = proptest::option::of((any::<u128>(), 1_u8..=127));
    (v4, v6).prop_map(|((addr, len), v6)| Subnets {
        v4: Ipv4Network::containing(addr.into(), len).unwrap(),
        v6: v6.map(|(addr, len)| Ipv6Network::containing(addr.into(), len).unwrap()),
    })
}

/// The address and the data of one family, if it has them.
fn family<A: fmt::Debug>(
    addrs: impl Strategy<Value = A>,
) -> impl Strategy<Value = (Option<A>, Option<Value>)> {
    let data = "[a-z]{0,8}".prop_map(|name| serde_json::json!({ "Name": name }));
    (proptest::option::of(addrs), proptest::option::of(data))
}
