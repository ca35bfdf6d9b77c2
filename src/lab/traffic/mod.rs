//! Traffic between pods: some to be checked, some to be measured.
//!
//! [`serve`], [`tcp::send`] and [`udp::send`] check every byte at both ends; hidden commands of
//! `flannel-lab` run them inside the pods' namespaces, and [`Generator`] starts those commands.
//! [`bulk`], [`flood`] and [`round_trips`] look at no byte and are fast: threads of the lab's own
//! process, on sockets made inside the namespaces.

pub mod pattern;
pub mod tcp;
pub mod udp;

pub mod bulk;
pub mod flood;
pub mod round_trips;
pub mod measure;
pub mod probe;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LabError;
use super::host::command::Tool;
use super::host::netns::Netns;
use super::host::netns_agent;
use super::host::process::Process;
use super::host::wait::wait_for;

/// What a sender saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// TCP connections, or UDP datagrams sent.
    pub sent: u64,
    /// Those that came back, or were confirmed, whole.
    pub answered: u64,
    /// Those in which a byte was wrong, at either end.
    pub corrupt: u64,
    /// Payload bytes that were checked, both directions together.
    pub bytes: u64,
}

/// Starts the generator's commands in namespaces.
#[derive(Debug, Clone)]
pub struct Generator {
    /// `flannel-lab`, which has the hidden commands.
    pub flannel_lab: PathBuf,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

/// Port of the server, both protocols.
const PORT: u16 = 7007;

impl Generator {
    /// Starts a server in `netns` and waits until it listens; its log is in `dir`.
    ///
    /// # Errors
    /// [`LabError`] when it does not come to listen.
    pub fn serve(&self, netns: &Netns, dir: &Path) -> Result<Server, LabError> {
        let log = dir.join(format!("traffic-{}.log", netns.name()));
        let args = [netns_agent::COMMAND.to_owned(), "serve".to_owned(), PORT.to_string()];
        let process = Process::start(netns, &self.flannel_lab, &args, log)?;
        let server = Server { process };
        let what = format!("the traffic server in {}", netns.name());
        wait_for(&what, Duration::from_secs(5), || {
            let sockets = netns.tool("cat").arg("/proc/self/net/udp").run()?;
            Ok(sockets.contains(&format!(":{PORT:04X} ")).then_some(()))
        })?;
        Ok(server)
    }

    /// Sends TCP flows from `netns` to the server at `addr`; see [`tcp::send`].
    ///
    /// # Errors
    /// [`LabError`] when a flow breaks or stalls.
    pub fn tcp(&self, netns: &Netns, addr: Ipv4Addr, plan: tcp::Plan) -> Result<Report, LabError> {
        let tcp::Plan { up, down, time } = plan;
        let words = format!("--up {up} --down {down} --millis {}", time.as_millis());
        self.run(netns, "tcp", addr, &words, time)
    }

    /// Sends UDP datagrams from `netns` to the server at `addr`; see [`udp::send`].
    ///
    /// # Errors
    /// [`LabError`] when the socket fails.
    pub fn udp(&self, netns: &Netns, addr: Ipv4Addr, plan: &udp::Plan) -> Result<Report, LabError> {
        let sizes: Vec<String> = plan.sizes.iter().map(ToString::to_string).collect();
        let time = plan.time;
        let words = format!(
            "--sizes {} --count {} --millis {}",
            sizes.join(","),
            plan.count,
            time.as_millis()
        );
        self.run(netns, "udp", addr, &words, time)
    }

    fn run(
        &self,
        netns: &Netns,
        protocol: &str,
        addr: Ipv4Addr,
        words: &str,
        time: Duration,
    ) -> Result<Report, LabError> {
        let to = SocketAddrV4::new(addr, PORT).to_string();
        let tool: Tool =
            netns.tool(&self.flannel_lab).arg(netns_agent::COMMAND).arg(protocol).arg(to);
        let text = tool.words(words).deadline(time + Duration::from_secs(30)).run()?;
        let what = || "the traffic report".to_owned();
        serde_json::from_str(&text).map_err(|_| LabError::Unreadable { what: what(), text })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
    }
}

/// Answers TCP and UDP on `port` until it is killed.
///
/// # Errors
/// The port is taken.
pub fn serve(port: u16) -> io::Result<()> {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let listener = TcpListener::bind(any)?;
    let socket = UdpSocket::bind(any)?;
    thread::spawn(move || udp::answer(&socket));
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = tcp::answer(&stream) {
                eprintln!("flow: {error}");
            }
        });
    }
    Ok(())
}
