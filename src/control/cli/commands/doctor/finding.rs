//! [`Finding`]: what one check says, and how all of them are shown.

use serde::Serialize;

use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{WIDTH, wrap};

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

/// Columns of the level and of the check's name.
const LEVEL: usize = 6;
const CHECK: usize = 15;

impl DoctorReport {
    /// The table, in 80 columns.
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let mut text = format!("settings: {}\n", self.settings);
        let plain: fn(Paint, &str) -> String = |_, text| text.to_owned();
        for Finding { check, level, text: what, advice } in &self.findings {
            let (word, colour): (_, fn(Paint, &str) -> String) = match level {
                Level::Ok => ("ok", plain),
                Level::Warn => ("warn", Paint::yellow),
                Level::Fail => ("FAIL", Paint::red),
            };
            let advice = advice.as_ref().map(|advice| format!("-> {advice}"));
            let lines = wrap(what, WIDTH - LEVEL - CHECK).into_iter();
            let advice = advice.iter().flat_map(|advice| wrap(advice, WIDTH - LEVEL - CHECK));
            for (index, line) in lines.chain(advice).enumerate() {
                let (word, check) = if index == 0 { (word, *check) } else { ("", "") };
                let word = colour(paint, &format!("{word:<LEVEL$}"));
                text += format!("{word}{check:<CHECK$}{line}").trim_end();
                text.push('\n');
            }
        }
        let count = |level| self.count(level);
        let (ok, warn, fail) = (count(Level::Ok), count(Level::Warn), count(Level::Fail));
        text + &format!("{fail} failed, {warn} warnings, {ok} ok\n")
    }
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
            report.to_text(Paint::off()),
            "settings: the defaults\n\
             ok    forwarding     net.ipv4.ip_forward is 1\n\
             FAIL  peers          packets of more than 1372 bytes are lost on the way to\n\
             \x20                    192.0.2.9 and back, and the overlay's MTU is 1472\n\
             \x20                    -> ip link set eth0 mtu 1500\n\
             1 failed, 0 warnings, 1 ok\n"
        );
    }
}
