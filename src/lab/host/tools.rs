//! The tools a lab needs, and the Debian packages they come in.

use std::env;
use std::path::Path;

use nix::unistd::Uid;

use super::command::Tool;
use crate::lab::network::registry::RegistryKind;

/// What this machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Namespaces and links need root.
    #[error("a lab needs root: run it with sudo")]
    NotRoot,
    /// Tools are missing.
    #[error("missing: {}: run `apt-get install {}` or `make setup`", .tools.join(", "), packages(.tools))]
    Tools {
        /// Their names.
        tools: Vec<&'static str>,
    },
    /// The kernel offers no TUN devices.
    #[error("/dev/net/tun is missing: run `modprobe tun`; in a container, pass the device in")]
    NoTun,
    /// The kernel or the container forbids network namespaces.
    #[error("this machine forbids network namespaces ({0}): in a container, run it privileged")]
    NoNamespaces(String),
}

/// Tool → Debian package.
const PACKAGES: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("nsenter", "util-linux"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("etcd", "etcd-server"),
];

/// What only a lab with an etcd needs.
const ETCD: &str = "etcd";

/// What only links with delay or loss need.
const TC: &str = "tc";

/// Checks everything a lab needs, before anything is made.
///
/// # Errors
/// [`PreflightError`] with what to do about it.
pub fn preflight(registry: RegistryKind) -> Result<(), PreflightError> {
    root()?;
    let needed = |tool: &str| (registry == RegistryKind::Etcd || tool != ETCD) && tool != TC;
    let tools = PACKAGES.into_iter().map(|(tool, _)| tool);
    let tools: Vec<&str> = tools.filter(|tool| needed(tool) && !found(tool)).collect();
    if !tools.is_empty() {
        return Err(PreflightError::Tools { tools });
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(PreflightError::NoTun);
    }
    let namespaces = Tool::new("unshare").words("--net true").run();
    namespaces.map(drop).map_err(|error| PreflightError::NoNamespaces(error.to_string()))
}

/// Checks that this process may look into a lab's namespaces.
///
/// # Errors
/// [`PreflightError::NotRoot`].
pub fn root() -> Result<(), PreflightError> {
    if Uid::effective().is_root() { Ok(()) } else { Err(PreflightError::NotRoot) }
}

/// The command that brings `tool` to a Debian machine.
pub(super) fn how_to_install(tool: &str) -> String {
    let package = PACKAGES.into_iter().find(|(name, _)| *name == tool).map_or(tool, |(_, p)| p);
    format!("apt-get install {package}")
}

fn packages(tools: &[&str]) -> String {
    let mut packages: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|(tool, _)| tools.contains(tool))
        .map(|(_, package)| package)
        .collect();
    packages.dedup();
    packages.join(" ")
}

fn found(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_with_their_packages() {
        let error = PreflightError::Tools { tools: vec!["ip", "bridge", "etcd"] };
        assert_eq!(
            error.to_string(),
            "missing: ip, bridge, etcd: run `apt-get install iproute2 etcd-server` or `make setup`"
        );
        assert_eq!(how_to_install("ping"), "apt-get install iputils-ping");
    }
}
