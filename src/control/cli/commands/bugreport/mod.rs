//! `flanneld bugreport`: one text file for those who look for a fault, without secrets.

mod collect;
mod scrub;
mod target;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::process::Command;
use tokio::time::timeout;

use self::scrub::Scrubber;
use self::target::{DaemonProcess, write};
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::print;
use crate::control::cli::tools::{Exit, SocketArgs};
use crate::control::util::{build_info, time_text};

/// How long one program or answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Most of one section, in bytes: the leases of 10,000 peers are about 3 MB.
const MAX_SECTION: usize = 4 << 20;

/// Flags of `flanneld bugreport`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct BugreportArgs {
    #[command(flatten)]
    pub(in crate::control::cli) socket: SocketArgs,
    /// Where to write the report: a file that is not there yet, or - for standard output. Without
    /// it: flanneld-bugreport-TIME.txt in this directory.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl BugreportArgs {
    /// Reports about the daemon at `socket`, or the one that runs here, or what is left of one.
    pub(in crate::control::cli) async fn run(
        &self,
        socket: Option<&Path>,
    ) -> Result<Exit, ToolError> {
        let client = Client::open(socket).await;
        let daemon = DaemonProcess::of(&client).await;
        let report = self.collect(&client, &daemon, socket).await;
        let report = Scrubber::new(&daemon.secrets()).clean(&report);
        if self.output.as_deref() == Some(Path::new("-")) {
            print(&report)?;
        } else {
            let path = self.output.clone().unwrap_or_else(default_path);
            write(&path, &report)?;
            let size = report.len().div_ceil(1024);
            print(&format!("{} ({size} KiB); read it before you send it\n", path.display()))?;
        }
        // Without a daemon there is a report, too.
        client.map(|_| Exit::Well)
    }

    async fn collect(
        &self,
        client: &Result<Client, ToolError>,
        daemon: &DaemonProcess,
        socket: Option<&Path>,
    ) -> String {
        let mut report = format!(
            "flanneld bugreport, {}, by flanneld {}\n",
            time_text::utc(SystemTime::now()),
            build_info::version_line()
        );
        let mut add = |title: &str, text: &str| {
            report += &format!("\n===== {title}\n{}\n", capped(text.trim_end()));
        };
        for (title, text) in collect::host() {
            add(title, &text);
        }
        add("settings of the daemon", &daemon.settings());
        match client {
            Ok(client) => {
                for path in collect::PATHS {
                    let answer = timeout(LIMIT, client.text(path)).await;
                    let text = answer.map_err(|_| format!("no answer within {LIMIT:?}"));
                    let text = text.and_then(|it| it.map_err(|error| error.to_string()));
                    add(path, &text.unwrap_or_else(|error| error));
                }
            }
            Err(error) => add("daemon", &error.to_string()),
        }
        for (title, text) in daemon.files() {
            add(&title, &text);
        }
        for command in collect::COMMANDS {
            let words: Vec<&str> = command.split(' ').collect();
            add(command, &output_of(&words).await);
        }
        if let Ok(program) = std::env::current_exe() {
            let (program, socket) = (program.display().to_string(), socket.map(|it| it.display()));
            let socket = socket.map(|socket| format!("--socket={socket}"));
            let words = [program.as_str(), "doctor"].into_iter().chain(socket.as_deref());
            add("flanneld doctor", &output_of(&words.collect::<Vec<_>>()).await);
        }
        add("last lines of the log", &log(daemon, client).await);
        report
    }
}

/// From the journal, or from the daemon if the journal has none or there is no journal.
async fn log(daemon: &DaemonProcess, client: &Result<Client, ToolError>) -> String {
    let journal = daemon.journal();
    let journal = output_of(&journal.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let has_entries = journal.lines().any(|line| line.contains(" flanneld["));
    match client {
        Ok(client) if !has_entries => match timeout(LIMIT, client.log()).await {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LIMIT:?}"),
        },
        Ok(_) | Err(_) => journal,
    }
}

fn default_path() -> PathBuf {
    let time = time_text::utc(SystemTime::now()).replace([':', '-'], "");
    PathBuf::from(format!("flanneld-bugreport-{time}.txt"))
}

/// What a program prints, or why it prints nothing.
async fn output_of(words: &[&str]) -> String {
    let Some((program, args)) = words.split_first() else { return String::new() };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => {
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            printed + &String::from_utf8_lossy(&output.stderr)
        }
        Ok(Err(error)) => format!("{program}: {error}"),
        Err(_) => format!("{program}: no end within {LIMIT:?}"),
    }
}

/// The beginning of `text`.
fn capped(text: &str) -> String {
    if text.len() <= MAX_SECTION {
        return text.to_owned();
    }
    let is_end = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=MAX_SECTION).rev().find(is_end).unwrap_or_default();
    format!("{}\n[{} more bytes]", &text[..end], text.len() - end)
}
