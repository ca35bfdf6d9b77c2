//! [`Etcd`]: a real etcd in a namespace of its own, and what a lab asks of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::backend::Backend;
use super::topology::ETCD_ADDR;
use crate::lab::LabError;
use crate::lab::host::command::{CommandError, Tool};
use crate::lab::host::netns::Netns;
use crate::lab::host::process::{Process, ProcessId};
use crate::lab::host::wait::wait_for;

/// flannel's default `-etcd-prefix`.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// Most operations in one transaction: leases come by the thousand. A request stays below etcd's
/// limit of 1.5 MiB (`--max-request-bytes`).
pub(crate) const MAX_TXN_OPS: usize = 4096;

/// etcd is ready in well under a second; a busy machine may take longer.
const READY: Duration = Duration::from_secs(20);

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    netns: Netns,
    dir: PathBuf,
    process: Process,
}

/// The endpoint flanneld is given.
pub(super) fn endpoint() -> String {
    format!("http://{ETCD_ADDR}:2379")
}

impl Etcd {
    /// Starts an etcd in `netns`, which has [`ETCD_ADDR`]; its data and log stand below `dir`.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started; [`wait_ready`](Self::wait_ready) tells the rest.
    pub fn start(netns: Netns, dir: PathBuf) -> Result<Self, LabError> {
        fs::create_dir_all(&dir).map_err(LabError::io(format!("create {}", dir.display())))?;
        let process = spawn(&netns, &dir)?;
        Ok(Self { netns, dir, process })
    }

    /// Which process it is.
    pub const fn id(&self) -> ProcessId {
        self.process.id()
    }

    /// Its namespace.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`LabError::Daemon`] with its last words when it does not.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        let answer = wait_for("etcd to answer", READY, || {
            if let Some(status) = self.process.ended() {
                return Err(self.gone(&format!("ended with {status}")));
            }
            let health = self.netns.tool("etcdctl").words("--endpoints").arg(endpoint());
            let health = health.words("--dial-timeout=1s --command-timeout=1s endpoint health");
            Ok(health.output()?.status.success().then_some(()))
        });
        match answer {
            Err(LabError::NotInTime { .. }) => Err(self.gone("does not answer")),
            other => other,
        }
    }

    /// Stops it at once, as a crash would. Its data stays.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its old data and waits until it answers.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`wait_ready`](Self::wait_ready).
    pub fn start_again(&mut self) -> Result<(), LabError> {
        self.process = spawn(&self.netns, &self.dir)?;
        self.wait_ready()
    }

    /// Writes the network config, as an operator would.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn put_config(&self, json: &str) -> Result<(), CommandError> {
        self.ctl(&["put", &format!("{PREFIX}/config"), json]).map(drop)
    }

    /// Every lease: the subnet as it stands in the key, such as `10.5.7.0-24`, and the value.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn leases(&self) -> Result<Vec<(String, String)>, CommandError> {
        let prefix = format!("{PREFIX}/subnets/");
        let lines = self.ctl(&["get", "--prefix", &prefix])?;
        Ok(pairs(&lines, &prefix))
    }

    /// Deletes the lease of a subnet such as `10.5.7.0-24`; whether there was one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn delete_lease(&self, subnet: &str) -> Result<bool, CommandError> {
        let deleted = self.ctl(&["del", &key_of(subnet)])?;
        Ok(deleted.trim() == "1")
    }

    /// Writes a lease that never ends with the value that a node of `backend` and `public_ip`
    /// writes.
    ///
    /// # Errors
    /// [`LabError`] of etcdctl.
    pub fn put_lease(
        &self,
        subnet: &str,
        backend: Backend,
        public_ip: Ipv4Addr,
    ) -> Result<(), LabError> {
        self.ctl(&["put", &key_of(subnet), &backend.lease_value(public_ip)])?;
        Ok(())
    }

    /// Makes a lease that is there end within `seconds`, with the value it has.
    ///
    /// # Errors
    /// [`LabError`] when there is no such lease, or of etcdctl.
    pub fn shorten_lease(&self, subnet: &str, seconds: u32) -> Result<(), LabError> {
        let value = self.ctl(&["get", "--print-value-only", &key_of(subnet)])?;
        let granted = self.ctl(&["lease", "grant", &seconds.to_string()])?;
        let id = granted.split(' ').nth(1).unwrap_or_default();
        self.ctl(&["put", &key_of(subnet), value.trim_end(), &format!("--lease={id}")])?;
        Ok(())
    }

    /// Seconds until a lease ends: -1 if it never does, `None` if there is no such lease.
    ///
    /// # Errors
    /// [`LabError`] of etcdctl.
    pub fn lease_ttl(&self, subnet: &str) -> Result<Option<i64>, LabError> {
        ttl(&self.tool(), &key_of(subnet))
    }

    /// Runs `etcdctl` in etcd's namespace.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn ctl(&self, args: &[&str]) -> Result<String, CommandError> {
        args.iter().fold(self.tool(), |tool, arg| tool.arg(arg)).run()
    }

    fn tool(&self) -> Tool {
        self.netns.tool("etcdctl").arg("--endpoints").arg(endpoint())
    }

    fn gone(&self, what: &str) -> LabError {
        let said = self.process.log_tail(1);
        LabError::Daemon { daemon: "etcd".to_owned(), what: what.to_owned(), said }
    }
}

fn spawn(netns: &Netns, dir: &Path) -> Result<Process, LabError> {
    let client = endpoint();
    let peer = "http://127.0.0.1:2380";
    let args = [
        "--name=lab".to_owned(),
        format!("--data-dir={}", dir.join("data").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=lab={peer}"),
        format!("--max-txn-ops={MAX_TXN_OPS}"),
    ];
    Process::start(netns, Path::new("etcd"), &args, dir.join("etcd.log"))
}

fn key_of(subnet: &str) -> String {
    format!("{PREFIX}/subnets/{subnet}")
}

/// Seconds until `key` ends, asked by `etcdctl`: -1 if it never does, `None` if it is not there.
///
/// # Errors
/// [`LabError`] of etcdctl.
pub(super) fn ttl(etcdctl: &Tool, key: &str) -> Result<Option<i64>, LabError> {
    let json = |tool: Tool| -> Result<Value, LabError> {
        let text = tool.words("-w json").run()?;
        let what = || "etcdctl's answer".to_owned();
        serde_json::from_str(&text).map_err(|_| LabError::Unreadable { what: what(), text })
    };
    let found = json(etcdctl.clone().arg("get").arg(key))?;
    let Some(entry) = found["kvs"].get(0) else { return Ok(None) };
    let Some(lease) = entry["lease"].as_i64().filter(|lease| *lease != 0) else {
        return Ok(Some(-1));
    };
    let left = json(etcdctl.clone().words(&format!("lease timetolive {lease:x}")))?;
    Ok(left["ttl"].as_i64())
}

/// etcdctl prints a key and its value on alternate lines.
fn pairs(lines: &str, prefix: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = lines.lines().collect();
    let pair = |pair: &[&str]| (pair[0].trim_start_matches(prefix).to_owned(), pair[1].to_owned());
    lines.chunks_exact(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::pairs;

    #[test]
    fn keys_and_values_alternate() {
        let lines = "/p/subnets/10.5.7.0-24\n{\"PublicIP\":\"192.0.2.1\"}\n";
        let lease = ("10.5.7.0-24".to_owned(), "{\"PublicIP\":\"192.0.2.1\"}".to_owned());
        assert_eq!(pairs(lines, "/p/subnets/"), [lease]);
        assert!(pairs("", "/p/subnets/").is_empty());
    }
}
