use super::*;
use crate::control::host::firewall::nftables::listing;
use crate::control::host::firewall::rules;
use crate::control::host::firewall::rules::Ranges;

/// As nft 1.0.6 lists it.
const LISTED: &str = r#"table ip flannel-ipv4 { # handle 3
	comment "rules for flannel-ipv4"
	set foreign { # handle 9
		type ipv4_addr
		elements = { 192.0.2.1 }
	}

	chain forward { # handle 1
		type filter hook forward priority filter; policy accept;
		ip saddr 10.1.0.0/16 accept # handle 8
		ip daddr 10.1.0.0/16 accept # handle 9
	}

	chain postrtg { # handle 2
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return # handle 10
		ip saddr 10.1.15.0/24 ip daddr 10.1.0.0/16 return # handle 11
		ip saddr 10.1.0.0/16 ip daddr 10.1.15.0/24 return # handle 12
		ip saddr != 10.1.0.0/16 ip daddr 10.1.15.0/24 return # handle 13
		ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random # handle 14
		ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random # handle 15
	}
}
"#;

#[test]
fn table_is_made_in_one_transaction() {
    let golden = "\
add table ip flannel-ipv4 { comment \"rules for flannel-ipv4\"; }
add chain ip flannel-ipv4 forward { type filter hook forward priority 0; policy accept; }
add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100; policy accept; }
add rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.15.0/24 ip daddr 10.1.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.0.0/16 ip daddr 10.1.15.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.1.0.0/16 ip daddr 10.1.15.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random
";
    let empty = Listing::new();
    assert_eq!(set_up(&chains(true), &empty, &[network()]), golden);
    assert_eq!(set_up(&chains(false), &empty, &[]), golden.replace(" fully-random", ""));
}

#[test]
fn set_up_takes_the_place_of_an_earlier_life_alone() {
    let theirs = "ip saddr 10.2.7.0/24 ip daddr 10.2.0.0/16 return # handle 77";
    let text = LISTED.replace("\t\tmeta mark", &format!("\t\t{theirs}\n\t\tmeta mark"));
    let script = set_up(&chains(true), &listing::parse(&text), &[network()]);
    for handle in 8..=15 {
        assert!(script.contains(&format!("handle {handle}\n")), "{handle}: {script}");
    }
    assert!(!script.contains("handle 77") && !script.contains("delete table"), "{script}");
    let inserted: Vec<&str> = script.lines().filter(|line| line.starts_with("insert ")).collect();
    assert_eq!(inserted.len(), 4, "{script}");
    assert!(inserted[3].ends_with("meta mark 0x4000 return"), "it goes to the top: {script}");
    // Without --ip-masq the chain stays for them, and goes without them.
    let forward = &chains(true)[..1];
    assert!(!set_up(forward, &listing::parse(&text), &[network()]).contains("delete chain"));
    let script = set_up(forward, &listing::parse(LISTED), &[network()]);
    assert!(script.contains("delete chain ip flannel-ipv4 postrtg\n"), "{script}");
}

#[test]
fn withdrawal_leaves_what_is_another_networks() {
    let own = [network()];
    assert_eq!(
        withdraw(&listing::parse(LISTED), &own),
        Some("delete table ip flannel-ipv4\n".to_owned())
    );
    let theirs = "\t\tip saddr 10.9.0.0/16 accept # handle 77\n\t\tip daddr 10.1.0.0/16 accept";
    let text = LISTED.replace("\t\tip daddr 10.1.0.0/16 accept", theirs);
    let script = withdraw(&listing::parse(&text), &own).unwrap();
    assert!(script.contains("forward handle 8\n") && !script.contains("77"), "{script}");
    assert!(!script.contains("delete chain ip flannel-ipv4 forward"), "{script}");
    let foreign =
        "table ip flannel-ipv4 {\nchain forward {\nip saddr 10.9.0.0/16 accept # handle 7\n}\n}";
    assert_eq!(withdraw(&listing::parse(foreign), &own), None);
}

#[test]
fn right_rules_are_left_alone() {
    assert_eq!(repaired(LISTED), None);
    let foreign =
        LISTED.replace("\t\tip daddr", "\t\tip saddr 10.9.0.0/16 accept # handle 77\n\t\tip daddr");
    assert_eq!(repaired(&foreign), None);
    let theirs = LISTED
        .replace("\t\tmeta mark", "\t\tmeta mark 0x00004000 return # handle 70\n\t\tmeta mark");
    assert_eq!(repaired(&theirs), None, "another flanneld's mark rule does as well");
    let late = LISTED.replace("\t\tmeta mark 0x00004000 return # handle 10\n", "");
    let late =
        late.replace("handle 15\n", "handle 15\n\t\tmeta mark 0x00004000 return # handle 99\n");
    assert!(repaired(&late).is_some(), "it exempts from nothing there");
}

#[test]
fn missing_and_reordered_rules_are_mended_in_their_chain_alone() {
    let (from, to) = ("ip saddr 10.1.0.0/16 accept", "ip daddr 10.1.0.0/16 accept");
    let swapped = LISTED.replace(from, "?").replace(to, from).replace('?', to);
    let missing = LISTED.replace("ip daddr 10.1.0.0/16 accept # handle 9\n", "");
    for (text, deleted) in [(swapped, vec![8, 9]), (missing, vec![8])] {
        let script = repaired(&text).unwrap();
        let delete = |handle| format!("delete rule ip flannel-ipv4 forward handle {handle}\n");
        let deletions: String = deleted.into_iter().map(delete).collect();
        let golden = format!(
            "add table ip flannel-ipv4 {{ comment \"rules for flannel-ipv4\"; }}\n\
             add chain ip flannel-ipv4 forward \
             {{ type filter hook forward priority 0; policy accept; }}\n{deletions}\
             add rule ip flannel-ipv4 forward {from}\nadd rule ip flannel-ipv4 forward {to}\n"
        );
        assert_eq!(script, golden);
    }
}

#[test]
fn missing_chain_is_made() {
    let (forward, _) = LISTED.split_once("\tchain postrtg").unwrap();
    let script = repaired(forward).unwrap();
    assert!(script.contains("\nadd chain ip flannel-ipv4 postrtg {"), "{script}");
    assert_eq!(script.lines().count(), 8, "{script}");
}

#[test]
fn any_text_is_a_listing() {
    for text in [
        "",
        "}",
        "chain",
        "chain x",
        " # handle 1",
        "chain x {\n # handle y\n a # handle 99999999999999999999",
    ] {
        assert!(listing::parse(text).values().all(Vec::is_empty), "{text}");
    }
}

fn repaired(text: &str) -> Option<String> {
    let (ours, chains) = (listing::parse(LISTED), chains(true));
    let ours: Vec<Vec<OwnRule>> =
        chains.iter().map(|chain| chain.read_back(&ours[chain.name], network()).unwrap()).collect();
    repair(&chains, &ours, &listing::parse(text))
}

fn network() -> Ipv4Network {
    "10.1.0.0/16".parse().unwrap()
}

fn chains(fully_random: bool) -> Vec<Chain> {
    let [network, subnet] = ["10.1.0.0/16", "10.1.15.0/24"].map(|text| text.parse().unwrap());
    let ranges = Ranges { network, subnet };
    let masquerade = rules::masquerade(ranges, fully_random);
    vec![Chain::forward(&rules::forward(ranges)), Chain::postrouting(&masquerade)]
}
