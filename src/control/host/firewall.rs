//! The host's rules: accept forwarded packets of the overlay, and masquerade packets that leave it.
//!
//! `rules` is the desired state; `iptables` or `nftables` compares it with the actual one and repairs
//! it in one transaction. This runs in a task of its own, with the host's own tools and a timeout for
//! each, so that the overlay carries packets even if no rules can be written. Nothing is removed at
//! the end, so that a restart leaves no gap; `flanneld --cleanup` removes the rules. See `docs/adr/0005-rules-as-text.md`.

pub(crate) mod blackhole;
pub(crate) mod command;
mod host;
pub(crate) mod iptables;
mod neighbours;
pub(crate) mod nftables;
mod rules;
pub mod trace;

use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, trace, warn};

pub use self::command::CommandError;
use self::iptables::{Chain, Iptables};
use self::neighbours::Claim;
use self::nftables::Nftables;
pub use self::rules::Ranges;
use crate::control::util::log_limit::LogLimit;

/// Which rules and routes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirewallConfig {
    /// Accept forwarded packets of the overlay.
    pub forward_rules: bool,
    /// Masquerade what leaves the overlay.
    pub ip_masq: bool,
    /// Masquerade from random ports, where the tool can.
    pub fully_random: bool,
    /// Time between two checks.
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

/// State of the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RulesState {
    /// None are asked for.
    #[default]
    NotWanted,
    /// The first check is not done.
    Pending,
    /// They were right at the last check, or were repaired then.
    InPlace {
        /// Times that they were written.
        num_writes: u64,
    },
    /// They could not be read or repaired at the last check.
    Failed {
        /// Why, in one line.
        reason: String,
        /// Times that they were written.
        num_writes: u64,
    },
}

/// Keeps the rules for as long as the value lives. They stay when it is dropped.
#[derive(Debug)]
pub struct Firewall {
    installed: oneshot::Receiver<()>,
    state: watch::Receiver<RulesState>,
    _tasks: JoinSet<()>,
}

impl FirewallConfig {
    const fn has_rules(&self) -> bool {
        self.forward_rules || self.ip_masq
    }
}

impl Firewall {
    /// Starts to keep what `config` asks for, on the runtime the caller is in. `previous` is the
    /// network and the subnet we had at the last start.
    pub fn start(
        config: FirewallConfig,
        tool: RuleTool,
        ranges: Ranges,
        (previous_network, previous): (Option<Ipv4Network>, Option<Ipv4Network>),
    ) -> Self {
        let uses_iptables = config.has_rules() && tool == RuleTool::Iptables;
        for advice in host::advice(uses_iptables) {
            info!("{advice}");
        }
        let (sender, installed) = oneshot::channel();
        let first = if config.has_rules() { RulesState::Pending } else { RulesState::NotWanted };
        let (tell, state) = watch::channel(first);
        let mut tasks = JoinSet::new();
        if config.has_rules() {
            let (log, stale) = (LogLimit::default(), neighbours::ours(ranges, previous_network));
            let claim = Claim::new(ranges.network);
            let reconciler = RuleReconciler {
                config,
                tool,
                ranges,
                stale,
                found: None,
                tell,
                num_writes: 0,
                log,
                claim,
            };
            tasks.spawn(reconciler.keep(sender));
        }
        if config.blackhole_route {
            let stale = previous.filter(|previous| *previous != ranges.subnet);
            tasks.spawn(async move {
                loop {
                    let Err(error) = blackhole::keep(ranges.subnet, stale, config.resync).await;
                    warn!(
                        "Failed to keep the blackhole route: {error}: {}; trying again",
                        error.source
                    );
                    tokio::time::sleep(config.resync).await;
                }
            });
        }
        Self { installed, state, _tasks: tasks }
    }

    /// How the rules are.
    pub fn state(&self) -> RulesState {
        self.state.borrow().clone()
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

/// Reconciles the rules.
struct RuleReconciler {
    config: FirewallConfig,
    tool: RuleTool,
    ranges: Ranges,
    /// Networks whose rules are ours, from an earlier run.
    stale: Vec<Ipv4Network>,
    /// The tool, once it has been found to work.
    found: Option<Found>,
    tell: watch::Sender<RulesState>,
    /// Times that rules were written.
    num_writes: u64,
    log: LogLimit,
    /// Marks for other flannelds of this host that our network is in use.
    claim: Claim,
}

enum Found {
    Iptables(Iptables, Vec<Chain>),
    Nftables(Nftables),
}

impl RuleReconciler {
    async fn keep(mut self, installed: oneshot::Sender<()>) {
        self.look().await;
        // Only now, so that a change from one tool to the other leaves no gap.
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

    /// Compares what there is with what should be, repairs it, and reports the result.
    async fn look(&mut self) {
        self.claim.hold();
        let result = self.reconcile().await;
        let num_writes = self.num_writes;
        self.tell.send_replace(match result {
            Ok(()) => RulesState::InPlace { num_writes },
            Err(reason) => RulesState::Failed { reason, num_writes },
        });
    }

    /// The error is the last there was, as one line.
    async fn reconcile(&mut self) -> Result<(), String> {
        let mut found = match self.found.take() {
            Some(found) => found,
            None => match self.find().await {
                Ok(found) => found,
                Err(error) => return Err(self.complain("", &error)),
            },
        };
        let mut result = Ok(());
        match &mut found {
            Found::Iptables(iptables, chains) => {
                for chain in chains {
                    let (table, rules) = (chain.table(), chain.len());
                    match iptables.ensure(chain).await {
                        Ok(true) => {
                            self.num_writes += 1;
                            report(iptables.version(), table, rules);
                        }
                        Ok(false) => trace!("rules in table {table} are as they should be"),
                        Err(error) => result = Err(self.complain(table, &error)),
                    }
                }
            }
            Found::Nftables(nftables) => match nftables.ensure().await {
                Ok(true) => {
                    self.num_writes += 1;
                    report(nftables.version(), "flannel-ipv4", nftables.num_rules());
                }
                Ok(false) => trace!("rules are as they should be"),
                Err(error) => result = Err(self.complain("flannel-ipv4", &error)),
            },
        }
        self.found = Some(found);
        result
    }

    /// Finds the tool. It may be installed while we run, so this is tried again and again.
    async fn find(&self) -> Result<Found, CommandError> {
        Ok(match self.tool {
            RuleTool::Iptables => {
                let iptables = Iptables::find("iptables").await?;
                let chains = iptables.chains(&self.config, self.ranges, &self.stale);
                Found::Iptables(iptables, chains)
            }
            RuleTool::Nftables => {
                Found::Nftables(Nftables::find(&self.config, self.ranges, &self.stale).await?)
            }
        })
    }

    /// Removes what we made with the other tool in an earlier run.
    async fn remove_others(&self) {
        let removed = match self.tool {
            RuleTool::Iptables => nftables::withdraw(&self.stale).await,
            RuleTool::Nftables => match Iptables::find("iptables").await {
                Ok(iptables) => iptables.withdraw(self.ranges, &self.stale).await,
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

    /// Gives what went wrong as one line; logs it with advice, once a minute for each table.
    fn complain(&mut self, table: &str, error: &CommandError) -> String {
        let place = if table.is_empty() { String::new() } else { format!(" in table {table}") };
        let line = format!("Failed to set up rules{place}: {}", error.line());
        if !self.log.is_due(table) {
            return line;
        }
        let advice = match (error.is_missing(), self.tool) {
            (false, _) => "",
            (true, RuleTool::Iptables) => "install iptables, or set EnableNFTables for nft; ",
            (true, RuleTool::Nftables) => "install nftables, or unset EnableNFTables; ",
        };
        warn!(
            "{line}; the overlay works on, trying again every {} s; \
             {advice}to do without rules give -iptables-forward-rules=false and no -ip-masq",
            self.config.resync.as_secs()
        );
        line
    }
}

fn report(version: &str, table: &str, rules: usize) {
    info!("rules are in place: {rules} in table {table}, by {version}");
}
