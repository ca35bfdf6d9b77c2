//! One measurement between two pods: round trips with `ping`, one TCP flow with `iperf3`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::lab::LabError;
use crate::lab::host::command::CommandError;
use crate::lab::host::netns::Netns;
use crate::lab::host::process::Process;
use crate::lab::host::wait::wait_for;

/// Whether `addr` answers one ping from `netns` within half a second.
///
/// # Errors
/// [`CommandError`] when ping cannot be run at all.
pub fn reaches(netns: &Netns, addr: Ipv4Addr) -> Result<bool, CommandError> {
    let ping = netns.tool("ping").words("-n -q -c 1 -W 0.5").arg(addr.to_string());
    Ok(ping.output()?.status.success())
}

/// Round-trip times of `count` pings, in microseconds, sorted; lost ones are missing.
///
/// # Errors
/// [`CommandError`] when none was answered.
pub fn round_trips(netns: &Netns, addr: Ipv4Addr, count: u32) -> Result<Vec<f64>, CommandError> {
    let ping = netns.tool("ping").words(&format!("-n -c {count} -i 0.002 -W 1"));
    let mut times = ping_times(&ping.arg(addr.to_string()).run()?);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// What one TCP flow did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TcpFlow {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// Segments the sender had to send again.
    pub retransmits: u64,
}

/// An `iperf3` server; dropping it stops it.
#[derive(Debug)]
pub struct TcpServer {
    process: Process,
}

const PORT: u16 = 5201;

impl TcpServer {
    /// Starts a server in `netns` and waits until it listens; its log is in `dir`.
    ///
    /// # Errors
    /// [`LabError`] when it does not come to listen.
    pub fn start(netns: &Netns, dir: &Path) -> Result<Self, LabError> {
        let log: PathBuf = dir.join(format!("iperf3-{}.log", netns.name()));
        let args = ["-s".to_owned(), "-p".to_owned(), PORT.to_string()];
        let process = Process::start(netns, Path::new("iperf3"), &args, log)?;
        let server = Self { process };
        wait_for("iperf3 to listen", Duration::from_secs(5), || {
            let sockets = netns.tool("cat").arg("/proc/self/net/tcp6").run()?;
            let sockets = sockets + &netns.tool("cat").arg("/proc/self/net/tcp").run()?;
            Ok(sockets.contains(&format!(":{PORT:04X} ")).then_some(()))
        })?;
        Ok(server)
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.process.kill();
    }
}

/// Runs one TCP flow of `seconds` from `netns` to the [`TcpServer`] at `addr`.
///
/// # Errors
/// [`LabError`] when the flow breaks or stalls.
pub fn tcp_flow(netns: &Netns, addr: Ipv4Addr, seconds: u32) -> Result<TcpFlow, LabError> {
    let deadline = Duration::from_secs(u64::from(seconds) + 10);
    let client = netns.tool("iperf3").words("-J --connect-timeout 3000 -c").arg(addr.to_string());
    let client = client.words(&format!("-p {PORT} -t {seconds}")).deadline(deadline);
    let output = client.output()?;
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let flow = || {
        Some(TcpFlow {
            bits_per_second: report["end"]["sum_received"]["bits_per_second"].as_f64()?,
            retransmits: report["end"]["sum_sent"]["retransmits"].as_u64()?,
        })
    };
    flow().ok_or_else(|| {
        // iperf3 writes its errors into its report.
        let said = report["error"].as_str().map_or(output.stderr.as_str(), |error| error);
        LabError::Unreadable { what: "iperf3's report".to_owned(), text: said.trim().to_owned() }
    })
}

/// The figures after `time=` in ping's output, milliseconds there and microseconds here.
fn ping_times(output: &str) -> Vec<f64> {
    let time = |line: &str| {
        let (_, rest) = line.split_once("time=")?;
        rest.split(' ').next()?.parse().ok().map(|millis: f64| millis * 1000.0)
    };
    output.lines().filter_map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::ping_times;

    #[test]
    fn ping_times_are_read_in_microseconds() {
        let output = "PING 10.5.1.2 (10.5.1.2) 56(84) bytes of data.\n\
                      64 bytes from 10.5.1.2: icmp_seq=1 ttl=60 time=0.125 ms\n\
                      64 bytes from 10.5.1.2: icmp_seq=2 ttl=60 time=2 ms\n\n1 packets lost\n";
        assert_eq!(ping_times(output), [125.0, 2000.0]);
    }
}
