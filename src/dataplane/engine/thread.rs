//! One worker's thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{Builder, JoinHandle};

use mio::{Poll, Waker};
use nix::sched::{self, CpuSet};
use nix::unistd::Pid;

use super::{EngineError, ThreadConfig};
use crate::dataplane::io::tun::KernelTun;
use crate::dataplane::io::udp::KernelUdp;
use crate::dataplane::worker::{Lost, WAKE, Worker};

/// A running worker.
#[derive(Debug)]
pub(super) struct Thread {
    /// Taken when the thread is joined.
    pub(super) handle: Option<JoinHandle<()>>,
    pub(super) waker: Waker,
}

/// Starts the thread of worker `number`.
pub(super) fn spawn(
    number: usize,
    worker: Worker<KernelTun, KernelUdp>,
    threads: ThreadConfig,
    stop: Arc<AtomicBool>,
    on_failure: impl FnOnce(EngineError) + Send + 'static,
) -> io::Result<Thread> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let work = move || {
        if threads.pin {
            pin(number);
        }
        let run = || worker.run(poll, &stop, threads.busy_poll);
        report_failure(number, run, on_failure);
    };
    let handle = Builder::new().name(format!("flannel-w{number}")).spawn(work)?;
    Ok(Thread { handle: Some(handle), waker })
}

/// Does a worker's `work` and calls `on_failure` if it fails or panics.
fn report_failure(
    number: usize,
    work: impl FnOnce() -> Result<(), Lost>,
    on_failure: impl FnOnce(EngineError),
) {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(source)) => EngineError::Worker { worker: number, source },
        Err(_) => EngineError::Panicked { worker: number },
    };
    on_failure(error);
}

/// Pins the calling thread to one of the cores it may run on. A refusal costs only speed.
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

    use ipnetwork::Ipv4Network;

    use super::*;
    use crate::dataplane::ingress::filter::IngressFilter;
    use crate::dataplane::io::memory;
    use crate::dataplane::io::tun::TunQueue;
    use crate::dataplane::offload::Offloads;
    use crate::dataplane::packet::vnet_hdr::VnetHdr;
    use crate::routes::publish;

    /// A device whose driver panics.
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
    fn worker_that_panics_or_loses_its_device_is_reported() {
        let subnet: Ipv4Network = "10.1.15.0/24".parse().unwrap();
        let (_publisher, routes) = publish::channel("10.1.0.0/16".parse().unwrap(), 24);
        let (udp, _wire) = memory::udp(Offloads::OFF);
        let filter = IngressFilter { subnet, tun_mtu: 1472 };
        let mut worker = Worker::new(PanickingTun, udp, subnet.network(), filter, routes);
        let panicked = failure(3, || worker.turn(Instant::now()).map(drop));
        assert!(matches!(panicked, Some(EngineError::Panicked { worker: 3 })));
        let lost = || Err(Lost { what: "TUN queue", source: io::ErrorKind::NotFound.into() });
        assert!(matches!(failure(4, lost), Some(EngineError::Worker { worker: 4, .. })));
        assert!(failure(5, || Ok(())).is_none(), "it was stopped");
    }

    fn failure(number: usize, work: impl FnOnce() -> Result<(), Lost>) -> Option<EngineError> {
        let mut failure = None;
        report_failure(number, work, |error| failure = Some(error));
        failure
    }
}
