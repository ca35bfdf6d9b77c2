//! What the daemons of a lab logged, and what they log from now on.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::LabError;
use super::network::topology::Names;
use super::progress::print;
use super::state::LabState;

/// How often files are looked at for more.
const PAUSE: Duration = Duration::from_millis(100);

/// etcd's name among those of the nodes.
const ETCD: &str = "etcd";

/// A log file that is read as it grows.
#[derive(Debug)]
struct Log {
    /// What stands before each line; empty for the only log.
    prefix: String,
    path: PathBuf,
    file: Option<File>,
    /// The start of a line whose end is not written yet.
    partial: Vec<u8>,
}

/// Prints the log of one node or etcd, or of all nodes with their names before each line. Goes on
/// while the lab is there if `follow` is set.
///
/// # Errors
/// [`LabError::NoSuch`], or what reading or printing failed with.
pub fn show(state: &LabState, part: Option<&str>, follow: bool) -> Result<(), LabError> {
    let names = Names::new(&state.name)?;
    let mut known: Vec<String> = state.nodes.iter().map(|node| node.name.clone()).collect();
    let parts = match part {
        None => known,
        Some(part) => {
            known.extend(state.etcd.map(|_| ETCD.to_owned()));
            if !known.iter().any(|name| name == part) {
                return Err(state.no_such("log of", part, &known));
            }
            vec![part.to_owned()]
        }
    };
    let width = parts.iter().map(String::len).max().unwrap_or(0);
    let prefix = |name: &str| match parts.len() {
        1 => String::new(),
        _ => format!("{name:width$} | "),
    };
    let mut logs: Vec<Log> =
        parts.iter().map(|name| Log::new(prefix(name), path(&names, name))).collect();
    loop {
        let mut text = String::new();
        for log in &mut logs {
            text.push_str(&log.read()?);
            if !follow {
                text.push_str(&log.rest());
            }
        }
        match print(&text) {
            // `flannel-lab logs | head` is no failure.
            Err(LabError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(());
            }
            printed => printed?,
        }
        if !follow || !names.dir().exists() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

fn path(names: &Names, part: &str) -> PathBuf {
    let file = if part == ETCD { "etcd.log" } else { "flanneld.log" };
    names.dir().join(part).join(file)
}

impl Log {
    const fn new(prefix: String, path: PathBuf) -> Self {
        Self { prefix, path, file: None, partial: Vec::new() }
    }

    /// The whole lines that were written since the last call. A node that was never started has no
    /// log yet.
    fn read(&mut self) -> Result<String, LabError> {
        let failed = |source| LabError::io(format!("read {}", self.path.display()))(source);
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                opened => Some(opened.map_err(failed)?),
            };
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.partial).map_err(failed)?;
        }
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(String::new());
        };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        let lines = String::from_utf8_lossy(&lines);
        Ok(lines.lines().map(|line| format!("{}{line}\n", self.prefix)).collect())
    }

    /// A last line without an end, as a crash leaves it.
    fn rest(&self) -> String {
        match String::from_utf8_lossy(&self.partial) {
            rest if rest.is_empty() => String::new(),
            rest => format!("{}{rest}\n", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn log_is_read_by_whole_lines_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flanneld.log");
        let mut log = Log::new("n1 | ".to_owned(), path.clone());
        assert_eq!(log.read().unwrap(), "", "there is no file yet");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(log.read().unwrap(), "n1 | one\nn1 | two\n");
        assert_eq!(log.read().unwrap(), "");
        assert_eq!(log.rest(), "n1 | thr\n");
        file.write_all(b"ee\n").unwrap();
        assert_eq!(log.read().unwrap(), "n1 | three\n");
        assert_eq!(log.rest(), "");
    }
}
