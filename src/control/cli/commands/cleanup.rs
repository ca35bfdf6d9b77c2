//! `flanneld --cleanup`: removes what any flanneld made on this host.
//!
//! It removes our rules, and those of older layouts and of the other address family if they are
//! certainly flannel's, in every kind of iptables; both nft tables; left-over overlay devices with
//! their routes; routes with our protocol number; the blackhole route; and last subnet.env, which has
//! the ranges, if nothing else is left.

mod links;

use std::fs;
use std::io;
use std::path::Path;

use tokio::runtime::Builder;

use crate::control::cli::client::daemons::running;
use crate::control::host::firewall::command::CommandError;
use crate::control::host::firewall::iptables::{Iptables, OlderLayouts};
use crate::control::host::firewall::{blackhole, nftables};
use crate::control::host::net;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::host::preflight;
use crate::control::host::preflight::PreflightError;
use crate::control::node::subnet_env::{previous_network, previous_subnet};
use crate::control::subnet::kv::state_file::StateFile;
use crate::dataplane::fast_path;

/// Why nothing, or not everything, was removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanUpError {
    /// A running flanneld would create everything again.
    #[error("flanneld is running with pid {pid}: stop it first")]
    Running {
        /// Of the running daemon.
        pid: i32,
    },
    /// The network must not be changed.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The async runtime did not start.
    #[error("start the async runtime")]
    Runtime(#[source] io::Error),
    /// Some of it is still there.
    #[error("not everything was removed: {}", .0.join("; "))]
    Left(Vec<String>),
}

/// Prefixes of iptables' program names: the host's default, and both kinds by name.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-nft",
    "iptables-legacy",
    "ip6tables",
    "ip6tables-nft",
    "ip6tables-legacy",
];

/// Removes everything, with the help of the ranges in `subnet_file`, and calls `removed` with each
/// thing.
///
/// # Errors
/// [`CleanUpError`], at the end: after a failure the rest is still removed.
pub fn clean_up(subnet_file: &Path, removed: impl FnMut(&str)) -> Result<(), CleanUpError> {
    preflight::check_net_admin()?;
    if let Some(daemon) = running().into_iter().find(|daemon| daemon.is_here) {
        return Err(CleanUpError::Running { pid: daemon.pid });
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CleanUpError::Runtime)?;
    runtime.block_on(async {
        let mut cleaner = Cleaner { removed, left: Vec::new() };
        cleaner.rules(subnet_file).await;
        cleaner.network(subnet_file).await;
        if cleaner.left.is_empty() {
            cleaner.file(subnet_file);
            cleaner.file(&StateFile::path_next_to(subnet_file));
        }
        if cleaner.left.is_empty() { Ok(()) } else { Err(CleanUpError::Left(cleaner.left)) }
    })
}

struct Cleaner<F> {
    removed: F,
    left: Vec<String>,
}

impl<F: FnMut(&str)> Cleaner<F> {
    async fn rules(&mut self, subnet_file: &Path) {
        let subnet = previous_subnet(subnet_file);
        let network = previous_network(subnet_file);
        let older = network
            .map_or_else(OlderLayouts::default, |network| OlderLayouts::about(network, subnet));
        for name in IPTABLES {
            let removed = match Iptables::find(name).await {
                Ok(iptables) => iptables.remove(&older).await,
                Err(error) => Err(error),
            };
            self.note(removed);
        }
        self.note(nftables::remove().await);
    }

    /// A tool that is not installed has created nothing.
    fn note(&mut self, result: Result<Vec<String>, CommandError>) {
        match result {
            Ok(lines) => lines.iter().for_each(|line| (self.removed)(line)),
            Err(error) if error.is_missing() => {}
            Err(error) => self.left.push(error.line()),
        }
    }

    async fn network(&mut self, subnet_file: &Path) {
        if let Err(error) = self.links_and_routes(subnet_file).await {
            self.left.push(format!("{error}: {}", error.source));
        }
    }

    async fn links_and_routes(&mut self, subnet_file: &Path) -> Result<(), KernelError> {
        let (connection, net): (_, Netlink) = net::connect()?;
        tokio::spawn(connection);
        for link in links::left_over(&net).await? {
            links::delete(&net, &link).await?;
            (self.removed)(&format!("device {}", link.name));
        }
        for name in links::names(&net).await? {
            if fast_path::remove_left_over(&name) {
                (self.removed)(&format!("filter of the fast path on {name}"));
            }
        }
        for route in net.delete_marked_routes().await? {
            (self.removed)(&route);
        }
        if let Some(subnet) = previous_subnet(subnet_file)
            && blackhole::remove(&net, subnet).await? > 0
        {
            (self.removed)(&format!("route blackhole {subnet}"));
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) {
        match fs::remove_file(path) {
            Ok(()) => (self.removed)(&format!("file {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.left.push(format!("remove {}: {error}", path.display())),
        }
    }
}
