//! Where leases come from, and what a lease is.
//!
//! A [`SubnetManager`] finds the network config and acquires this node's lease, which it then
//! keeps as a [`HeldLease`]. [`kv`] is one, over a key-value store; [`kube`] is one, over the nodes of a
//! Kubernetes cluster.

pub mod kube;
pub mod kv;
pub mod conflict;
mod contact;
pub mod host_id;
pub mod lease;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::conflict::Conflict;
use self::lease::{Lease, LeaseAttrs, LeaseEvent};
use super::config::network::{NetworkConfig, Subnets};

/// Where a node gets its network config and its lease from. See docs/adr/0022-subnet-manager.md.
#[expect(async_fn_in_trait, reason = "the control plane runs on one thread: no bound is wanted")]
pub trait SubnetManager {
    /// The lease once it is acquired.
    type Held: HeldLease;

    /// What the log calls it.
    fn name(&self) -> String;

    /// The network config, as soon as there is one without fault. It may come from an earlier run
    /// of the node with `public_ip`, which may not be known yet.
    ///
    /// # Cancel safety
    /// Nothing is changed; it may be dropped at any time.
    async fn config(&mut self, public_ip: impl AsyncFn() -> Option<Ipv4Addr>) -> NetworkConfig;

    /// Whether the source answered when it was last asked.
    fn is_reachable(&self) -> bool;

    /// What peers are to send to, if the source says so and not the operator's flag.
    fn public_ip(&self) -> Option<Ipv4Addr> {
        None
    }

    /// The subnet this node had before, if that is known.
    fn previous(&self) -> Option<Subnets>;

    /// What the lease that this node would take up says of it by now.
    async fn own_attrs(
        &mut self,
        network: &NetworkConfig,
        public_ip: Ipv4Addr,
    ) -> Option<LeaseAttrs>;

    /// Acquires the lease of the node that `attrs` describes, however long it takes.
    ///
    /// # Errors
    /// [`AcquireError`] when there is none for it.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may leave a lease behind, which the next call finds.
    async fn acquire(
        self,
        network: &NetworkConfig,
        attrs: LeaseAttrs,
    ) -> Result<Self::Held, AcquireError>;
}

/// The lease of this node, and the leases of its peers.
#[expect(async_fn_in_trait, reason = "the control plane runs on one thread: no bound is wanted")]
pub trait HeldLease {
    /// The lease as it was acquired.
    fn lease(&self) -> &Lease;

    /// Keeps the lease until it is lost, for as long as it is polled, and sends every change of the
    /// peers' leases to `updates`. What the lease is to say of this node comes from `attrs`, if it
    /// ever changes. It is called once, when the backend carries packets.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the lease as it is: a restart finds it.
    async fn keep(
        &self,
        attrs: Option<watch::Receiver<LeaseAttrs>>,
        updates: mpsc::UnboundedSender<LeaseUpdate>,
    ) -> LeaseLost;

    /// Takes note that rules and subnet.env are in place, so that pods can have addresses.
    fn announced(&self) {}

    /// Whether the source answered when it was last asked.
    fn is_reachable(&self) -> bool;

    /// How the lease is.
    fn status(&self) -> LeaseStatus;

    /// What the source is, and where.
    fn source(&self) -> String;

    /// Asks the source for something small. How long the answer took; `None` if there was none.
    ///
    /// # Cancel safety
    /// Nothing is changed; it may be dropped at any time.
    async fn ping(&self) -> Option<Duration>;
}

/// Changes of the peers' leases: all of them first, then what is different.
#[derive(Debug)]
pub struct LeaseUpdate {
    /// The changes, in order.
    pub events: Vec<LeaseEvent>,
    /// Whether the source has listed every lease by now. If not, the leases are those of an earlier
    /// run.
    pub is_complete: bool,
}

/// How a lease is, and what is known of its source.
#[derive(Debug, Clone)]
pub struct LeaseStatus {
    /// Our public IP, which follows the interface.
    pub public_ip: Ipv4Addr,
    /// When the lease ends unless it is renewed; `None` if it never does.
    pub expires: Option<Instant>,
    /// Whether the source has no lease of ours and takes no new one.
    pub is_gone: bool,
    /// How often it was renewed, or created again.
    pub renewals: u64,
    /// How often the source answered again after it had not.
    pub reconnects: u64,
    /// Entries of the source that do not read as leases.
    pub num_malformed: usize,
    /// Leases that contradict ours.
    pub conflicts: Vec<Conflict>,
    /// The live host that had our public IP first.
    pub rival: Option<String>,
    /// What is not as it should be, though packets flow, by what it is about.
    pub warnings: BTreeMap<&'static str, String>,
}

/// Why there is no lease for this node: what the lease source says.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AcquireError(pub Box<dyn Error + Send + Sync>);

/// Why our lease is ours no more. The daemon cannot go on with its subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// Somebody deleted it.
    #[error("lease {subnet} of {owner} was deleted before it expired")]
    Deleted {
        /// Our subnet.
        subnet: Ipv4Network,
        /// Our public IP.
        owner: Ipv4Addr,
    },
    /// Our node has another subnet.
    #[error("node {node} now has podCIDR {new}, not {subnet}: a restart takes it up")]
    Renumbered {
        /// Our subnet.
        subnet: IpNetwork,
        /// Our node.
        node: String,
        /// Its subnet.
        new: IpNetwork,
    },
    /// Another node holds the subnet.
    #[error("lease {subnet} of {owner} now belongs to {new_owner}")]
    TakenOver {
        /// Our subnet.
        subnet: Ipv4Network,
        /// Our public IP.
        owner: Ipv4Addr,
        /// The other node's public IP.
        new_owner: Ipv4Addr,
    },
}
