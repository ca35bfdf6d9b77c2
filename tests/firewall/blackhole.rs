//! The blackhole route.

use crate::expected::CONFIG;
use crate::firewall_host::{FirewallHost, NFT};

#[test]
fn blackhole_route_gives_way_to_a_bridge_and_follows_the_subnet() {
    let host = FirewallHost::new(NFT);
    host.put_config(CONFIG);
    let daemon = host.start_daemon(&["-ip-blackhole-route"]);
    daemon.wait_for("blackhole route is in place");
    let routes = |dst: &str| host.output(&["ip", "route", "show", "type", "blackhole", dst]);
    assert!(routes("10.1.15.0/24").starts_with("blackhole 10.1.15.0/24 "));
    host.output(&["ip", "link", "add", "docker0", "up", "type", "bridge"]);
    host.output(&["ip", "addr", "add", "10.1.15.1/24", "dev", "docker0"]);
    let route = host.output(&["ip", "route", "get", "10.1.15.7"]);
    assert!(route.contains("dev docker0"), "{route}");
    daemon.wait_for("flannel is ready");
    daemon.stop();
    assert_ne!(routes("10.1.15.0/24"), "", "it stays");
    host.put_config(&CONFIG.replace("10.1.15.0", "10.1.16.0"));
    let daemon = host.start_daemon(&["-ip-blackhole-route"]);
    daemon.wait_for("blackhole route is in place");
    assert_eq!(routes("10.1.15.0/24"), "");
    assert_ne!(routes("10.1.16.0/24"), "");
}
