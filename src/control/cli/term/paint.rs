//! [`Paint`]: colours, where a person reads.

use std::env;
use std::io::{self, IsTerminal};

/// Colours text, or leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::control::cli) struct Paint {
    is_on: bool,
}

impl Paint {
    /// For standard output: colours on a terminal, unless NO_COLOR says otherwise
    /// (https://no-color.org).
    pub(in crate::control::cli) fn stdout() -> Self {
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
        Self { is_on: io::stdout().is_terminal() && !is_refused && !is_dumb }
    }

    /// Without colours.
    #[cfg(test)]
    pub(in crate::control::cli) const fn off() -> Self {
        Self { is_on: false }
    }

    pub(in crate::control::cli) fn green(self, text: &str) -> String {
        self.sgr("32", text)
    }

    pub(in crate::control::cli) fn yellow(self, text: &str) -> String {
        self.sgr("33", text)
    }

    pub(in crate::control::cli) fn red(self, text: &str) -> String {
        self.sgr("31", text)
    }

    pub(in crate::control::cli) fn bold(self, text: &str) -> String {
        self.sgr("1", text)
    }

    /// ECMA-48, "select graphic rendition".
    fn sgr(self, code: &str, text: &str) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_only() {
        assert_eq!(Paint::off().red("x"), "x");
        assert_eq!(Paint { is_on: true }.red("x"), "\x1b[31mx\x1b[0m");
    }
}
