//! `flanneld ping`: whether packets reach a node, underlay and overlay apart, and why not.

pub(in crate::control::cli) mod observe;
mod report;
pub(in crate::control::cli) mod target;
pub(in crate::control::cli) mod verdict;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::task::spawn_blocking;

use self::observe::{Plan, observe};
use self::report::PingReport;
use self::verdict::verdict;
use super::survey::{Own, RegistryFacts, Settings, fixed_mac, own_daemons, status, way_problem};
use crate::control::cli::client::ToolError;
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{print, print_json};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::external_interface;
use crate::control::host::net;
use crate::control::host::probe::Echo;
use crate::control::node::subnet_env::previous_subnet;
use crate::control::util::error_chain::error_chain;

/// Flags of `flanneld ping`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct PingArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
    /// The node: its public IP, a host name with that address, its subnet, or the address of one of
    /// its containers.
    #[arg(value_name = "PEER|SUBNET|ADDRESS")]
    target: String,
    /// Find the longest packet that passes, on underlay and overlay.
    #[arg(long)]
    mtu: bool,
    /// Echo requests to each address.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Seconds to wait for each answer, 0.05 to 60.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,
    /// Flags of the daemon, if it does not run: --etcd-endpoints, --iface and so on.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no number of seconds from 0.05 to 60");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.05..=60.0).contains(&seconds) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

impl PingArgs {
    pub(in crate::control::cli) async fn run(
        &self,
        socket: Option<&Path>,
    ) -> Result<Exit, ToolError> {
        let local = |error: &dyn std::error::Error| ToolError::Local(error_chain(error));
        Echo::open(None).map_err(|error| local(&error))?;
        let pids = own_daemons();
        let settings = Settings::find(&self.flags, pids.first().copied());
        let settings = settings.map_err(|error| local(&error))?;
        let config = settings.config.as_ref();
        let status = status(socket).await;
        let registry = RegistryFacts::read(config, status.as_ref()).await;
        let Some(network) = &registry.network else {
            let reason = registry.problem.or(registry.no_network).unwrap_or_default();
            return Err(ToolError::Local(format!(
                "the network is not known: {reason}; as root, ping takes the flags of the flanneld \
                 that runs, else give them after --"
            )));
        };
        let (connection, netlink) = net::connect().map_err(|error| local(&error))?;
        tokio::spawn(connection);
        let links = net::all_links(&netlink).await.map_err(|error| local(&error))?;
        let iface =
            external_interface(config, &netlink, None).await.map_err(|error| local(&error))?;
        let previous = previous_subnet(&config.subnet_file);
        let own = Own::find(network, &iface, &registry, previous, &links);
        let ours = network.backend.backend_type().to_string();
        let target = target::looked_up(&self.target).await;
        let peer = target::find(&target, &own, &ours, &registry.leases);
        let mut peer = peer.map_err(|error| local(&error))?;
        if let Some(lease) = &peer.lease {
            let ends = (own.node_addr(lease.subnet), peer.public_ip);
            peer.way_problem = way_problem(&netlink, &own, &links, ends).await;
            peer.fixed_mac = fixed_mac(&netlink, &links, peer.public_ip).await;
            let known = status.iter().flat_map(|status| &status.peers);
            peer.path_mtu =
                known.filter(|it| it.public_ip == peer.public_ip).find_map(|it| it.path_mtu);
        }
        let (count, wait) = (self.count, self.timeout);
        let plan = Plan { count, is_brief: false, wait, finds_mtu: self.mtu };
        let asked = spawn_blocking(move || {
            let seen = observe(&own, &peer, plan)?;
            let verdict = verdict(&own, &peer, &seen);
            Ok::<_, crate::control::host::probe::ProbeError>(PingReport {
                own,
                peer,
                seen,
                verdict,
            })
        });
        let report = asked.await.map_err(|error| local(&error))?.map_err(|error| local(&error))?;
        if self.ask.json {
            print_json(&report.to_json())?;
        } else {
            print(&report.to_text(Paint::stdout()))?;
        }
        Ok(if report.verdict.ok { Exit::Well } else { Exit::Degraded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_a_number_of_seconds_within_reason() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "x", "0", "-1", "61", "nan", "inf", "1s"] {
            assert!(seconds(text).unwrap_err().contains("0.05 to 60"), "{text}");
        }
    }
}
