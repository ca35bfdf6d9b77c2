//! The daemon's process and its files, and the report's own file.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::control::cli::client::daemons::running;
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::{Invocation, parse};
use crate::control::config::daemon::Config;
use crate::control::observe::api::{Status, paths};
use crate::control::subnet::kv::state_file::StateFile;

/// What is known of a daemon by its process.
pub(super) struct DaemonProcess {
    pid: Option<i32>,
    config: Option<Config>,
    /// Why there is no config.
    reason: String,
}

impl DaemonProcess {
    /// The one that answers, or else one that runs here.
    pub(super) async fn of(client: &Result<Client, ToolError>) -> Self {
        let status = match client {
            Ok(client) => client.get::<Status>(paths::STATUS).await.ok(),
            Err(_) => None,
        };
        let pid = status.and_then(|status| i32::try_from(status.pid).ok());
        let here = || running().into_iter().find(|it| it.is_here).map(|it| it.pid);
        match pid.or_else(here) {
            Some(pid) => match config(pid) {
                Ok(config) => Self { pid: Some(pid), config: Some(config), reason: String::new() },
                Err(reason) => Self { pid: Some(pid), config: None, reason },
            },
            None => Self { pid: None, config: None, reason: "no flanneld runs here".to_owned() },
        }
    }

    /// What the daemon was started with. The password is not shown: see `EtcdConfig`.
    pub(super) fn settings(&self) -> String {
        match &self.config {
            Some(config) => format!("{config:#?}"),
            None => self.reason.clone(),
        }
    }

    /// Values that must not be in a report.
    pub(super) fn secrets(&self) -> Vec<String> {
        self.config.iter().filter_map(|config| config.etcd.password.clone()).collect()
    }

    /// The files that it writes, by name.
    pub(super) fn files(&self) -> Vec<(String, String)> {
        let Some(config) = &self.config else { return Vec::new() };
        let paths = [config.subnet_file.clone(), StateFile::path_next_to(&config.subnet_file)];
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
    }

    /// The command that shows its log, if journald keeps it.
    pub(super) fn journal(&self) -> Vec<String> {
        let of = self.pid.map_or("_COMM=flanneld".to_owned(), |pid| format!("_PID={pid}"));
        ["journalctl", "--no-pager", "-n", "1000", &of].map(str::to_owned).to_vec()
    }
}

/// The settings of a running daemon, read as it read them itself.
fn config(pid: i32) -> Result<Config, String> {
    let read = |name: &str| -> Result<Vec<OsString>, String> {
        let path = format!("/proc/{pid}/{name}");
        let bytes = fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
        let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        Ok(words.map(|word| OsString::from_vec(word.to_vec())).collect())
    };
    let args = read("cmdline")?.into_iter().skip(1);
    let variables = read("environ")?.into_iter().filter_map(|variable| {
        let variable = variable.into_string().ok()?;
        let (name, value) = variable.split_once('=')?;
        Some((name.into(), value.into()))
    });
    match parse(args, variables) {
        Ok(Invocation::Run(config)) => Ok(*config),
        Ok(_) => Err("it runs no daemon".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Writes the report where no file is yet. Only its owner may read it.
pub(super) fn write(path: &Path, report: &str) -> Result<(), ToolError> {
    let failed = |error| ToolError::Local(format!("write {}: {error}", path.display()));
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(failed)?;
    let written = file.write_all(report.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // On a full disk half a report helps nobody.
        drop(fs::remove_file(path));
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_private_and_replaces_nothing() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        write(&path, "text").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = write(&path, "other").unwrap_err().to_string();
        assert!(error.contains("File exists"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let error = write(Path::new("/dev/full/x"), "").unwrap_err().to_string();
        assert!(error.starts_with("write /dev/full/x: Not a directory"), "{error}");
    }
}
