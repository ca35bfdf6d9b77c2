//! Files of flanneld, and what Docker is told.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use ipnetwork::Ipv4Network;
use serde_json::Value;

use super::super::facts::{DockerFact, Files, SubnetEnvFact};
use crate::control::node::subnet_env::range_in;

const DAEMON_JSON: &str = "/etc/docker/daemon.json";

pub(super) fn read(subnet_file: &Path) -> Files {
    let text = fs::read_to_string(subnet_file).ok();
    let daemon_json = fs::read_to_string(DAEMON_JSON).ok();
    Files {
        subnet_env: text.as_deref().map(subnet_env),
        unwritable: unwritable(subnet_file),
        docker: daemon_json.as_deref().and_then(docker),
    }
}

fn subnet_env(text: &str) -> SubnetEnvFact {
    let mtu = text.lines().find_map(|line| line.trim().strip_prefix("FLANNEL_MTU="));
    SubnetEnvFact {
        network: range_in(text, "FLANNEL_NETWORK"),
        subnet: range_in(text, "FLANNEL_SUBNET"),
        mtu: mtu.and_then(|mtu| mtu.trim_matches('"').parse().ok()),
    }
}

/// Why no file can be written in the directory of `path`. A directory that is not there yet, or that
/// only root may write, is no fault.
fn unwritable(path: &Path) -> Option<String> {
    let directory = path.parent().filter(|it| it.is_dir())?;
    let written = tempfile::NamedTempFile::new_in(directory)
        .and_then(|mut file| file.write_all(&[0; 4096]).and_then(|()| file.flush()));
    match written {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => Some(format!("{}: {}", directory.display(), plain(&error))),
    }
}

/// The kernel's words.
fn plain(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.split(" at path").next().unwrap_or_default().to_owned()
}

fn docker(text: &str) -> Option<DockerFact> {
    let settings: Value = serde_json::from_str(text).ok()?;
    let bip = settings["bip"].as_str().and_then(|bip| bip.parse::<Ipv4Network>().ok());
    let mtu = settings["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
    (bip.is_some() || mtu.is_some()).then(|| DockerFact { place: DAEMON_JSON.to_owned(), bip, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_env_is_read_as_far_as_it_goes() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1472\n";
        let [network, subnet] = ["10.5.0.0/16", "10.5.7.0/24"].map(|it| it.parse().ok());
        assert_eq!(subnet_env(text), SubnetEnvFact { network, subnet, mtu: Some(1472) });
        let nothing = SubnetEnvFact { network: None, subnet: None, mtu: None };
        assert_eq!(subnet_env("FLANNEL_SUBNET=x\nFLANNEL_MTU=y"), nothing);
    }

    #[test]
    fn docker_is_read_only_if_it_says_something_of_the_network() {
        assert_eq!(docker(r#"{"debug":true}"#), None);
        assert_eq!(docker("{"), None);
        let told = docker(r#"{"bip":"10.5.7.1/24","mtu":1450}"#).unwrap();
        assert_eq!((told.bip.unwrap().prefix(), told.mtu), (24, Some(1450)));
    }

    #[test]
    fn directory_that_takes_a_file_is_no_fault_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unwritable(&dir.path().join("subnet.env")), None);
        assert_eq!(unwritable(&dir.path().join("none/subnet.env")), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(unwritable(Path::new("/proc/subnet.env")).is_some());
    }
}
