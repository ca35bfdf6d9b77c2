//! Leases of nodes that do not exist: written in bulk, and changed by the thousand.
//!
//! They go through etcd's JSON gateway (etcd Documentation, "gRPC gateway"), because a process
//! for every few writes would take the cores that are being measured.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::lab::host::netns::Netns;
use crate::lab::network::backend::Backend;
use crate::lab::network::etcd;
use crate::lab::network::etcd::Etcd;
use crate::lab::network::topology::{ETCD_ADDR, GATEWAY};

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

/// How long etcd may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leases in one etcd whose nodes do not exist.
#[derive(Debug)]
pub(super) struct Peers {
    netns: Netns,
    backend: Backend,
    /// Keys after the prefix, such as `10.0.1.64-26`, and the public IP of each.
    leases: Vec<(String, Ipv4Addr)>,
    /// etcd's lease that all keys hang on.
    id: String,
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
    ) -> io::Result<Self> {
        let mut leases: Vec<(String, Ipv4Addr)> = (1..)
            .map(|number: u32| (key(number), public_ip(backend, number)))
            .filter(|(key, _)| !taken.contains(key))
            .take(num)
            .collect();
        // The last in etcd's order belongs to a node that can tell when packets reach it.
        if let Some(last) = leases.iter_mut().max_by(|a, b| a.0.cmp(&b.0)) {
            last.1 = GATEWAY;
        }
        let mut peers = Self { netns: etcd.netns().clone(), backend, leases, id: String::new() };
        let granted = peers.post("/v3/lease/grant", &json!({ "TTL": "86400" }))?;
        granted["ID"].as_str().unwrap_or_default().clone_into(&mut peers.id);
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
    pub(super) fn set_last(&self, is_there: bool) -> io::Result<()> {
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
    ) -> io::Result<()> {
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
    fn txn(&self, leases: &[(String, Ipv4Addr)], watched: Watched, delete: bool) -> io::Result<()> {
        let dir = match watched {
            Watched::Yes => format!("{}/subnets", etcd::PREFIX),
            Watched::No => format!("{}/control", etcd::PREFIX.to_uppercase()),
        };
        let operation = |(key, ip): &(String, Ipv4Addr)| {
            let key = BASE64_STANDARD.encode(format!("{dir}/{key}"));
            if delete {
                return json!({ "requestDeleteRange": { "key": key } });
            }
            let value = BASE64_STANDARD.encode(self.backend.lease_value(*ip));
            json!({ "requestPut": { "key": key, "value": value, "lease": self.id } })
        };
        let operations: Vec<Value> = leases.iter().map(operation).collect();
        self.post("/v3/kv/txn", &json!({ "success": operations })).map(drop)
    }

    fn post(&self, path: &str, body: &Value) -> io::Result<Value> {
        let server = SocketAddrV4::new(ETCD_ADDR, 2379);
        let mut stream =
            self.netns.enter(|| TcpStream::connect_timeout(&server.into(), PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.to_string();
        let head =
            format!("POST {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let refused = || io::Error::other(format!("etcd said {}", response.trim()));
        let (head, body) = response.split_once("\r\n\r\n").ok_or_else(refused)?;
        let is_ok = head.lines().next().is_some_and(|status| status.contains(" 200 "));
        if !is_ok {
            return Err(refused());
        }
        serde_json::from_str(body).map_err(|_| refused())
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
        let (netns, backend) = (Netns::named("none"), Backend::Udp);
        let peers = Peers { netns, backend, leases, id: String::new() };
        assert_eq!(peers.last_subnet(), Some(Ipv4Addr::new(10, 97, 168, 64)));
    }
}
