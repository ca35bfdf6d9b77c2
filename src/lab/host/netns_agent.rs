//! `flannel-lab netns-agent …`: what the lab itself runs in its namespaces. Not for people.

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::lab::LabError;
use crate::lab::kube_api;
use crate::lab::network::stock_emulator;
use crate::lab::progress;
use crate::lab::traffic;
use crate::lab::traffic::probe;
use crate::lab::traffic::{Report, tcp, udp};

/// The hidden command that these belong to.
pub const COMMAND: &str = "netns-agent";

/// What runs in a namespace.
#[derive(Debug, Subcommand)]
pub enum NetnsAgent {
    /// An emulator of a stock node, with stock's flags
    #[command(disable_help_flag = true)]
    StockEmulator {
        /// Stock's flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// A double of a Kubernetes API server, which keeps its nodes in a file
    KubeApi {
        /// Where it listens
        listen: SocketAddrV4,
        /// Its nodes
        store: PathBuf,
        /// Its certificate, to speak TLS
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        /// The key of the certificate
        #[arg(long, requires = "certificate")]
        key: Option<PathBuf>,
    },
    /// Answers the traffic generator
    Serve {
        /// Port for TCP and UDP
        port: u16,
    },
    /// Sends checked TCP flows
    Tcp {
        /// The server
        to: SocketAddrV4,
        /// Bytes to the server in each flow
        #[arg(long)]
        up: u64,
        /// Bytes from the server in each flow
        #[arg(long)]
        down: u64,
        /// How long to start new flows
        #[arg(long)]
        millis: u64,
    },
    /// Sends checked UDP datagrams
    Udp {
        /// The server
        to: SocketAddrV4,
        /// Payload lengths, taken in turn
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<usize>,
        /// How many at most
        #[arg(long)]
        count: u64,
        /// How long at most
        #[arg(long)]
        millis: u64,
    },
    /// Sends every line of standard input, which is hexadecimal, as one UDP datagram
    Spray {
        /// Where to
        to: SocketAddrV4,
    },
}

impl NetnsAgent {
    /// Does what was asked; some go on until they are killed.
    ///
    /// # Errors
    /// [`LabError`] of the operation that failed.
    pub fn run(self) -> Result<(), LabError> {
        match self {
            Self::StockEmulator { flags } => stock_emulator::run(&flags),
            Self::KubeApi { listen, store, certificate, key } => {
                kube_api::run(listen, store, certificate.zip(key))
                    .map_err(LabError::io(format!("serve the Kubernetes API at {listen}")))
            }
            Self::Serve { port } => {
                traffic::serve(port).map_err(LabError::io(format!("serve port {port}")))
            }
            Self::Tcp { to, up, down, millis } => {
                let plan = tcp::Plan { up, down, time: Duration::from_millis(millis) };
                print(&tcp::send(to, plan).map_err(LabError::io(format!("TCP flow to {to}")))?)
            }
            Self::Udp { to, sizes, count, millis } => {
                let plan = udp::Plan { sizes, count, time: Duration::from_millis(millis) };
                print(&udp::send(to, &plan).map_err(LabError::io(format!("datagrams to {to}")))?)
            }
            Self::Spray { to } => {
                let sprayed = probe::spray(to, io::stdin().lock());
                sprayed.map(drop).map_err(LabError::io(format!("datagrams to {to}")))
            }
        }
    }
}

fn print(report: &Report) -> Result<(), LabError> {
    let json = serde_json::to_string(report).map_err(io::Error::from);
    progress::print(&json.map_err(LabError::io("write the report"))?)
}
