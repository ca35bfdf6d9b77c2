//! [`NodeStatus`]: what the node's loop knows of the lease, the registry and its own files.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{Check, Report, Stats};
use crate::control::backend::Backend;
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::firewall::{Firewall, RulesState};
use crate::control::subnet::conflict::{Conflict, ConflictKind};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::kv::registry::Revision;
use crate::control::subnet::lease::Lease;
use crate::control::util::time_text;

/// What is known of the lease and of the registry, and how often they changed.
#[derive(Debug)]
pub(in crate::control) struct NodeStatus {
    subnet_file: Condition,
    in_touch: bool,
    num_malformed: usize,
    reconnects: u64,
    expires: Option<Instant>,
    revision: Revision,
    is_gone: bool,
    renewals: u64,
    /// What is not as it should be, though packets flow, by what it is about.
    warnings: BTreeMap<&'static str, String>,
    rival: Option<String>,
}

impl NodeStatus {
    /// Of a node that holds `lease` and is not announced yet.
    pub(in crate::control) fn new(lease: &Lease) -> Self {
        let expires = lease.expires;
        Self {
            subnet_file: no_subnet_file(),
            in_touch: true,
            num_malformed: 0,
            reconnects: 0,
            expires,
            revision: lease.entry.revision,
            is_gone: false,
            renewals: 0,
            warnings: BTreeMap::new(),
            rival: None,
        }
    }

    /// Takes note of how subnet.env is; `None` before anybody keeps it.
    pub(in crate::control) fn subnet_file(&mut self, state: Option<Condition>) {
        self.subnet_file = state.unwrap_or_else(no_subnet_file);
    }

    /// Takes note of the host that had our public IP before us and has it still.
    pub(in crate::control) fn rival(&mut self, host: Option<&HostId>) {
        self.rival = host.map(HostId::to_string);
    }

    /// Takes note of whether the registry answers.
    pub(in crate::control) fn touch(&mut self, in_touch: bool) {
        self.reconnects += u64::from(in_touch && !self.in_touch);
        self.in_touch = in_touch;
    }

    /// Takes note of how many entries of the registry do not read as leases.
    pub(in crate::control) const fn malformed(&mut self, num: usize) {
        self.num_malformed = num;
    }

    /// Takes note of what is not as it should be with `what`; `None` when it is.
    pub(in crate::control) fn warn(&mut self, what: &'static str, warning: Option<String>) {
        match warning {
            Some(warning) => drop(self.warnings.insert(what, warning)),
            None => drop(self.warnings.remove(what)),
        }
    }

    /// Takes note of whether the registry has our lease no more, and takes no new one.
    pub(in crate::control) const fn lease_gone(&mut self, is_gone: bool) {
        self.is_gone = is_gone;
    }

    /// Takes note of a new state of our lease.
    pub(in crate::control) fn hold(&mut self, lease: &Lease) {
        // An expiry that is another without a write is only better known.
        let is_written = lease.entry.revision != self.revision;
        let is_later = lease.expires.is_some() && lease.expires != self.expires;
        self.renewals += u64::from(is_written && is_later);
        (self.expires, self.revision) = (lease.expires, lease.entry.revision);
    }

    /// How the node is now.
    pub(in crate::control) fn report(
        &self,
        stats: Stats,
        backend: &dyn Backend,
        firewall: &Firewall,
    ) -> Report {
        let (rules, now) = (firewall.state(), Instant::now());
        let mut checks = self.checks(&backend.conditions(), &rules, now);
        if let Some(lease) = checks.remove("lease") {
            checks.insert("lease", self.with_rivals(lease, &stats.conflicts));
        }
        let lease_expires = self.expires.map(|expires| wall_clock(expires, now));
        let (to_peers, from_peers) = backend.peer_counts();
        Report {
            stats,
            checks,
            warnings: self.warnings.clone(),
            lease_expires,
            lease_renewals: self.renewals,
            registry_reconnects: self.reconnects,
            num_malformed: self.num_malformed,
            rules,
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
        let holds_if = |condition, reason| {
            if condition { Check::holds() } else { Check::fails(reason) }
        };
        let check = |condition: &Condition| match condition {
            Condition::Ok => Check::holds(),
            // The others are served all the same.
            Condition::Degraded(reason) => Check::holds().because(reason.as_str()),
            Condition::Failed(reason) => Check::fails(reason.as_str()),
        };
        let lease = match self.expires {
            _ if self.is_gone => {
                Check::fails("it is gone from the registry, which takes no new one")
            }
            None => Check::holds().because("a reservation, which never expires"),
            Some(expires) if expires > now => {
                Check::holds_until(time_text::utc(wall_clock(expires, now)))
            }
            Some(_) => Check::fails("it has expired"),
        };
        let own = [
            ("subnet_file", check(&self.subnet_file)),
            ("registry", holds_if(self.in_touch, "it does not answer; packets go on")),
            ("lease", lease),
            ("rules", check_rules(rules)),
        ];
        let host = host.iter().map(|(name, condition)| (name, check(condition)));
        own.into_iter().chain(host).collect()
    }
}

fn no_subnet_file() -> Condition {
    Condition::Failed("subnet.env is not written yet".to_owned())
}

impl NodeStatus {
    /// Our lease while another host has our public IP: packets for one of the two go to the other.
    /// The one that had it first is ready.
    fn with_rivals(&self, lease: Check, conflicts: &[Conflict]) -> Check {
        let mut rivals = conflicts.iter().filter(|conflict| conflict.other_host.is_some());
        let same_ip = rivals.clone().find(|rival| rival.kind == ConflictKind::SamePublicIp);
        match (&self.rival, same_ip, rivals.next()) {
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
    use crate::control::subnet::kv::registry::{Entry, Revision};
    use crate::control::subnet::lease::LeaseAttrs;

    fn lease(revision: i64, expires: Option<Instant>) -> Lease {
        let (key, subnet) = ("10.1.1.0-24".to_owned(), "10.1.1.0/24".parse().unwrap());
        let entry = Entry { key, revision: Revision(revision), ttl_lease: None };
        let attrs = LeaseAttrs::udp("192.0.2.1".parse().unwrap());
        Lease { subnet, attrs, expires, entry }
    }

    fn failing(status: &NodeStatus, host: &Conditions, rules: &RulesState) -> Vec<&'static str> {
        let checks = status.checks(host, rules, Instant::now());
        assert_eq!(checks.len(), 9);
        checks.iter().filter(|(_, check)| !check.ok).map(|(name, _)| *name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_condition_fails_by_itself_and_holds_again() {
        let hour = Duration::from_secs(3600);
        let mut status = NodeStatus::new(&lease(1, Some(Instant::now() + hour)));
        let (well, rules) = (
            Conditions::ok(&["device", "address", "route", "peer_routes", "underlay"]),
            RulesState::NotWanted,
        );
        assert_eq!(failing(&status, &well, &rules), ["subnet_file"]);
        status.subnet_file(Some(Condition::Ok));
        assert_eq!(failing(&status, &well, &rules), [""; 0]);
        for in_touch in [false, false, true, false, true] {
            status.touch(in_touch);
            let expected = if in_touch { &[][..] } else { &["registry"] };
            assert_eq!(failing(&status, &well, &rules), expected);
        }
        assert_eq!(status.reconnects, 2);
        let mut down = well.clone();
        down.set("device", Condition::Failed("it is down".into()));
        assert_eq!(failing(&status, &down, &rules), ["device"]);
        let failed = RulesState::Failed { reason: "no iptables".into(), num_writes: 0 };
        assert_eq!(failing(&status, &well, &failed), ["rules"]);
        assert_eq!(failing(&status, &well, &RulesState::Pending), ["rules"]);

        tokio::time::advance(hour).await;
        assert_eq!(failing(&status, &well, &rules), ["lease"]);
        status.hold(&lease(1, Some(Instant::now() + hour)));
        assert_eq!(failing(&status, &well, &rules), [""; 0]);
        assert_eq!(status.renewals, 0, "it was only kept alive");
        status.hold(&lease(2, Some(Instant::now() + 2 * hour)));
        status.lease_gone(true);
        assert_eq!(failing(&status, &well, &rules), ["lease"]);
        status.lease_gone(false);
        status.hold(&lease(3, None));
        tokio::time::advance(2 * hour).await;
        assert_eq!(failing(&status, &well, &rules), [""; 0], "a reservation");
        assert_eq!(status.renewals, 1);
    }
}
