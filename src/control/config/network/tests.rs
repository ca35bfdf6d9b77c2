use super::super::backend::UdpConfig;
use proptest::prelude::*;

use super::*;

fn config(text: &str) -> NetworkConfig {
    parse(text, None).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    parse(text, None).expect_err(text).to_string()
}

#[test]
fn defaults_and_limits_are_those_of_stock() {
    for (text, len, min, max) in [
        (r#"{"Network":"10.3.0.0/16"}"#, 24, "10.3.1.0", "10.3.255.0"),
        (r#"{"Network":"10.3.7.9/16"}"#, 24, "10.3.1.0", "10.3.255.0"),
        (r#"{"network":"10.1.0.0/22"}"#, 24, "10.1.1.0", "10.1.3.0"),
        (r#"{"NETWORK":"10.1.0.0/23"}"#, 25, "10.1.0.128", "10.1.1.128"),
        (r#"{"Network":"192.168.0.0/28"}"#, 30, "192.168.0.4", "192.168.0.12"),
        (r#"{"Network":"10.0.0.0/8","SubnetLen":20}"#, 20, "10.0.16.0", "10.255.240.0"),
        (
            r#"{"Network":"10.0.0.0/8","subnetlen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#,
            20,
            "10.10.0.0",
            "10.99.0.0",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0","SubnetMax":"0.0.0.0"}"#,
            24,
            "10.3.1.0",
            "10.3.255.0",
        ),
        (
            r#"{"Network":"223.255.0.0/16","SubnetLen":null,"EnableIPv4":true,"EnableIPv6":false}"#,
            24,
            "223.255.1.0",
            "223.255.255.0",
        ),
        (
            r#"{"Network":"10.9.0.0/16","SubnetLen":17,"SubnetLen":26}"#,
            26,
            "10.9.0.64",
            "10.9.255.192",
        ),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.0"}"#, 24, "10.3.0.0", "10.3.255.0"),
    ] {
        let config = config(text);
        assert_eq!(config.v4.subnet_len, len, "{text}");
        assert_eq!(config.v4.subnet_min.to_string(), min, "{text}");
        assert_eq!(config.v4.subnet_max.to_string(), max, "{text}");
        assert_eq!(
            config.backend,
            BackendConfig::Udp(UdpConfig { port: 8285, mtu: None }),
            "{text}"
        );
    }
    assert_eq!(config(r#"{"Network":"10.3.7.9/16"}"#).v4.network.to_string(), "10.3.0.0/16");
}

#[test]
fn every_fault_is_one_line_that_begins_with_its_key() {
    for (text, expected) in [
        ("", "not a network config: EOF while parsing a value at line 1 column 0"),
        (
            "[]",
            "not a network config: invalid type: sequence, expected a JSON object at line 1 column 0",
        ),
        ("{\"Network\":\n  oops}", "not a network config: expected value at line 2 column 3"),
        ("{}", "Network: missing"),
        (
            r#"{"Network":null}"#,
            "Network: null is not an IPv4 range in quotes, such as \"10.5.0.0/16\"",
        ),
        (
            r#"{"Network":"fc00::/48"}"#,
            "Network: \"fc00::/48\" is not an IPv4 range such as 10.5.0.0/16",
        ),
        (
            r#"{"Network":"10.3.0.0"}"#,
            "Network: \"10.3.0.0\" is not an IPv4 range such as 10.5.0.0/16",
        ),
        (
            r#"{"Network":"0.0.0.0/0"}"#,
            "Network: 0.0.0.0/0 is every address there is; an overlay needs a range of its own",
        ),
        (
            r#"{"Network":"127.0.0.0/8"}"#,
            "Network: 127.0.0.0/8 has addresses of 127.0.0.0/8, which never leave a host",
        ),
        (
            r#"{"Network":"127.5.0.0/16"}"#,
            "Network: 127.5.0.0/16 has addresses of 127.0.0.0/8, which never leave a host",
        ),
        (
            r#"{"Network":"64.0.0.0/2"}"#,
            "Network: 64.0.0.0/2 has addresses of 127.0.0.0/8, which never leave a host",
        ),
        (
            r#"{"Network":"224.0.0.0/8"}"#,
            "Network: 224.0.0.0/8 has addresses of 224.0.0.0/4, which are multicast groups",
        ),
        (
            r#"{"Network":"239.1.0.0/16"}"#,
            "Network: 239.1.0.0/16 has addresses of 224.0.0.0/4, which are multicast groups",
        ),
        (
            r#"{"Network":"255.255.0.0/16"}"#,
            "Network: 255.255.0.0/16 has addresses of 240.0.0.0/4, which are reserved",
        ),
        (
            r#"{"Network":"0.1.0.0/16"}"#,
            "Network: 0.1.0.0/16 has addresses of 0.0.0.0/8, which no host can have",
        ),
        (
            r#"{"Network":"192.168.0.0/29"}"#,
            "Network: 192.168.0.0/29 is longer than /28, too small to be cut into subnets",
        ),
        (r#"{"Network":"10.1.0.0/16","SubnetLen":31}"#, "SubnetLen: 31 is longer than 30"),
        (
            r#"{"Network":"10.1.0.0/16","SubnetLen":4294967320}"#,
            "SubnetLen: 4294967320 is longer than 30",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetLen":17}"#,
            "SubnetLen: 17 leaves fewer than four subnets in 10.1.0.0/16; take 18 or more",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetLen":"24"}"#,
            "SubnetLen: \"24\" is not a whole number",
        ),
        (r#"{"Network":"10.1.0.0/16","SubnetLen":24.0}"#, "SubnetLen: 24.0 is not a whole number"),
        (r#"{"Network":"10.1.0.0/16","SubnetLen":-1}"#, "SubnetLen: -1 is not a whole number"),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.1.128"}"#,
            "SubnetMin: 10.1.1.128 is not on a /24 boundary",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMax":"10.1.1.1"}"#,
            "SubnetMax: 10.1.1.1 is not on a /24 boundary",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMin":"10.0.1.0"}"#,
            "SubnetMin: 10.0.1.0 is outside 10.1.0.0/16",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMax":"10.2.1.0"}"#,
            "SubnetMax: 10.2.1.0 is outside 10.1.0.0/16",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMax":"ten"}"#,
            "SubnetMax: ten is not an IPv4 address in quotes",
        ),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.5.0"}"#,
            "SubnetMin: 10.1.9.0 is after SubnetMax 10.1.5.0, so no subnet is left to lease",
        ),
        (
            r#"{"EnableIPv4":false}"#,
            "EnableIPv4: false is not supported: this flanneld carries IPv4 only",
        ),
        (r#"{"EnableIPv4":"no"}"#, "EnableIPv4: \"no\" is not true or false"),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"foo"}}"#,
            "Backend.Type: unknown backend \"foo\"; this flanneld knows udp, vxlan, host-gw, gce and aws-vpc. All nodes of a \
             network need the same one: write another Type for all of them, or run stock flanneld here",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Port":1}}"#,
            "Backend.Type: unknown backend \"\"; this flanneld knows udp, vxlan, host-gw, gce and aws-vpc. All nodes of a \
             network need the same one: write another Type for all of them, or run stock flanneld here",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":null}"#,
            "Backend.Type: unknown backend \"\"; this flanneld knows udp, vxlan, host-gw, gce and aws-vpc. All nodes of a \
             network need the same one: write another Type for all of them, or run stock flanneld here",
        ),
        (r#"{"Network":"10.1.0.0/16","Backend":"udp"}"#, "Backend: \"udp\" is not a JSON object"),
        (r#"{"Network":"10.1.0.0/16","Backend":{"Type":1}}"#, "Backend.Type: 1 is not a text"),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":70000}}"#,
            "Backend.Port: 70000 is outside 1…65535",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":0}}"#,
            "Backend.Port: 0 is outside 1…65535",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":-1}}"#,
            "Backend.Port: -1 is outside 1…65535",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","MTU":67}}"#,
            "Backend.MTU: 67 is outside 68…65507",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","MTU":65508}}"#,
            "Backend.MTU: 65508 is outside 68…65507",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","mtu":"1400"}}"#,
            "Backend.MTU: \"1400\" is not a whole number",
        ),
        (
            r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp","Port":"8285"}}"#,
            "Backend.Port: \"8285\" is not a whole number",
        ),
    ] {
        let error = error(text);
        assert_eq!(error, expected, "{text}");
    }
}

#[test]
fn ipv6_is_cut_into_subnets_by_the_same_rules() {
    for (settings, len, min, max) in [
        (r#""IPv6Network":"fd00:5::/32""#, 64, "fd00:5:0:1::", "fd00:5:ffff:ffff::"),
        (r#""ipv6network":"FC00::7/48""#, 64, "fc00:0:0:1::", "fc00:0:0:ffff::"),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00:0:0:1::","IPv6SubnetMax":"fc00:0:0:f::","IPv6SubnetLen":124"#,
            124,
            "fc00:0:0:1::",
            "fc00:0:0:f::",
        ),
        (
            r#""IPv6Network":"fc00::/63","IPv6SubnetMin":"::","IPv6SubnetLen":0"#,
            65,
            "fc00::8000:0:0:0",
            "fc00:0:0:1:8000::",
        ),
        (r#""IPv6Network":"fd00::/124""#, 126, "fd00::4", "fd00::c"),
        (
            r#""IPv6Network":"fd00::/8","IPv6SubnetLen":126"#,
            126,
            "fd00::4",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc",
        ),
    ] {
        let text = format!(r#"{{"Network":"10.1.0.0/16","EnableIPv6":true,{settings}}}"#);
        let v6 = config(&text).v6.unwrap();
        assert_eq!(v6.subnet_len, len, "{text}");
        assert_eq!([v6.subnet_min, v6.subnet_max].map(|it| it.to_string()), [min, max], "{text}");
    }
    let text = r#"{"Network":"10.1.0.0/16","IPv6Network":"nonsense"}"#;
    assert_eq!(config(text).v6, None, "without EnableIPv6 it says nothing");
}

#[test]
fn ipv6_settings_that_are_wrong_name_their_key() {
    for (settings, expected) in [
        (r#""Extra":1"#, "IPv6Network: missing"),
        (
            r#""IPv6Network":"10.2.0.0/16""#,
            "IPv6Network: \"10.2.0.0/16\" is not an IPv6 range such as fd00:5::/48",
        ),
        (
            r#""IPv6Network":"::/0""#,
            "IPv6Network: ::/0 is every address there is; an overlay needs a range of its own",
        ),
        (
            r#""IPv6Network":"fe80::/64""#,
            "IPv6Network: fe80::/64 has addresses of fe80::/10, which never leave a link",
        ),
        (
            r#""IPv6Network":"fd00::/125""#,
            "IPv6Network: fd00::/125 is longer than /124, too small to be cut into subnets",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetLen":127"#,
            "IPv6SubnetLen: 127 is longer than 126",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetLen":49"#,
            "IPv6SubnetLen: 49 leaves fewer than four subnets in fd00::/48; take 50 or more",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetMin":"10.1.1.0""#,
            "IPv6SubnetMin: 10.1.1.0 is not an IPv6 address in quotes",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetMin":"fd01::""#,
            "IPv6SubnetMin: fd01:: is outside fd00::/48",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetMax":"fd00::1""#,
            "IPv6SubnetMax: fd00::1 is not on a /64 boundary",
        ),
        (
            r#""IPv6Network":"fd00::/48","IPv6SubnetMax":"fd00:0:0:1::","IPv6SubnetMin":"fd00:0:0:2::""#,
            "IPv6SubnetMin: fd00:0:0:2:: is after IPv6SubnetMax fd00:0:0:1::, so no subnet is left \
             to lease",
        ),
    ] {
        let text = format!(r#"{{"Network":"10.1.0.0/16","EnableIPv6":true,{settings}}}"#);
        assert_eq!(error(&text), expected, "{text}");
    }
}

#[test]
fn network_with_ipv6_is_taken_with_one_warning_that_names_the_backend() {
    for (backend, is_leased) in [("udp", true), ("vxlan", false), ("host-gw", false)] {
        let text = format!(
            r#"{{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{{"Type":"{backend}"}}}}"#
        );
        let config = config(&text);
        assert_eq!(config.leased_v6().is_some(), is_leased, "{backend}");
        let leased = if is_leased { "leases an IPv6 subnet, but" } else { "leases no IPv6 subnet" };
        let start = format!(
            "EnableIPv6: the {backend} backend of this flanneld carries IPv4 only: this node {leased} "
        );
        let warning = config.warning().unwrap();
        assert!(warning.starts_with(&start) && warning.ends_with("(IPv6Network fd00::/48)"));
    }
    assert_eq!(config(r#"{"Network":"10.1.0.0/16"}"#).warning(), None);
}

#[test]
fn vxlan_settings_that_are_wrong_name_their_key() {
    for (settings, expected) in [
        (r#""VNI":-1"#, "Backend.VNI: -1 is outside 0…16777215"),
        (r#""VNI":16777216"#, "Backend.VNI: 16777216 is outside 0…16777215"),
        (
            r#""VNI":10000000"#,
            "Backend.VNI: 10000000 needs a device flannel.10000000, a name longer than the kernel's \
             15 bytes: choose 9999999 or less",
        ),
        (r#""VNI":"1""#, r#"Backend.VNI: "1" is not a whole number"#),
        (r#""VNI":1.5"#, "Backend.VNI: 1.5 is not a whole number"),
        (r#""Port":65536"#, "Backend.Port: 65536 is outside 0…65535"),
        (r#""Port":[]"#, "Backend.Port: [] is not a whole number"),
        (r#""MTU":-1"#, "Backend.MTU: -1 is outside 68…65507"),
        (r#""MTU":{}"#, "Backend.MTU: {} is not a whole number"),
        (r#""GBP":1"#, "Backend.GBP: 1 is not true or false"),
        (r#""Learning":"no""#, r#"Backend.Learning: "no" is not true or false"#),
        (r#""DirectRouting":0"#, "Backend.DirectRouting: 0 is not true or false"),
    ] {
        let text =
            format!(r#"{{"Network":"10.1.0.0/16","Backend":{{"Type":"vxlan",{settings}}}}}"#);
        assert_eq!(error(&text), expected, "{text}");
    }
    let last = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":9999999,"Port":0}}"#;
    assert!(parse(last, None).is_ok());
}

#[test]
fn backend_keys_match_in_any_case_and_others_are_ignored() {
    let text =
        r#"{"Network":"10.1.0.0/16","backend":{"TYPE":"UDP","port":7890,"VNI":"x"},"Extra":1}"#;
    assert_eq!(config(text).backend, BackendConfig::Udp(UdpConfig { port: 7890, mtu: None }));
    assert_eq!(config(text).backend.backend_type(), BackendType::Udp);
}

#[test]
fn override_replaces_the_type_and_keeps_a_port_that_is_udp_s() {
    for (backend, port) in [
        (r#"{"Type":"vxlan","Port":8472}"#, 8285),
        (r#"{"Type":"vxlan","Port":"any"}"#, 8285),
        (r#"{"Type":"udp","Port":7890}"#, 7890),
        (r#"{"Port":7890}"#, 7890),
        (r#"{"Type":"host-gw"}"#, 8285),
        ("null", 8285),
    ] {
        let text = format!(r#"{{"Network":"10.1.0.0/16","Backend":{backend}}}"#);
        let config = parse(&text, Some(BackendType::Udp)).unwrap();
        assert_eq!(config.backend, BackendConfig::Udp(UdpConfig { port, mtu: None }), "{backend}");
    }
}

#[test]
fn mtu_is_the_operators_choice_of_udp_s_alone() {
    for (backend, expected) in [
        (r#"{"Type":"udp","MTU":68}"#, Some(68)),
        (r#"{"Type":"udp","Mtu":65507}"#, Some(65507)),
        (r#"{"Type":"udp","MTU":0}"#, None),
        (r#"{"Type":"udp","MTU":null}"#, None),
        (r#"{"Type":"vxlan","MTU":1450}"#, None),
    ] {
        let text = format!(r#"{{"Network":"10.1.0.0/16","Backend":{backend}}}"#);
        let parsed = parse(&text, Some(BackendType::Udp)).unwrap().backend;
        let BackendConfig::Udp(UdpConfig { mtu, .. }) = parsed else { panic!("{parsed:?}") };
        assert_eq!(mtu, expected, "{backend}");
    }
}

#[test]
fn subnets_are_accepted_within_the_limits_and_of_the_right_length() {
    let config = config(r#"{"Network":"10.1.0.0/16","SubnetMax":"10.1.9.0"}"#);
    for (text, accepted) in [
        ("10.1.1.0/24", true),
        ("10.1.9.0/24", true),
        ("10.1.0.0/24", false),
        ("10.1.10.0/24", false),
        ("10.1.2.0/25", false),
        ("10.1.2.0/23", false),
    ] {
        assert_eq!(config.v4.accepts(text.parse().unwrap()), accepted, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(
        text in r#"\PC*|\{"Network":"10.0.0.0/[0-9]{1,2}","(SubnetLen|Backend)":[-0-9.e{}n"]{0,12}\}"#
    ) {
        if let Ok(config) = parse(&text, None) {
            prop_assert!(config.v4.subnet_min <= config.v4.subnet_max);
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    assert!(error(&"{\"a\":".repeat(100_000)).starts_with("not a network config: "));
}

#[cfg(feature = "aws")]
#[test]
fn route_tables_are_a_text_or_a_list_of_texts() {
    use crate::control::config::backend::AwsVpcConfig;
    let parsed = |tables: &str| {
        let backend = format!(r#"{{"Type":"aws-vpc"{tables}}}"#);
        parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#), None)
    };
    for (tables, expected) in [
        ("", &[][..]),
        (r#","RouteTableID":null"#, &[]),
        (r#","RouteTableID":[]"#, &[]),
        (r#","RouteTableID":"rtb-1""#, &["rtb-1"]),
        (r#","routetableid":["rtb-1","rtb-2"]"#, &["rtb-1", "rtb-2"]),
    ] {
        let route_tables = expected.iter().map(|table| (*table).to_owned()).collect();
        let config = BackendConfig::AwsVpc(AwsVpcConfig { route_tables });
        assert_eq!(parsed(tables).unwrap().backend, config, "{tables}");
    }
    for wrong in ["7", r#""""#, r#"["rtb-1",7]"#, r#"{"a":"rtb-1"}"#, r#"["rtb-1",""]"#] {
        let error = parsed(&format!(r#","RouteTableID":{wrong}"#)).unwrap_err().to_string();
        let line = format!("Backend.RouteTableID: {wrong} is not a text or a list of texts");
        assert_eq!(error, line);
    }
    for several in [r#""rtb-1, rtb-2""#, r#"["rtb-1","rtb-2 rtb-3"]"#] {
        let error = parsed(&format!(r#","RouteTableID":{several}"#)).unwrap_err().to_string();
        assert!(error.ends_with(r#"is no route table; write several as ["rtb-…", "rtb-…"]"#));
    }
}
