//! [`Node`]: a namespace on the underlay that runs a flanneld and has pods behind it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use super::backend::Backend;
use super::daemon::{Daemon, SubnetEnv};
use super::pods::{self, Pod};
use super::registry::RegistryKind;
use super::topology::{Names, Underlay, node_addr};
use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::process::{Process, Signal};
use crate::lab::host::wait::wait_for;

/// How long a flanneld may take from its start to a device with a route.
pub const READY: Duration = Duration::from_secs(60);

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    number: usize,
    names: Names,
    netns: Netns,
    dir: PathBuf,
    registry: RegistryKind,
    backend: Backend,
    daemon: Daemon,
    process: Option<Process>,
    /// Inode of `subnet.env` when the daemon was started; a new one means it was written since.
    old_env: Option<u64>,
    overlay: Option<Overlay>,
    pods: Vec<Pod>,
}

/// What a node's flanneld set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// `subnet.env`.
    pub env: SubnetEnv,
    /// The device, such as `flannel0`.
    pub device: String,
}

impl Node {
    /// Creates the namespace of node `number`, joined to `underlay`, without a daemon.
    ///
    /// # Errors
    /// [`LabError`] of the tool or file that failed.
    pub fn create(
        names: &Names,
        number: usize,
        underlay: &Underlay,
        (registry, backend): (RegistryKind, Backend),
        daemon: Daemon,
    ) -> Result<Self, LabError> {
        let netns = Netns::create(names.node(number))?;
        underlay.join(&netns, &format!("n{number}"), node_addr(number))?;
        netns.sysctl("net.ipv4.ip_forward=1")?;
        let dir = names.dir().join(format!("n{number}"));
        fs::create_dir_all(&dir).map_err(LabError::io(format!("create {}", dir.display())))?;
        let names = names.clone();
        let (process, old_env, overlay, pods) = (None, None, None, Vec::new());
        Ok(Self {
            number,
            names,
            netns,
            dir,
            registry,
            backend,
            daemon,
            process,
            old_env,
            overlay,
            pods,
        })
    }

    /// The node that an earlier run of this program left in a lab that stays: its daemon is no child
    /// of this process, so that [`terminate`](Self::terminate) cannot reach it.
    pub(in crate::lab) fn resume(
        names: &Names,
        number: usize,
        (registry, backend): (RegistryKind, Backend),
        daemon: Daemon,
    ) -> Self {
        Self {
            number,
            netns: Netns::named(names.node(number)),
            dir: names.dir().join(format!("n{number}")),
            names: names.clone(),
            registry,
            backend,
            daemon,
            process: None,
            old_env: None,
            overlay: None,
            pods: Vec::new(),
        }
    }

    /// Its name within the lab: `n1`.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Its namespace.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its address on the underlay.
    pub fn addr(&self) -> Ipv4Addr {
        node_addr(self.number)
    }

    /// Its pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// What it runs.
    pub const fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The running daemon, or the one that ran last.
    pub const fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// What its daemon set up, once it was ready.
    pub const fn overlay(&self) -> Option<&Overlay> {
        self.overlay.as_ref()
    }

    /// `subnet.env`'s place.
    pub fn subnet_file(&self) -> PathBuf {
        self.dir.join("subnet.env")
    }

    /// Changes what the next [`start`](Self::start) runs.
    pub fn set_daemon(&mut self, daemon: Daemon) {
        self.daemon = daemon;
    }

    /// Starts the daemon; [`wait_ready`](Self::wait_ready) waits for it.
    ///
    /// # Errors
    /// [`LabError::Io`] when the program cannot be started.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.old_env = self.env_inode();
        let mut args = self.daemon.args(self.registry.flags(&self.names), &self.subnet_file());
        let log = self.dir.join("flanneld.log");
        let mut program = self.daemon.program.as_path();
        if self.registry == RegistryKind::Kube {
            // env(1) becomes the daemon.
            args.splice(
                0..0,
                [format!("NODE_NAME={}", self.name()), program.display().to_string()],
            );
            program = Path::new("env");
        }
        self.process = Some(Process::start(&self.netns, program, &args, log)?);
        Ok(())
    }

    /// Waits for a new `subnet.env`, and the device and route it promises.
    ///
    /// # Errors
    /// [`LabError::Daemon`] with the last line of its log when it ends or takes longer than [`READY`].
    pub fn wait_ready(&mut self) -> Result<&Overlay, LabError> {
        let what = format!("flanneld of {}", self.name());
        let ready = wait_for(&what, READY, || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                return Err(self.gone(&format!("ended with {status} before it was ready")));
            }
            self.find_overlay()
        });
        let overlay = match ready {
            Err(LabError::NotInTime { .. }) => {
                return Err(self.gone(&format!("was not ready within {READY:?}")));
            }
            other => other?,
        };
        Ok(self.overlay.insert(overlay))
    }

    /// The overlay, if subnet file, device and route are all there.
    fn find_overlay(&self) -> Result<Option<Overlay>, LabError> {
        let inode = self.env_inode();
        if inode.is_none() || inode == self.old_env {
            return Ok(None);
        }
        let env = SubnetEnv::read(&self.subnet_file())?;
        if self.backend == Backend::HostGw {
            return Ok(Some(Overlay { env, device: "eth0".to_owned() }));
        }
        let addrs = self.netns.ip("-j -4 addr show")?;
        let Some(device) = device_with(&addrs, env.subnet.network()) else {
            return Ok(None);
        };
        if self.backend == Backend::Vxlan {
            return Ok(Some(Overlay { env, device }));
        }
        let routes = self.netns.ip(&format!("-4 route show {} dev {device}", env.network))?;
        Ok((!routes.trim().is_empty()).then_some(Overlay { env, device }))
    }

    /// Stops the daemon with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// [`LabError::Daemon`] when it did not run, [`LabError::NotInTime`] when it will not end.
    pub fn terminate(&mut self) -> Result<ExitStatus, LabError> {
        let Some(process) = &mut self.process else {
            return Err(self.gone("was never started"));
        };
        process.id().signal(Signal::SIGTERM);
        process.wait(Duration::from_secs(10))
    }

    /// Kills the daemon at once.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Waits until the daemon ends by itself.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn wait_end(&mut self, deadline: Duration) -> Result<ExitStatus, LabError> {
        match &mut self.process {
            Some(process) => process.wait(deadline),
            None => Err(self.gone("was never started")),
        }
    }

    /// Creates `num_pods` pods behind a node whose daemon was ready.
    ///
    /// # Errors
    /// [`LabError::NotReady`], or what creating them failed with.
    pub fn attach_pods(&mut self, num_pods: usize) -> Result<(), LabError> {
        let Some(overlay) = &self.overlay else {
            return Err(LabError::NotReady { node: self.name() });
        };
        let node = (self.number, &self.netns);
        self.pods = pods::attach(&self.names, node, &overlay.env, num_pods)?;
        Ok(())
    }

    /// Sets the MTU of `docker0` and of all pods.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn set_pod_mtu(&self, mtu: u16) -> Result<(), LabError> {
        pods::set_mtu(&self.netns, &self.pods, mtu)
    }

    /// The last lines the daemon logged.
    pub fn log_tail(&self, num_lines: usize) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.log_tail(num_lines))
    }

    fn env_inode(&self) -> Option<u64> {
        fs::metadata(self.subnet_file()).ok().map(|file| file.ino())
    }

    fn gone(&self, what: &str) -> LabError {
        let daemon = format!("{} of {}", self.daemon.program.display(), self.name());
        LabError::Daemon { daemon, what: what.to_owned(), said: self.log_tail(1) }
    }
}

/// The device that is up and has `addr`, in the output of `ip -j addr show`.
fn device_with(addrs: &str, addr: Ipv4Addr) -> Option<String> {
    let links: Value = serde_json::from_str(addrs).ok()?;
    let addr = addr.to_string();
    let has = |link: &&Value| {
        let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == "UP"));
        let addrs = link["addr_info"].as_array();
        up && addrs.is_some_and(|addrs| addrs.iter().any(|info| info["local"] == addr.as_str()))
    };
    links.as_array()?.iter().find(has)?["ifname"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::device_with;

    #[test]
    fn device_is_found_by_its_address_once_it_is_up() {
        let link = |flag: &str| {
            format!(
                r#"[{{}},{{"ifname":"flannel0","flags":["POINTOPOINT","{flag}"],
                "addr_info":[{{"local":"10.5.7.0","prefixlen":32}}]}}]"#
            )
        };
        let addr = "10.5.7.0".parse().unwrap();
        assert_eq!(device_with(&link("UP"), addr).as_deref(), Some("flannel0"));
        assert_eq!(device_with(&link("NOARP"), addr), None);
        assert_eq!(device_with(&link("UP"), "10.5.8.0".parse().unwrap()), None);
        assert_eq!(device_with("", addr), None);
    }
}
