//! The report one looks at: one HTML file with everything in it.
//!
//! No script, font or image from elsewhere, so that the file can be mailed or attached. Light or
//! dark as the reader's system is. [`chart`] draws one chart, [`cards`] all of them.

mod cards;
mod chart;
mod details;
mod legend;
mod tiles;

use std::fmt::{self, Write as _};

use super::results::Results;
use super::table::{ORIENTATION, number};

const STYLE: &str = include_str!("html/style.css");

/// The whole page.
pub fn render(results: &Results) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    write_page(&mut page, results).unwrap_or_default();
    page
}

fn write_page(page: &mut String, results: &Results) -> fmt::Result {
    let machine = &results.machine;
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>flannel-lab bench · {date}</title><style>{STYLE}</style></head><body>\n\
         <header><h1>Overlays side by side</h1>\
         <p class=\"where\">{machine_line} · <time>{date}</time></p>\
         <p class=\"where\">{versions}</p>\
         <p class=\"where\"><code>{command}</code></p></header>\n<main>\n",
        date = escape(&machine.date),
        machine_line = escape(&machine.describe()),
        versions = escape(&machine.describe_versions()),
        command = escape(&machine.command),
    )?;
    if results.quick {
        writeln!(page, "<p class=\"orientation\">{ORIENTATION}</p>")?;
    }
    details::write_failures(page, results)?;
    legend::write(page, results)?;
    tiles::write(page, results)?;
    cards::write(page, results)?;
    details::write(page, results)?;
    page.write_str("</main>\n</body></html>\n")
}

/// Text for between tags and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
