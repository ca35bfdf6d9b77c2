//! flanneld: joins this host to a flannel overlay network.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use twill::control::flags::{self, Config, Invocation};
use twill::control::{check, firewall};

fn main() -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flanneld: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_main() -> anyhow::Result<()> {
    let args = std::env::args_os().skip(1);
    match flags::parse(args, std::env::vars_os())? {
        Invocation::Version => print(concat!("v", env!("CARGO_PKG_VERSION"), "\n")),
        Invocation::Help(text) => print(&text),
        Invocation::Check { config, as_json } => check(&config, as_json),
        Invocation::CleanUp(subnet_file) => {
            start_log(0)?;
            clean_up(&subnet_file)
        }
        Invocation::Run(config) => {
            start_log(config.verbosity)?;
            Ok(twill::control::run(*config)?)
        }
    }
}

fn check(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let report = check::check(config)?;
    if as_json {
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&report.to_string())?;
    }
    match report.problems() {
        [] => Ok(()),
        [problem] => anyhow::bail!("{problem}"),
        [problem, others @ ..] => anyhow::bail!("{problem} (and {} more problems)", others.len()),
    }
}

/// Prints what it removes as it goes: whoever stops it half-way knows what is gone.
fn clean_up(subnet_file: &Path) -> anyhow::Result<()> {
    let mut num_removed = 0;
    let mut printed = Ok(());
    let result = firewall::clean_up(subnet_file, |what| {
        num_removed += 1;
        if printed.is_ok() {
            printed = print(&format!("removed {what}\n"));
        }
    });
    if num_removed == 0 && result.is_ok() {
        print("nothing to remove\n")?;
    }
    printed?;
    Ok(result?)
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("write to standard output")
}

/// Logs to stderr. The libraries' own debug output is only for those who ask with RUST_LOG.
fn start_log(verbosity: u8) -> anyhow::Result<()> {
    let level = match verbosity {
        0 => "info",
        1 | 2 => "debug",
        3.. => "trace",
    };
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let directives = directives.unwrap_or_else(|| format!("warn,twill={level}"));
    let filter = EnvFilter::builder().parse(directives).context("variable RUST_LOG")?;
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    Ok(())
}
