//! What editors, web pages and environment files do to a setting.

use super::*;

const NO_BREAK_SPACE: &str = "\u{a0}";

#[test]
fn white_space_around_a_setting_does_not_count() {
    for value in ["eth0\r", " eth0", "eth0 \t", "\r\neth0\r\n"] {
        let ifaces = ["eth0".parse().unwrap()];
        assert_eq!(run(read("", &[("FLANNELD_IFACE", value)])).ifaces, ifaces, "{value:?}");
        assert_eq!(run(words(&["-iface", value])).ifaces, ifaces, "{value:?}");
        let config = run(words(&[&format!("-iface={value}"), "-v=1\r"]));
        assert_eq!((config.ifaces.as_slice(), config.verbosity), (&ifaces[..], 1), "{value:?}");
    }
    assert!(run(words(&["-ip-masq\r", "\r"])).firewall.ip_masq);
    assert!(run(read("", &[("FLANNELD_IP_MASQ", "true\r")])).firewall.ip_masq);
    assert_eq!(run(read("", &[("FLANNELD_PUBLIC_IP", "\r")])).public_ip, None);
    // A script with the line ends of Windows makes a word of one.
    let config = run(words(&["-v", "1", "\r", "-iface", "eth0"]));
    assert_eq!((config.ifaces.len(), config.warnings.len()), (1, 0));
}

#[test]
fn password_keeps_its_spaces_but_not_the_end_of_its_line() {
    let password = |value| run(read("", &[("FLANNELD_ETCD_PASSWORD", value)])).etcd.password;
    assert_eq!(password(" a b \r\n").as_deref(), Some(" a b "));
    let config = run(read("", &[("FLANNELD_ETCD_PASSWORD", "sesame\u{200b}")]));
    let note =
        "variable FLANNELD_ETCD_PASSWORD holds U+200B (zero-width space), which cannot be seen";
    assert!(config.warnings[0].starts_with(note), "{:?}", config.warnings);
    assert_eq!(config.etcd.password.as_deref(), Some("sesame\u{200b}"));
    let odd = words(&["\u{2014}etcd-password=sesame"]).unwrap_err().to_string();
    assert!(!odd.contains("sesame"), "{odd}");
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(b"sesame\xff".to_vec());
    let odd = parse([], [("FLANNELD_ETCD_PASSWORD".into(), bytes.clone())]).unwrap_err();
    assert_eq!(odd.to_string(), "variable FLANNELD_ETCD_PASSWORD is not UTF-8 text");
    let odd = parse(["-etcd-password".into(), bytes], []).unwrap_err();
    assert!(!odd.to_string().contains("sesame"), "{odd}");
}

#[test]
fn characters_that_cannot_be_seen_are_named_with_their_setting() {
    for (character, name) in [
        (NO_BREAK_SPACE, "U+00A0 (no-break space)"),
        ("\u{200b}", "U+200B (zero-width space)"),
        ("\u{feff}", "U+FEFF (byte order mark)"),
        ("\u{202e}", "U+202E"),
        ("\u{2003}", "U+2003"),
        ("\u{ad}", "U+00AD (soft hyphen)"),
        ("\u{1b}", "U+001B"),
        ("\u{0}", "U+0000"),
    ] {
        for value in
            [format!("eth0{character}"), format!("{character}eth0"), format!("e{character}0")]
        {
            let message = read("", &[("FLANNELD_IFACE", &value)]).unwrap_err().to_string();
            assert!(message.starts_with("variable FLANNELD_IFACE: "), "{message}");
            assert!(message.contains(name), "{message}");
            assert!(!message.contains(character), "{message:?}");
            let message = words(&["-iface", &value]).unwrap_err().to_string();
            assert!(message.starts_with("flag --iface: ") && message.contains(name), "{message}");
        }
    }
    for (flag, value) in [("-ip-masq", "true"), ("-public-ip", "192.0.2.1"), ("-v", "1")] {
        let word = format!("{flag}={value}{NO_BREAK_SPACE}");
        let message = words(&[&word]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("flag -{flag}: ")), "{message}");
        assert!(message.contains("U+00A0"), "{message}");
    }
    // Visible characters are accepted.
    assert_eq!(config("-etcd-prefix /é—net").etcd.prefix, "/é—net");
}

#[test]
fn quotes_that_no_shell_took_away_are_told() {
    for (value, name) in [
        ("\"eth0\"", "U+0022"),
        ("'eth0'", "U+0027"),
        ("\u{201c}eth0\u{201d}", "U+201C (curly quote)"),
        ("eth0\u{2019}", "U+2019 (curly quote)"),
    ] {
        let message = read("", &[("FLANNELD_IFACE", value)]).unwrap_err().to_string();
        assert!(message.starts_with("variable FLANNELD_IFACE: "), "{message}");
        assert!(message.contains(name) && message.contains("quote"), "{message}");
        let message = words(&["-iface", value]).unwrap_err().to_string();
        assert!(message.starts_with("flag --iface: "), "{message}");
    }
}

#[test]
fn word_that_was_to_be_a_flag_is_no_word_to_stop_at() {
    for (word, name) in [
        ("\u{2014}etcd-endpoints=http://a:1", "U+2014 (em dash)"),
        ("\u{2013}iface", "U+2013 (en dash)"),
        ("\u{2212}v=1", "U+2212 (minus sign)"),
        ("\u{2010}\u{2010}v=1", "U+2010 (hyphen)"),
        ("\u{a0}-iface", "U+00A0 (no-break space)"),
        ("\u{feff}--iface=eth0", "U+FEFF (byte order mark)"),
        ("\u{201c}-iface", "U+201C (curly quote)"),
        ("\"-iface=eth0\"", "U+0022"),
        ("-\u{2014}iface=eth0", "U+2014 (em dash)"),
        ("--etcd\u{2013}endpoints=http://a:1", "U+2013 (en dash)"),
        ("-iface\u{a0}eth0", "U+00A0 (no-break space)"),
    ] {
        let message = words(&[word]).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("--name=value"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let message = words(&["-iface", "\u{2014}v=1"]).unwrap_err().to_string();
    assert!(message.starts_with("flag --iface: ") && message.contains("U+2014"), "{message}");
}

#[test]
fn variable_that_nobody_reads_is_told_with_the_one_that_was_meant() {
    for (variable, meant) in [
        ("FLANNELD_ETCD_ENDPOINT", "FLANNELD_ETCD_ENDPOINTS"),
        ("FLANNELD_ETCD_ENPOINTS", "FLANNELD_ETCD_ENDPOINTS"),
        ("FLANNELD_INTERFACE", "FLANNELD_IFACE"),
        ("FLANNELD_PUBLICIP", "FLANNELD_PUBLIC_IP"),
        ("FLANNELD_IP_MASK", "FLANNELD_IP_MASQ"),
        ("FLANNELD_ETCD-PREFIX", "FLANNELD_ETCD_PREFIX"),
        ("flanneld_iface", "FLANNELD_IFACE"),
        ("FLANNEL_ETCD_ENDPOINT", "FLANNELD_ETCD_ENDPOINTS"),
        ("FLANNEL_IFACE", "FLANNELD_IFACE"),
        ("FLANNEL_IFACES", "FLANNELD_IFACE"),
        ("FLANNEL_IP_MASK", "FLANNELD_IP_MASQ"),
    ] {
        let warnings = run(read("", &[(variable, "x")])).warnings;
        assert_eq!(warnings, [format!("variable {variable} is not read: did you mean {meant}?")]);
    }
    for variable in ["FLANNELD_COLOUR", "FLANNEL_COLOUR"] {
        let warnings = run(read("", &[(variable, "x")])).warnings;
        let line = format!("variable {variable} is not read: no flag has this name");
        assert_eq!(warnings, [line]);
    }
    // The shell variables of unit files, and subnet.env.
    let env = [
        ("FLANNEL_ETCD_ENDPOINTS", "http://a:1"),
        ("FLANNEL_OPTIONS", "-v=1"),
        ("FLANNEL_SERVICE_HOST", "10.0.0.1"),
        ("FLANNEL_PORT", "tcp://10.0.0.1:80"),
        ("FLANNEL_V", "2"),
        ("FLANNEL_MTU", "1472"),
        ("FLANNEL_IPMASQ", "true"),
        ("FLANNELD_COLOUR", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(run(read("-etcd-endpoints=http://a:1 -v=1", &env)).warnings, [""; 0]);
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(b"FLANNELD_\xff".to_vec());
    let Ok(Invocation::Run(config)) = parse([], [(odd, "x".into())]) else { panic!() };
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn variables_of_centos_package_are_read_unless_ours_or_the_flag_is_given() {
    let of = |config: &Config| (config.etcd.endpoints.join(","), config.etcd.prefix.clone());
    let old = [("FLANNEL_ETCD", "http://old:1"), ("FLANNEL_ETCD_KEY", "/old")];
    let config = run(read("", &old));
    assert_eq!(of(&config), ("http://old:1".to_owned(), "/old".to_owned()));
    let lines = [
        "variable FLANNEL_ETCD is taken for FLANNELD_ETCD_ENDPOINTS",
        "variable FLANNEL_ETCD_KEY is taken for FLANNELD_ETCD_PREFIX",
    ];
    assert_eq!(config.warnings, lines);
    let mut env = old.to_vec();
    env.extend([("FLANNEL_ETCD_ENDPOINTS", "http://new:1"), ("FLANNEL_ETCD_PREFIX", "/new")]);
    let config = run(read("", &env));
    assert_eq!(of(&config), ("http://new:1".to_owned(), "/new".to_owned()));
    env.push(("FLANNELD_ETCD_PREFIX", "/ours"));
    let config = run(read("-etcd-endpoints http://flag:1", &env));
    assert_eq!(of(&config), ("http://flag:1".to_owned(), "/ours".to_owned()));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn list_of_endpoints_may_have_gaps() {
    for list in ["http://a:1,", ",http://a:1", " http://a:1 , ", "http://a:1,,", "\nhttp://a:1,\n"]
    {
        let config = run(words(&["-etcd-endpoints", list]));
        assert_eq!(config.etcd.urls().unwrap(), ["http://a:1"], "{list:?}");
    }
    let urls = run(words(&["-etcd-endpoints", "http://a:1,\n  http://b:1, "])).etcd.urls();
    assert_eq!(urls.unwrap(), ["http://a:1", "http://b:1"]);
    for list in [",", " , ,"] {
        let error = run(words(&["-etcd-endpoints", list])).etcd.urls().unwrap_err().to_string();
        assert_eq!(error, "-etcd-endpoints: empty", "{list:?}");
    }
}

#[test]
fn address_that_no_peer_can_send_to_is_refused() {
    for (addr, what) in [
        ("0.0.0.0", "no address"),
        ("0.1.2.3", "no address"),
        ("127.0.0.1", "a loopback address"),
        ("127.9.9.9", "a loopback address"),
        ("224.0.0.1", "a multicast address"),
        ("239.255.255.255", "a multicast address"),
        ("240.0.0.1", "a reserved address"),
        ("255.255.255.255", "the broadcast address"),
    ] {
        for flag in ["public-ip", "iface"] {
            let message = read(&format!("-{flag}={addr}"), &[]).unwrap_err().to_string();
            let expected = format!("flag --{flag}: {addr} is {what}");
            assert!(message.starts_with(&expected), "{message}");
        }
        let message = read("", &[("FLANNELD_PUBLIC_IP", addr)]).unwrap_err().to_string();
        assert!(message.starts_with("variable FLANNELD_PUBLIC_IP: "), "{message}");
    }
    for addr in ["fe80::1", "fe80::1%eth0", "[fe80::1]", "::ffff:10.0.0.7"] {
        for flag in ["public-ip", "iface"] {
            let message = read(&format!("-{flag}={addr}"), &[]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("flag --{flag}: ")), "{message}");
            assert!(message.contains("IPv4"), "{message}");
        }
    }
}

fn words(words: &[&str]) -> Result<Invocation, FlagError> {
    parse(words.iter().map(OsString::from), [])
}
