//! flannel-lab: networks of flanneld nodes on one machine.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use twill::lab::cli::{
    Cli, DemoArgs, ExecArgs, InteropArgs, LabArgs, ShapeArgs, StatusArgs, Task, Wire,
};
use twill::lab::demo::{self, Plan};
use twill::lab::interop::Meeting;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::topology::Names;
use twill::lab::progress::{print, step};
use twill::lab::state::LabState;
use twill::lab::status::LabStatus;
use twill::lab::{Lab, LabError, LabSpec, teardown};

/// A shell's exit status after SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads it, the exit status is left.
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
        Task::Interop(args) => interop(args),
        Task::Up(args) => up(args),
        Task::Status(args) => status(&args),
        Task::Exec(args) => exec(&args),
        Task::Down(args) => Ok(teardown::remove(&Names::new(&args.name)?)?),
        Task::NetnsAgent(agent) => Ok(agent.run()?),
    }
}

fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let plan = Plan { rounds: args.rounds, seconds: args.seconds };
    let measurable = args.shape.nodes >= 2 && args.shape.pods >= 1;
    ensure!(
        measurable,
        "a demo measures between two nodes: it needs --nodes 2 and --pods 1 or more"
    );
    let mut lab = Lab::up(spec(args.shape, args.name)?)?;
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

fn interop(args: InteropArgs) -> anyhow::Result<()> {
    let flannel_lab = env::current_exe().context("find this program's own path")?;
    let twill = Daemon::flanneld(flannel_lab.with_file_name("flanneld"));
    let other = Daemon::chosen(&flannel_lab, &args.flanneld)?.with(&args.flags);
    let InteropArgs { name, backend, .. } = args;
    let meeting = Meeting { name, twill, other, backend, flannel_lab };
    let results = meeting.hold()?;
    print(&results.table())?;
    match results.num_failed() {
        (0, _) => Ok(()),
        (failed, all) => bail!("{failed} of {all} cases did not pass"),
    }
}

fn up(args: LabArgs) -> anyhow::Result<()> {
    let name = args.name.name;
    let lab = Lab::up(spec(args.shape, name.clone())?)?;
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

/// The lab that was asked for.
fn spec(shape: ShapeArgs, name: String) -> anyhow::Result<LabSpec> {
    let own = env::current_exe().context("find this program's own path")?;
    let mut daemon = Daemon::flanneld(own.with_file_name("flanneld"));
    let mut daemons = BTreeMap::new();
    for choice in &shape.flanneld {
        match choice.split_once('=') {
            Some((node, path)) => {
                let known = (1..=shape.nodes).any(|number| node == format!("n{number}"));
                ensure!(known, "--flanneld {choice}: nodes are n1 to n{}", shape.nodes);
                daemons.insert(node.to_owned(), Daemon::chosen(&own, path)?);
            }
            None => daemon = Daemon::chosen(&own, choice)?,
        }
    }
    Ok(LabSpec {
        num_nodes: shape.nodes,
        num_pods: shape.pods,
        mtu: shape.mtu,
        registry: shape.registry,
        config: Some(shape.config.unwrap_or_else(|| shape.backend.config())),
        daemons,
        frames_only: shape.wire == Wire::Frames,
        ..LabSpec::new(name, daemon)
    })
}
