//! This node's part of the overlay: interface, device, bridge, subnet.env.

use super::super::facts::{DockerFact, Facts, SubnetEnvFact};
use super::super::finding::Finding;
use crate::control::cli::commands::survey::Device;
use crate::control::host::findings::{Harm, bridge_problem};

pub(super) fn interface(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "interface";
    if let Some(reason) = &facts.no_iface {
        return vec![Finding::fail(NAME, reason.clone(), "ip -4 addr; ip route; --iface=NAME")];
    }
    let Some(iface) = &facts.iface else { return Vec::new() };
    let text = format!("{}, MTU {}, public IP {}", iface.name, iface.mtu, iface.public_ip);
    let is_here = facts.links.iter().any(|it| it.has(iface.public_ip));
    if !is_here {
        let text = format!("{text}, which no link of this host has: right only behind a NAT");
        let advice = "ip -4 addr; --public-ip is what peers send to";
        return vec![Finding::warn(NAME, text, advice)];
    }
    vec![Finding::ok(NAME, text)]
}

pub(super) fn device(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "device";
    let (Some(own), Some(iface)) = (&facts.own, &facts.iface) else { return Vec::new() };
    if !own.wire.is_tunnel() {
        return Vec::new();
    }
    let Some(device) = &own.device else {
        let has_lease = facts.registry.leases.iter().any(|it| it.public_ip == own.public_ip);
        if facts.daemons.is_empty() || !has_lease {
            return Vec::new();
        }
        let text = "flanneld runs, but no link that is up has the first address of its subnet";
        return vec![Finding::fail(NAME, text, "ip -4 addr; flanneld status")];
    };
    let most = mtu_of_containers(facts, device);
    let needed = u32::from(most) + u32::from(own.wire.overhead());
    if shrank(facts) {
        let text = format!(
            "{} has MTU {}, and the overlay's {most} needs {needed}: the interface shrank; long \
             packets of containers are lost or fragmented",
            iface.name, iface.mtu
        );
        let advice = format!(
            "ip link set {} mtu {needed}, if the network behind it takes that; else restart flanneld \
             and then the containers",
            iface.name
        );
        return vec![Finding::fail(NAME, text, advice)];
    }
    vec![Finding::ok(NAME, format!("{}, MTU {}", device.name, device.mtu))]
}

/// What subnet.env says counts: a running flanneld lowers the MTU of its device alone.
fn mtu_of_containers(facts: &Facts, device: &Device) -> u16 {
    let written = facts.files.subnet_env.as_ref().and_then(|env| env.mtu).unwrap_or(0);
    device.mtu.max(written)
}

/// Whether the external interface has a smaller MTU than the overlay needs.
fn shrank(facts: &Facts) -> bool {
    let (Some(own), Some(iface)) = (&facts.own, &facts.iface) else { return false };
    let Some(device) = own.device.as_ref().filter(|_| own.wire.is_tunnel()) else { return false };
    let most = mtu_of_containers(facts, device);
    u32::from(most) + u32::from(own.wire.overhead()) > iface.mtu
}

pub(super) fn bridge(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "bridge";
    let Some(overlay) = facts.overlay() else { return Vec::new() };
    match bridge_problem(&facts.links, &overlay) {
        (_, Some(problem)) if problem.harm == Harm::Loss => {
            vec![Finding::fail(NAME, problem.text, problem.advice)]
        }
        // It has that MTU because the device had it before its interface shrank.
        (_, Some(problem)) if problem.harm == Harm::LongPackets && shrank(facts) => Vec::new(),
        (_, Some(problem)) => vec![Finding::warn(NAME, problem.text, problem.advice)],
        (Some(name), None) => {
            vec![Finding::ok(NAME, format!("{name} is on {}", overlay.subnet))]
        }
        (None, None) => vec![Finding::ok(NAME, "none has an address of this node's subnet yet")],
    }
}

/// subnet.env against the lease and the device, and Docker's settings against it.
pub(super) fn subnet_env(facts: &Facts) -> Vec<Finding> {
    const NAME: &str = "subnet.env";
    let path = facts.config.subnet_file.display();
    let Some(env) = &facts.files.subnet_env else {
        let is_up = facts.own.as_ref().is_some_and(|own| own.device.is_some());
        if facts.daemons.is_empty() || !is_up {
            return Vec::new();
        }
        let text = format!("flanneld runs, and {path} does not exist");
        return vec![Finding::fail(NAME, text, "ls -ld its directory; df; flanneld status")];
    };
    let mut found = Vec::new();
    if let Some(reason) = differs(facts, env) {
        let advice = "systemctl restart flanneld, then what reads subnet.env: docker, CNI plugins";
        found.push(Finding::fail(NAME, format!("{path} says {reason}"), advice));
    }
    if let Some(reason) = facts.files.docker.as_ref().and_then(|docker| docker_differs(docker, env))
    {
        let advice = "mk-docker-opts.sh writes what dockerd needs; systemctl restart docker";
        found.push(Finding::warn("docker", reason, advice));
    }
    if found.is_empty() {
        found.push(Finding::ok(NAME, format!("{path} fits lease and device")));
    }
    found
}

fn differs(facts: &Facts, env: &SubnetEnvFact) -> Option<String> {
    let own = facts.own.as_ref()?;
    // Several have a line of their own.
    let mut ours = facts.registry.leases.iter().filter(|it| it.public_ip == own.public_ip);
    let lease = ours.next().filter(|_| ours.next().is_none());
    let Some(subnet) = env.subnet else { return Some("no FLANNEL_SUBNET".to_owned()) };
    if let Some(lease) = lease.filter(|lease| lease.subnet != subnet) {
        return Some(format!("FLANNEL_SUBNET {subnet}, and the lease is {}", lease.subnet));
    }
    if let Some(network) = env.network.filter(|network| *network != own.network) {
        return Some(format!("FLANNEL_NETWORK {network}, and the network is {}", own.network));
    }
    let device = own.device.as_ref().filter(|_| !shrank(facts))?;
    let mtu = env.mtu.filter(|mtu| *mtu != device.mtu)?;
    Some(format!("FLANNEL_MTU {mtu}, and {} has {}", device.name, device.mtu))
}

fn docker_differs(docker: &DockerFact, env: &SubnetEnvFact) -> Option<String> {
    let DockerFact { place, bip, mtu } = docker;
    let subnet = env.subnet?;
    if let Some(bip) = bip.filter(|bip| !subnet.contains(bip.ip())) {
        return Some(format!("{place} gives dockerd --bip={bip}, and the subnet is {subnet}"));
    }
    let most = env.mtu?;
    let mtu = mtu.filter(|mtu| *mtu > u32::from(most))?;
    Some(format!("{place} gives dockerd --mtu={mtu}, and the overlay takes {most}"))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;

    #[test]
    fn healthy_node_has_no_fault() {
        for check in [interface, device, bridge, subnet_env] {
            assert_eq!(levels(&check(&facts())), (0, 0));
        }
    }

    #[test]
    fn nic_whose_mtu_shrank_fails() {
        let mut facts = facts();
        facts.iface.as_mut().unwrap().mtu = 1400;
        let found = only(device(&facts));
        assert!(found.text.starts_with("eth0 has MTU 1400, and the overlay's 1472 needs 1500"));
        facts.own.as_mut().unwrap().device.as_mut().unwrap().mtu = 1372;
        assert!(only(device(&facts)).text.contains("the interface shrank"), "flanneld followed");
        assert_eq!(levels(&subnet_env(&facts)), (0, 0), "it follows from that");
        assert_eq!(levels(&bridge(&facts)), (0, 0), "so does the bridge's MTU");
    }

    #[test]
    fn interface_that_is_missing_fails_and_a_public_ip_elsewhere_warns() {
        let mut facts = facts();
        facts.iface.as_mut().unwrap().public_ip = [203, 0, 113, 7].into();
        assert_eq!(levels(&interface(&facts)), (1, 0));
        facts.no_iface = Some("no default route".to_owned());
        assert_eq!(levels(&interface(&facts)), (0, 1));
    }

    #[test]
    fn device_that_is_missing_fails_only_while_flanneld_runs() {
        let mut facts = facts();
        facts.own.as_mut().unwrap().device = None;
        assert_eq!(levels(&device(&facts)), (0, 1));
        facts.daemons.clear();
        assert_eq!(levels(&device(&facts)), (0, 0));
    }

    #[test]
    fn bridge_elsewhere_fails_and_one_with_a_larger_mtu_warns() {
        let mut facts = facts();
        facts.links[2].link.mtu = 1500;
        assert_eq!(levels(&bridge(&facts)), (1, 0));
        facts.links[2].addrs[0].addr = [172, 17, 0, 1].into();
        assert!(only(bridge(&facts)).text.starts_with("docker0 has 172.17.0.1/24"));
    }

    #[test]
    fn subnet_env_that_does_not_fit_says_in_what() {
        let mut facts = facts();
        let env = |facts: &mut Facts, env: &SubnetEnvFact| {
            facts.files.subnet_env = Some(env.clone());
            only(subnet_env(facts)).text
        };
        let right = facts.files.subnet_env.clone().unwrap();
        let text = env(&mut facts, &SubnetEnvFact { mtu: Some(1450), ..right.clone() });
        assert!(text.ends_with("FLANNEL_MTU 1450, and flannel0 has 1472"), "{text}");
        let other = Some("10.5.8.0/24".parse().unwrap());
        let text = env(&mut facts, &SubnetEnvFact { subnet: other, ..right.clone() });
        assert!(text.ends_with("FLANNEL_SUBNET 10.5.8.0/24, and the lease is 10.5.7.0/24"));
        let text = env(&mut facts, &SubnetEnvFact { subnet: None, ..right.clone() });
        assert!(text.ends_with("no FLANNEL_SUBNET"));
        facts.files.subnet_env = None;
        assert_eq!(levels(&subnet_env(&facts)), (0, 1));
        facts.files.subnet_env = Some(right);
        let bip = Some("10.5.8.1/24".parse().unwrap());
        let place = "/etc/docker/daemon.json".to_owned();
        facts.files.docker = Some(DockerFact { place: place.clone(), bip, mtu: None });
        assert!(only(subnet_env(&facts)).text.contains("--bip=10.5.8.1/24"));
        facts.files.docker = Some(DockerFact { place, bip: None, mtu: Some(1500) });
        assert!(only(subnet_env(&facts)).text.contains("--mtu=1500"));
    }
}
