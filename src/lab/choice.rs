//! [`Choice`]: `[NAME=]PATH`, the one form in which every task takes a flanneld.

use std::path::Path;
use std::str::FromStr;

use super::LabError;
use super::network::daemon::Daemon;

/// A flanneld that a user chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What stands before the `=`: a node's name, or the name in a report.
    pub name: Option<String>,
    /// The path of a program, or the word `stock-emulator`.
    pub path: String,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (Some(name), path),
            None => (None, text),
        };
        if path.is_empty() || name == Some("") {
            return Err("write PATH or NAME=PATH".to_owned());
        }
        Ok(Self { name: name.map(str::to_owned), path: path.to_owned() })
    }
}

impl Choice {
    /// The program, which must exist; `flannel_lab` contains the emulator of a stock node.
    ///
    /// # Errors
    /// [`LabError::Io`] when there is no such program.
    pub fn daemon(&self, flannel_lab: &Path) -> Result<Daemon, LabError> {
        Daemon::chosen(flannel_lab, &self.path)
    }

    /// Its name in a report: the one given, or the last part of the path.
    pub fn title(&self) -> String {
        let file = || Path::new(&self.path).file_name().map(|name| name.to_string_lossy());
        self.name.clone().or_else(|| file().map(Into::into)).unwrap_or_else(|| self.path.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_come_before_the_path() {
        let choice = |text: &str| text.parse::<Choice>();
        assert_eq!(choice("/usr/sbin/flanneld").unwrap().title(), "flanneld");
        assert_eq!(choice("stock-emulator").unwrap().title(), "stock-emulator");
        let named = choice("n2=/opt/flanneld").unwrap();
        assert_eq!((named.title(), named.path.as_str()), ("n2".to_owned(), "/opt/flanneld"));
        for wrong in ["", "n2=", "=/opt/flanneld"] {
            assert_eq!(choice(wrong).unwrap_err(), "write PATH or NAME=PATH", "{wrong:?}");
        }
    }
}
