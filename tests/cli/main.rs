//! The `flanneld` binary from outside: its output and exit status.
//!
//! Tests that need a network create their own user and network namespace, so none needs root. They
//! fail if namespaces are forbidden.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the harness is this target's own")]

#[path = "../host/mod.rs"]
mod host;

mod etcd2;
mod gce;
mod kube;
mod life;
mod log;
mod mistakes;
mod overlap;
mod registry;
mod secrets;
mod signals;
mod tools;
mod top;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::{FLANNELD, clean, text};

#[test]
fn help_is_worth_reading() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    let help = flanneld().arg("-help").output().unwrap();
    assert!(help.status.success() && help.stderr.is_empty());
    // To accept a change: target/debug/flanneld -help > tests/golden/help.txt
    assert_eq!(text(&help.stdout), fs::read_to_string(golden).unwrap());
}

#[test]
fn help_of_every_command_is_at_most_80_columns_wide() {
    const COMMANDS: [&str; 9] =
        ["run", "status", "peers", "ping", "doctor", "capture", "top", "drops", "bugreport"];
    for command in COMMANDS {
        let help = flanneld().args([command, "--help"]).output().unwrap();
        assert!(help.status.success() && help.stderr.is_empty(), "{command}");
        let help = text(&help.stdout);
        let wide: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(help.lines().count() > 5 && wide.is_empty(), "{command}: {wide:?}");
    }
}

#[test]
fn version_is_the_first_word_and_stands_alone_on_stdout() {
    let version = flanneld().arg("-version").env("FLANNELD_V", "x").output().unwrap();
    assert!(version.status.success() && version.stderr.is_empty());
    let line = text(&version.stdout);
    let commit = line.strip_prefix(concat!("v", env!("CARGO_PKG_VERSION"), " twill, commit "));
    let commit = commit.and_then(|rest| rest.strip_suffix('\n')).unwrap();
    let is_hash = commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit());
    assert!(commit == "unknown" || is_hash, "{line}");
}

fn flanneld() -> Command {
    clean(Command::new(FLANNELD))
}

/// The one line of `log` that says why flanneld ended, which is its last.
fn only_error(log: &str) -> &str {
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("flanneld: ")).collect();
    assert_eq!(errors.as_slice(), log.lines().last().as_slice(), "{log}");
    errors[0]
}
