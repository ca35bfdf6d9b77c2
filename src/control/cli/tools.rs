//! The tools: commands that ask the running daemon or look at the host.
//!
//! To add one: a file in `commands/` with its arguments and a `run`, and a variant of `ToolCommand`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Command, FromArgMatches, Subcommand};
use tokio::runtime::Builder;

use super::client::{Client, ToolError};
use super::commands::{bugreport, capture, doctor, drops, peers, ping, status, top};
use super::error::translate_command;
use super::term::WIDTH;
use super::variables::Variables;
use super::{FlagError, Invocation};
use crate::control::config::daemon::default_socket;

/// The daemon as a command, in the help text.
const RUN: &str = "run";

/// What the exit status of a tool means. `--help` of each says it.
pub const EXIT_STATUSES: &str = "\
Exit status: 0 all is well; 1 something is not, or the command line is wrong; \
3 flanneld does not run here.";

/// The same of a tool that works without a daemon.
const EXIT_STATUSES_ALONE: &str = "\
Exit status: 0 all is well; 1 something is not, or the command line is wrong. It needs no running \
flanneld.";

/// How a tool ends that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Well,
    /// The tool has shown what is not.
    Degraded,
}

/// A tool with its arguments.
#[derive(Debug)]
pub struct Tool {
    command: ToolCommand,
    /// What the environment says of the daemon's socket.
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ToolCommand {
    /// Show what the daemon does, what is wrong, and its peers.
    Status(status::StatusArgs),
    /// Show the other nodes: address, subnet, what runs there, traffic, problems.
    Peers(peers::PeersArgs),
    /// Ask one node, underlay and overlay apart, and say why packets do not arrive.
    Ping(ping::PingArgs),
    /// Look for every fault that keeps packets from the overlay, and say what to do.
    Doctor(doctor::DoctorArgs),
    /// Write packets of the overlay as pcapng, dropped ones with their reason.
    Capture(capture::CaptureArgs),
    /// Show live rates of workers and peers; q quits. Without a terminal, once.
    Top(top::TopArgs),
    /// Show why packets were dropped: each reason, how many, and one of the last.
    Drops(drops::DropsArgs),
    /// Write a text file about daemon and host for those who look for a fault, without secrets.
    Bugreport(bugreport::BugreportArgs),
}

/// The flag of every tool that asks the daemon.
#[derive(Debug, Args)]
pub(super) struct SocketArgs {
    /// The daemon's unix socket. Without it: variable FLANNELD_SOCKET, or the socket of the daemon
    /// that runs in this network namespace.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The same, and that of tools for people and programs.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Tool {
    /// Does what the command says, and prints it.
    ///
    /// # Errors
    /// [`ToolError`], of one line, which also has the exit status.
    pub fn run(self) -> Result<Exit, ToolError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ToolError::Local(error.to_string()))?;
        let result = runtime.block_on(async {
            match &self.command {
                ToolCommand::Status(args) => args.run(&self.client(&args.ask).await?).await,
                ToolCommand::Peers(args) => args.run(&self.client(&args.ask).await?).await,
                ToolCommand::Ping(args) => args.run(self.socket(&args.ask.socket)).await,
                ToolCommand::Doctor(args) => args.run(self.socket(&args.ask.socket)).await,
                ToolCommand::Capture(args) => args.run(&self.client(&args.ask).await?).await,
                ToolCommand::Top(args) => args.run(&self.client(&args.ask).await?).await,
                ToolCommand::Drops(args) => args.run(&self.client(&args.ask).await?).await,
                ToolCommand::Bugreport(args) => args.run(self.socket(&args.socket)).await,
            }
        });
        runtime.shutdown_background();
        result
    }

    /// The connection to the daemon.
    async fn client(&self, args: &AskArgs) -> Result<Client, ToolError> {
        Client::open(self.socket(&args.socket)).await
    }

    /// The daemon's socket, if flag or environment name it.
    fn socket<'a>(&'a self, args: &'a SocketArgs) -> Option<&'a Path> {
        args.socket.as_deref().or(self.socket.as_deref())
    }
}

/// Whether `word` is the name of a tool.
pub(super) fn is_tool(word: &str) -> bool {
    names().iter().any(|name| name == word)
}

fn names() -> Vec<String> {
    let command = ToolCommand::augment_subcommands(Command::new("flanneld"));
    command.get_subcommands().map(|tool| tool.get_name().to_owned()).collect()
}

/// Adds the commands to the daemon's flags.
pub(super) fn with_commands(command: Command) -> Command {
    let run = Command::new(RUN)
        .about("Run the daemon, with the flags below; so do the flags alone")
        .disable_help_flag(true);
    let command = ToolCommand::augment_subcommands(command.subcommand(run));
    command.mut_subcommands(|tool| {
        let statuses = match tool.get_name() {
            RUN => return tool,
            "ping" | "doctor" => EXIT_STATUSES_ALONE,
            _ => EXIT_STATUSES,
        };
        tool.after_help(statuses)
    })
}

/// The tool that `args` begin with; `None` for the daemon, whose flags are what is left of them.
///
/// # Errors
/// [`FlagError`] if the first word is no flag and no command, or the tool has other arguments.
pub(super) fn parse(
    args: &mut VecDeque<OsString>,
    variables: &Variables,
) -> Result<Option<Invocation>, FlagError> {
    let Some(word) = first_word(args)? else { return Ok(None) };
    args.pop_front();
    match (word.as_str(), args.front().and_then(|next| next.to_str())) {
        (RUN, _) => Ok(None),
        ("version", None) => Ok(Some(Invocation::Version)),
        ("help", Some(tool)) if is_tool(tool) => {
            let tool = tool.to_owned();
            parse_tool(&tool, [OsString::from("--help")], variables).map(Some)
        }
        ("help", None | Some(RUN)) => {
            let help = super::command().render_long_help();
            Ok(Some(Invocation::Help(help.to_string())))
        }
        (tool, _) if is_tool(tool) => parse_tool(tool, args.drain(..), variables).map(Some),
        (_, next) => {
            // As in `flanneld help nonsense`.
            let word = if word == "help" { next.unwrap_or_default() } else { word.as_str() };
            Err(FlagError::UnknownCommand { word: word.to_owned(), advice: advice(word) })
        }
    }
}

/// The first word, if it is no flag; blank words in front of it go.
fn first_word(args: &mut VecDeque<OsString>) -> Result<Option<String>, FlagError> {
    while args.front().is_some_and(|arg| arg.to_str().is_some_and(|arg| arg.trim().is_empty())) {
        args.pop_front();
    }
    let Some(word) = args.front().and_then(|arg| arg.to_str()) else { return Ok(None) };
    let word = word.trim_ascii();
    if word.starts_with('-') {
        return Ok(None);
    }
    super::characters::check_no_flag(word)?;
    Ok(Some(word.to_owned()))
}

fn parse_tool(
    name: &str,
    args: impl IntoIterator<Item = OsString>,
    variables: &Variables,
) -> Result<Invocation, FlagError> {
    let args = args.into_iter().map(with_two_dashes);
    let words = ["flanneld".into(), OsString::from(name)].into_iter().chain(args);
    let command = with_commands(Command::new("flanneld").term_width(WIDTH));
    let command = command.try_get_matches_from(words);
    let command = command.and_then(|matches| ToolCommand::from_arg_matches(&matches));
    match command.map_err(|error| translate_command(&error, name)) {
        Ok(command) => Ok(Invocation::Tool(Tool { command, socket: socket(variables) })),
        Err(FlagError::Help(text)) => Ok(Invocation::Help(text)),
        Err(error) => Err(error),
    }
}

/// Where the environment says that the daemon's socket is.
fn socket(variables: &Variables) -> Option<PathBuf> {
    let named = variables.value("FLANNELD_SOCKET").filter(|value| *value != "none");
    let beside =
        || variables.value("FLANNELD_SUBNET_FILE").map(|file| default_socket(file.as_ref()));
    named.map(PathBuf::from).or_else(beside)
}

/// Long flags may have one dash, as the daemon's.
fn with_two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => arg,
    }
}

fn advice(word: &str) -> String {
    let mut names = names();
    names.extend([RUN.to_owned(), "help".to_owned(), "version".to_owned()]);
    match super::variables::nearest_of(word, names) {
        Some(name) => format!("did you mean {name}? (flanneld --help lists all commands)"),
        None => "flanneld --help lists all commands, and flags begin with --".to_owned(),
    }
}
