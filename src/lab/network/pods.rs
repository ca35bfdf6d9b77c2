//! [`Pod`]s: namespaces behind a node's `docker0`, with addresses out of the node's lease.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::daemon::SubnetEnv;
use super::topology::Names;
use crate::lab::LabError;
use crate::lab::host::netns::Netns;

/// A namespace in the place of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pod {
    /// Its name within the lab, such as `n1-p1`.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub addr: Ipv4Addr,
}

/// A node's end of pod `number`'s veth.
fn port(number: usize) -> String {
    format!("p{number}")
}

/// Creates `docker0` on a node and `num_pods` pods behind it, as docker would from `env`.
///
/// # Errors
/// [`LabError::TooMany`] when the lease is too small, or [`LabError::Command`].
pub(super) fn attach(
    names: &Names,
    node: (usize, &Netns),
    env: &SubnetEnv,
    num_pods: usize,
) -> Result<Vec<Pod>, LabError> {
    let (_, netns) = node;
    let (bridge, len, mtu) = (env.bridge, env.subnet.prefix(), env.mtu);
    let room = (env.subnet.broadcast().to_bits() - bridge.to_bits()).saturating_sub(1) as usize;
    if num_pods > room {
        return Err(LabError::TooMany { what: "pods on a node with such a lease", most: room });
    }
    netns.ip_batch(&[
        format!("link add docker0 mtu {mtu} type bridge mcast_snooping 0"),
        format!("addr add {bridge}/{len} dev docker0"),
        "link set docker0 up".to_owned(),
    ])?;
    let mut pods = Vec::new();
    let mut addr = bridge.to_bits();
    for pod in 1..=num_pods {
        addr += 1;
        pods.push(attach_one(names, node, pod, Ipv4Addr::from_bits(addr), env)?);
    }
    Ok(pods)
}

fn attach_one(
    names: &Names,
    (number, node): (usize, &Netns),
    pod: usize,
    addr: Ipv4Addr,
    env: &SubnetEnv,
) -> Result<Pod, LabError> {
    let netns = Netns::create(names.pod(number, pod))?;
    let (port, mtu, name) = (port(pod), env.mtu, netns.name());
    node.ip_batch(&[
        format!("link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"),
        format!("link set {port} master docker0 up"),
    ])?;
    netns.ip_batch(&[
        format!("addr add {addr}/{} dev eth0", env.subnet.prefix()),
        "link set eth0 up".to_owned(),
        format!("route add default via {}", env.bridge),
    ])?;
    // What one measurement learned of a path must not colour the next.
    netns.sysctl("net.ipv4.tcp_no_metrics_save=1")?;
    Ok(Pod { name: format!("n{number}-p{pod}"), netns, addr })
}

/// Sets the MTU of `docker0` and of every pod behind it, both ends.
///
/// # Errors
/// [`LabError::Command`].
pub(super) fn set_mtu(node: &Netns, pods: &[Pod], mtu: u16) -> Result<(), LabError> {
    let mut commands = vec![format!("link set docker0 mtu {mtu}")];
    commands.extend((1..=pods.len()).map(|pod| format!("link set {} mtu {mtu}", port(pod))));
    for pod in pods {
        pod.netns.ip(&format!("link set eth0 mtu {mtu}"))?;
    }
    Ok(node.ip_batch(&commands)?)
}
