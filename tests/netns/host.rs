//! Device, addresses, routes and `subnet.env`, compared with what stock makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use twill::lab::traffic::probe::fetch_health;

use crate::harness::{eventually, overlay, up, workers};

#[test]
fn device_and_route_look_like_stocks() {
    let lab = up("host", 1);
    let node = &lab.nodes()[0];
    let subnet = overlay(node).env.subnet;
    let link = node.netns().ip("link show flannel0").unwrap();
    assert!(link.contains("<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1472 "), "{link}");
    assert!(link.contains("link/none"), "{link}");
    let addrs = node.netns().ip("-4 -o addr show flannel0").unwrap();
    let addr = format!("inet {}/32 scope global flannel0\\", subnet.network());
    assert!(addrs.contains(&addr) && addrs.lines().count() == 1, "{addrs}");
    let routes = node.netns().ip("-4 route show dev flannel0").unwrap();
    assert_eq!(routes.trim(), "10.5.0.0/16");
    let details = node.netns().ip("-d -4 route show dev flannel0").unwrap();
    assert_eq!(details.trim(), "unicast 10.5.0.0/16 proto boot scope global");
}

#[test]
fn ipv6_of_the_kernel_itself_is_rare_and_no_drop() {
    let lab = up("chatter", 1);
    let node = &lab.nodes()[0];
    let addrs = node.netns().ip("-6 -o addr show dev flannel0").unwrap();
    assert_eq!(addrs, "", "nothing to look for duplicates of, or to solicit routers from");
    // As a router the host joins a group, and reports that.
    node.netns().sysctl("net.ipv6.conf.flannel0.forwarding=1").unwrap();
    let sum = |pointer: &str| -> u64 {
        workers(node).iter().map(|worker| worker.pointer(pointer).unwrap().as_u64().unwrap()).sum()
    };
    eventually("the node to see the report", || sum("/ignored_ipv6") > 0);
    assert_eq!(sum("/egress/drops/not_ipv4"), 0);
}

#[test]
fn subnet_file_has_stocks_lines_in_stocks_order() {
    let lab = up("env", 1);
    let node = &lab.nodes()[0];
    let env = overlay(node).env;
    let text = fs::read_to_string(node.subnet_file()).unwrap();
    assert_eq!(
        text,
        format!(
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={}/24\nFLANNEL_MTU=1472\n\
             FLANNEL_IPMASQ=false\n",
            env.bridge
        )
    );
    let mode = fs::metadata(node.subnet_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn health_endpoint_answers_where_stocks_does() {
    let lab = up("health", 1);
    let get = |path| fetch_health(lab.nodes()[0].netns(), path).unwrap();
    assert_eq!(get("/healthz").trim(), "flanneld is running");
    assert!(get("/readyz").contains(r#""message":"flanneld is ready""#));
}
