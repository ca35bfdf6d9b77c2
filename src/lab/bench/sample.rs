//! One system, one workload, once: a few figures.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::cpu::CpuTime;
use super::drops;
use super::matrix::Workload;
use super::metric::Metric;
use super::testbed::Ends;
use crate::lab::LabError;
use crate::lab::host::netns::Netns;
use crate::lab::host::signals;
use crate::lab::traffic::bulk::Bulk;
use crate::lab::traffic::flood::Flood;
use crate::lab::traffic::round_trips;

/// What one measurement found.
pub(super) type Sample = Vec<(Metric, f64)>;

/// Flows that fill the way under which latency is measured.
const NUM_LOADING_FLOWS: usize = 4;

/// What runs before the measured time: a flow's slow start, and queues that fill.
pub(super) const WARM_UP: Duration = Duration::from_millis(150);

/// Measures `workload` for `time` between `ends`.
///
/// # Errors
/// [`LabError`] when nothing gets through at all, or on Ctrl-C.
pub(super) fn take(
    ends: &Ends<'_>,
    workload: Workload,
    time: Duration,
) -> Result<Sample, LabError> {
    match workload {
        Workload::Tcp(flows) => tcp(ends, flows, time),
        Workload::Leases => tcp(ends, 1, time),
        Workload::Udp(len) => udp(ends, len, time),
        Workload::Latency { loaded } => latency(ends, loaded, round_trips::measure, time),
        Workload::TcpLatency => latency(ends, true, round_trips::measure_tcp, time),
    }
}

fn tcp(ends: &Ends<'_>, flows: usize, time: Duration) -> Result<Sample, LabError> {
    let bulk = start(ends, flows)?;
    pause(WARM_UP)?;
    let (bytes, resent) = (bulk.received(), retransmits(&ends.client.netns)?);
    let window = Window::open(ends)?;
    pause(time)?;
    let spent = window.close(ends)?;
    let gbits = to_f64(bulk.received() - bytes) * 8e-9;
    let resent = retransmits(&ends.client.netns)?.saturating_sub(resent);
    let per_gbit = |time: Duration| ratio(time.as_secs_f64() * 1e3, gbits);
    let mut sample = vec![
        (Metric::Gbps, gbits / spent.time.as_secs_f64()),
        (Metric::Retransmits, to_f64(resent) / spent.time.as_secs_f64()),
        (Metric::DeviceDrops, to_f64(spent.drops) / spent.time.as_secs_f64()),
        (Metric::MachineMsPerGbit, per_gbit(spent.cpu.machine)),
    ];
    if !ends.pids.is_empty() {
        sample.push((Metric::DaemonMsPerGbit, per_gbit(spent.cpu.daemons)));
    }
    Ok(sample)
}

fn udp(ends: &Ends<'_>, packet_len: u16, time: Duration) -> Result<Sample, LabError> {
    let (from, to) = (&ends.client.netns, &ends.server.netns);
    let flood = Flood::start(from, to, ends.server.addr, packet_len);
    let flood = flood.map_err(LabError::io(format!("flood {}", ends.server.addr)))?;
    pause(WARM_UP)?;
    let (sent, received) = (flood.sent(), flood.received());
    let window = Window::open(ends)?;
    pause(time)?;
    let spent = window.close(ends)?;
    let (sent, received) = (to_f64(flood.sent() - sent), to_f64(flood.received() - received));
    let per_packet = |time: Duration| ratio(time.as_secs_f64() * 1e9, received);
    let mut sample = vec![
        (Metric::Kpps, received / 1e3 / spent.time.as_secs_f64()),
        // What was on its way when the window opened may make it look like a gain.
        (Metric::LossPercent, (100.0 * (1.0 - ratio(received, sent))).max(0.0)),
        (Metric::DeviceDrops, to_f64(spent.drops) / spent.time.as_secs_f64()),
        (Metric::MachineNsPerPacket, per_packet(spent.cpu.machine)),
    ];
    if !ends.pids.is_empty() {
        sample.push((Metric::DaemonNsPerPacket, per_packet(spent.cpu.daemons)));
    }
    Ok(sample)
}

type RoundTrips = fn(&Netns, &Netns, Ipv4Addr, Duration) -> io::Result<Vec<Duration>>;

fn latency(
    ends: &Ends<'_>,
    loaded: bool,
    measure: RoundTrips,
    time: Duration,
) -> Result<Sample, LabError> {
    let load = if loaded { Some(start(ends, NUM_LOADING_FLOWS)?) } else { None };
    pause(WARM_UP)?;
    let (from, to) = (&ends.client.netns, &ends.server.netns);
    let times = measure(from, to, ends.server.addr, time);
    let times = times.map_err(LabError::io(format!("ask {}", ends.server.addr)))?;
    drop(load);
    let micros = |share| percentile(&times, share).as_secs_f64() * 1e6;
    Ok(vec![(Metric::RttP50Us, micros(0.50)), (Metric::RttP99Us, micros(0.99))])
}

fn start(ends: &Ends<'_>, flows: usize) -> Result<Bulk, LabError> {
    let (from, to) = (&ends.client.netns, &ends.server.netns);
    let bulk = Bulk::start(from, to, ends.server.addr, flows);
    bulk.map_err(LabError::io(format!("connect to {}", ends.server.addr)))
}

/// A stretch of time in which CPU time and drops are counted.
struct Window {
    start: Instant,
    cpu: CpuTime,
    drops: u64,
}

struct Spent {
    time: Duration,
    cpu: CpuTime,
    drops: u64,
}

impl Window {
    fn open(ends: &Ends<'_>) -> Result<Self, LabError> {
        let drops = drops::by_devices(&ends.netns)?;
        Ok(Self { drops, cpu: CpuTime::read(&ends.pids)?, start: Instant::now() })
    }

    fn close(self, ends: &Ends<'_>) -> Result<Spent, LabError> {
        let time = self.start.elapsed();
        let cpu = CpuTime::read(&ends.pids)?.since(self.cpu);
        let drops = drops::by_devices(&ends.netns)?.saturating_sub(self.drops);
        Ok(Spent { time, cpu, drops })
    }
}

/// Lets traffic run for `time`, unless Ctrl-C comes first.
pub(super) fn pause(time: Duration) -> Result<(), LabError> {
    let start = Instant::now();
    while start.elapsed() < time {
        if signals::interrupted() {
            return Err(LabError::Interrupted);
        }
        let left = time.saturating_sub(start.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}

/// Segments that TCP in `netns` has sent again so far.
fn retransmits(netns: &Netns) -> Result<u64, LabError> {
    let path = "/proc/thread-self/net/snmp";
    let snmp = netns.enter(|| std::fs::read_to_string(path)).map_err(LabError::io(path))?;
    let count = counter(&snmp, "Tcp:", "RetransSegs");
    count.ok_or_else(|| LabError::Unreadable { what: path.to_owned(), text: snmp })
}

/// A counter of `/proc/net/snmp`: a line of names, then a line of values.
fn counter(snmp: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with(protocol));
    let (names, values) = (lines.next()?, lines.next()?);
    let index = names.split(' ').position(|field| field == name)?;
    values.split(' ').nth(index)?.parse().ok()
}

/// The time within which `share` of `sorted` lies, by the nearest rank.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = (share * to_f64(sorted.len() as u64)).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { above / below } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a count far below 2⁵³")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let millis: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&millis, 0.50), Duration::from_millis(100));
        assert_eq!(percentile(&millis, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&millis[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn counter_is_found_by_its_name() {
        let snmp = "Ip: A B\nIp: 1 2\nTcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 42 0\n";
        assert_eq!(counter(snmp, "Tcp:", "RetransSegs"), Some(42));
        assert_eq!(counter(snmp, "Udp:", "InErrors"), None);
    }
}
