//! What the reader needs before the first figure: systems with their colours, settings, reading.

use std::fmt::{self, Write};

use super::cards::class;
use super::escape;
use crate::lab::bench::results::Results;

pub(super) fn write(page: &mut String, results: &Results) -> fmt::Result {
    page.write_str("<section><h2>Legend</h2><dl>")?;
    for (name, what) in &results.systems {
        write!(
            page,
            "<dt class=\"{}\"><i></i>{}</dt><dd>{}</dd>",
            class(name),
            escape(name),
            escape(what)
        )?;
    }
    let mut settings: Vec<&str> = Vec::new();
    for case in &results.cases {
        if !settings.contains(&case.setting_title.as_str()) {
            settings.push(&case.setting_title);
        }
    }
    for setting in settings {
        let (name, what) = setting.split_once(": ").unwrap_or((setting, ""));
        write!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(what))?;
    }
    writeln!(
        page,
        "<dt>bar and whisker</dt><dd>Median of {} rounds of {} s, with the smallest and the largest. \
         All systems take turns in every round.</dd>\
         <dt>0.80×</dt><dd>The figure divided by another system's in the same round, then the median \
         over the rounds, and behind it the smallest and the largest. Green is better than the other, \
         red is worse; for times, less is better.</dd></dl>\
         <p>Compare ratios within one run. Absolute figures hold for this machine at this hour.</p>\
         </section>",
        results.rounds, results.seconds
    )
}
