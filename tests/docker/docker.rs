//! Docker behind flanneld: `mk-docker-opts.sh` tells dockerd what `subnet.env` says.

use std::fs;
use std::path::Path;

use twill::lab::command::Tool;
use twill::lab::node::Node;

use super::dockerd::Dockerd;
use super::{env, forwarded, image, two_nodes};

const MK_DOCKER_OPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/mk-docker-opts.sh");

#[test]
fn tutorial_runs_to_its_last_line() {
    let lab = two_nodes("docker");
    let image = image::pack(&lab.names().dir());
    let [n1, n2] = lab.nodes() else { panic!() };
    for node in [n1, n2] {
        // As on a fresh host: dockerd turns forwarding on, and lets nothing through by default.
        node.netns().sysctl("net.ipv4.ip_forward=0").unwrap();
    }
    let (first, second) = (docker_on(n1, &image), docker_on(n2, &image));
    for node in [n1, n2] {
        accept_forwarding(node);
    }

    for (node, dockerd) in [(n1, &first), (n2, &second)] {
        let bridge = dockerd.inspect("network inspect", "bridge");
        let ipam = &bridge["IPAM"]["Config"][0];
        assert_eq!(ipam["Subnet"], env(node).subnet.to_string());
        assert_eq!(ipam["Gateway"], env(node).bridge.to_string());
        let options = &bridge["Options"];
        assert_eq!(options["com.docker.network.driver.mtu"], env(node).mtu.to_string());
        assert_eq!(options["com.docker.network.bridge.enable_ip_masquerade"], "true");
        let link = dockerd.run("ip link show eth0");
        assert!(link.contains(&format!(" mtu {} ", env(node).mtu)), "{link}");
    }

    let serve = format!("httpd -f -p 80 -h {}", image::PAGES);
    let web = second.start_container("web", &serve);
    assert!(env(n2).subnet.contains(web), "{web}");
    let before = (forwarded(n1), forwarded(n2));
    let ping = first.run(&format!("ping -c 3 -i 0.2 -w 10 {web}"));
    // One hop at each bridge, and one at each end of the overlay.
    assert!(ping.contains("ttl=60") && ping.contains(" 0% packet loss"), "{ping}");
    let page = first.run(&format!("wget -q -O - http://{web}/"));
    assert!(image::is_page(&page), "{} bytes", page.len());
    let after = (forwarded(n1), forwarded(n2));
    assert!(after.1 > before.1, "no packet on its way to the server was counted: {after:?}");

    // The other way round, and between containers that stay.
    let client = first.start_container("client", "sleep 1000");
    let ping = second.docker("exec web ping -c 3 -i 0.2 -w 10").arg(client.to_string()).run();
    assert!(ping.as_deref().is_ok_and(|said| said.contains(" 0% packet loss")), "{ping:?}");

    // The underlay's gateway knows no route to any container.
    let gateway = lab_gateway(n1);
    let ping = first.run(&format!("ping -c 2 -i 0.2 -w 10 {gateway}"));
    assert!(ping.contains(" 0% packet loss"), "{ping}");
}

/// A Docker daemon with the options that `mk-docker-opts.sh` makes of the node's `subnet.env`.
fn docker_on(node: &Node, image: &Path) -> Dockerd {
    let (input, output) = (node.subnet_file(), node.subnet_file().with_file_name("docker.env"));
    let script = Tool::new(MK_DOCKER_OPTS).arg("-f").arg(&input).arg("-d").arg(&output);
    script.words("-k DOCKER_NETWORK_OPTIONS").run().unwrap();
    let written = fs::read_to_string(output).unwrap();
    let env = env(node);
    let (bridge, len) = (env.bridge, env.subnet.prefix_len());
    let options = format!(" --bip={bridge}/{len} --ip-masq=true --mtu={}", env.mtu);
    let combined = format!("DOCKER_NETWORK_OPTIONS=\"{options}\"");
    assert_eq!(written.lines().last(), Some(combined.as_str()));
    Dockerd::start(node, &options, image)
}

/// Lets the overlay's packets through the policy that dockerd set, as an operator would by hand.
fn accept_forwarding(node: &Node) {
    let network = env(node).network;
    for side in ["-s", "-d"] {
        let iptables = node.netns().tool("iptables").words("-w -A FORWARD").arg(side);
        iptables.arg(network.to_string()).words("-j ACCEPT").run().unwrap();
    }
}

/// Where the node's default route leads.
fn lab_gateway(node: &Node) -> String {
    let route = node.netns().ip("route show default").unwrap();
    route.split_whitespace().nth(2).unwrap().to_owned()
}
