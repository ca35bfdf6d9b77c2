//! Starts, observes and stops the workers.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use mio::{Poll, Waker};

use super::decap::Accept;
use super::stats::{StatsSnapshot, WorkerStats};
use super::tun::{KernelTun, TunDevice};
use super::udp::KernelUdp;
use super::worker::{Lost, WAKE, Worker};
use crate::routes::Subnet;
use crate::routes::publish::RouteSubscriber;

/// What the workers must know of this node.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Our lease; what arrives for another subnet is dropped.
    pub subnet: Subnet,
    /// Address of the TUN device: the source of ICMP errors.
    pub tun_addr: Ipv4Addr,
    /// MTU of the TUN device, in bytes; longer datagrams are dropped.
    pub tun_mtu: u16,
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
    /// There is not one socket for each TUN queue.
    #[error("{queues} TUN queues do not match {sockets} sockets")]
    Mismatch {
        /// TUN queues given.
        queues: usize,
        /// Sockets given.
        sockets: usize,
    },
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
    stats: Arc<CachePadded<WorkerStats>>,
}

impl Engine {
    /// Spawns one worker per TUN queue; `sockets` has one socket for each.
    ///
    /// # Errors
    /// [`EngineError`] when a thread or its poll cannot be made.
    pub fn start(
        config: EngineConfig,
        tun: TunDevice,
        sockets: Vec<KernelUdp>,
        routes: RouteSubscriber,
    ) -> Result<Self, EngineError> {
        let (queues, num_sockets) = (tun.queues.len(), sockets.len());
        if queues != num_sockets {
            return Err(EngineError::Mismatch { queues, sockets: num_sockets });
        }
        let (report, failures) = crossbeam_channel::bounded(queues);
        let mut engine = Self { threads: Vec::new(), stop: Arc::default(), failures };
        for (number, (queue, socket)) in tun.queues.into_iter().zip(sockets).enumerate() {
            let accept = Accept { subnet: config.subnet, tun_mtu: usize::from(config.tun_mtu) };
            let worker = Worker::new(queue, socket, config.tun_addr, accept, routes.clone());
            // An early return drops the engine, which stops the workers that already run.
            let thread = spawn(number, worker, Arc::clone(&engine.stop), report.clone());
            let thread = thread.map_err(|source| EngineError::Start { worker: number, source })?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// Reads every counter. Cheap enough for a metrics scrape; takes no lock.
    pub fn stats(&self) -> StatsSnapshot {
        let workers = self.threads.iter().map(|thread| thread.stats.snapshot());
        StatsSnapshot { workers: workers.collect() }
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
    stop: Arc<AtomicBool>,
    report: Sender<EngineError>,
) -> io::Result<Thread> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let stats = worker.stats();
    let work = move || {
        if let Err(source) = worker.run(poll, &stop) {
            // The channel has room for one report of each worker.
            drop(report.try_send(EngineError::Worker { worker: number, source }));
        }
    };
    let handle = Builder::new().name(format!("flannel-w{number}")).spawn(work)?;
    Ok(Thread { handle: Some(handle), waker, stats })
}
