//! `flannel-lab`'s command line. The doc comment of a field is its help text.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::bench::BenchArgs;
use super::host::netns_agent;
use super::host::netns_agent::NetnsAgent;
use super::network::backend::Backend;
use super::network::registry::RegistryKind;

/// The program as clap sees it, for its manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Makes networks of flanneld nodes on this machine: network namespaces, pods, a real etcd.
///
/// Needs root and a handful of tools (`make setup` installs them). Every lab is an underlay of
/// its own: nothing leaves the machine, and labs of different names do not touch each other.
#[derive(Debug, Parser)]
#[command(name = "flannel-lab", version, max_term_width = 100)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Makes a lab, pings every pod from every pod, measures, prints a table, removes the lab.
    ///
    /// One TCP flow runs between two pods on different nodes: without any overlay (raw), over the
    /// kernel's vxlan made by hand, over twill, and with the udp backend also over twill with its
    /// offloads off, which is how stock flanneld moves packets. All take turns in rounds on the
    /// same pods and links.
    Demo(DemoArgs),
    /// Measures overlays side by side: throughput, packet rate, latency, CPU time, many leases.
    ///
    /// Plain veth links (raw), the kernel's vxlan made by hand, twill with each backend, and twill's
    /// udp backend as stock flanneld moves packets (off) take turns in every round, between pods of
    /// the same kind, and so does every daemon given by --flanneld. Everything takes a quarter of an
    /// hour. Ratios within a run are worth more than absolute figures.
    Bench(BenchArgs),
    /// Tries twill together with another flanneld, such as a stock one: a table of what works.
    ///
    /// In labs of a node each: who joins first, longest packets, restarts, renewals, a peer that
    /// comes and goes, reservations. Takes about a minute; the exit status is 1 when a case fails.
    Interop(InteropArgs),
    /// Makes a lab that stays until `down`.
    Up(LabArgs),
    /// Shows each node of a lab: addresses, lease, whether its flanneld runs, whom it reaches.
    Status(StatusArgs),
    /// Runs a command in the namespace of a node (n1) or a pod (n1-p1).
    Exec(ExecArgs),
    /// Removes a lab, also one whose maker crashed. A lab that is gone is no error.
    Down(NameArg),
    /// What the lab itself runs in its namespaces.
    #[command(subcommand, hide = true, name = netns_agent::COMMAND)]
    NetnsAgent(NetnsAgent),
}

/// Which lab.
#[derive(Debug, Args)]
pub struct NameArg {
    /// The lab's name; its namespaces start with it
    #[arg(short = 'l', long = "name", value_name = "LAB", default_value = "lab")]
    pub name: String,
}

/// A lab and its shape.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// Its shape
    #[command(flatten)]
    pub shape: ShapeArgs,
}

/// What a lab is like.
#[derive(Debug, Args)]
pub struct ShapeArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub nodes: usize,
    /// How many pods on each node
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub pods: usize,
    /// MTU of the underlay, in bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: u16,
    /// Where the nodes keep their leases
    #[arg(long, value_enum, default_value_t = RegistryKind::default())]
    pub registry: RegistryKind,
    /// Network config to write to the registry
    #[arg(long, value_name = "JSON", conflicts_with = "backend")]
    pub config: Option<String>,
    /// Backend of the network config
    #[arg(long, value_enum, default_value_t = Backend::default())]
    pub backend: Backend,
    /// The flanneld to run: PATH on all nodes, NODE=PATH on one
    ///
    /// May be given several times. The word `stock-emulator` for PATH is the built-in emulator of a
    /// stock node. Without it, all nodes run the flanneld in the directory of this program.
    #[arg(long, value_name = "[NODE=]PATH")]
    pub flanneld: Vec<String>,
    /// What the underlay's links carry
    #[arg(long, value_enum, default_value_t = Wire::Superpackets)]
    pub wire: Wire,
}

/// What the underlay's links carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Whole superpackets, as veth links do: like an ideal NIC
    Superpackets,
    /// Frames of the MTU's size only: like a NIC without offloads
    Frames,
}

/// What to measure, and on what.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The lab's name; its namespaces start with it
    #[arg(short = 'l', long = "name", value_name = "LAB", default_value = "demo")]
    pub name: String,
    /// Its shape
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// How often each system is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of each TCP flow
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Also writes all figures to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Whom twill is to meet.
#[derive(Debug, Args)]
pub struct InteropArgs {
    /// The labs' names start with it
    #[arg(short = 'l', long = "name", value_name = "LAB", default_value = "interop")]
    pub name: String,
    /// The other flanneld; `stock-emulator` for PATH is the built-in emulator of a stock node
    #[arg(long, value_name = "PATH")]
    pub flanneld: String,
    /// Backend of both
    #[arg(long, value_enum, default_value_t = Backend::default())]
    pub backend: Backend,
    /// More flags for it, separated by spaces
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    pub flags: String,
}

/// Which lab, and the form of the output.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// Prints JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What to run, and where.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// A node such as n1, or a pod such as n1-p1
    pub node: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
