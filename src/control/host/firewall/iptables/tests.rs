use super::*;

#[test]
fn versions_are_read() {
    for (text, version) in [
        ("iptables v1.8.9 (nf_tables)", Some([1, 8, 9])),
        ("iptables v1.6.1", Some([1, 6, 1])),
        ("ip6tables v1.8.10 (legacy)", Some([1, 8, 10])),
        ("iptables v2.0", Some([2, 0, 0])),
        ("iptables", None),
        ("iptables vx.y", None),
        ("", None),
    ] {
        assert_eq!(parse_version(text), version, "{text}");
    }
}

#[test]
fn random_ports_need_a_new_iptables_and_consent() {
    for (is_modern, fully_random, expected) in
        [(true, true, true), (true, false, false), (false, true, false)]
    {
        let iptables = Iptables { name: "iptables".to_owned(), version: String::new(), is_modern };
        let config = FirewallConfig { fully_random, ..everything() };
        let chains = iptables.chains(&config, ranges(), &[]);
        let random = chains.iter().flat_map(|chain| &chain.rules);
        let random = random.filter(|rule| rule.text.ends_with("--random-fully")).count();
        assert_eq!(random, if expected { 2 } else { 0 });
    }
}

#[test]
fn chains_are_those_asked_for() {
    let iptables =
        Iptables { name: "iptables".to_owned(), version: String::new(), is_modern: true };
    let tables = |config: FirewallConfig| {
        let chains = iptables.chains(&config, ranges(), &[]);
        chains.iter().map(Chain::table).collect::<Vec<_>>()
    };
    assert_eq!(tables(everything()), ["filter", "nat"]);
    assert_eq!(tables(FirewallConfig { ip_masq: false, ..everything() }), ["filter"]);
    assert_eq!(tables(FirewallConfig { forward_rules: false, ..everything() }), ["nat"]);
}

#[test]
fn saved_tables_are_read_apart() {
    let text = "# Warning: iptables-legacy tables present\n-A lost -j DROP\n*nat\n:A ACCEPT [0:0]\n\
                -A A -s 1.2.3.4/32 -j B\n-A C -j D\nCOMMIT\n*filter\n:\n:FORWARD\n-A\n-A x\nCOMMIT\n";
    let tables = SavedTable::parse_all(text);
    let [nat, filter] = tables.as_slice() else { panic!("{tables:?}") };
    assert_eq!((nat.name.as_str(), filter.name.as_str()), ("nat", "filter"));
    assert_eq!(
        (nat.rules("A"), nat.rules("C")),
        (&["-s 1.2.3.4/32 -j B".to_owned()][..], &["-j D".to_owned()][..])
    );
    assert!(filter.chains.contains_key("FORWARD"));
    assert!(filter.chains.values().all(Vec::is_empty));
}

/// The listing of a host that ran flannel 0.11, and of one that ran 0.17.
#[test]
fn rules_of_older_layouts_are_known_by_range_or_comment() {
    let Ranges { network, subnet } = ranges();
    let older = OlderLayouts::about(network, Some(subnet));
    for rule in [
        "-s 10.1.0.0/16 -d 10.1.0.0/16 -j RETURN",
        "-s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "-s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        "! -s 10.1.0.0/16 -d 10.1.15.0/24 -j RETURN",
        "! -s 10.1.0.0/16 -d 10.1.0.0/16 -j MASQUERADE",
        "-s 10.7.0.0/16 -d 10.7.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN",
    ] {
        assert!(older.left(MASQUERADE, rule), "{rule}");
        assert!(!older.left(FORWARD, rule), "{rule}");
    }
    for rule in ["-s 10.1.0.0/16 -j ACCEPT", "-d 10.1.0.0/16 -j ACCEPT"] {
        assert!(older.left(FORWARD, rule), "{rule}");
        assert!(!OlderLayouts::default().left(FORWARD, rule), "its owner is unknown");
    }
    for rule in ["-s 10.7.0.0/16 -j ACCEPT", "-s 10.1.0.0/16 -j MASQUERADE", "-j ACCEPT"] {
        assert!(!older.left(FORWARD, rule) && !older.left(MASQUERADE, rule), "{rule}");
    }
}

fn everything() -> FirewallConfig {
    FirewallConfig {
        forward_rules: true,
        ip_masq: true,
        fully_random: true,
        resync: std::time::Duration::from_secs(5),
        blackhole_route: false,
    }
}

fn ranges() -> Ranges {
    let [network, subnet] = ["10.1.0.0/16", "10.1.15.0/24"].map(|text| text.parse().unwrap());
    Ranges { network, subnet }
}
