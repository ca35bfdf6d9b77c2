//! [`HostWatch`]: looks for faults of the host while the daemon runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{
    BridgeFacts, Harm, OverlayFacts, Problem, bridge_problem, bridges, dropped_forward,
    no_forwarding, sysctl,
};
use crate::control::host::firewall::trace::Rules;
use crate::control::host::net;
use crate::control::host::net::{KernelError, Netlink, all_links};

/// Time between two looks at switches and bridges.
const PERIOD: Duration = Duration::from_secs(10);

/// Time between two looks at the rules, which takes processes of the host's tools.
const RULES_PERIOD: Duration = Duration::from_secs(30);

/// On a host with many rules, a look takes no more than a hundredth of the time.
const RULES_SHARE: u32 = 100;

/// What was found at the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFindings {
    /// A sentence for each fault, by name.
    pub warnings: BTreeMap<&'static str, String>,
    /// The bridges of containers.
    pub bridges: Vec<BridgeFacts>,
}

/// Looks for faults for as long as the value lives.
#[derive(Debug)]
pub struct HostWatch {
    found: watch::Receiver<HostFindings>,
    asked: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl HostWatch {
    /// Starts to look, on the runtime the caller is in.
    pub fn start(overlay: OverlayFacts) -> Self {
        let (sender, found) = watch::channel(HostFindings::default());
        let (mut tasks, asked) = (JoinSet::new(), Arc::new(Notify::new()));
        let requests = Arc::clone(&asked);
        tasks.spawn(async move {
            if let Err(error) = look_for_ever(overlay, &sender, &requests).await {
                warn!("faults of this host are not looked for: {error}: {}", error.source);
            }
        });
        Self { found, asked, _tasks: tasks }
    }

    /// Looks now, and waits until that is done.
    pub async fn look_again(&self) {
        let mut found = self.found.clone();
        found.mark_unchanged();
        self.asked.notify_one();
        // It fails only if nobody looks any more.
        let _ = found.changed().await;
    }

    /// What was found at the last look.
    pub fn found(&self) -> HostFindings {
        self.found.borrow().clone()
    }
}

async fn look_for_ever(
    overlay: OverlayFacts,
    sender: &watch::Sender<HostFindings>,
    asked: &Notify,
) -> Result<(), KernelError> {
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dropped = None;
    // When the rules are due by themselves, and when they may be read for somebody who asks.
    let (mut rules_due, mut rules_rested) = (Instant::now(), Instant::now());
    loop {
        let is_asked = tokio::select! {
            _ = ticks.tick() => false,
            () = asked.notified() => true,
        };
        let Some((mut found, overlay, bridge)) = switches_and_bridges(&net, &overlay).await else {
            continue;
        };
        let start = Instant::now();
        if start >= rules_due || (is_asked && start >= rules_rested) {
            dropped = rule_that_drops(overlay, bridge).await;
            rules_rested = Instant::now() + start.elapsed() * RULES_SHARE;
            rules_due = rules_rested.max(start + RULES_PERIOD);
        }
        found.warnings.extend(dropped.clone().map(|it| ("forward_rules", it)));
        log_changes(&sender.borrow().warnings, &found.warnings);
        sender.send_replace(found);
    }
}

/// What is found without the rules; the overlay as it is now, and the bridge on our subnet.
async fn switches_and_bridges(
    net: &Netlink,
    overlay: &OverlayFacts,
) -> Option<(HostFindings, OverlayFacts, Option<String>)> {
    let links = all_links(net).await.ok()?;
    let device = links.iter().find(|it| it.link.name == overlay.device)?;
    // flanneld follows its interface.
    let mtu = u16::try_from(device.link.mtu).unwrap_or(u16::MAX);
    let overlay = OverlayFacts { mtu, ..overlay.clone() };
    let (bridge, problem) = bridge_problem(&links, &overlay);
    let forwarding: Vec<&str> =
        bridge.iter().chain([&overlay.device]).map(String::as_str).collect();
    let forwarding = no_forwarding(&forwarding, sysctl);
    let problem = problem.filter(|it| it.harm != Harm::NoneYet);
    let found = [("forwarding", forwarding), ("bridge", problem)];
    let warnings = found.into_iter().filter_map(|(name, it)| Some((name, sentence(&it?))));
    let found = HostFindings { warnings: warnings.collect(), bridges: bridges(&links, &overlay) };
    Some((found, overlay, bridge))
}

/// To follow packets through a thousand rules takes milliseconds, which the daemon's loop does not
/// have.
async fn rule_that_drops(overlay: OverlayFacts, bridge: Option<String>) -> Option<String> {
    let rules = Rules::read().await;
    let peer = overlay.a_peer();
    let look = move || dropped_forward(&rules, &overlay, bridge.as_deref(), peer);
    let problem = spawn_blocking(look).await.ok().flatten();
    problem.as_ref().map(sentence)
}

fn sentence(Problem { text, advice, .. }: &Problem) -> String {
    format!("{text}: {advice}")
}

fn log_changes(before: &BTreeMap<&'static str, String>, now: &BTreeMap<&'static str, String>) {
    for (name, text) in now {
        if before.get(name) != Some(text) {
            warn!("{text}");
        }
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        info!("{}: right again", name.replace('_', " "));
    }
}
