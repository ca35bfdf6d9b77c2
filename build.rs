//! Finds out which commit is built: `TWILL_COMMIT`, a file that `git archive` fills in, or git.
//!
//! Debug builds do not ask git: every commit would build everything again.

use std::path::Path;
use std::process::Command;

/// `git archive` writes the commit here (`.gitattributes`).
const ARCHIVE_FILE: &str = "dist/commit";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ARCHIVE_FILE}");
    println!("cargo::rerun-if-env-changed=TWILL_COMMIT");
    let given = std::env::var("TWILL_COMMIT").ok();
    let commit = given.and_then(|text| hash(&text)).or_else(of_archive).or_else(of_git);
    if let Some(commit) = commit {
        println!("cargo::rustc-env=TWILL_COMMIT_HASH={commit}");
    }
}

fn of_archive() -> Option<String> {
    hash(&std::fs::read_to_string(ARCHIVE_FILE).ok()?)
}

/// The commit of a release build in a git repository of its own: a source tree that was unpacked
/// inside another repository has none.
fn of_git() -> Option<String> {
    if std::env::var("PROFILE").as_deref() != Ok("release") || !Path::new(".git").exists() {
        return None;
    }
    // Git appends to it when HEAD becomes another commit, and only then.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    hash(&git(&["rev-parse", "HEAD"])?)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The first twelve digits of a commit, if `text` is one.
fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = text.len() >= 7 && text.chars().all(|c| c.is_ascii_hexdigit());
    is_hash.then(|| text.chars().take(12).collect())
}
