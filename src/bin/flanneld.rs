//! flanneld: joins this host to a flannel overlay network.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use twill::control::cli;
use twill::control::cli::Invocation;
use twill::control::cli::ToolError;
use twill::control::cli::commands::cleanup;
use twill::control::cli::commands::config_check;
use twill::control::cli::commands::install_conf;
use twill::control::cli::tools::Exit;
use twill::control::config::daemon::Config;
use twill::control::util::build_info;
use twill::control::util::log;
use twill::control::util::name_service;

fn main() -> ExitCode {
    match try_main() {
        Ok(status) => {
            log::end(None);
            status
        }
        Err(error) => {
            log::end(Some(&format!("flanneld: {error:#}")));
            match error.downcast_ref::<ToolError>() {
                Some(error) => ExitCode::from(error.exit_status()),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn try_main() -> anyhow::Result<ExitCode> {
    let args = std::env::args_os().skip(1);
    if install_conf::is_meant(std::env::args_os().next().as_deref()) {
        install_conf::install(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    name_service::use_built_in_sources().context("choose where to look names up")?;
    match cli::parse(args, std::env::vars_os())? {
        Invocation::Version => print(&(build_info::version_line() + "\n"))?,
        Invocation::Help(text) => print(&text)?,
        Invocation::Check { config, as_json } => check(&config, as_json)?,
        Invocation::CleanUp(subnet_file) => {
            log::start(0)?;
            clean_up(&subnet_file)?;
        }
        Invocation::Run(config) => {
            log::start(config.verbosity)?;
            twill::control::run(*config)?;
        }
        Invocation::Tool(tool) => {
            return Ok(match tool.run()? {
                Exit::Well => ExitCode::SUCCESS,
                Exit::Degraded => ExitCode::FAILURE,
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let report = config_check::check(config)?;
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

/// Prints each thing it removes at once, so that an interrupted run shows what is removed.
fn clean_up(subnet_file: &Path) -> anyhow::Result<()> {
    let mut num_removed = 0;
    let mut printed = Ok(());
    let result = cleanup::clean_up(subnet_file, |what| {
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
    match io::stdout().write_all(text.as_bytes()) {
        // The reader closed the pipe: `flanneld --help | head` is not a failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}
