//! [`Etcd`]: a real etcd in a namespace of its own, and what a lab asks of it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::Backend;
use super::etcd_client::EtcdClient;
use super::topology::ETCD_ADDR;
use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::process::{Process, ProcessId};
use crate::lab::host::wait::wait_for;

/// flannel's default `-etcd-prefix`.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// Most operations in one transaction: leases come by the thousand. A request stays below etcd's
/// limit of 1.5 MiB (`--max-request-bytes`).
pub(crate) const MAX_TXN_OPS: usize = 4096;

/// etcd is ready in well under a second; a busy machine may take longer.
const READY: Duration = Duration::from_secs(60);

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    netns: Netns,
    client: EtcdClient,
    dir: PathBuf,
    process: Process,
}

/// The endpoint flanneld is given.
pub(super) fn endpoint() -> String {
    format!("http://{ETCD_ADDR}:2379")
}

impl Etcd {
    /// Starts an etcd in `netns`, which has [`ETCD_ADDR`]; its data and log are below `dir`.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started. Call [`wait_ready`](Self::wait_ready) next.
    pub fn start(netns: Netns, dir: PathBuf) -> Result<Self, LabError> {
        fs::create_dir_all(&dir).map_err(LabError::io(format!("create {}", dir.display())))?;
        let process = spawn(&netns, &dir)?;
        let client = EtcdClient::new(&endpoint(), Some(netns.clone()))?;
        Ok(Self { netns, client, dir, process })
    }

    /// Which process it is.
    pub const fn id(&self) -> ProcessId {
        self.process.id()
    }

    /// Its namespace.
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A client of its own, for a caller that asks often.
    pub(crate) fn new_client(&self) -> Result<EtcdClient, LabError> {
        EtcdClient::new(&endpoint(), Some(self.netns.clone()))
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`LabError::Daemon`] with the last line of its log when it does not.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        let answer = wait_for("etcd to answer", READY, || {
            if let Some(status) = self.process.ended() {
                return Err(self.gone(&format!("ended with {status}")));
            }
            Ok(self.client.is_healthy().then_some(()))
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
    /// [`LabError::Io`].
    pub fn put_config(&self, json: &str) -> Result<(), LabError> {
        self.client.put(&format!("{PREFIX}/config"), json, None)
    }

    /// Every lease: the subnet as in the key, such as `10.5.7.0-24`, and the value.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn leases(&self) -> Result<Vec<(String, String)>, LabError> {
        self.client.list(&key_of(""))
    }

    /// Deletes the lease of a subnet such as `10.5.7.0-24`; whether there was one.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn delete_lease(&self, subnet: &str) -> Result<bool, LabError> {
        self.client.delete(&key_of(subnet))
    }

    /// Writes a lease that never ends with the value that a node of `backend` and `public_ip`
    /// writes.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn put_lease(
        &self,
        subnet: &str,
        backend: Backend,
        public_ip: Ipv4Addr,
    ) -> Result<(), LabError> {
        self.client.put(&key_of(subnet), &backend.lease_value(public_ip), None)
    }

    /// Makes a lease that is there end within `seconds`, with the value it has.
    ///
    /// # Errors
    /// [`LabError::Io`], also when there is no such lease.
    pub fn shorten_lease(&self, subnet: &str, seconds: u32) -> Result<(), LabError> {
        let absent =
            || LabError::io(format!("find lease {subnet}"))(io::ErrorKind::NotFound.into());
        let value = self.client.get(&key_of(subnet))?.ok_or_else(absent)?;
        let lease = self.client.grant(seconds.into())?;
        self.client.put(&key_of(subnet), &value, Some(lease))
    }

    /// Seconds until a lease ends: -1 if it never does, `None` if there is no such lease.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn lease_ttl(&self, subnet: &str) -> Result<Option<i64>, LabError> {
        self.client.ttl(&key_of(subnet))
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
