use super::select::best_addr;
use super::*;

#[test]
fn default_route_with_the_lowest_metric_chooses() {
    let mut host = host();
    host.routes = vec![route("0.0.0.0/0", 3, 600), route("0.0.0.0/0", 2, 100)];
    let chosen = select(&host, &[], None).unwrap();
    assert_eq!((chosen.name.as_str(), chosen.addr), ("eth0", ip("10.0.0.7")));
    assert_eq!((chosen.public_ip, chosen.mtu), (ip("10.0.0.7"), 1500));
}

#[test]
fn route_to_less_than_everything_is_no_default_route() {
    let mut host = host();
    host.routes = vec![route("10.0.0.0/8", 2, 0)];
    let error = select(&host, &[], None).unwrap_err().to_string();
    assert_eq!(
        error,
        "no default route: choose the interface with --iface; \
         this host has lo (127.0.0.1), eth0 (10.0.0.7), eth1 (192.168.5.2 192.168.5.3)"
    );
}

#[test]
fn multipath_default_route_chooses_nothing() {
    let mut host = host();
    let dst = "0.0.0.0/0".parse().unwrap();
    host.routes = vec![KernelRoute { dst, link: None, metric: 0 }];
    assert!(matches!(select(&host, &[], None), Err(IfaceError::Multipath { .. })));
}

#[test]
fn default_route_by_a_link_without_address_is_an_error() {
    let mut host = host();
    host.links[1].addrs.clear();
    let error = select(&host, &[], None).unwrap_err();
    assert_eq!(error, IfaceError::NoAddress { name: "eth0".to_owned() });
}

#[test]
fn public_ip_that_all_hosts_of_a_link_would_get_is_an_error() {
    let error = select(&host(), &specs(&["eth0"]), Some(ip("192.168.5.255"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "flag --public-ip: 192.168.5.255 is the broadcast address of eth1: give an address that \
         peers can send to"
    );
    let mut host = host();
    host.links[2].addrs[1].prefix_len = 31;
    assert!(select(&host, &specs(&["eth0"]), Some(ip("192.168.5.3"))).is_ok(), "there is none");
    assert!(select(&host, &specs(&["eth0"]), Some(ip("203.0.113.255"))).is_ok(), "of a NAT");
}

#[test]
fn list_is_tried_in_order() {
    let chosen = select(&host(), &specs(&["eth9", "10.9.9.9", "lo", "eth1", "eth0"]), None);
    assert_eq!(chosen.unwrap().name, "eth1");
}

#[test]
fn address_names_the_interface_and_is_bound_to() {
    let chosen = select(&host(), &specs(&["192.168.5.3"]), None).unwrap();
    assert_eq!((chosen.name.as_str(), chosen.addr), ("eth1", ip("192.168.5.3")));
}

#[test]
fn list_in_which_nothing_fits_says_what_there_is() {
    let error = select(&host(), &specs(&["eth9", "10.9.9.9"]), None).unwrap_err().to_string();
    assert_eq!(
        error,
        "no interface fits --iface eth9, --iface 10.9.9.9; \
         this host has lo (127.0.0.1), eth0 (10.0.0.7), eth1 (192.168.5.2 192.168.5.3)"
    );
}

#[test]
fn regex_matches_any_address_before_any_name() {
    let chosen = |text: &str| {
        let regex = IfaceSpec::Regex(text.parse().unwrap());
        select(&host(), &[regex], None).map(|iface| (iface.name, iface.addr))
    };
    let eth1 = |addr| Ok(("eth1".to_owned(), ip(addr)));
    assert_eq!(chosen("eth1"), eth1("192.168.5.2"));
    assert_eq!(chosen(r"\.3$"), eth1("192.168.5.3"));
    // eth0 has the first name that matches, eth1 the first address.
    assert_eq!(chosen("^eth|^192"), eth1("192.168.5.2"));
    // lo's addresses are not usable.
    let error = chosen("^127").unwrap_err().to_string();
    assert!(error.starts_with("no interface fits --iface-regex ^127; this host has "), "{error}");
    assert!(chosen("^lo$").is_err());
}

#[test]
fn interface_that_reaches_an_address_is_bound_to_what_it_would_send_from() {
    let reach = |addr| select(&host(), &[IfaceSpec::CanReach(ip(addr))], None);
    let chosen = reach("192.168.5.99").unwrap();
    assert_eq!((chosen.name.as_str(), chosen.addr), ("eth1", ip("192.168.5.3")));
    assert!(matches!(reach("192.0.2.1"), Err(IfaceError::NoneFits { .. })));
}

#[test]
fn choice_is_explained_in_one_line() {
    let logs = crate::control::util::test_log::Logs::capture();
    select(&host(), &specs(&["eth0"]), Some(ip("203.0.113.9"))).unwrap();
    assert_eq!(
        logs.count(
            "chose interface eth0 because it has that name: --iface eth0; bound to 10.0.0.7, \
             MTU 1500, peers send to 203.0.113.9"
        ),
        1
    );
}

#[test]
fn public_ip_alone_chooses_the_interface_that_owns_it() {
    let chosen = select(&host(), &[], Some(ip("192.168.5.2"))).unwrap();
    assert_eq!((chosen.name.as_str(), chosen.addr), ("eth1", ip("192.168.5.2")));
    let error = select(&host(), &[], Some(ip("203.0.113.9"))).unwrap_err();
    assert!(matches!(error, IfaceError::PublicIpElsewhere { .. }), "{error}");
}

#[test]
fn public_ip_of_a_nat_goes_with_an_interface() {
    let chosen = select(&host(), &specs(&["eth0"]), Some(ip("203.0.113.9"))).unwrap();
    assert_eq!((chosen.addr, chosen.public_ip), (ip("10.0.0.7"), ip("203.0.113.9")));
}

#[test]
fn better_address_wins_over_kernel_order() {
    let dynamic = |text| HostAddr { permanent: false, ..addr(text) };
    let temporary = |text| HostAddr { temporary: true, ..addr(text) };
    let deprecated = |text| HostAddr { deprecated: true, ..addr(text) };
    let cases = [
        (vec![addr("169.254.1.1"), dynamic("10.0.0.1")], Some("10.0.0.1")),
        (vec![dynamic("10.0.0.1"), addr("10.0.0.2")], Some("10.0.0.2")),
        (vec![temporary("10.0.0.1"), addr("10.0.0.2")], Some("10.0.0.2")),
        (vec![temporary("10.0.0.1"), dynamic("10.0.0.2")], Some("10.0.0.1")),
        (vec![deprecated("10.0.0.1"), addr("169.254.1.1")], Some("169.254.1.1")),
        (vec![addr("10.0.0.2"), addr("10.0.0.1")], Some("10.0.0.2")),
        (vec![addr("127.0.0.1"), addr("224.0.0.1"), addr("0.0.0.0")], None),
        (vec![deprecated("10.0.0.1")], None),
        (vec![], None),
    ];
    for (addrs, want) in cases {
        let link = HostLink { addrs: addrs.clone(), ..host().links[1].clone() };
        assert_eq!(best_addr(&link), want.map(ip), "{addrs:?}");
    }
}

#[test]
fn interface_without_mtu_is_refused() {
    let mut host = host();
    host.links[1].mtu = 0;
    let error = select(&host, &specs(&["eth0"]), None).unwrap_err();
    assert_eq!(error, IfaceError::NoMtu { name: "eth0".to_owned() });
}

#[test]
fn spec_is_an_address_or_else_a_name() {
    assert_eq!("10.0.0.7".parse(), Ok(IfaceSpec::Addr(ip("10.0.0.7"))));
    assert_eq!("eth0".parse(), Ok(IfaceSpec::Name("eth0".to_owned())));
    assert_eq!("".parse::<IfaceSpec>(), Err(SpecError::Empty));
    assert!(matches!("fe80::1".parse::<IfaceSpec>(), Err(SpecError::Ipv6(_))));
}

/// lo, eth0 with the default route, and eth1 with two addresses.
fn host() -> HostView {
    let link = |index, name: &str, addrs: &[&str]| HostLink {
        index,
        name: name.to_owned(),
        mtu: 1500,
        addrs: addrs.iter().map(|text| addr(text)).collect(),
    };
    HostView {
        links: vec![
            link(1, "lo", &["127.0.0.1"]),
            link(2, "eth0", &["10.0.0.7"]),
            link(3, "eth1", &["192.168.5.2", "192.168.5.3"]),
        ],
        routes: vec![route("10.0.0.0/24", 2, 0), route("0.0.0.0/0", 2, 0)],
        reached: vec![Reached { addr: ip("192.168.5.99"), link: 3, src: ip("192.168.5.3") }],
    }
}

fn route(dst: &str, link: u32, metric: u32) -> KernelRoute {
    KernelRoute { dst: dst.parse().unwrap(), link: Some(link), metric }
}

fn addr(text: &str) -> HostAddr {
    HostAddr {
        addr: ip(text),
        prefix_len: 24,
        permanent: true,
        temporary: false,
        deprecated: false,
    }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn specs(texts: &[&str]) -> Vec<IfaceSpec> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}
