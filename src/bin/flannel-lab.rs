//! flannel-lab: networks of flanneld nodes on one machine.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use clap::error::ErrorKind;
use twill::lab::cli::{
    Cli, DelayArgs, DemoArgs, ExecArgs, InteropArgs, LabArgs, LinkArgs, ListArgs, LossArgs,
    NameArg, RestartArgs, StatusArgs, Task,
};
use twill::lab::demo::{self, Plan};
use twill::lab::host::tools;
use twill::lab::interop::Meeting;
use twill::lab::link::{Link, Quality};
use twill::lab::network::daemon::Daemon;
use twill::lab::network::topology::Names;
use twill::lab::progress::{print, step};
use twill::lab::state::LabState;
use twill::lab::status::LabStatus;
use twill::lab::{Lab, LabError, list, logs, restart, teardown};

/// A shell's exit status after SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads it, the exit status is left.
            drop(writeln!(io::stderr(), "flannel-lab: {error:#}"));
            let interrupt = error.downcast_ref().is_some_and(LabError::is_interrupt);
            if interrupt { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE }
        }
    }
}

/// Prints the help that was asked for, or in one line what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let kind = error.kind();
    if kind == ErrorKind::DisplayHelp || kind == ErrorKind::DisplayVersion {
        // `flannel-lab --help | head` is not a failure.
        drop(io::stdout().write_all(text.as_bytes()));
        return ExitCode::SUCCESS;
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(io::stderr().write_all(text.as_bytes()));
        return ExitCode::FAILURE;
    }
    let said = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more")
    });
    let line = said.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    drop(writeln!(io::stderr(), "flannel-lab: {line} (flannel-lab --help)"));
    ExitCode::FAILURE
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Demo(args) => demo(args),
        Task::Bench(args) => Ok(args.run(&own_path()?)?),
        Task::Interop(args) => interop(args),
        Task::Up(args) => up(args),
        Task::Status(args) => status(&args),
        Task::List(args) => list(&args),
        Task::Logs(args) => Ok(logs::show(&load(&args.name)?, args.node.as_deref(), args.follow)?),
        Task::Exec(args) => exec(&args),
        Task::Restart(args) => restart(&args),
        Task::Cut(args) => Ok(link(&args)?.1.cut()?),
        Task::Mend(args) => Ok(link(&args)?.1.mend()?),
        Task::Delay(args) => delay(&args),
        Task::Loss(args) => loss(&args),
        Task::Down(args) => {
            tools::root()?;
            Ok(teardown::remove(&Names::new(&args.name)?)?)
        }
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
    let mut lab = Lab::up(args.shape.spec(args.name, &own_path()?)?)?;
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
    let flannel_lab = own_path()?;
    let twill = Daemon::flanneld(flannel_lab.with_file_name("flanneld"));
    let other = args.flanneld.daemon(&flannel_lab)?.with(&args.flags);
    let InteropArgs { name, backend, flanneld, .. } = args;
    let other_name = flanneld.name.unwrap_or_else(|| "the other".to_owned());
    let meeting = Meeting { name, twill, other, other_name, backend, flannel_lab };
    let results = meeting.hold()?;
    print(&results.table())?;
    match results.num_failed() {
        (0, _) => Ok(()),
        (failed, all) => bail!("{failed} of {all} cases did not pass"),
    }
}

fn up(args: LabArgs) -> anyhow::Result<()> {
    let name = args.name.name;
    let lab = Lab::up(args.shape.spec(name.clone(), &own_path()?)?)?;
    lab.keep()?;
    let dir = Names::new(&name)?.dir();
    let (down, dir) = (format!("flannel-lab down --name {name}"), dir.display());
    Ok(print(&format!("lab {name} stays until `{down}`\nlogs and state are in {dir}\n"))?)
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let state = load(&args.name)?;
    tools::root()?;
    let status = LabStatus::of(&state)?;
    if args.json {
        return Ok(print(&(serde_json::to_string_pretty(&status)? + "\n"))?);
    }
    Ok(print(&status.table())?)
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let labs = list::all()?;
    if args.json {
        return Ok(print(&(serde_json::to_string_pretty(&labs)? + "\n"))?);
    }
    Ok(print(&list::text(&labs))?)
}

/// Becomes the command: its input, its output and its exit status are the caller's.
fn exec(args: &ExecArgs) -> anyhow::Result<()> {
    let state = load(&args.name)?;
    let netns = state.netns(&args.node)?.path();
    tools::root()?;
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={}", netns.display())).arg("--");
    // `exec n1 flanneld status` asks with the flanneld that the lab runs.
    if let Some(dir) = own_path()?.parent() {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = [dir.to_owned()].into_iter().chain(env::split_paths(&path));
        nsenter.env("PATH", env::join_paths(dirs)?);
    }
    if args.command.is_empty() {
        let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        step(&format!("a shell in {} of lab {}; `exit` leaves it", args.node, state.name));
        // Debian's shells show it in their prompt.
        nsenter.arg(shell).env("debian_chroot", &args.node);
    } else {
        nsenter.args(&args.command);
    }
    Err(nsenter.exec()).context("run nsenter")
}

fn restart(args: &RestartArgs) -> anyhow::Result<()> {
    let mut state = load(&args.name)?;
    tools::root()?;
    let own = own_path()?;
    let daemon = args.flanneld.as_ref().map(|path| Daemon::chosen(&own, path)).transpose()?;
    let before = state.nodes[state.position(&args.node)?].env;
    let env = restart::restart(&mut state, &args.node, daemon)?;
    step(&format!("{} has {}, MTU {}", args.node, env.subnet, env.mtu));
    if before.is_some_and(|before| before.subnet != env.subnet) {
        step("that is another subnet than before: its pods keep addresses that nobody routes");
    }
    Ok(())
}

fn delay(args: &DelayArgs) -> anyhow::Result<()> {
    let (mut state, link) = link(&args.link)?;
    let quality = state.links.entry(args.link.link.clone()).or_default();
    quality.delay = args.time;
    set_quality(&mut state, &link, &args.link.link)
}

fn loss(args: &LossArgs) -> anyhow::Result<()> {
    let (mut state, link) = link(&args.link)?;
    let quality = state.links.entry(args.link.link.clone()).or_default();
    quality.loss_percent = args.percent;
    set_quality(&mut state, &link, &args.link.link)
}

/// Makes the link as the state says, then keeps the state.
fn set_quality(state: &mut LabState, link: &Link, name: &str) -> anyhow::Result<()> {
    let quality = state.links.get(name).copied().unwrap_or_default();
    link.set_quality(quality)?;
    state.links.retain(|_, quality| *quality != Quality::default());
    Ok(state.save(&Names::new(&state.name)?)?)
}

fn link(args: &LinkArgs) -> anyhow::Result<(LabState, Link)> {
    let state = load(&args.name)?;
    let link = Link::find(&state, &args.link)?;
    tools::root()?;
    Ok((state, link))
}

fn load(args: &NameArg) -> Result<LabState, LabError> {
    LabState::load(&Names::new(&args.name)?)
}

fn own_path() -> anyhow::Result<PathBuf> {
    env::current_exe().context("find this program's own path")
}
