//! Go's way of writing flags, turned into clap's `--name=value`.
//!
//! As in Go's `flag` package, one dash is as good as two, a value may follow as the next word
//! whatever it looks like (`-iface -weird`), and the first word that is no flag ends the parsing.

use std::ffi::OsString;

use clap::{ArgAction, Command};

use super::{FlagError, foreign};

/// One flag as it was given.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) name: String,
    pub(super) value: Option<String>,
    variable: Option<String>,
}

impl Word {
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
    /// What stood after the last flag.
    pub(super) ignored: Vec<String>,
}

/// Splits `args` into flags, with `command` telling which flags take a value.
pub(super) fn read(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Words, FlagError> {
    let mut flags = Vec::new();
    let mut args = args.into_iter().map(into_text);
    while let Some(arg) = args.next() {
        let arg = arg?;
        let Some(flag) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            let ignored = std::iter::once(Ok(arg)).chain(args).collect::<Result<_, _>>()?;
            return Ok(Words { flags, ignored });
        };
        if flag == "-" {
            return Ok(Words { flags, ignored: args.collect::<Result<_, _>>()? });
        }
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(FlagError::Syntax { word: arg });
        }
        let value = match value {
            None if takes_value(command, name) => {
                let missing = FlagError::MissingValue { flag: name.to_owned() };
                Some(args.next().ok_or(missing)??)
            }
            value => value,
        };
        flags.push(Word { name: name.to_owned(), value, variable: None });
    }
    Ok(Words { flags, ignored: Vec::new() })
}

/// The variable that stands for flag `name`: `etcd-prefix` is `FLANNELD_ETCD_PREFIX`.
pub(super) fn variable_of(name: &str) -> String {
    format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"))
}

impl Words {
    /// Adds the variable of every flag that the command line does not have; `taken` are those of
    /// its flags that stand elsewhere by now.
    pub(super) fn add_variables(
        &mut self,
        command: &Command,
        taken: &[Word],
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), FlagError> {
        let ours = command.get_arguments().filter_map(variable_flag);
        for name in ours.chain(foreign::variables()) {
            let variable = variable_of(name);
            if self.flags.iter().chain(taken).any(|word| word.name == name) {
                continue;
            }
            let Some(value) = env(&variable).filter(|value| !value.is_empty()) else { continue };
            let value = value
                .into_string()
                .map_err(|value| FlagError::NotText { word: format!("{variable}={value:?}") })?;
            let variable = Some(variable);
            self.flags.push(Word { name: name.to_owned(), value: Some(value), variable });
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
        || foreign::takes_value(name),
        |arg| arg.get_action().takes_values() && !is_boolean(arg),
    )
}

/// A Go boolean is true when it stands alone, and takes a value only behind `=`.
fn is_boolean(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set) && arg.is_require_equals_set()
}

fn into_text(arg: OsString) -> Result<String, FlagError> {
    arg.into_string().map_err(|arg| FlagError::NotText { word: format!("{arg:?}") })
}
