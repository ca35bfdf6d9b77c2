use super::*;

fn pod_to_pod() -> Packet {
    Packet {
        way: Way::Forward,
        src: [10, 5, 7, 2].into(),
        dst: [10, 5, 9, 2].into(),
        in_link: Some("docker0".to_owned()),
        out_link: Some("flannel0".to_owned()),
        protocol: 6,
        src_port: None,
        dst_port: None,
    }
}

fn datagram() -> Packet {
    Packet {
        way: Way::Input,
        src: [192, 0, 2, 2].into(),
        dst: [192, 0, 2, 1].into(),
        in_link: Some("eth0".to_owned()),
        out_link: None,
        protocol: 17,
        src_port: Some(8285),
        dst_port: Some(8285),
    }
}

fn saved(packet: &Packet, policy: &str, rules: &str) -> Verdict {
    let text = format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {policy} [0:0]\n:FLANNEL-FWD - [0:0]\n{rules}\n\
         -A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT\n-A FLANNEL-FWD -d 10.5.0.0/16 -j ACCEPT\nCOMMIT\n"
    );
    Rules { saved: vec![("iptables".to_owned(), text)], ..Rules::default() }.verdict(packet)
}

fn dropped_by(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Dropped { by, .. } => by,
        Verdict::Accepted => "accepted",
        Verdict::Unsure { .. } => "unsure",
    }
}

#[test]
fn first_rule_that_matches_decides() {
    const OURS: &str = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD";
    let drop = "-A FORWARD -s 10.5.0.0/16 -m comment --comment \"no -j ACCEPT\" -j DROP";
    let verdict = saved(&pod_to_pod(), "ACCEPT", &format!("{drop}\n{OURS}"));
    assert_eq!(dropped_by(&verdict), format!("rule {drop} (table filter)"));
    let verdict = saved(&pod_to_pod(), "ACCEPT", &format!("{OURS}\n{drop}"));
    assert_eq!(verdict, Verdict::Accepted);
    assert_eq!(saved(&pod_to_pod(), "DROP", OURS), Verdict::Accepted);
    let verdict = saved(&pod_to_pod(), "DROP", "");
    assert_eq!(dropped_by(&verdict), "policy DROP of chain FORWARD (table filter)");
}

#[test]
fn rules_for_other_packets_do_not_count() {
    for rule in [
        "-A FORWARD ! -i docker0 -j DROP",
        "-A FORWARD -o eth+ -j DROP",
        "-A FORWARD -p udp -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A FORWARD -m mark --mark 0x8000/0x8000 -j DROP",
        "-A FORWARD -m addrtype --dst-type LOCAL -j DROP",
        "-A FORWARD -d 10.5.0.0/16 -i docker0 -j LOG --log-prefix \"-j DROP\"",
        "-A FORWARD -s 10.5.0.0/16 -j RETURN\n-A FORWARD -j DROP",
        "-A INPUT -j DROP",
    ] {
        assert_eq!(saved(&pod_to_pod(), "ACCEPT", rule), Verdict::Accepted, "{rule}");
    }
}

#[test]
fn rule_that_may_accept_leaves_it_open() {
    let rules = "-A FORWARD -m set --match-set allowed src -j ACCEPT\n-A FORWARD -j DROP";
    let unsure = |verdict: Verdict| {
        let Verdict::Unsure { by, .. } = verdict else { panic!("{verdict:?}") };
        by
    };
    assert_eq!(
        unsure(saved(&pod_to_pod(), "ACCEPT", rules)),
        "rule -A FORWARD -j DROP (table filter)"
    );
    let rule = "-A FORWARD -m set --match-set banned src -j DROP";
    let found = unsure(saved(&pod_to_pod(), "ACCEPT", rule));
    assert_eq!(found, format!("rule {rule} (table filter)"));
    let rules = "-A FORWARD -m mark --mark 0x1 -j RETURN\n-A FORWARD -j DROP";
    assert_eq!(
        unsure(saved(&pod_to_pod(), "ACCEPT", rules)),
        "rule -A FORWARD -j DROP (table filter)"
    );
    let may_return = r#"{"limit":{"rate":1,"per":"second"}},{"return":null}"#;
    assert!(
        unsure(nft(&datagram(), "accept", &[may_return, r#"{"drop":null}"#])).contains("handle 2")
    );
    let limit = r#"{"limit":{"rate":1,"per":"second","inv":true}},{"drop":null}"#;
    let found = unsure(nft(&datagram(), "accept", &[limit]));
    assert!(found.starts_with("drop rule with handle 1 in chain f"), "{found}");
}

#[test]
fn rules_that_change_addresses_are_found() {
    let found = |packet: &Packet, rules: &str| {
        let text = format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:X - [0:0]\n{rules}\nCOMMIT\n"
        );
        let rules = Rules { saved: vec![("iptables".to_owned(), text)], ..Rules::default() };
        rules.rewrite(packet).map(|it| it.what)
    };
    let masquerade = "-A POSTROUTING -s 10.5.7.0/24 ! -o docker0 -j MASQUERADE";
    assert_eq!(found(&pod_to_pod(), masquerade), Some(Rewritten::Masquerade));
    assert_eq!(found(&pod_to_pod(), "-A POSTROUTING -o eth0 -j MASQUERADE"), None);
    let ours = format!("-A POSTROUTING -d 10.5.0.0/16 -j RETURN\n{masquerade}");
    assert_eq!(found(&pod_to_pod(), &ours), None);
    let snat = "-A POSTROUTING -j X\n-A X -o flannel+ -j SNAT --to-source 192.0.2.77:1-9 --random";
    let source = Rewritten::Source([192, 0, 2, 77].into());
    assert_eq!(found(&pod_to_pod(), snat), Some(source));
    let by_mark =
        "-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A POSTROUTING -j MASQUERADE";
    assert_eq!(found(&pod_to_pod(), by_mark), None, "that of kube-proxy");
    let redirect = "-A PREROUTING -p udp -m udp --dport 8285 -j REDIRECT --to-ports 9999";
    assert_eq!(found(&datagram(), redirect), Some(Rewritten::Destination));
    let chain = |kind: &str| {
        format!(
            r#"{{"chain":{{"family":"inet","table":"n","name":"c","type":"{kind}","hook":"postrouting"}}}}"#
        )
    };
    let rule = r#"{"rule":{"family":"inet","table":"n","chain":"c","handle":2,"expr":[{"snat":{"addr":"192.0.2.77"}}]}}"#;
    let of_nft = |kind: &str| {
        let nft = Some(format!(r#"{{"nftables":[{},{rule}]}}"#, chain(kind)));
        Rules { nft, ..Rules::default() }.rewrite(&pod_to_pod()).map(|it| it.what)
    };
    assert_eq!(of_nft("nat"), Some(source));
    assert_eq!(of_nft("filter"), None);
}

#[test]
fn sets_and_maps_with_a_name_are_looked_up() {
    let verdict = |elements: &str, rule: &str| {
        let json = format!(
            r#"{{"nftables":[{{"set":{{"family":"inet","table":"fw","name":"s","elem":{elements}}}}},
            {{"map":{{"family":"inet","table":"fw","name":"m","map":"verdict","elem":[["eth0",{{"drop":null}}]]}}}},
            {{"chain":{{"family":"inet","table":"fw","name":"f","type":"filter","hook":"input"}}}},
            {{"rule":{{"family":"inet","table":"fw","chain":"f","handle":3,"expr":[{rule}]}}}}]}}"#
        );
        Rules { nft: Some(json), ..Rules::default() }.verdict(&datagram())
    };
    let banned = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"@s"}},{"drop":null}"#;
    let timed = r#"[{"elem":{"val":"192.0.2.2","timeout":9}}]"#;
    assert!(matches!(verdict(timed, banned), Verdict::Dropped { .. }));
    let range = r#"["1.2.3.4",{"prefix":{"addr":"192.0.2.0","len":24}}]"#;
    assert!(matches!(verdict(range, banned), Verdict::Dropped { .. }));
    assert_eq!(verdict(r#"["192.0.2.3"]"#, banned), Verdict::Accepted);
    let map = r#"{"vmap":{"key":{"meta":{"key":"iifname"}},"data":"@m"}}"#;
    assert!(matches!(verdict("[]", map), Verdict::Dropped { .. }));
}

#[test]
fn table_of_iptables_counts_unless_iptables_save_printed_it() {
    let chain = r#"{"chain":{"family":"ip","table":"filter","name":"INPUT","type":"filter","hook":"input","policy":"drop"}}"#;
    let nft = Some(format!(r#"{{"nftables":[{chain}]}}"#));
    let mut rules = Rules { nft, ..Rules::default() };
    assert!(matches!(rules.verdict(&datagram()), Verdict::Dropped { .. }));
    rules.saved =
        vec![("iptables".to_owned(), "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n".to_owned())];
    assert_eq!(rules.verdict(&datagram()), Verdict::Accepted);
}

#[test]
fn devices_are_read_from_the_text_of_an_old_nft() {
    let json = r#"{"nftables":[{"chain":{"family":"netdev","table":"t","name":"c","type":"filter","hook":"ingress","policy":"drop"}}]}"#;
    assert!(nft::is_without_devices(json));
    let text = "table inet t {\n\tchain c {\n\t}\n}\ntable netdev t {\n\tchain c {\n\t\ttype filter hook \
                ingress device \"eth0\" priority filter; policy drop;\n\t}\n}\n";
    let json = nft::with_devices(json, text);
    assert!(!nft::is_without_devices(&json));
    let rules = Rules { nft: Some(json), ..Rules::default() };
    assert!(matches!(rules.verdict(&datagram()), Verdict::Dropped { .. }));
    assert_eq!(rules.verdict(&pod_to_pod()), Verdict::Accepted);
}

#[test]
fn port_is_found_in_ranges_and_lists() {
    for (rule, drops) in [
        ("-A INPUT -i eth0 -p udp -m udp --dport 8285:8290 -j DROP", true),
        ("-A INPUT -p udp -m multiport --dports 53,8285 -j REJECT", true),
        ("-A INPUT -p udp -m udp ! --dport 8285 -j DROP", false),
        ("-A INPUT -p tcp -m tcp --dport 8285 -j DROP", false),
        ("-A INPUT -s 192.0.2.2/32 -p udp -j DROP", true),
    ] {
        let verdict = saved(&datagram(), "ACCEPT", rule);
        assert_eq!(matches!(verdict, Verdict::Dropped { .. }), drops, "{rule}: {verdict:?}");
    }
    let raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -j DROP\nCOMMIT\n";
    let rules = Rules { saved: vec![("iptables".to_owned(), raw.to_owned())], ..Rules::default() };
    let verdict = rules.verdict(&datagram());
    assert_eq!(dropped_by(&verdict), "rule -A PREROUTING -p udp -j DROP (table raw)");
}

/// As nft 1.0.6 prints it.
fn nft(packet: &Packet, policy: &str, rules: &[&str]) -> Verdict {
    let rules = rules.iter().zip(1..).map(|(expr, handle)| {
        format!(
            r#",{{"rule":{{"family":"inet","table":"fw","chain":"f","handle":{handle},"expr":[{expr}]}}}}"#
        )
    });
    let hook = match packet.way {
        Way::Forward => "forward",
        Way::Input => "input",
        Way::Output => "output",
        Way::BridgeInput | Way::BridgeOutput | Way::BridgeForward => panic!("no rules of inet"),
    };
    let json = format!(
        r#"{{"nftables":[{{"metainfo":{{}}}},{{"chain":{{"family":"inet","table":"fw","name":"f","type":"filter","hook":"{hook}","policy":"{policy}"}}}},{{"chain":{{"family":"ip","table":"filter","name":"FORWARD","type":"filter","hook":"forward","policy":"drop"}}}}{}]}}"#,
        rules.collect::<String>()
    );
    let saved = vec![("iptables".to_owned(), "*filter\nCOMMIT\n".to_owned())];
    Rules { nft: Some(json), saved, ..Rules::default() }.verdict(packet)
}

#[test]
fn nft_chains_of_every_table_but_those_of_iptables_count() {
    let accept_ours = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.5.0.0","len":16}}}},{"accept":null}"#;
    assert_eq!(nft(&pod_to_pod(), "drop", &[accept_ours]), Verdict::Accepted);
    let verdict = nft(&pod_to_pod(), "drop", &[]);
    assert_eq!(dropped_by(&verdict), "policy drop (chain f of table inet fw)");
    let established = r#"{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["invalid",{"drop":null}],["established",{"accept":null}]]}}}"#;
    let drop = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":{"set":["a","docker0"]}}},{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"eth*"}},{"counter":{"packets":0,"bytes":0}},{"reject":null}"#;
    let verdict = nft(&pod_to_pod(), "accept", &[established, drop]);
    let by = "reject rule with handle 2 in chain f (chain f of table inet fw)";
    assert_eq!(dropped_by(&verdict), by);
}

#[test]
fn nft_ports_and_protocols_are_compared() {
    let drop = |left: &str, right: &str| {
        format!(r#"{{"match":{{"op":"==","left":{left},"right":{right}}}}},{{"drop":null}}"#)
    };
    const DPORT: &str = r#"{"payload":{"protocol":"udp","field":"dport"}}"#;
    for (left, right, drops) in [
        (DPORT, r#"{"set":[1,{"range":[8285,8290]}]}"#, true),
        (DPORT, "8285", true),
        (DPORT, "8472", false),
        (r#"{"payload":{"protocol":"tcp","field":"dport"}}"#, "8285", false),
        (r#"{"meta":{"key":"l4proto"}}"#, r#"{"set":["tcp","udp"]}"#, true),
        (r#"{"ct":{"key":"state"}}"#, r#"["established","related"]"#, false),
        (r#"{"payload":{"protocol":"ip","field":"saddr"}}"#, r#""@banned""#, false),
    ] {
        let verdict = nft(&datagram(), "accept", &[&drop(left, right)]);
        assert_eq!(matches!(verdict, Verdict::Dropped { .. }), drops, "{left} {right}");
    }
}

#[test]
fn source_ports_are_compared() {
    let verdict = |ports: &str| {
        let rule = format!("-A INPUT -p udp -m udp {ports} -j REJECT --reject-with icmp-x");
        matches!(saved(&datagram(), "ACCEPT", &rule), Verdict::Dropped { .. })
    };
    assert!(verdict("--sport 8285") && verdict("-m multiport --ports 1,8285"));
    assert!(!verdict("--sport 8472") && !verdict("-m multiport --ports 1,2"));
    let sport = r#"{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"sport"}},"right":8285}},{"drop":null}"#;
    assert!(matches!(nft(&datagram(), "accept", &[sport]), Verdict::Dropped { .. }));
}

#[test]
fn chains_for_ethernet_frames_and_of_a_link_count_where_they_are_passed() {
    let verdict = |chain: &str, packet: &Packet| {
        let chain =
            format!(r#"{{"chain":{{{chain},"name":"c","type":"filter","policy":"drop"}}}}"#);
        let json = format!(r#"{{"nftables":[{chain}]}}"#);
        let verdict = Rules { nft: Some(json), ..Rules::default() }.verdict(packet);
        matches!(verdict, Verdict::Dropped { .. })
    };
    let bridge = r#""family":"bridge","table":"filter","hook":"input""#;
    let frame = Packet { way: Way::BridgeInput, ..pod_to_pod() };
    assert!(verdict(bridge, &frame) && !verdict(bridge, &datagram()));
    let frame = Packet { way: Way::BridgeForward, ..pod_to_pod() };
    assert!(!verdict(bridge, &frame));
    let link = r#""family":"netdev","table":"t","hook":"ingress","dev":"eth0""#;
    assert!(verdict(link, &datagram()) && !verdict(link, &pod_to_pod()));
    let link = r#""family":"netdev","table":"t","hook":"egress","dev":["a","flannel0"]"#;
    assert!(verdict(link, &pod_to_pod()) && !verdict(link, &datagram()));
}
