//! `flanneld doctor`: looks for every fault that keeps packets from the overlay, and says what to do.

mod checks;
mod facts;
mod finding;
mod gather;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Args;

use self::facts::Said;
use self::finding::{DoctorReport, Level};
use super::survey::{RegistryFacts, Settings, own_daemons, status};
use crate::control::cli::client::ToolError;
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{print, print_json};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::host::preflight;
use crate::control::observe::api::Status;
use crate::control::util::error_chain::error_chain;

/// Flags of `flanneld doctor`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct DoctorArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
    /// Most peers that are asked.
    #[arg(long, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    peers: u32,
    /// Flags of the daemon, if it does not run: --etcd-endpoints, --iface and so on. Without them:
    /// those of the daemon that runs here, else those in /etc/default/flanneld and FLANNELD_*.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

impl DoctorArgs {
    pub(in crate::control::cli) async fn run(
        &self,
        socket: Option<&Path>,
    ) -> Result<Exit, ToolError> {
        let local = |error: &dyn std::error::Error| ToolError::Local(error_chain(error));
        // The owner of /proc/PID is the effective user: proc(5).
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if !is_root && preflight::check_net_admin().is_err() {
            let reason = "doctor looks at rules, sockets and other processes: run it as root";
            return Err(ToolError::Local(reason.to_owned()));
        }
        let pids = own_daemons();
        let settings = Settings::find(&self.flags, pids.first().copied());
        let settings = settings.map_err(|error| local(&error))?;
        let status = status(socket).await;
        let registry = RegistryFacts::read(&settings.config, status.as_ref()).await;
        let daemon = status.map(|status| Heard::of(&status)).unwrap_or_default();
        let max_peers = usize::try_from(self.peers).unwrap_or(usize::MAX);
        let facts = gather::facts(&settings, &pids, daemon, registry, max_peers).await;
        let facts = facts.map_err(|error| local(&error))?;
        let report = DoctorReport::new(settings.source.to_string(), checks::run(&facts));
        if self.ask.json {
            print_json(&report)?;
        } else {
            print(&report.to_text(Paint::stdout()))?;
        }
        Ok(if report.result == Level::Fail { Exit::Degraded } else { Exit::Well })
    }
}

/// What the running daemon knows.
#[derive(Debug, Default)]
struct Heard {
    said: Vec<Said>,
    /// The longest packets that pass to peers with narrow paths, by public IP.
    path_mtus: BTreeMap<Ipv4Addr, u16>,
    /// The numbers of the fast path's BPF programs.
    programs: Vec<u32>,
}

impl Heard {
    fn of(status: &Status) -> Self {
        let path_mtus = status.peers.iter().filter_map(|it| Some((it.public_ip, it.path_mtu?)));
        let fast_path = status.data_path.iter().flat_map(|path| &path.fast_path);
        let programs = fast_path.flat_map(|it| &it.hooks).map(|hook| hook.program_id).collect();
        Self { said: said(status), path_mtus: path_mtus.collect(), programs }
    }
}

/// What the daemon finds wrong, a line each.
fn said(status: &Status) -> Vec<Said> {
    // What does not count is among the warnings.
    let failing = status.checks.iter().filter(|(_, check)| check.required && !check.ok);
    let failing = failing.map(|(name, check)| {
        let reason = check.reason.as_deref().unwrap_or("it does not hold");
        Said { name: name.clone(), is_failure: true, text: format!("{name}: {reason}") }
    });
    let phase = status.phase.iter().map(|phase| Said {
        name: "phase".to_owned(),
        is_failure: true,
        text: phase.clone(),
    });
    let warnings = status.warnings.iter().map(|(name, text)| Said {
        name: name.clone(),
        is_failure: false,
        text: text.clone(),
    });
    failing.chain(phase).chain(warnings).collect()
}
