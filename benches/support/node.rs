//! A worker between devices in memory whose own allocations do not count.

use std::io::{self, IoSlice};
use std::time::Instant;

use allocation_counter::opt_out;
use bytes::Bytes;
use twill::dataplane::Offloads;
use twill::dataplane::ingress::filter::IngressFilter;
use twill::dataplane::io::memory;
use twill::dataplane::io::memory::{
    MemoryHost, MemoryTun, MemoryUdp, MemoryUnderlay, Sent, TunPacket,
};
use twill::dataplane::io::recv_batch::RecvBatch;
use twill::dataplane::io::tun::TunQueue;
use twill::dataplane::io::udp::UdpSocket;
use twill::dataplane::io::underlay_error::UnderlayError;
use twill::dataplane::io::underlay_flow::UnderlayFlow;
use twill::dataplane::packet::vnet_hdr::VnetHdr;
use twill::dataplane::worker::{Budget, Worker};
use twill::routes::Route;
use twill::routes::publish::{self, FibSink, RouteChange, RoutePublisher};

/// The node with the lease 10.1.16.0/24.
pub struct Node {
    worker: Worker<Uncounted<MemoryTun>, Uncounted<MemoryUdp>>,
    host: MemoryHost,
    underlay: MemoryUnderlay,
    _routes: RoutePublisher,
}

/// A device in memory: it allocates where the kernel would copy.
#[derive(Debug)]
struct Uncounted<D>(D);

impl Node {
    /// A node whose devices do what `offloads` says.
    pub fn new(offloads: Offloads) -> Self {
        let (tun, host) = memory::tun(offloads);
        let (udp, underlay) = memory::udp(offloads);
        let (mut publisher, subscriber) = publish::channel(super::network(), 24);
        let Route { subnet, next_hop } = super::route();
        publisher.apply(&[RouteChange { subnet, next_hop: Some(next_hop) }]).unwrap();
        let filter = IngressFilter { subnet: "10.1.16.0/24".parse().unwrap(), tun_mtu: 1472 };
        let (tun, udp) = (Uncounted(tun), Uncounted(udp));
        let worker = Worker::new(tun, udp, [10, 1, 16, 0].into(), filter, subscriber);
        Self { worker, host, underlay, _routes: publisher }
    }

    /// Takes `packets` from the host to the underlay, and gives what was sent.
    pub fn egress(&mut self, packets: &[TunPacket]) -> Vec<Sent> {
        uncounted(|| {
            packets.iter().for_each(|packet| self.host.send.send(packet.clone()).unwrap())
        });
        self.run();
        uncounted(|| self.underlay.sent.try_iter().collect())
    }

    /// Takes `buffers`, each with the length of its datagrams, from the underlay to the host, and
    /// gives what was written.
    pub fn ingress(&mut self, buffers: &[(Option<usize>, Bytes)]) -> Vec<TunPacket> {
        uncounted(|| buffers.iter().for_each(|b| self.underlay.send.send(b.clone()).unwrap()));
        self.run();
        uncounted(|| self.host.written.try_iter().collect())
    }

    fn run(&mut self) {
        while self.worker.turn(Instant::now()).unwrap() == Budget::Exhausted {}
    }
}

impl TunQueue for Uncounted<MemoryTun> {
    fn read(&self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        uncounted(|| self.0.read(buffer))
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        uncounted(|| self.0.write(pieces))
    }

    fn inject_local(&self, packet: &[u8]) -> io::Result<()> {
        uncounted(|| self.0.inject_local(packet))
    }

    fn offloads(&self) -> Offloads {
        self.0.offloads()
    }
}

impl UdpSocket for Uncounted<MemoryUdp> {
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        uncounted(|| self.0.recv(batch))
    }

    fn send(
        &self,
        flow: UnderlayFlow,
        gso_size: Option<u16>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<()> {
        uncounted(|| self.0.send(flow, gso_size, pieces))
    }

    fn send_in_fragments(&self, flow: UnderlayFlow, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        uncounted(|| self.0.send_in_fragments(flow, pieces))
    }

    fn take_error(&self) -> io::Result<UnderlayError> {
        uncounted(|| self.0.take_error())
    }

    fn num_overflows(&self) -> u32 {
        self.0.num_overflows()
    }

    fn offloads(&self) -> Offloads {
        self.0.offloads()
    }
}

/// Does `work` without counting its allocations; what it gives may be freed at any time.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let mut done = None;
    opt_out(|| done = Some(work()));
    done.unwrap()
}
