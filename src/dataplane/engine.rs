//! Starts, observes and stops the workers.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnetwork::Ipv4Network;

use super::capture::Tap;
use super::ingress::filter::IngressFilter;
use super::io::tun::TunDevice;
use super::io::udp::{KernelUdp, LongDatagrams};
use super::pmtu::PathMtuCache;
use super::worker::{Lost, Worker};
use crate::routes::publish::RouteSubscriber;

mod counters;
mod thread;

pub use counters::Counters;
use thread::Thread;

/// What the workers need to know about this node.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Our lease; packets for another subnet are dropped.
    pub subnet: Ipv4Network,
    /// Address of the TUN device: the source of ICMP errors.
    pub tun_addr: Ipv4Addr,
    /// MTU of the TUN device, in bytes; longer datagrams are dropped.
    pub tun_mtu: u16,
    /// Length of the longest packet that fits one datagram of the external interface, in bytes.
    pub longest_whole: u16,
    /// What happens to datagrams that are too long for their path. If they are refused, the senders
    /// of packets with DF learn the path MTU.
    pub long_datagrams: LongDatagrams,
    /// How the workers share the cores.
    pub threads: ThreadConfig,
}

/// How the workers share the cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadConfig {
    /// Pin each worker to a core; with more workers than cores some share one.
    pub pin: bool,
    /// How long a worker with nothing to do polls before it sleeps, yielding its core each time: this
    /// lowers latency and uses idle CPU time.
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
    /// A worker's device failed permanently: for example, the TUN was deleted.
    #[error("worker {worker} stopped")]
    Worker {
        /// Number of the worker.
        worker: usize,
        /// Which device failed.
        #[source]
        source: Lost,
    },
    /// A worker panicked, which is a bug in twill.
    #[error("worker {worker} panicked")]
    Panicked {
        /// Number of the worker.
        worker: usize,
    },
    /// The numbers of sockets, counters and TUN queues differ.
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
}

impl Engine {
    /// Spawns one worker per TUN queue. `sockets` has one socket for each worker, and `counters` the
    /// counters of each; no other engine may add to them. `on_failure` is called on the thread of a
    /// worker that ends by itself, with the reason; it must not block.
    ///
    /// # Errors
    /// [`EngineError`] when a thread or its poll cannot be made.
    pub fn start(
        config: EngineConfig,
        tun: TunDevice,
        sockets: Vec<KernelUdp>,
        routes: RouteSubscriber,
        counters: Counters,
        on_failure: impl Fn(EngineError) + Clone + Send + 'static,
    ) -> Result<Self, EngineError> {
        let (queues, num_sockets) = (tun.queues.len(), sockets.len().min(counters.workers.len()));
        if queues != num_sockets {
            return Err(EngineError::Mismatch { queues, sockets: num_sockets });
        }
        let mut engine = Self { threads: Vec::new(), stop: Arc::default() };
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
                .with_tap(Tap::new(counters.captures().clone()))
                .with_stats(Arc::clone(stats));
            // An early return drops the engine, which stops the workers that already run.
            let stop = Arc::clone(&engine.stop);
            let thread = thread::spawn(number, worker, config.threads, stop, on_failure.clone());
            let thread = thread.map_err(|source| EngineError::Start { worker: number, source })?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// Stops all workers and waits for them; the TUN device is removed with its last queue.
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
