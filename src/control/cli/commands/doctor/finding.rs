//! [`Finding`]: what one check says, and how all of them are shown.

use std::fmt;

use serde::Serialize;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::control::cli) enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::control::cli) struct Finding {
    /// The check that it is from.
    pub(in crate::control::cli) check: &'static str,
    pub(in crate::control::cli) level: Level,
    /// What is the case.
    pub(in crate::control::cli) text: String,
    /// What to do, or to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::control::cli) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, text: text.into(), advice: None }
    }

    pub(super) fn warn(
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, level: Level::Warn, text: text.into(), advice: Some(advice.into()) }
    }

    pub(super) fn fail(
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, level: Level::Fail, text: text.into(), advice: Some(advice.into()) }
    }
}

/// All findings, and what was asked.
#[derive(Debug, Serialize)]
pub(in crate::control::cli) struct DoctorReport {
    /// Where the settings are from.
    pub(super) settings: String,
    /// The worst level.
    pub(super) result: Level,
    pub(super) findings: Vec<Finding>,
}

impl DoctorReport {
    pub(super) fn new(settings: String, findings: Vec<Finding>) -> Self {
        let result = findings.iter().map(|it| it.level).max().unwrap_or(Level::Ok);
        Self { settings, result, findings }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|it| it.level == level).count()
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "settings: {}", self.settings)?;
        for Finding { check, level, text, advice } in &self.findings {
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "WARN",
                Level::Fail => "FAIL",
            };
            write_wrapped(f, &format!("{level:<5} {check:<14} "), text)?;
            if let Some(advice) = advice {
                write_wrapped(f, &format!("{:<21}-> ", ""), advice)?;
            }
        }
        let count = |level| self.count(level);
        let (ok, warn, fail) = (count(Level::Ok), count(Level::Warn), count(Level::Fail));
        writeln!(f, "{fail} failed, {warn} warnings, {ok} ok")
    }
}

/// Columns of a terminal that everybody has.
const WIDTH: usize = 80;

/// Writes `text` behind `head`, in lines of 80 columns; further lines begin below its first word.
fn write_wrapped(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let indent = head.chars().count();
    let mut line = head.to_owned();
    let mut column = indent;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > indent && column + 1 + len > WIDTH {
            writeln!(f, "{line}")?;
            line = " ".repeat(indent);
            column = indent;
        }
        if column > indent {
            line.push(' ');
            column += 1;
        }
        line.push_str(word);
        column += len;
    }
    writeln!(f, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_fits_into_80_columns_and_ends_with_the_sum() {
        let long = "packets of more than 1372 bytes are lost on the way to 192.0.2.9 and back, and \
                    the overlay's MTU is 1472";
        let report = DoctorReport::new(
            "the defaults".to_owned(),
            vec![
                Finding::ok("forwarding", "net.ipv4.ip_forward is 1"),
                Finding::fail("peers", long, "ip link set eth0 mtu 1500"),
            ],
        );
        assert_eq!(report.result, Level::Fail);
        assert_eq!(
            report.to_string(),
            "settings: the defaults\n\
             ok    forwarding     net.ipv4.ip_forward is 1\n\
             FAIL  peers          packets of more than 1372 bytes are lost on the way to\n\
             \x20                    192.0.2.9 and back, and the overlay's MTU is 1472\n\
             \x20                    -> ip link set eth0 mtu 1500\n\
             1 failed, 0 warnings, 1 ok\n"
        );
    }
}
