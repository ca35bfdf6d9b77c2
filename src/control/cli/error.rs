//! What is wrong with a command line, in one line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::go_flags::Words;

/// What is wrong with the command line or a `FLANNELD_*` variable, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No flag has this name.
    #[error("unknown flag --{flag}: {advice}")]
    Unknown {
        /// The name given.
        flag: String,
        /// The flag that was probably meant, or where to look.
        advice: String,
    },
    /// The first word is neither a flag nor a command.
    #[error("unknown command {word:?}: {advice}")]
    UnknownCommand {
        /// The word given.
        word: String,
        /// The command that was probably meant, or where to look.
        advice: String,
    },
    /// A later word that is neither a flag nor the value of one.
    #[error("{word:?} is no flag: {advice}")]
    Stray {
        /// The word given.
        word: String,
        /// What to write.
        advice: String,
    },
    /// What clap says about the flags of a command.
    #[error("{reason} (flanneld {command} --help)")]
    Command {
        /// The command.
        command: String,
        /// What is wrong, in one line.
        reason: String,
    },
    /// The last flag needs a value and has none.
    #[error("flag --{flag} needs a value: write --{flag}=VALUE")]
    MissingValue {
        /// The flag's name.
        flag: String,
    },
    /// A word of dashes and equals signs.
    #[error("{word:?} is no flag: write --name=value (flanneld --help lists them)")]
    Syntax {
        /// The word given.
        word: String,
    },
    /// A word or name with a character that none has.
    #[error("{word:?} {fault}: write --name=value, with characters of the keyboard")]
    Character {
        /// The word, without a value.
        word: String,
        /// The character and its position.
        fault: String,
    },
    /// A word that is not UTF-8.
    #[error("{word} is not UTF-8 text")]
    NotText {
        /// The word, escaped.
        word: String,
    },
    /// A value that its flag does not take.
    #[error("{origin}: {reason}")]
    Value {
        /// `flag --healthz-port` or `variable FLANNELD_HEALTHZ_PORT`.
        origin: String,
        /// What is wrong with the value, and what would be right.
        reason: String,
    },
    /// Not a mistake: somebody asked for this help text.
    #[error("help was asked for")]
    Help(String),
}

/// Turns clap's error, which has several lines and does not know variables, into one line.
pub(super) fn translate(error: &clap::Error, words: &Words) -> FlagError {
    if error.kind() == ErrorKind::DisplayHelp {
        return FlagError::Help(error.render().to_string());
    }
    // `--healthz-port <PORT>`, or for an unknown flag just `--name`
    let arg = context(error, ContextKind::InvalidArg);
    let flag = arg.split(' ').next().unwrap_or_default().trim_start_matches('-');
    let flag = flag.split(['=', '[']).next().unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument {
        let advice = match context(error, ContextKind::SuggestedArg) {
            "" => "flanneld --help lists all flags".to_owned(),
            suggestion => format!("did you mean {suggestion}? (flanneld --help lists all flags)"),
        };
        return FlagError::Unknown { flag: flag.to_owned(), advice };
    }
    let value = context(error, ContextKind::InvalidValue);
    let reason = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => format!("{value:?} is not allowed here"),
    };
    FlagError::Value { origin: words.origin(flag), reason }
}

/// The same of a command with clap's own flags.
pub(super) fn translate_command(error: &clap::Error, command: &str) -> FlagError {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return FlagError::Help(error.render().to_string());
    }
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.starts_with("For more information"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    // What was typed may hold anything, and clap repeats it.
    let reason = words.join(" ").replace(char::is_control, "?");
    let reason = reason.strip_prefix("error: ").unwrap_or(&reason).to_owned();
    FlagError::Command { command: command.to_owned(), reason }
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        Some(ContextValue::Strings(texts)) => texts.first().map_or("", String::as_str),
        _ => "",
    }
}
