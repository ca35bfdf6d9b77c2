//! [`ConflictTracker`]: this node's claim to its subnet, and whatever contradicts it or keeps it from being
//! written.
//!
//! A conflict is logged and shown, never resolved by force: which of two nodes is in the right, only
//! the operator knows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::config::network::Subnets;
use crate::control::subnet::conflict::{Conflict, ConflictKind};
use crate::control::subnet::host_id::HostId;
use crate::control::subnet::kv::registry::Stored;
use crate::control::subnet::lease::{Lease, print_key};

/// What this node says is its own.
#[derive(Debug)]
pub struct ConflictTracker {
    /// Our subnets.
    pub subnets: Subnets,
    /// Our public IP, which follows the interface.
    public_ip: Mutex<Ipv4Addr>,
    /// By the key of the entry that contradicts us.
    conflicts: Mutex<BTreeMap<String, Conflict>>,
    /// Why our lease could not be written when that was last tried.
    write_failure: Mutex<Option<String>>,
    /// Whether the registry has no entry of ours, as far as is known.
    is_gone: AtomicBool,
}

impl ConflictTracker {
    /// A claim that nobody contradicts yet.
    pub fn new(subnets: Subnets, public_ip: Ipv4Addr) -> Self {
        Self {
            subnets,
            public_ip: Mutex::new(public_ip),
            conflicts: Mutex::default(),
            write_failure: Mutex::default(),
            is_gone: AtomicBool::new(false),
        }
    }

    /// Our public IP.
    pub fn public_ip(&self) -> Ipv4Addr {
        *self.public_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that our public IP is another now. What contradicted the old one shows again by
    /// itself if it contradicts this one.
    pub(crate) fn follow(&self, public_ip: Ipv4Addr) {
        *self.public_ip.lock().unwrap_or_else(PoisonError::into_inner) = public_ip;
        self.lock().retain(|_, conflict| conflict.kind != ConflictKind::SamePublicIp);
    }

    /// Every conflict that is not over.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.lock().values().cloned().collect()
    }

    /// Whether our entry is gone and could not be written again.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Takes note of why our lease cannot be written, and whether it `is_gone`.
    pub(crate) fn cannot_be_written(&self, failure: String, is_gone: bool) {
        self.set_write_failure(Some(failure));
        self.is_gone.store(is_gone, Ordering::Relaxed);
    }

    /// Takes note that our lease is as we would write it.
    pub(crate) fn is_written(&self) {
        self.set_write_failure(None);
        self.is_gone.store(false, Ordering::Relaxed);
    }

    fn set_write_failure(&self, failure: Option<String>) {
        *self.write_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why our lease could not be written when that was last tried.
    pub(crate) fn write_failure(&self) -> Option<String> {
        self.write_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares another entry's lease with the claim.
    pub(crate) fn compare(&self, other: &Stored<Lease>) {
        let is_own_key = other.entry.key == print_key(self.subnets);
        let is_own_ip = other.attrs.public_ip() == self.public_ip();
        match (is_own_key, is_own_ip, self.subnets.overlap(other.subnets())) {
            // What becomes of our own entry is the concern of the renewer.
            (true, _, _) => {}
            (false, true, _) => self.report(ConflictKind::SamePublicIp, other),
            (false, false, true) => self.report(ConflictKind::Overlap, other),
            (false, false, false) => self.resolve(&other.entry.key),
        }
    }

    /// Takes note that somebody else writes our own entry, in our name.
    pub(crate) fn report_shared(&self, own: &Stored<Lease>) {
        self.report(ConflictKind::SharedLease, own);
    }

    /// Takes note that the entry of `key` contradicts us no longer.
    pub(crate) fn resolve(&self, key: &str) {
        if let Some(conflict) = self.lock().remove(key) {
            tracing::info!("conflict is over: {conflict}");
        }
    }

    fn report(&self, kind: ConflictKind, other: &Stored<Lease>) {
        let conflict = Conflict {
            kind,
            subnet: self.subnets.v4,
            owner: self.public_ip(),
            other_subnet: other.subnet,
            other_owner: other.attrs.public_ip(),
            other_host: HostId::read(&other.attrs),
        };
        let known = self.lock().insert(other.entry.key.clone(), conflict.clone());
        if known.as_ref() != Some(&conflict) {
            tracing::error!("conflict: {conflict}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Conflict>> {
        self.conflicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subnet::kv::registry::{Entry, Revision};
    use crate::control::subnet::lease::LeaseAttrs;
    use crate::control::util::test_log::Logs;

    #[test]
    fn each_conflict_is_told_once_with_both_owners_and_shown_until_it_is_over() {
        let logs = Logs::capture();
        let claim = claim();
        for _ in 0..3 {
            claim.compare(&lease("10.1.0.0/23", "192.0.2.2"));
            claim.compare(&lease("10.1.7.0/24", "192.0.2.1"));
            claim.compare(&lease("10.1.8.0/24", "192.0.2.2"));
        }
        let overlap = "conflict: our lease 10.1.1.0/24 of 192.0.2.1 overlaps lease 10.1.0.0/23 of \
                       192.0.2.2;";
        assert_eq!(logs.count(overlap), 1);
        let same =
            "conflict: our lease 10.1.1.0/24 of 192.0.2.1 and lease 10.1.7.0/24 of 192.0.2.1";
        assert_eq!(logs.count(same), 1);
        let kinds: Vec<ConflictKind> = claim.conflicts().iter().map(|c| c.kind).collect();
        assert_eq!(kinds, [ConflictKind::Overlap, ConflictKind::SamePublicIp]);
        claim.resolve("10.1.0.0-23");
        claim.compare(&lease("10.1.7.0/24", "192.0.2.9"));
        assert_eq!((claim.conflicts().len(), logs.count("conflict is over: ")), (0, 2));
    }

    #[test]
    fn own_entry_is_no_conflict_with_itself_until_somebody_else_writes_it() {
        let claim = claim();
        let own = lease("10.1.1.0/24", "192.0.2.1");
        claim.compare(&own);
        assert_eq!(claim.conflicts(), []);
        claim.report_shared(&own);
        let json = serde_json::to_value(claim.conflicts()).unwrap();
        let expected = serde_json::json!([{
            "kind": "shared-lease", "subnet": "10.1.1.0/24", "owner": "192.0.2.1",
            "other_subnet": "10.1.1.0/24", "other_owner": "192.0.2.1",
        }]);
        assert_eq!(json, expected);
    }

    fn claim() -> ConflictTracker {
        ConflictTracker::new("10.1.1.0/24".parse().unwrap(), "192.0.2.1".parse().unwrap())
    }

    fn lease(subnet: &str, public_ip: &str) -> Stored<Lease> {
        let subnet = subnet.parse().unwrap();
        let attrs = LeaseAttrs::udp(public_ip.parse().unwrap());
        let entry = Entry { key: print_key(subnet), revision: Revision(1), ttl_lease: None };
        Stored { value: Lease { subnet, ipv6_subnet: None, attrs, expires: None }, entry }
    }
}
