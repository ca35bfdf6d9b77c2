//! Go's way of writing flags, turned into clap's `--name=value`.
//!
//! As in Go's `flag` package, one dash is as good as two, a value may follow as the next word
//! whatever it looks like (`-iface -weird`). Go's parsing ends at the first word that is no flag, and
//! ignores what follows; here that word is an error.

use std::ffi::OsString;

use clap::{ArgAction, Command};

use super::variables::Variables;
use super::{FlagError, characters, compat_flags, tools};
use crate::control::util::url_user::hide_user;

/// One flag as it was given.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) name: String,
    pub(super) value: Option<String>,
    variable: Option<String>,
}

impl Word {
    /// The flag with its value, unless that is a secret.
    fn shown(&self) -> String {
        const SECRETS: [&str; 3] = ["password", "token", "secret"];
        let name = &self.name;
        let Some(value) = &self.value else { return format!("--{name}") };
        if SECRETS.iter().any(|secret| name.contains(secret)) {
            return format!("--{name}=(hidden)");
        }
        let items: Vec<String> = value.split(',').map(hide_user).collect();
        format!("--{name}={}", items.join(","))
    }

    /// Where it comes from, as an error message says it.
    pub(super) fn origin(&self) -> String {
        match &self.variable {
            Some(variable) => format!("variable {variable}"),
            None => format!("flag --{}", self.name),
        }
    }
}

/// A command line and environment in one form.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) flags: Vec<Word>,
    /// The first word that is no flag. Nothing after it was read.
    stray: Option<String>,
    /// Warnings about values that are accepted.
    pub(super) warnings: Vec<String>,
}

/// Splits `args` into flags, with `command` telling which flags take a value.
pub(super) fn read(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Words, FlagError> {
    let mut words = Words { flags: Vec::new(), stray: None, warnings: Vec::new() };
    let mut args = args.into_iter().map(into_text);
    while let Some(arg) = args.next() {
        let arg = arg?;
        // A script with the line ends of Windows makes a word of each of them.
        if !arg.is_empty() && arg.trim_ascii().is_empty() {
            continue;
        }
        let arg = arg.trim_ascii_start();
        let Some(flag) = arg.strip_prefix('-').filter(|rest| !rest.trim_ascii().is_empty()) else {
            characters::check_no_flag(arg)?;
            words.stray = Some(arg.to_owned());
            return Ok(words);
        };
        if flag.trim_ascii() == "-" {
            words.stray = args.next().transpose()?;
            return Ok(words);
        }
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.trim_ascii_end();
        if name.is_empty() || name.starts_with('-') {
            return Err(FlagError::Syntax { word: arg.to_owned() });
        }
        characters::check_name(name)?;
        let value = match value {
            None if takes_value(command, name) => {
                let missing = FlagError::MissingValue { flag: name.to_owned() };
                Some(args.next().ok_or(missing)?.map_err(|_| FlagError::NotText {
                    word: format!("the value of flag --{name}"),
                })?)
            }
            value => value,
        };
        words.add(Word { name: name.to_owned(), value, variable: None })?;
    }
    Ok(words)
}

/// The variable of flag `name`: `etcd-prefix` is `FLANNELD_ETCD_PREFIX`.
pub(super) fn variable_of(name: &str) -> String {
    format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"))
}

impl Words {
    fn add(&mut self, mut word: Word) -> Result<(), FlagError> {
        if let Some(value) = &mut word.value {
            *value = characters::trim(&word.name, value).to_owned();
        }
        self.warnings.extend(characters::check_value(&word)?);
        self.flags.push(word);
        Ok(())
    }

    /// # Errors
    /// [`FlagError::Stray`] if there is a word that is no flag.
    pub(super) fn check_stray(&self, command: &Command) -> Result<(), FlagError> {
        let Some(word) = &self.stray else { return Ok(()) };
        let is_bool = |name: &str| {
            let mut args = command.get_arguments();
            args.any(|arg| arg.get_long() == Some(name) && is_boolean(arg))
        };
        let before = self.flags.last().filter(|flag| flag.value.is_none() && is_bool(&flag.name));
        let advice = match before {
            Some(flag) => format!("write --{}={word}", flag.name),
            None if tools::is_tool(word) => format!("write it first: flanneld {word}"),
            None => "flanneld --help lists flags and commands".to_owned(),
        };
        Err(FlagError::Stray { word: word.clone(), advice })
    }

    /// Adds the variable of every flag that the command line does not have; `taken` are those of
    /// its flags that stand elsewhere by now.
    pub(super) fn add_variables(
        &mut self,
        command: &Command,
        taken: &[Word],
        variables: &Variables,
    ) -> Result<(), FlagError> {
        let ours = command.get_arguments().filter_map(variable_flag);
        for name in ours.chain(compat_flags::variables()) {
            let variable = variable_of(name);
            if self.flags.iter().chain(taken).any(|word| word.name == name) {
                continue;
            }
            let found = variables.value(&variable).map(|value| (variable.as_str(), value));
            let Some((found, value)) = found.or_else(|| variables.packaged(name)) else {
                continue;
            };
            if found != variable {
                self.warnings.push(format!("variable {found} is taken for {variable}"));
            }
            let variable = found.to_owned();
            let value = value
                .to_str()
                .ok_or_else(|| FlagError::NotText { word: format!("variable {variable}") })?;
            if characters::trim(name, value).is_empty() {
                continue;
            }
            let (name, value) = (name.to_owned(), Some(value.to_owned()));
            self.add(Word { name, value, variable: Some(variable) })?;
        }
        Ok(())
    }

    /// The flags as clap wants them, behind a program name.
    pub(super) fn to_clap(&self) -> Vec<String> {
        let flags = self.flags.iter().map(|Word { name, value, .. }| {
            let dashes = if name.len() == 1 && value.is_none() { "-" } else { "--" };
            match value {
                Some(value) => format!("{dashes}{name}={value}"),
                None => format!("{dashes}{name}"),
            }
        });
        std::iter::once("flanneld".to_owned()).chain(flags).collect()
    }

    /// All settings on one line, for the log: no password, and of a URL no user.
    pub(super) fn settings(&self) -> String {
        let settings: Vec<String> = self.flags.iter().map(Word::shown).collect();
        if settings.is_empty() { "no flags".to_owned() } else { settings.join(" ") }
    }

    /// Where the setting `name` comes from, as an error message says it.
    pub(super) fn origin(&self, name: &str) -> String {
        match self.flags.iter().rev().find(|word| word.name == name) {
            Some(word) => word.origin(),
            None => format!("flag --{name}"),
        }
    }
}

/// The name of a flag that may also be a variable: all but those that start no daemon.
pub(super) fn variable_flag(arg: &clap::Arg) -> Option<&str> {
    const NO_DAEMON: [&str; 5] = ["help", "version", "cleanup", "config-check", "json"];
    arg.get_long().filter(|name| !NO_DAEMON.contains(name))
}

fn takes_value(command: &Command, name: &str) -> bool {
    command.get_arguments().find(|arg| arg.get_long() == Some(name)).map_or_else(
        || compat_flags::takes_value(name),
        |arg| arg.get_action().takes_values() && !is_boolean(arg),
    )
}

/// A Go boolean is true without a value, and takes one only after `=`.
fn is_boolean(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set) && arg.is_require_equals_set()
}

fn into_text(arg: OsString) -> Result<String, FlagError> {
    // The name is enough: the value may be a password.
    arg.into_string().map_err(|arg| {
        let word = arg.to_string_lossy();
        let word = word.split_once('=').map_or(&*word, |(name, _)| name);
        FlagError::NotText { word: format!("{word:?}") }
    })
}
