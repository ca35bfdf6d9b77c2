//! How the tools print: tables of 80 columns, colours, numbers with units.

pub(super) mod paint;
pub(super) mod table;
pub(super) mod units;

use std::io::{self, Write};

use serde::Serialize;

use super::client::ToolError;

/// Columns that every terminal has.
pub(super) const WIDTH: usize = 80;

/// Prints `text`. A reader that has closed the pipe has seen enough.
pub(super) fn print(text: &str) -> Result<(), ToolError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ToolError::Local(format!("write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints `value` as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), ToolError> {
    // Writing to memory fails only for maps with keys that are no text; there are none here.
    print(&(serde_json::to_string_pretty(value).unwrap_or_default() + "\n"))
}

/// `text` in lines of at most `width` columns, broken between words.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensibilities a", 5), ["incomprehensibilities", "a"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
