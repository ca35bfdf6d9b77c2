//! The case of many leases: does a node with many peers still start, forward and follow?

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cpu::CpuTime;
use super::matrix::Workload;
use super::metric::Metric;
use super::peers::{CONFIG, Peers, Watched};
use super::sample::{self, Sample};
use super::testbed;
use super::testbed::Ends;
use crate::lab::host::wait::wait_for;
use crate::lab::network::daemon::Daemon;
use crate::lab::network::node::READY;
use crate::lab::network::topology::GATEWAY;
use crate::lab::traffic::measure;
use crate::lab::{Lab, LabError, LabSpec};

/// A lab of two nodes, and the leases of many more.
#[derive(Debug)]
pub(super) struct LeaseScale {
    /// Its name in the report.
    pub(super) name: String,
    lab: Lab,
    peers: Peers,
    pod_mtu: u16,
}

/// Lease changes a second.
pub(super) const CHURN: usize = 1000;

/// Port of the udp backend (flannel `pkg/backend/udp/udp_amd64.go`, `defaultPort`).
const PORT: u16 = 8285;

/// How often it is tried whether the last lease is reached.
const PERIOD: Duration = Duration::from_micros(500);

/// Daemons that use less than a twentieth of a core for so long are at rest.
const LOOK: Duration = Duration::from_millis(400);

/// How long a daemon may take to reach it.
const PATIENCE: Duration = Duration::from_secs(60);

impl LeaseScale {
    /// Makes the lab and writes the leases.
    ///
    /// # Errors
    /// [`LabError`] of what could not be made.
    pub(super) fn set_up(
        lab: &str,
        name: &str,
        daemon: &Daemon,
        num_leases: usize,
    ) -> Result<Self, LabError> {
        let spec = LabSpec { config: Some(CONFIG.to_owned()), ..LabSpec::new(lab, daemon.clone()) };
        let mut lab = testbed::lab(spec)?;
        let taken = lab.etcd().leases()?.into_iter().map(|(key, _)| key).collect();
        let peers = Peers::write(lab.etcd(), &taken, num_leases);
        let peers = peers.map_err(LabError::io(format!("write {num_leases} leases")))?;
        let pod_mtu = lab.nodes()[0].overlay().map_or(0, |overlay| overlay.env.mtu);
        Ok(Self { name: format!("{name}, {num_leases} leases"), lab, peers, pod_mtu })
    }

    /// MTU of the pods, in bytes.
    pub(super) const fn pod_mtu(&self) -> u16 {
        self.pod_mtu
    }

    /// Restarts the sending node, then measures it at rest and under churn.
    ///
    /// # Errors
    /// [`LabError`] when it does not start or does not forward.
    pub(super) fn take(&mut self, time: Duration) -> Result<Sample, LabError> {
        let start = self.restart()?;
        self.rest()?;
        let mut figures = sample::take(&self.ends()?, Workload::Leases, time)?;
        let (elsewhere, _) = self.churned(Watched::No, time)?;
        let (churned, changes) = self.churned(Watched::Yes, time)?;
        let kept = if elsewhere > 0.0 { churned / elsewhere } else { 0.0 };
        figures.extend([
            (Metric::ChurnGbps, churned),
            (Metric::ChurnKept, kept),
            (Metric::ChangesPerSecond, changes),
            (Metric::StartMs, start.as_secs_f64() * 1e3),
            (Metric::RssMib, self.resident_mib()?),
        ]);
        Ok(figures)
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// [`LabError::Teardown`].
    pub(super) fn remove(self) -> Result<(), LabError> {
        self.lab.remove()
    }

    fn ends(&self) -> Result<Ends<'_>, LabError> {
        let [client, server] = testbed::pods(&self.lab)?;
        Ok(Ends { client, server, pids: testbed::pids(&self.lab), pod_mtu: self.pod_mtu })
    }

    /// How long the sending node's daemon takes from its start until it forwards to the last lease.
    fn restart(&mut self) -> Result<Duration, LabError> {
        let Some(addr) = self.peers.last_addr() else {
            return Err(LabError::TooFew { what: "leases", least: 1 });
        };
        let node = &mut self.lab.nodes_mut()[0];
        node.terminate()?;
        let underlay = self.lab.underlay().netns().clone();
        let peer = underlay.enter(|| UdpSocket::bind((GATEWAY, PORT)));
        let peer = peer.map_err(LabError::io("listen as the last peer"))?;
        let start = Instant::now();
        self.lab.nodes_mut()[0].start()?;
        let took = self.reach(&peer, addr, start)?;
        drop(peer);
        self.lab.nodes_mut()[0].wait_ready()?;
        self.lab.save()?;
        let [client, server] = testbed::pods(&self.lab)?;
        wait_for(&format!("{} to carry a ping", self.name), READY, || {
            Ok(measure::reaches(&client.netns, server.addr)?.then_some(()))
        })?;
        Ok(took)
    }

    /// Waits until the daemons have done what a start brings along, such as saving all leases for
    /// the next one.
    fn rest(&self) -> Result<(), LabError> {
        let pids = testbed::pids(&self.lab);
        wait_for(&format!("{} to rest", self.name), PATIENCE, || {
            let before = CpuTime::read(&pids)?;
            thread::sleep(LOOK);
            Ok((CpuTime::read(&pids)?.since(before).daemons < LOOK / 20).then_some(()))
        })
    }

    /// Sends to `addr` from the pod until `peer` gets it.
    fn reach(
        &self,
        peer: &UdpSocket,
        addr: Ipv4Addr,
        start: Instant,
    ) -> Result<Duration, LabError> {
        let [client, _] = testbed::pods(&self.lab)?;
        let failed = || LabError::io(format!("send to {addr}"));
        let socket = client.netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let socket = socket.map_err(failed())?;
        peer.set_read_timeout(Some(PERIOD)).map_err(failed())?;
        let mut datagram = [0; 256];
        wait_for(&format!("{} to reach {addr}", self.name), PATIENCE, || {
            for _ in 0..100 {
                // Until there is a route, ICMP errors come back.
                drop(socket.send_to(&[0; 8], (addr, PORT)));
                if peer.recv(&mut datagram).is_ok_and(|len| carries(&datagram[..len], addr)) {
                    return Ok(Some(start.elapsed()));
                }
            }
            Ok(None)
        })
    }

    /// Throughput in Gb/s beside [`CHURN`] changes a second, and how many there were.
    fn churned(&self, watched: Watched, time: Duration) -> Result<(f64, f64), LabError> {
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let ends = self.ends()?;
        let (taken, churned, changes) = thread::scope(|scope| {
            let churn = scope.spawn(|| self.peers.churn(CHURN, watched, &stop, &count));
            let start = Instant::now();
            let taken = sample::take(&ends, Workload::Leases, time);
            let changes = count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            let churned = churn.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            (taken, churned, changes)
        });
        churned.map_err(LabError::io("change leases"))?;
        let gbps = taken?.iter().find(|(metric, _)| *metric == Metric::Gbps).map(|(_, gbps)| *gbps);
        Ok((gbps.unwrap_or_default(), changes))
    }

    fn resident_mib(&self) -> Result<f64, LabError> {
        let pid = testbed::pids(&self.lab).first().copied().unwrap_or_default();
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(LabError::io(format!("read {path}")))?;
        resident_kib(&status)
            .map(|kib| kib / 1024.0)
            .ok_or(LabError::Unreadable { what: path, text: status })
    }
}

/// `VmRSS` in the text of `/proc/PID/status` (proc(5)).
fn resident_kib(status: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

/// Whether `datagram` is an encapsulated IPv4 packet for `addr` (RFC 791 §3.1).
fn carries(datagram: &[u8], addr: Ipv4Addr) -> bool {
    datagram.get(16..20) == Some(&addr.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident_kib("VmPeak:\t9 kB\nVmRSS:\t   20480 kB\n"), Some(20480.0));
        assert_eq!(resident_kib("Name:\tx\n"), None);
    }

    #[test]
    fn datagram_is_known_by_its_inner_destination() {
        let mut packet = [0; 36];
        packet[16..20].copy_from_slice(&[10, 0, 0, 66]);
        assert!(carries(&packet, Ipv4Addr::new(10, 0, 0, 66)));
        assert!(!carries(&packet, Ipv4Addr::new(10, 0, 0, 67)));
        assert!(!carries(&packet[..18], Ipv4Addr::new(10, 0, 0, 66)));
    }
}
