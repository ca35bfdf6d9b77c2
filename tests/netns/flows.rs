//! Numbered, checksummed UDP datagrams over many one-way flows at once: every datagram that arrives
//! is intact, and none overtakes another of its flow.
//!
//! ```text
//! 0 flow u32 · 4 number u32, from 1 · 8.. the pattern of both     big-endian
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use twill::lab::host::netns::Netns;
use twill::lab::network::pods::Pod;
use twill::lab::traffic::pattern;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub num_flows: usize,
    /// Datagrams of each flow.
    pub num_datagrams: u32,
    /// Threads that send, each with flows of its own and on one core: else the kernel itself would
    /// let datagrams overtake each other.
    pub num_senders: usize,
}

/// What arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub sent: usize,
    pub received: usize,
    pub corrupt: usize,
    /// Datagrams that came after a later one of their flow, or twice, by the shape of the flow.
    pub overtaken: BTreeMap<Shape, usize>,
}

/// Payloads of a flow, in bytes. Flows take these in turn, so all lengths and shapes are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// The same for all.
    Small(usize),
    /// All between these.
    Mixed(usize, usize),
    /// Many of this length in one call, which leaves the pod as one superpacket (`UDP_SEGMENT`).
    Segments(usize),
}

/// The last is longer than an overlay's MTU and leaves the pod in fragments.
const SHAPES: [Shape; 5] = [
    Shape::Small(36),
    Shape::Mixed(8, 1444),
    Shape::Segments(1200),
    Shape::Segments(64),
    Shape::Mixed(2000, 9000),
];

const HEADER_LEN: usize = 8;
/// Datagrams in one call of [`Shape::Segments`].
const SEGMENTS: u32 = 16;
/// Payload of one packet, roughly.
const PACKET_LEN: usize = 1400;

/// Packets on the way at once: fewer than any queue on the way holds (`net.core.netdev_max_backlog`
/// is 1000), so that none need be lost.
const WINDOW: usize = 400;
/// Datagrams that have not arrived by then count as lost.
const LOST: Duration = Duration::from_secs(3);
const RECEIVE_BUFFER: usize = 64 << 20;

const fn shape_of(flow: usize) -> Shape {
    SHAPES[flow % SHAPES.len()]
}

/// Counters that senders and receiver share.
#[derive(Default)]
struct Progress {
    /// Packets sent, received, and given up as lost.
    sent: AtomicUsize,
    received: AtomicUsize,
    lost: AtomicUsize,
    done: AtomicBool,
}

impl Progress {
    fn on_the_way(&self) -> usize {
        let arrived = self.received.load(Ordering::Relaxed) + self.lost.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(arrived)
    }

    fn wait_for_room(&self) {
        let start = Instant::now();
        while self.on_the_way() > WINDOW {
            if start.elapsed() > LOST {
                self.lost.fetch_add(self.on_the_way(), Ordering::Relaxed);
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Packets that carry a datagram of `len` bytes.
const fn num_packets(len: usize) -> usize {
    len.div_ceil(PACKET_LEN)
}

/// Runs `plan` from one pod to another.
pub fn run(from: &Pod, to: &Pod, plan: Plan) -> Report {
    let receiver = bind(&to.netns, to.addr);
    let server = receiver.local_addr().unwrap();
    let (progress, num_sent) = (Progress::default(), Mutex::new(0));
    let mut report = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, plan, &progress));
        let send = |number| {
            let num = from.netns.enter(|| send(server, plan, number, &progress)).unwrap();
            *num_sent.lock().unwrap() += num;
        };
        let senders: Vec<_> =
            (0..plan.num_senders).map(|number| scope.spawn(move || send(number))).collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        progress.done.store(true, Ordering::Relaxed);
        receiving.join().unwrap()
    });
    report.sent = num_sent.into_inner().unwrap();
    report
}

fn bind(netns: &Netns, addr: Ipv4Addr) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((addr, 0))).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

fn pin(number: usize) {
    let num_cores = thread::available_parallelism().unwrap().get();
    let mut core = CpuSet::new();
    core.set(number % num_cores).unwrap();
    sched_setaffinity(Pid::from_raw(0), &core).unwrap();
}

/// Sends the flows of sender `number` in turn; returns the number of datagrams.
fn send(server: SocketAddr, plan: Plan, number: usize, progress: &Progress) -> io::Result<usize> {
    pin(number);
    let mut flows = Vec::new();
    for flow in (number..plan.num_flows).step_by(plan.num_senders) {
        // Not connected: else the kernel counts IP identifications for each socket by itself, and two
        // flows may use one at the same time. The receiver then takes fragments of both for one
        // datagram, and counts the other as lost after 30 s only.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let shape = shape_of(flow);
        if let Shape::Segments(len) = shape {
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(len).unwrap())?;
        }
        flows.push((socket, u32::try_from(flow).unwrap(), shape, 0));
    }
    let (mut num_sent, mut block) = (0, Vec::new());
    loop {
        let mut is_done = true;
        for (socket, flow, shape, last) in &mut flows {
            if *last == plan.num_datagrams {
                continue;
            }
            is_done = false;
            block.clear();
            let num = match shape {
                Shape::Segments(_) => SEGMENTS.min(plan.num_datagrams - *last),
                Shape::Small(_) | Shape::Mixed(..) => 1,
            };
            for _ in 0..num {
                *last += 1;
                push(&mut block, *flow, *last, *shape);
                num_sent += 1;
            }
            progress.wait_for_room();
            let cost = usize::max(num_packets(block.len()), num.try_into().unwrap());
            progress.sent.fetch_add(cost, Ordering::Relaxed);
            socket.send_to(&block, server)?;
        }
        if is_done {
            return Ok(num_sent);
        }
    }
}

/// Appends a datagram.
fn push(block: &mut Vec<u8>, flow: u32, number: u32, shape: Shape) {
    let len = match shape {
        Shape::Small(len) | Shape::Segments(len) => len,
        Shape::Mixed(least, most) => {
            least + (number as usize).wrapping_mul(7919) % (most - least + 1)
        }
    };
    let start = block.len();
    block.extend(flow.to_be_bytes());
    block.extend(number.to_be_bytes());
    block.resize(start + len, 0);
    pattern::fill(seed(flow, number), &mut block[start + HEADER_LEN..]);
}

fn seed(flow: u32, number: u32) -> u64 {
    u64::from(flow) << 32 | u64::from(number)
}

fn receive(socket: &UdpSocket, plan: Plan, progress: &Progress) -> Report {
    let mut report = Report::default();
    let mut last = vec![0; plan.num_flows];
    let mut buffer = vec![0; 65_536];
    let mut last_arrival = Instant::now();
    let expected = plan.num_flows * plan.num_datagrams as usize;
    while report.received < expected {
        let Ok(len) = socket.recv(&mut buffer) else {
            if progress.done.load(Ordering::Relaxed) && last_arrival.elapsed() > LOST {
                break;
            }
            continue;
        };
        last_arrival = Instant::now();
        report.received += 1;
        progress.received.fetch_add(num_packets(len), Ordering::Relaxed);
        let Some((flow, number)) = read(&buffer[..len]) else {
            report.corrupt += 1;
            continue;
        };
        let last = &mut last[flow as usize];
        if number <= *last {
            *report.overtaken.entry(shape_of(flow as usize)).or_default() += 1;
        }
        *last = number.max(*last);
    }
    report
}

/// Flow and number of an intact datagram.
fn read(datagram: &[u8]) -> Option<(u32, u32)> {
    let (header, payload) = datagram.split_at_checked(HEADER_LEN)?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let (flow, number) = (word(0), word(4));
    pattern::matches(seed(flow, number), payload).then_some((flow, number))
}
