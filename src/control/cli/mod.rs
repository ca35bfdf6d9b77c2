//! flanneld's command line and `FLANNELD_*` variables: strings become a [`Config`] here, once.
//!
//! Names and defaults are flannel's (`main.go`); `args` declares them, and `go_flags` turns Go's way of
//! writing flags into clap's. Nothing after this module checks a setting again, except against the
//! host: [`preflight`](super::host::preflight) and [`iface`](super::host::iface).
//!
//! The first word may be a command: `run`, which is the daemon as without it, or one of the [`tools`].
//!
//! A wrong flag or variable is an error. Flannel prints its usage and exits 0, which leaves a unit
//! with a typing mistake in state "stopped successfully".

pub mod commands;
pub mod tools;
mod client;
mod term;
mod characters;
mod args;
mod error;
mod compat_flags;
mod go_flags;
mod kube_variables;
mod values;
mod variables;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches};

use self::args::Cli;
pub use self::client::ToolError;
pub use self::error::FlagError;
use self::kube_variables::KubeVariables;
use self::tools::Tool;
use self::variables::Variables;
use super::config::daemon::Config;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run the daemon.
    Run(Box<Config>),
    /// Print what the daemon would do, as JSON if `as_json`, without running it.
    Check {
        /// Its settings.
        config: Box<Config>,
        /// Whether a program reads it.
        as_json: bool,
    },
    /// Ask the running daemon, or look at the host.
    Tool(Tool),
    /// Remove from this host what any flanneld made, with the help of this subnet.env.
    CleanUp(PathBuf),
    /// Print the version and exit 0.
    Version,
    /// Print this help text and exit 0.
    Help(String),
}

/// Every flag and command with its help: for manual pages, completions and [`parse`].
pub fn command() -> clap::Command {
    let command = args::describe_variables(args::with_go_booleans(Cli::command()));
    tools::with_commands(command).after_help(compat_flags::help())
}

/// Reads the command line `args` (without the program's name) and the environment's `variables`.
///
/// A flag on the command line wins over its variable; an empty variable counts as unset.
///
/// # Errors
/// [`FlagError`], of one line, for the first flag or variable that is unknown or makes no sense.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, FlagError> {
    let mut args: VecDeque<OsString> = args.into_iter().collect();
    let variables: Vec<_> = variables.into_iter().collect();
    let kube_variables = KubeVariables::of(&variables);
    let variables = Variables::of(variables);
    if let Some(tool) = tools::parse(&mut args, &variables)? {
        return Ok(tool);
    }
    let command = command();
    let mut words = go_flags::read(&command, args)?;
    let mut warnings = Vec::new();
    let mut taken = compat_flags::take(&mut words, &mut warnings);

    // Go's flanneld looks at -version before the environment, so a bad variable cannot hide it.
    match parse_words(&command, &words) {
        Ok(cli) if cli.other.version => return Ok(Invocation::Version),
        Ok(_) => words.check_stray(&command)?,
        Err(FlagError::Help(text)) => return Ok(Invocation::Help(text)),
        Err(error) => return Err(error),
    }
    words.add_variables(&command, &taken, &variables)?;
    taken.extend(compat_flags::take(&mut words, &mut warnings));
    let cli = parse_words(&command, &words)?;
    if cli.other.cleanup {
        return Ok(Invocation::CleanUp(cli.subnet.subnet_file));
    }
    warnings.extend(compat_flags::validate(&taken)?);
    warnings.extend(std::mem::take(&mut words.warnings));
    warnings.extend(variables.unread(&command, &words));
    let (is_check, as_json) = (cli.other.config_check, cli.other.json);
    let config = Box::new(cli.into_config(&kube_variables, words.settings(), warnings)?);
    Ok(if is_check { Invocation::Check { config, as_json } } else { Invocation::Run(config) })
}

fn parse_words(command: &clap::Command, words: &go_flags::Words) -> Result<Cli, FlagError> {
    command
        .clone()
        .try_get_matches_from(words.to_clap())
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| error::translate(&error, words))
}

#[cfg(test)]
mod tests;
