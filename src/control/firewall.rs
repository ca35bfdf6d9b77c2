//! The host's rules: forwarded packets of the overlay may pass, and what leaves it is masqueraded.
//!
//! `rules` says what is wanted, `iptables` or `nftables` compares that with what there is and
//! mends it in one transaction. All of it runs in a task of its own, beside the daemon's loop, and
//! through the host's own tools, each for a bounded time: the overlay carries packets whether or
//! not rules can be had. Nothing is removed at the end, so that a restart leaves no gap; that is
//! for [`clean_up`]. See `docs/adr/0005-rules-as-text.md`.

mod blackhole;
mod cleanup;
mod command;
mod host;
mod iptables;
mod nftables;
mod rules;

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

pub use self::cleanup::{CleanUpError, clean_up};
pub use self::command::CommandError;
use self::iptables::{Chain, Iptables};
use self::nftables::Nftables;
pub use self::rules::Ranges;
use super::log_limit::LogLimit;
use crate::routes::Subnet;

/// Which rules and routes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirewallConfig {
    /// Accept forwarded packets of the overlay.
    pub forward_rules: bool,
    /// Masquerade what leaves the overlay.
    pub ip_masq: bool,
    /// Masquerade from random ports, where the tool can.
    pub fully_random: bool,
    /// Time between two looks at them.
    pub resync: Duration,
    /// Keep a blackhole route for our subnet.
    pub blackhole_route: bool,
}

/// What rules are kept with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleTool {
    /// iptables, in chains of our own.
    Iptables,
    /// nftables, in a table of our own.
    Nftables,
}

/// Keeps the rules while it lives. They stay when it goes.
#[derive(Debug)]
pub struct Firewall {
    installed: oneshot::Receiver<()>,
    _tasks: JoinSet<()>,
}

impl FirewallConfig {
    const fn has_rules(&self) -> bool {
        self.forward_rules || self.ip_masq
    }
}

impl Firewall {
    /// Starts to keep what `config` asks for, on the runtime the caller is in. `previous` is the
    /// subnet we had at the last start.
    pub fn start(
        config: FirewallConfig,
        tool: RuleTool,
        ranges: Ranges,
        previous: Option<Subnet>,
    ) -> Self {
        let uses_iptables = config.has_rules() && tool == RuleTool::Iptables;
        for advice in host::advice(uses_iptables) {
            info!("{advice}");
        }
        let (sender, installed) = oneshot::channel();
        let mut tasks = JoinSet::new();
        if config.has_rules() {
            let keeper = Keeper { config, tool, ranges, found: None, log: LogLimit::default() };
            tasks.spawn(keeper.keep(sender));
        }
        if config.blackhole_route {
            let stale = previous.filter(|previous| *previous != ranges.subnet);
            tasks.spawn(async move {
                let Err(error) = blackhole::keep(ranges.subnet, stale, config.resync).await;
                warn!("Failed to keep the blackhole route: {error}: {}", error.source);
            });
        }
        Self { installed, _tasks: tasks }
    }

    /// Waits until all rules are in place or it is known that they cannot be.
    ///
    /// # Cancel safety
    /// It may be dropped and called again until it has returned, not after.
    pub async fn installed(&mut self) {
        // Nothing is ever sent: the sender goes when there is nothing, or nothing more, to wait for.
        let _: Result<(), _> = (&mut self.installed).await;
    }
}

/// Looks after the rules.
struct Keeper {
    config: FirewallConfig,
    tool: RuleTool,
    ranges: Ranges,
    /// The tool, once it has been found to work.
    found: Option<Found>,
    log: LogLimit,
}

enum Found {
    Iptables(Iptables, Vec<Chain>),
    Nftables(Nftables),
}

impl Keeper {
    async fn keep(mut self, installed: oneshot::Sender<()>) {
        self.look().await;
        // Only now: when somebody changes from one tool to the other, no packet goes without.
        self.remove_others().await;
        drop(installed);
        let mut ticks = interval(self.config.resync);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Compares what there is with what should be, and mends it.
    async fn look(&mut self) {
        let mut found = match self.found.take() {
            Some(found) => found,
            None => match self.find().await {
                Ok(found) => found,
                Err(error) => return self.complain("", &error),
            },
        };
        match &mut found {
            Found::Iptables(iptables, chains) => {
                for chain in chains {
                    let (table, rules) = (chain.table(), chain.len());
                    match iptables.ensure(chain).await {
                        Ok(true) => report(iptables.version(), table, rules),
                        Ok(false) => debug!("rules in table {table} are as they should be"),
                        Err(error) => self.complain(table, &error),
                    }
                }
            }
            Found::Nftables(nftables) => match nftables.ensure().await {
                Ok(true) => report(nftables.version(), "flannel-ipv4", nftables.num_rules()),
                Ok(false) => debug!("rules are as they should be"),
                Err(error) => self.complain("flannel-ipv4", &error),
            },
        }
        self.found = Some(found);
    }

    /// Finds the tool. It may be installed while we run, so this is tried again and again.
    async fn find(&self) -> Result<Found, CommandError> {
        Ok(match self.tool {
            RuleTool::Iptables => {
                let iptables = Iptables::find("iptables").await?;
                let chains = iptables.chains(&self.config, self.ranges);
                Found::Iptables(iptables, chains)
            }
            RuleTool::Nftables => Found::Nftables(Nftables::find(&self.config, self.ranges).await?),
        })
    }

    /// Removes what a flanneld made with the other tool.
    async fn remove_others(&self) {
        let removed = match self.tool {
            RuleTool::Iptables => nftables::remove().await,
            RuleTool::Nftables => match Iptables::find("iptables").await {
                Ok(iptables) => iptables.remove(None).await,
                Err(error) if error.is_missing() => Ok(Vec::new()),
                Err(error) => Err(error),
            },
        };
        match removed {
            Ok(removed) => removed.iter().for_each(|line| info!("removed {line}")),
            Err(error) => warn!(
                "cannot tell whether rules of the other kind are left over: {}; \
                 flanneld --cleanup removes them",
                error.line()
            ),
        }
    }

    fn complain(&mut self, table: &str, error: &CommandError) {
        if !self.log.is_due(table) {
            return;
        }
        let advice = match (error.is_missing(), self.tool) {
            (false, _) => "",
            (true, RuleTool::Iptables) => "install iptables, or set EnableNFTables for nft; ",
            (true, RuleTool::Nftables) => "install nftables, or unset EnableNFTables; ",
        };
        warn!(
            "Failed to set up rules{}{table}: {}; the overlay works on, trying again every {} s; \
             {advice}to do without rules give -iptables-forward-rules=false and no -ip-masq",
            if table.is_empty() { "" } else { " in table " },
            error.line(),
            self.config.resync.as_secs()
        );
    }
}

fn report(version: &str, table: &str, rules: usize) {
    info!("rules are in place: {rules} in table {table}, by {version}");
}
