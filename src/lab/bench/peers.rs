//! Leases of nodes that do not exist: written in bulk, and changed by the thousand.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etcd_client::{PutOptions, TxnOp};

use crate::lab::LabError;
use crate::lab::network::backend::Backend;
use crate::lab::network::etcd;
use crate::lab::network::etcd::Etcd;
use crate::lab::network::etcd_client::EtcdClient;
use crate::lab::network::topology::GATEWAY;

/// Length of a lease's prefix: /26 gives a /8 room for 262,144 leases.
pub(super) const SUBNET_LEN: u8 = 26;

/// The network that has room for them, with this backend.
pub(super) fn config(backend: Backend) -> String {
    format!(
        r#"{{"Network":"10.0.0.0/8","SubnetLen":{SUBNET_LEN},"Backend":{{"Type":"{backend}"}}}}"#
    )
}

/// How often a batch of changes is written: etcd's share of the cores is that of 20 transactions
/// a second, whatever the number of changes.
const PERIOD: Duration = Duration::from_millis(50);

/// Leases in one etcd whose nodes do not exist.
#[derive(Debug)]
pub(super) struct Peers {
    etcd: EtcdClient,
    backend: Backend,
    /// Keys after the prefix, such as `10.0.1.64-26`, and the public IP of each.
    leases: Vec<(String, Ipv4Addr)>,
    /// etcd's lease that all keys are bound to.
    lease: i64,
}

/// Which keys a change goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// Those of the leases.
    Yes,
    /// Others, of the same length: the control of the experiment.
    No,
}

impl Peers {
    /// Writes `num` leases, none of which overlaps one that is there.
    ///
    /// # Errors
    /// etcd does not take them.
    pub(super) fn write(
        etcd: &Etcd,
        backend: Backend,
        taken: &HashSet<String>,
        num: usize,
    ) -> Result<Self, LabError> {
        let mut leases: Vec<(String, Ipv4Addr)> = (1..)
            .map(|number: u32| (key(number), public_ip(backend, number)))
            .filter(|(key, _)| !taken.contains(key))
            .take(num)
            .collect();
        // The last in etcd's order belongs to a node that sees whether packets reach it.
        if let Some(last) = leases.iter_mut().max_by(|a, b| a.0.cmp(&b.0)) {
            last.1 = GATEWAY;
        }
        let etcd = etcd.new_client()?;
        let lease = etcd.grant(86400)?;
        let peers = Self { etcd, backend, leases, lease };
        let mut all = peers.leases.chunks(etcd::MAX_TXN_OPS);
        all.try_for_each(|leases| peers.txn(leases, Watched::Yes, false))?;
        Ok(peers)
    }

    /// How many there are.
    pub(super) const fn num(&self) -> usize {
        self.leases.len()
    }

    /// The first address of the lease that comes last in etcd's order.
    pub(super) fn last_subnet(&self) -> Option<Ipv4Addr> {
        self.last()?.0.split_once('-')?.0.parse().ok()
    }

    /// Writes the last lease, or deletes it.
    ///
    /// # Errors
    /// etcd does not take it.
    pub(super) fn set_last(&self, is_there: bool) -> Result<(), LabError> {
        let last: Vec<_> = self.last().cloned().into_iter().collect();
        self.txn(&last, Watched::Yes, !is_there)
    }

    fn last(&self) -> Option<&(String, Ipv4Addr)> {
        self.leases.iter().max_by(|a, b| a.0.cmp(&b.0))
    }

    /// Removes and adds leases in turn, about `rate` a second, until `stop`; counts the changes
    /// and leaves all leases in place.
    ///
    /// # Errors
    /// etcd does not take them.
    pub(super) fn churn(
        &self,
        rate: usize,
        watched: Watched,
        stop: &AtomicBool,
        count: &AtomicU64,
    ) -> Result<(), LabError> {
        let periods = usize::try_from(Duration::from_secs(1).as_millis() / PERIOD.as_millis());
        let each = (rate / periods.unwrap_or(1)).max(1);
        let changing = &self.leases[..self.leases.len().saturating_sub(1)];
        let mut batches = changing.chunks(each).cycle();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let mut num = 0;
            while let Some(batch) = batches.next().filter(|_| num < each) {
                self.txn(batch, watched, true)?;
                self.txn(batch, watched, false)?;
                num += 2 * batch.len();
            }
            count.fetch_add(num as u64, Ordering::Relaxed);
            // Each turn makes up to twice as many changes as fit its period.
            #[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
            let took = PERIOD * num as u32 / each as u32;
            next += took;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Puts or deletes all of `leases` at once.
    fn txn(
        &self,
        leases: &[(String, Ipv4Addr)],
        watched: Watched,
        delete: bool,
    ) -> Result<(), LabError> {
        let dir = match watched {
            Watched::Yes => format!("{}/subnets", etcd::PREFIX),
            Watched::No => format!("{}/control", etcd::PREFIX.to_uppercase()),
        };
        let operation = |(key, ip): &(String, Ipv4Addr)| {
            let key = format!("{dir}/{key}");
            if delete {
                return TxnOp::delete(key, None);
            }
            let bound = PutOptions::new().with_lease(self.lease);
            TxnOp::put(key, self.backend.lease_value(*ip), Some(bound))
        };
        self.etcd.commit(leases.iter().map(operation).collect())
    }
}

/// The key of lease `number`: one subnet behind the other, from the front of the network.
fn key(number: u32) -> String {
    let addr = Ipv4Addr::from_bits(0x0a00_0000 + (number << (32 - SUBNET_LEN)));
    format!("{addr}-{SUBNET_LEN}")
}

/// The address of the node of lease `number`. host-gw's routes need one on the underlay.
fn public_ip(backend: Backend, number: u32) -> Ipv4Addr {
    match backend {
        Backend::Udp | Backend::Vxlan => Ipv4Addr::from_bits(0xac10_0000 + number),
        Backend::HostGw => Ipv4Addr::from_bits(GATEWAY.to_bits() + 20 + number % 200),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_subnets_one_behind_the_other() {
        assert_eq!(key(1), "10.0.0.64-26");
        assert_eq!(key(100_001), "10.97.168.64-26");
    }

    #[test]
    fn last_lease_is_the_last_in_the_order_of_keys() {
        let lease = |number| (key(number), GATEWAY);
        let leases = [1, 3, 100_001, 40_000].map(lease).to_vec();
        let etcd = EtcdClient::new("http://192.0.2.1:2379", None).unwrap();
        let peers = Peers { etcd, backend: Backend::Udp, leases, lease: 0 };
        assert_eq!(peers.last_subnet(), Some(Ipv4Addr::new(10, 97, 168, 64)));
    }
}
