//! Which settings a daemon of this host has, or would have.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::control::cli::{FlagError, Invocation, parse};
use crate::control::config::daemon::Config;

/// What the packages' unit reads: `EnvironmentFile=` in dist/flanneld.service.
const ENV_FILE: &str = "/etc/default/flanneld";

/// The words of the command line in [`ENV_FILE`].
const OPTIONS: &str = "FLANNEL_OPTIONS";

/// The settings, and where they are from.
#[derive(Debug)]
pub(in crate::control::cli) struct Settings {
    pub(in crate::control::cli) config: Box<Config>,
    pub(in crate::control::cli) source: Source,
}

/// Where settings are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control::cli) enum Source {
    /// The command line of this command.
    Words,
    /// The command line and the environment of the running daemon with this pid.
    Daemon(u32),
    /// The unit's file and our environment.
    EnvFile,
    /// Our environment alone.
    Environment,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(in crate::control::cli) enum SettingsError {
    /// They are wrong.
    #[error("{of}: {reason}")]
    Wrong {
        /// Whose they are.
        of: Source,
        /// What is wrong.
        reason: FlagError,
    },
    /// The words ask for something else than a daemon.
    #[error("{0}: these are not the flags of a daemon that runs")]
    NoDaemon(Source),
}

type Variables = Vec<(OsString, OsString)>;

impl Settings {
    /// Those that `words` say; without words, those of the daemon `pid`; without a daemon, those that
    /// a start by the packages' unit would have.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(in crate::control::cli) fn find(
        words: &[OsString],
        pid: Option<u32>,
    ) -> Result<Self, SettingsError> {
        let environment: Variables = std::env::vars_os().collect();
        if !words.is_empty() {
            return read(Source::Words, words.to_vec(), environment);
        }
        if let Some((pid, words, variables)) = pid.and_then(of_process) {
            return read(Source::Daemon(pid), words, variables);
        }
        match fs::read_to_string(ENV_FILE) {
            Ok(text) => {
                let (words, mut variables) = of_env_file(&text);
                variables.extend(environment);
                read(Source::EnvFile, words, variables)
            }
            Err(_) => read(Source::Environment, Vec::new(), environment),
        }
    }
}

fn read(
    source: Source,
    words: Vec<OsString>,
    variables: Variables,
) -> Result<Settings, SettingsError> {
    match parse(words, variables) {
        Ok(Invocation::Run(config)) => Ok(Settings { config, source }),
        Ok(_) => Err(SettingsError::NoDaemon(source)),
        Err(reason) => Err(SettingsError::Wrong { of: source, reason }),
    }
}

/// Arguments and environment of a process; `None` if they may not be read.
fn of_process(pid: u32) -> Option<(u32, Vec<OsString>, Variables)> {
    let process = Path::new("/proc").join(pid.to_string());
    let strings = |name: &str| {
        let bytes = fs::read(process.join(name)).ok()?;
        let strings = bytes.split(|byte| *byte == 0).filter(|it| !it.is_empty());
        Some(strings.map(|it| OsString::from_vec(it.to_vec())).collect::<Vec<_>>())
    };
    let words = strings("cmdline")?.split_off(1);
    let variables = strings("environ")?.into_iter().filter_map(|text| {
        let bytes = text.into_vec();
        let at = bytes.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (bytes[..at].to_vec(), bytes[at + 1..].to_vec());
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    });
    Some((pid, words, variables.collect()))
}

/// Words and variables in a file as systemd reads it: systemd.exec(5), `EnvironmentFile=`.
fn of_env_file(text: &str) -> (Vec<OsString>, Variables) {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let all = lines.filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|quote| {
            value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote))
        });
        Some((name.trim(), quoted.unwrap_or(value)))
    });
    let (options, variables): (Vec<_>, Vec<_>) = all.partition(|(name, _)| *name == OPTIONS);
    let words = options.iter().flat_map(|(_, value)| value.split_whitespace());
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
    (words.map(OsString::from).collect(), variables.collect())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words => f.write_str("the flags after --"),
            Self::Daemon(pid) => write!(f, "the flags of flanneld with pid {pid}"),
            Self::EnvFile => f.write_str(ENV_FILE),
            Self::Environment => f.write_str("the defaults and variables FLANNELD_*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_file_gives_variables_and_words() {
        let text = "# a comment\nFLANNELD_ETCD_PREFIX=/x\n\nFLANNELD_IFACE=\"eth1\"\n\
                    FLANNEL_OPTIONS=-ip-masq --workers=2\n";
        let (words, variables) = of_env_file(text);
        assert_eq!(words, ["-ip-masq", "--workers=2"]);
        let settings = read(Source::EnvFile, words, variables).unwrap();
        assert_eq!(settings.config.etcd.prefix, "/x");
        assert!(settings.config.firewall.ip_masq);
        assert_eq!(settings.config.num_workers, 2);
        assert_eq!(settings.config.ifaces.len(), 1);
    }

    #[test]
    fn words_that_are_wrong_are_named_with_their_source() {
        let wrong = |words: &[&str]| {
            let words = words.iter().map(OsString::from).collect();
            read(Source::Words, words, Vec::new()).unwrap_err().to_string()
        };
        let error = wrong(&["-no-such-flag"]);
        assert!(error.starts_with("the flags after --: ") && error.contains("no-such-flag"));
        assert!(wrong(&["--version"]).contains("not the flags of a daemon"));
    }
}
