//! [`NodeStatus`]: what the node's loop knows of the lease, the registry and its own files.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{Check, NodeFacts, Report, Stats};
use crate::control::backend::Backend;
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::firewall::{Firewall, RulesState};
use crate::control::subnet::LeaseStatus;
use crate::control::subnet::conflict::ConflictKind;
use crate::control::util::time_text;

const SILENT_REGISTRY: &str = "it does not answer; packets go on";

/// What the health of a node is made of.
#[derive(Debug)]
pub(in crate::control) struct NodeStatus {
    /// How subnet.env is.
    pub(in crate::control) subnet_file: Condition,
    /// Whether the lease source answers.
    pub(in crate::control) is_reachable: bool,
    /// Whether the node is not ready while the lease source does not answer.
    pub(in crate::control) needs_registry: bool,
    /// How the lease is.
    pub(in crate::control) lease: LeaseStatus,
}

impl NodeStatus {
    /// The node's current status.
    pub(in crate::control) fn report(
        self,
        stats: Stats,
        facts: NodeFacts,
        backend: &dyn Backend,
        firewall: &Firewall,
    ) -> Report {
        let (rules, now) = (firewall.state(), Instant::now());
        let conditions = backend.conditions();
        let mut warnings = self.warnings(&conditions);
        let mut checks = self.checks(&conditions, &rules, now);
        if let Some(lease) = checks.remove("lease") {
            checks.insert("lease", self.with_rivals(lease));
        }
        let lease_expires = self.lease.expires.map(|expires| wall_clock(expires, now));
        let (to_peers, from_peers) = backend.peer_counts();
        warnings.extend(backend.peers_warning().map(|warning| ("silent_peers", warning)));
        warnings.extend(facts.host.warnings.clone());
        Report {
            stats,
            checks,
            warnings,
            lease_expires,
            lease_renewals: self.lease.renewals,
            registry_reconnects: self.lease.reconnects,
            num_malformed: self.lease.num_malformed,
            rules,
            facts,
            to_peers,
            from_peers,
        }
    }

    fn checks(
        &self,
        host: &Conditions,
        rules: &RulesState,
        now: Instant,
    ) -> BTreeMap<&'static str, Check> {
        let check = |condition: &Condition| match condition {
            Condition::Ok => Check::holds(),
            // The other peers are served.
            Condition::Degraded(reason) => Check::holds().because(reason.as_str()),
            Condition::Failed(reason) => Check::fails(reason.as_str()),
        };
        let lease = match self.lease.expires {
            _ if self.lease.is_gone => {
                Check::fails("it is gone from the registry, which takes no new one")
            }
            None => Check::holds().because("which never expires"),
            Some(expires) if expires > now => {
                Check::holds_until(time_text::utc(wall_clock(expires, now)))
            }
            Some(_) => Check::fails("it has expired"),
        };
        let own = [
            ("subnet_file", check(&self.subnet_file)),
            ("registry", self.check_registry()),
            ("lease", lease),
            ("rules", check_rules(rules)),
        ];
        let host = host.iter().map(|(name, condition)| (name, check(condition)));
        own.into_iter().chain(host).collect()
    }
}

impl NodeStatus {
    /// An outage of the registry alone stops no packet: docs/adr/0030-readiness.md.
    fn check_registry(&self) -> Check {
        let check = match self.is_reachable {
            true => Check::holds(),
            false => Check::fails(SILENT_REGISTRY),
        };
        if self.needs_registry { check } else { check.optional() }
    }

    /// What is wrong and leaves the node ready, by what it is about.
    fn warnings(&self, host: &Conditions) -> BTreeMap<&'static str, String> {
        let mut warnings = self.lease.warnings.clone();
        if !self.is_reachable && !self.needs_registry {
            warnings.insert("registry", format!("registry: {SILENT_REGISTRY}"));
        }
        if let Some(conflict) = self.lease.conflicts.first() {
            warnings.insert("conflicts", conflict.to_string());
        }
        let num = self.lease.num_malformed;
        if num > 0 {
            let text = match num {
                1 => "1 entry of the registry is no lease and is skipped; the log names it"
                    .to_owned(),
                num => format!(
                    "{num} entries of the registry are no leases and are skipped; the log names each"
                ),
            };
            warnings.insert("malformed", text);
        }
        for (name, condition) in host.iter() {
            if let Condition::Degraded(reason) = condition {
                let text = format!("{name}: {reason}");
                let merge = |warning: &mut String| *warning = format!("{warning}; {text}");
                warnings.entry(name).and_modify(merge).or_insert_with(|| text.clone());
            }
        }
        warnings
    }

    /// Our lease while another host has our public IP: packets for one of the two go to the other.
    /// The one that had it first is ready.
    fn with_rivals(&self, lease: Check) -> Check {
        let mut rivals =
            self.lease.conflicts.iter().filter(|conflict| conflict.other_host.is_some());
        let same_ip = rivals.clone().find(|rival| rival.kind == ConflictKind::SamePublicIp);
        match (&self.lease.rival, same_ip, rivals.next()) {
            (Some(host), Some(_), _) => Check::fails(format!(
                "host {host} had our public IP first and is alive: packets for us go there; give \
                 one of the two another --public-ip"
            )),
            (_, _, Some(conflict)) if lease.ok => lease.because(conflict.to_string()),
            (_, _, _) => lease,
        }
    }
}

fn check_rules(rules: &RulesState) -> Check {
    match rules {
        RulesState::NotWanted => Check::holds().because("none are asked for"),
        RulesState::Pending => Check::fails("not in place yet"),
        RulesState::InPlace { .. } => Check::holds(),
        RulesState::Failed { reason, .. } => Check::fails(reason.as_str()),
    }
}

fn wall_clock(time: Instant, now: Instant) -> SystemTime {
    SystemTime::now() + time.saturating_duration_since(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status() -> NodeStatus {
        let lease = LeaseStatus {
            public_ip: [192, 0, 2, 1].into(),
            expires: None,
            is_gone: false,
            renewals: 0,
            reconnects: 0,
            num_malformed: 0,
            conflicts: Vec::new(),
            rival: None,
            warnings: BTreeMap::new(),
        };
        NodeStatus { subnet_file: Condition::Ok, is_reachable: true, needs_registry: false, lease }
    }

    fn failing(status: &NodeStatus, host: &Conditions, rules: &RulesState) -> Vec<&'static str> {
        let checks = status.checks(host, rules, Instant::now());
        assert_eq!(checks.len(), 9);
        checks.iter().filter(|(_, check)| check.blocks()).map(|(name, _)| *name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_condition_fails_by_itself_and_holds_again() {
        let hour = Duration::from_secs(3600);
        let (well, rules) = (
            Conditions::ok(&["device", "address", "route", "peer_routes", "underlay"]),
            RulesState::NotWanted,
        );
        let mut status = status();
        assert_eq!(failing(&status, &well, &rules), [""; 0], "a reservation");
        status.lease.expires = Some(Instant::now() + hour);
        assert_eq!(failing(&status, &well, &rules), [""; 0]);
        status.subnet_file = Condition::Failed("no room".into());
        assert_eq!(failing(&status, &well, &rules), ["subnet_file"]);
        status.subnet_file = Condition::Ok;
        status.is_reachable = false;
        assert_eq!(failing(&status, &well, &rules), [""; 0]);
        status.needs_registry = true;
        assert_eq!(failing(&status, &well, &rules), ["registry"]);
        status.is_reachable = true;
        let mut down = well.clone();
        down.set("device", Condition::Failed("it is down".into()));
        assert_eq!(failing(&status, &down, &rules), ["device"]);
        let failed = RulesState::Failed { reason: "no iptables".into(), num_writes: 0 };
        assert_eq!(failing(&status, &well, &failed), ["rules"]);
        assert_eq!(failing(&status, &well, &RulesState::Pending), ["rules"]);

        tokio::time::advance(hour).await;
        assert_eq!(failing(&status, &well, &rules), ["lease"]);
        status.lease.expires = Some(Instant::now() + hour);
        assert_eq!(failing(&status, &well, &rules), [""; 0]);
        status.lease.is_gone = true;
        assert_eq!(failing(&status, &well, &rules), ["lease"]);
    }

    #[test]
    fn what_is_wrong_and_leaves_the_node_ready_is_a_warning() {
        let mut status = status();
        let well = Conditions::ok(&["peers"]);
        assert_eq!(status.warnings(&well), BTreeMap::new());
        status.is_reachable = false;
        status.lease.num_malformed = 2;
        status.lease.warnings.insert("peers", "the registry lost 1".to_owned());
        let mut degraded = well;
        degraded.set("peers", Condition::Degraded("10.0.0.9 is in another network".into()));
        let warnings: Vec<String> = status.warnings(&degraded).into_values().collect();
        let malformed =
            "2 entries of the registry are no leases and are skipped; the log names each";
        let peers = "the registry lost 1; peers: 10.0.0.9 is in another network";
        let registry = "registry: it does not answer; packets go on";
        assert_eq!(warnings, [malformed, peers, registry]);
        status.needs_registry = true;
        assert!(!status.warnings(&degraded).contains_key("registry"), "it is no mere warning");
    }
}
