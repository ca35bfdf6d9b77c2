//! `flannel-lab`'s command line. The doc comment of a field is its help text.

mod shape;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use self::shape::{ShapeArgs, Wire};
use super::bench::BenchArgs;
use super::choice::Choice;
use super::host::netns_agent;
use super::host::netns_agent::NetnsAgent;
use super::network::backend::Backend;
use crate::control::util::build_info;

/// The program as clap sees it, for its manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// As `flanneld --version` prints it.
static VERSION: LazyLock<String> = LazyLock::new(build_info::version_line);

/// Makes networks of flanneld nodes on this machine: network namespaces, pods, a real etcd.
///
/// Needs root and a handful of tools (`make setup` installs them). Every lab is an underlay of
/// its own: nothing leaves the machine, and labs of different names do not touch each other.
#[derive(Debug, Parser)]
#[command(name = "flannel-lab", version = VERSION.as_str(), max_term_width = 80)]
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
    /// Lists the labs on this machine. Needs no root.
    List(ListArgs),
    /// Shows what the flannelds of a lab logged.
    Logs(LogsArgs),
    /// Runs a command, or a shell, in the namespace of a node (n1) or a pod (n1-p1).
    Exec(ExecArgs),
    /// Stops the flanneld of a node and starts it again, or another one in its place.
    ///
    /// With --flanneld the node runs that program from now on: this is how to try a move from one
    /// flanneld to another, node by node.
    Restart(RestartArgs),
    /// Cuts the link of a node, or of etcd, to the underlay, as if its cable were pulled.
    Cut(LinkArgs),
    /// Mends a link that was cut.
    Mend(LinkArgs),
    /// Delays all packets on a link, in each direction. Needs a kernel with netem.
    Delay(DelayArgs),
    /// Loses some of the packets on a link, in each direction. Needs a kernel with netem.
    Loss(LossArgs),
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
    /// The other flanneld; NAME is what the table calls it
    ///
    /// The word `stock-emulator` for PATH is the built-in emulator of a stock node.
    #[arg(long, value_name = "[NAME=]PATH")]
    pub flanneld: Choice,
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
    /// The command and its arguments; without one, the shell of $SHELL
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The form of the output.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Prints JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Whose log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// A node such as n1, or etcd [default: all nodes, with their names before each line]
    pub node: Option<String>,
    /// Goes on as more is logged, until Ctrl-C or the end of the lab
    #[arg(short, long)]
    pub follow: bool,
}

/// Which daemon.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// A node such as n1
    pub node: String,
    /// The flanneld to run from now on
    ///
    /// The word `stock-emulator` for PATH is the built-in emulator of a stock node, and `twill` the
    /// flanneld in the directory of this program.
    #[arg(long, value_name = "PATH")]
    pub flanneld: Option<String>,
}

/// Which link.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// Its name
    #[command(flatten)]
    pub name: NameArg,
    /// A link as `status` names it: n1, n2, …, or etcd
    pub link: String,
}

/// Which link, and how slow.
#[derive(Debug, Args)]
pub struct DelayArgs {
    /// The link
    #[command(flatten)]
    pub link: LinkArgs,
    /// How much later each packet arrives: 20ms, 500us, 1s; 0 for none
    #[arg(value_parser = delay)]
    pub time: Duration,
}

/// Which link, and how lossy.
#[derive(Debug, Args)]
pub struct LossArgs {
    /// The link
    #[command(flatten)]
    pub link: LinkArgs,
    /// How many of a hundred packets are lost: 5, 0.1; 0 for none
    #[arg(value_parser = percent)]
    pub percent: f64,
}

/// A time such as `20ms`.
fn delay(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: Option<u64> = number.parse().ok();
    let time = number.and_then(|number| match unit {
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "" if number == 0 => Some(Duration::ZERO),
        _ => None,
    });
    let time = time.filter(|time| *time <= Duration::from_secs(60));
    time.ok_or_else(|| "write a time of at most 60 s, such as 20ms, 500us or 1s".to_owned())
}

/// A number from 0 to 100, also with a percent sign.
fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "write a number from 0 to 100, such as 5 or 0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(words: &str) -> Result<Task, String> {
        let words = ["flannel-lab"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn exec_needs_neither_a_command_nor_dashes() {
        for (words, command) in [
            ("exec n1", &[][..]),
            ("exec n1 ip -4 route", &["ip", "-4", "route"]),
            ("exec --name x n1 -- ip -4 route", &["ip", "-4", "route"]),
            ("exec n1 etcdctl --name x", &["etcdctl", "--name", "x"]),
        ] {
            let Task::Exec(args) = task(words).unwrap() else { panic!("{words}") };
            assert_eq!(args.node, "n1", "{words}");
            assert_eq!(args.command, command, "{words}");
        }
    }

    #[test]
    fn delay_and_loss_take_amounts_with_units() {
        assert_eq!(delay("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(delay("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(delay("0"), Ok(Duration::ZERO));
        for wrong in ["", "20", "ms", "-1ms", "2m", "61s"] {
            assert!(delay(wrong).unwrap_err().contains("such as 20ms"), "{wrong}");
        }
        assert_eq!((percent("5%"), percent("0.1")), (Ok(5.0), Ok(0.1)));
        for wrong in ["", "101", "-1", "x", "NaN"] {
            assert!(percent(wrong).unwrap_err().contains("0 to 100"), "{wrong}");
        }
    }
}
