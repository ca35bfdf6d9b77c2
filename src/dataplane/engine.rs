//! Starts, observes and stops the workers.

use std::io;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use ipnetwork::Ipv4Network;
use mio::{Poll, Waker};
use nix::sched::{self, CpuSet};
use nix::unistd::Pid;

use super::ingress::filter::IngressFilter;
use super::io::tun::{KernelTun, TunDevice};
use super::io::udp::{KernelUdp, LongDatagrams};
use super::pmtu::{PathMtuCache, SharedPaths};
use super::stats::StatsSnapshot;
use super::stats::peers::PeerCount;
use super::stats::worker::WorkerStats;
use super::worker::{Lost, WAKE, Worker};
use crate::routes::publish::RouteSubscriber;

/// What the workers must know of this node.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Our lease; what arrives for another subnet is dropped.
    pub subnet: Ipv4Network,
    /// Address of the TUN device: the source of ICMP errors.
    pub tun_addr: Ipv4Addr,
    /// MTU of the TUN device, in bytes; longer datagrams are dropped.
    pub tun_mtu: u16,
    /// Length of the longest packet that the external interface carries in one datagram, in bytes.
    pub longest_whole: u16,
    /// What becomes of datagrams that are too long for their path; where they are refused, the
    /// senders of packets with DF learn what the path takes.
    pub long_datagrams: LongDatagrams,
    /// How the workers share the cores.
    pub threads: ThreadConfig,
}

/// How the workers share the cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadConfig {
    /// Keep each worker on a core of its own, as far as there are enough.
    pub pin: bool,
    /// How long a worker with nothing to do looks again, yielding its core, before it sleeps: lower
    /// latency for time that nobody else wants.
    pub busy_poll: Duration,
}

/// Why the engine did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A worker's thread could not be started.
    #[error("start worker {worker}")]
    Start {
        /// Number of the worker.
        worker: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A worker's device failed for good (the TUN was deleted, say).
    #[error("worker {worker} stopped")]
    Worker {
        /// Number of the worker.
        worker: usize,
        /// What it lost.
        #[source]
        source: Lost,
    },
    /// A worker panicked, which is a fault in twill.
    #[error("worker {worker} panicked")]
    Panicked {
        /// Number of the worker.
        worker: usize,
    },
    /// There is not one socket, with counters, for each TUN queue.
    #[error("{queues} TUN queues do not match {sockets} sockets")]
    Mismatch {
        /// TUN queues given.
        queues: usize,
        /// Sockets given.
        sockets: usize,
    },
}

/// The workers' counters. They outlive an engine, for the next one on the same path to go on with.
#[derive(Debug, Clone)]
pub struct Counters {
    workers: Arc<[Arc<CachePadded<WorkerStats>>]>,
    paths: SharedPaths,
}

impl Counters {
    /// Counters at zero for `num_workers` workers.
    pub fn new(num_workers: usize) -> Self {
        let workers = (0..num_workers).map(|_| Arc::default()).collect();
        Self { workers, paths: SharedPaths::default() }
    }

    /// Reads every counter. Cheap enough for a metrics scrape; takes no lock.
    pub fn snapshot(&self) -> StatsSnapshot {
        let workers = self.workers.iter().map(|stats| stats.snapshot()).collect();
        StatsSnapshot { workers, narrow_paths: self.paths.snapshot() }
    }

    /// Reads what was carried to each peer, by one entry for each worker, in no order.
    pub fn to_peers(&self) -> Vec<PeerCount> {
        self.workers.iter().flat_map(|stats| stats.egress.peers.counts()).collect()
    }

    /// The same for what came from each peer. Packets from where no peer is are in none of them.
    pub fn from_peers(&self) -> Vec<PeerCount> {
        self.workers.iter().flat_map(|stats| stats.ingress.peers.counts()).collect()
    }

    /// Takes over what the host's routes say of the longest datagram to each of these peers, outer
    /// headers included, in bytes.
    pub fn limit_paths(&self, outer_mtus: &[(Ipv4Addr, Option<u32>)]) {
        self.paths.limit(outer_mtus);
    }

    /// Counts packets that a worker sent to a peer.
    #[cfg(test)]
    pub fn count(&self, worker: usize, peer: Ipv4Addr, packets: u64) {
        self.workers[worker].egress.peers.add(peer, packets, packets);
    }

    /// Frees what the workers count for every peer of which `stays` says no.
    pub fn keep_peers(&self, stays: impl Fn(Ipv4Addr) -> bool) {
        for stats in &*self.workers {
            stats.egress.peers.keep(&stays);
            stats.ingress.peers.keep(&stays);
        }
    }
}

/// The running workers. Dropping it stops them.
#[derive(Debug)]
pub struct Engine {
    threads: Vec<Thread>,
    stop: Arc<AtomicBool>,
    failures: Receiver<EngineError>,
}

#[derive(Debug)]
struct Thread {
    handle: Option<JoinHandle<()>>,
    waker: Waker,
}

impl Engine {
    /// Spawns one worker per TUN queue; `sockets` has one socket for each, and `counters` those of
    /// one worker, which no other engine adds to.
    ///
    /// # Errors
    /// [`EngineError`] when a thread or its poll cannot be made.
    pub fn start(
        config: EngineConfig,
        tun: TunDevice,
        sockets: Vec<KernelUdp>,
        routes: RouteSubscriber,
        counters: Counters,
    ) -> Result<Self, EngineError> {
        let (queues, num_sockets) = (tun.queues.len(), sockets.len().min(counters.workers.len()));
        if queues != num_sockets {
            return Err(EngineError::Mismatch { queues, sockets: num_sockets });
        }
        let (report, failures) = crossbeam_channel::bounded(queues);
        let mut engine = Self { threads: Vec::new(), stop: Arc::default(), failures };
        let paths = match config.long_datagrams {
            LongDatagrams::Refused => PathMtuCache::sharing(counters.paths.clone(), config.tun_mtu),
            LongDatagrams::Fragmented => PathMtuCache::off(),
        };
        let ends = tun.queues.into_iter().zip(sockets).zip(&*counters.workers);
        for (number, ((queue, socket), stats)) in ends.enumerate() {
            let filter =
                IngressFilter { subnet: config.subnet, tun_mtu: usize::from(config.tun_mtu) };
            let worker = Worker::new(queue, socket, config.tun_addr, filter, routes.clone())
                .with_path_mtus(paths.clone())
                .with_longest_whole(config.longest_whole)
                .with_stats(Arc::clone(stats));
            // An early return drops the engine, which stops the workers that already run.
            let stop = Arc::clone(&engine.stop);
            let thread = spawn(number, worker, config.threads, stop, report.clone());
            let thread = thread.map_err(|source| EngineError::Start { worker: number, source })?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// A channel that yields once for every worker that ended by itself, with the reason.
    pub fn failures(&self) -> Receiver<EngineError> {
        self.failures.clone()
    }

    /// Stops every worker and waits for them; the TUN device goes away with the last queue.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            if let Err(error) = thread.waker.wake() {
                tracing::warn!(%error, "cannot wake a worker; it stops at its next packet");
            }
        }
        for handle in self.threads.iter_mut().filter_map(|thread| thread.handle.take()) {
            if handle.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

fn spawn(
    number: usize,
    worker: Worker<KernelTun, KernelUdp>,
    threads: ThreadConfig,
    stop: Arc<AtomicBool>,
    report: Sender<EngineError>,
) -> io::Result<Thread> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let work = move || {
        if threads.pin {
            pin(number);
        }
        tell_end(number, &report, || worker.run(poll, &stop, threads.busy_poll));
    };
    let handle = Builder::new().name(format!("flannel-w{number}")).spawn(work)?;
    Ok(Thread { handle: Some(handle), waker })
}

/// Does a worker's `work` and reports an end that nobody asked for.
fn tell_end(number: usize, report: &Sender<EngineError>, work: impl FnOnce() -> Result<(), Lost>) {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(source)) => EngineError::Worker { worker: number, source },
        Err(_) => EngineError::Panicked { worker: number },
    };
    // The channel has room for one report of each worker.
    drop(report.try_send(error));
}

/// Keeps the calling thread on one of the cores it may run on. A refusal costs speed only.
fn pin(worker: usize) {
    let this_thread = Pid::from_raw(0);
    let pinned = sched::sched_getaffinity(this_thread).and_then(|allowed| {
        let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true));
        let num_cores = cores.clone().count().max(1);
        let mut own = CpuSet::new();
        own.set(cores.nth(worker % num_cores).unwrap_or(0))?;
        sched::sched_setaffinity(this_thread, &own)
    });
    if let Err(error) = pinned {
        tracing::warn!(worker, %error, "cannot pin a worker to a core; it runs on any");
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::time::Instant;

    use super::*;
    use crate::dataplane::io::memory;
    use crate::dataplane::io::tun::TunQueue;
    use crate::dataplane::offload::Offloads;
    use crate::dataplane::packet::vnet_hdr::VnetHdr;
    use crate::routes::publish;

    /// A device whose driver has a fault that no packet should have to meet.
    #[derive(Debug)]
    struct PanickingTun;

    impl TunQueue for PanickingTun {
        fn read(&self, _buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
            panic!("read")
        }

        fn write(&self, _pieces: &[IoSlice<'_>]) -> io::Result<()> {
            panic!("write")
        }

        fn inject_local(&self, _packet: &[u8]) -> io::Result<()> {
            panic!("inject_local")
        }

        fn offloads(&self) -> Offloads {
            Offloads::OFF
        }
    }

    #[test]
    fn worker_that_panics_is_reported_as_one_that_lost_its_device_is() {
        let (report, failures) = crossbeam_channel::bounded(2);
        let subnet: Ipv4Network = "10.1.15.0/24".parse().unwrap();
        let (_publisher, routes) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
        let (udp, _wire) = memory::udp(Offloads::OFF);
        let filter = IngressFilter { subnet, tun_mtu: 1472 };
        let mut worker = Worker::new(PanickingTun, udp, subnet.network(), filter, routes);
        tell_end(3, &report, || worker.turn(Instant::now()).map(drop));
        assert!(matches!(failures.try_recv(), Ok(EngineError::Panicked { worker: 3 })));
        let lost = || Err(Lost { what: "TUN queue", source: io::ErrorKind::NotFound.into() });
        tell_end(4, &report, lost);
        assert!(matches!(failures.try_recv(), Ok(EngineError::Worker { worker: 4, .. })));
        tell_end(5, &report, || Ok(()));
        assert!(failures.try_recv().is_err());
    }
}
