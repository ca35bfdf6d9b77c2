//! The lab's command line: networks of flanneld nodes on one machine.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use twill::lab::bench::BenchArgs;
use twill::lab::daemon::Daemon;
use twill::lab::demo::{self, Plan};
use twill::lab::inside::{self, Inside};
use twill::lab::network::DEFAULT_CONFIG;
use twill::lab::progress::{print, step};
use twill::lab::registry::RegistryKind;
use twill::lab::state::LabState;
use twill::lab::status::LabStatus;
use twill::lab::topology::Names;
use twill::lab::{Lab, LabError, LabSpec, teardown};

/// Makes networks of flanneld nodes on this machine: network namespaces, pods, a real etcd.
///
/// Needs root and a handful of tools (`make setup` installs them). Every lab is an underlay of
/// its own: nothing leaves the machine, and labs of different names do not touch each other.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Makes a lab, pings every pod from every pod, measures, prints a table, removes the lab.
    ///
    /// One TCP flow runs between two pods on different nodes: without any overlay (raw), over
    /// the kernel's vxlan, over twill, and over twill with its offloads off, which is how stock
    /// flanneld moves packets. All four take turns in rounds on the same pods and links.
    Demo(DemoArgs),
    /// Measures overlays side by side: throughput, packet rate, latency, CPU time, many leases.
    ///
    /// Plain veth links (raw), the kernel's vxlan, twill, and twill as stock flanneld moves packets
    /// (off) take turns in every round, between pods of the same kind, and so does every daemon
    /// given by --flanneld. Everything takes less than ten minutes. Ratios within a run are worth
    /// more than absolute figures.
    Bench(BenchArgs),
    /// Makes a lab that stays until `down`.
    Up(LabArgs),
    /// Shows each node of a lab: addresses, lease, whether its flanneld runs, whom it reaches.
    Status(StatusArgs),
    /// Runs a command in the namespace of a node (n1) or a pod (n1-p1).
    Exec(ExecArgs),
    /// Removes a lab, also one whose maker crashed. A lab that is gone is no error.
    Down(NameArg),
    /// What the lab itself runs in its namespaces.
    #[command(subcommand, hide = true, name = inside::COMMAND)]
    Inside(Inside),
}

#[derive(Debug, Args)]
struct NameArg {
    /// The lab's name; its namespaces start with it
    #[arg(short = 'l', long = "name", value_name = "LAB", default_value = "lab")]
    name: String,
}

#[derive(Debug, Args)]
struct LabArgs {
    #[command(flatten)]
    name: NameArg,
    #[command(flatten)]
    shape: ShapeArgs,
}

#[derive(Debug, Args)]
struct ShapeArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: usize,
    /// How many pods on each node
    #[arg(long, default_value_t = 1, value_name = "N")]
    pods: usize,
    /// MTU of the underlay, in bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    mtu: u16,
    /// Where the nodes keep their leases
    #[arg(long, value_enum, default_value_t = RegistryKind::default())]
    registry: RegistryKind,
    /// Network config to write to the registry
    #[arg(long, value_name = "JSON", default_value = DEFAULT_CONFIG)]
    config: String,
    /// The flanneld to run: PATH on all nodes, NODE=PATH on one
    ///
    /// May be given several times. The word `stand-in` for PATH is a built-in stand-in for a
    /// stock node. Without it, all nodes run the flanneld beside this program.
    #[arg(long, value_name = "[NODE=]PATH")]
    flanneld: Vec<String>,
    /// What the underlay's links carry
    #[arg(long, value_enum, default_value_t = Wire::Superpackets)]
    wire: Wire,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wire {
    /// Whole superpackets, as veth links do: like an ideal NIC
    Superpackets,
    /// Frames of the MTU's size only: like a NIC without offloads
    Frames,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// The lab's name; its namespaces start with it
    #[arg(short = 'l', long = "name", value_name = "LAB", default_value = "demo")]
    name: String,
    #[command(flatten)]
    shape: ShapeArgs,
    /// How often each system is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of each TCP flow
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Also writes all figures to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    name: NameArg,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    name: NameArg,
    /// A node such as n1, or a pod such as n1-p1
    node: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A shell's exit status after SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With nobody listening the exit status still tells.
            drop(writeln!(io::stderr(), "flannel-lab: {error:#}"));
            let interrupt = error.downcast_ref().is_some_and(LabError::is_interrupt);
            if interrupt { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Demo(args) => demo(args),
        Task::Bench(args) => {
            let own = env::current_exe().context("find this program's own path")?;
            Ok(args.run(&own)?)
        }
        Task::Up(args) => up(args),
        Task::Status(args) => status(&args),
        Task::Exec(args) => exec(&args),
        Task::Down(args) => Ok(teardown::remove(&Names::new(&args.name)?)?),
        Task::Inside(inside) => Ok(inside.run()?),
    }
}

fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let plan = Plan { rounds: args.rounds, seconds: args.seconds };
    let measurable = args.shape.nodes >= 2 && args.shape.pods >= 1;
    ensure!(
        measurable,
        "a demo measures between two nodes: it needs --nodes 2 and --pods 1 or more"
    );
    let mut lab = Lab::up(args.shape.spec(args.name)?)?;
    print(&demo::ping_matrix(&lab)?)?;
    let report = demo::measure(&mut lab, plan)?;
    lab.remove()?;
    step("lab removed");
    print(&report.table())?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn up(args: LabArgs) -> anyhow::Result<()> {
    let name = args.name.name;
    let lab = Lab::up(args.shape.spec(name.clone())?)?;
    lab.keep()?;
    let dir = Names::new(&name)?.dir();
    let (down, dir) = (format!("flannel-lab down --name {name}"), dir.display());
    Ok(print(&format!("lab {name} stays until `{down}`\nlogs and state are in {dir}\n"))?)
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status = LabStatus::of(&LabState::load(&Names::new(&args.name.name)?)?)?;
    if args.json {
        return Ok(print(&(serde_json::to_string_pretty(&status)? + "\n"))?);
    }
    Ok(print(&status.table())?)
}

/// Becomes the command: its input, its output and its exit status are the caller's.
fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    let state = LabState::load(&Names::new(&args.name.name)?)?;
    let netns = state.netns(&args.node)?.path();
    let error = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .arg("--")
        .args(&args.command)
        .exec();
    Err(error).context("run nsenter")
}

impl ShapeArgs {
    fn spec(self, name: String) -> anyhow::Result<LabSpec> {
        let own = env::current_exe().context("find this program's own path")?;
        let mut daemon = Daemon::flanneld(own.with_file_name("flanneld"));
        let mut daemons = BTreeMap::new();
        for choice in &self.flanneld {
            match choice.split_once('=') {
                Some((node, path)) => {
                    let known = (1..=self.nodes).any(|number| node == format!("n{number}"));
                    ensure!(known, "--flanneld {choice}: nodes are n1 to n{}", self.nodes);
                    daemons.insert(node.to_owned(), Daemon::chosen(&own, path)?);
                }
                None => daemon = Daemon::chosen(&own, choice)?,
            }
        }
        Ok(LabSpec {
            num_nodes: self.nodes,
            num_pods: self.pods,
            mtu: self.mtu,
            registry: self.registry,
            config: Some(self.config),
            daemons,
            frames_only: self.wire == Wire::Frames,
            ..LabSpec::new(name, daemon)
        })
    }
}
