//! Docker behind flanneld: `mk-docker-opts.sh` turns `subnet.env` into options of dockerd.

use std::fs;
use std::path::Path;

use twill::lab::host::command::Tool;
use twill::lab::network::backend::Backend;
use twill::lab::network::node::Node;

use super::dockerd::Dockerd;
use super::{env, forwarded, image, two_nodes};

const MK_DOCKER_OPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/mk-docker-opts.sh");

#[test]
fn tutorial_runs_to_its_last_line_with_dockers_masquerade() {
    tutorial("docker", Backend::Udp, "", true);
}

#[test]
fn tutorial_runs_to_its_last_line_with_flannels_masquerade() {
    tutorial("ipmasq", Backend::Udp, "-ip-masq", false);
}

#[test]
fn tutorial_runs_to_its_last_line_over_vxlan() {
    tutorial("docker-vxlan", Backend::Vxlan, "", true);
}

#[test]
fn tutorial_runs_to_its_last_line_over_host_gw() {
    tutorial("docker-gw", Backend::HostGw, "-ip-masq", false);
}

/// Two flannelds with `flags`, and what the tutorials do with Docker behind them.
fn tutorial(topic: &str, backend: Backend, flags: &str, docker_masquerades: bool) {
    let lab = two_nodes(topic, backend, flags);
    let image = image::pack(&lab.names().dir());
    let [n1, n2] = lab.nodes() else { panic!() };
    for node in [n1, n2] {
        // As on a fresh host: dockerd turns forwarding on, and lets nothing through by default.
        node.netns().sysctl("net.ipv4.ip_forward=0").unwrap();
    }
    let [first, second] = [n1, n2].map(|node| docker_on(node, docker_masquerades, &image));
    assert_bridge_is_flannels(n1, &first, docker_masquerades);
    assert_bridge_is_flannels(n2, &second, docker_masquerades);

    let serve = format!("httpd -f -v -p 80 -h {}", image::PAGES);
    let web = second.start_container("web", &serve);
    let client = first.start_container("client", "sleep 1000");
    assert!(env(n1).subnet.contains(client) && env(n2).subnet.contains(web), "{client} {web}");

    let before = forwarded(n2);
    for (from, name, to) in [(&first, "client", web), (&second, "web", client)] {
        let ping = from.exec(name, &format!("ping -c 3 -i 0.2 -w 10 {to}"));
        // One hop at each bridge, and with udp one at each end of the overlay.
        let ttl = if backend == Backend::Udp { "ttl=60" } else { "ttl=62" };
        assert!(ping.contains(ttl) && ping.contains(" 0% packet loss"), "{ping}");
    }
    let page = first.exec("client", &format!("wget -q -O - http://{web}/"));
    assert!(image::is_page(&page), "{} bytes", page.len());
    assert!(forwarded(n2) > before, "no rule counted a packet on its way to the server");

    // Docker masquerades whatever leaves its host, flannel only what leaves the network.
    let seen = second.docker("logs web").output().unwrap().stderr;
    let source = if docker_masquerades { env(n1).subnet.network() } else { client };
    assert!(seen.contains(&format!("{source}]:")), "not from {source}: {seen}");
    // The underlay's gateway knows no route to any container.
    let ping = first.exec("client", &format!("ping -c 2 -i 0.2 -w 10 {}", gateway(n1)));
    assert!(ping.contains(" 0% packet loss"), "{ping}");
}

/// What `docker network inspect bridge` says, and a container sees.
fn assert_bridge_is_flannels(node: &Node, dockerd: &Dockerd, masquerades: bool) {
    let env = env(node);
    let bridge = dockerd.inspect("network inspect", "bridge");
    let (ipam, options) = (&bridge["IPAM"]["Config"][0], &bridge["Options"]);
    for (found, expected) in [
        (&ipam["Subnet"], env.subnet.to_string()),
        (&ipam["Gateway"], env.bridge.to_string()),
        (&options["com.docker.network.driver.mtu"], env.mtu.to_string()),
        (&options["com.docker.network.bridge.enable_ip_masquerade"], masquerades.to_string()),
    ] {
        assert_eq!(found, &expected, "{bridge}");
    }
    let link = dockerd.run("ip link show eth0");
    assert!(link.contains(&format!(" mtu {} ", env.mtu)), "{link}");
}

/// A Docker daemon with the options that `mk-docker-opts.sh` makes of the node's `subnet.env`.
fn docker_on(node: &Node, masquerades: bool, image: &Path) -> Dockerd {
    let (input, output) = (node.subnet_file(), node.subnet_file().with_file_name("docker.env"));
    let script = Tool::new(MK_DOCKER_OPTS).arg("-f").arg(&input).arg("-d").arg(&output);
    script.words("-k DOCKER_NETWORK_OPTIONS").run().unwrap();
    let written = fs::read_to_string(output).unwrap();
    let env = env(node);
    let (bridge, len) = (env.bridge, env.subnet.prefix());
    let options = format!(" --bip={bridge}/{len} --ip-masq={masquerades} --mtu={}", env.mtu);
    let combined = format!("DOCKER_NETWORK_OPTIONS=\"{options}\"");
    assert_eq!(written.lines().last(), Some(combined.as_str()));
    Dockerd::start(node, &options, image)
}

/// Where the node's default route leads.
fn gateway(node: &Node) -> String {
    let route = node.netns().ip("route show default").unwrap();
    route.split_whitespace().nth(2).unwrap().to_owned()
}
