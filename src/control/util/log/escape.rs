//! Text from outside, made harmless: keys and values of etcd, names of links, a tool's output.

use std::fmt;

use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// `text` with everything escaped that is not seen as what it is: control characters, line
/// separators, marks that change the direction of writing, blanks of no width.
///
/// Quotes and backslashes stay as they are: what is quoted already is not quoted twice.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => escaped.push(c),
            // Of the rest, `escape_debug` leaves alone what is printable.
            _ => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}

/// The fields of events and spans as they are by default, escaped.
#[derive(Debug)]
pub(super) struct EscapedFields;

impl<'w> FormatFields<'w> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut plain = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut plain), fields)?;
        writer.write_str(&escape(&plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_seen_stays_as_it_is() {
        for text in ["", r#"say "hi" \ it's"#, "~ zürich → 東京 …", "a\u{e9}"] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn what_ends_a_line_moves_the_cursor_or_hides_is_escaped() {
        for (text, escaped) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[31m\u{9b}1m\0\u{7f}\u{8}", r"\u{1b}[31m\u{9b}1m\0\u{7f}\u{8}"),
            ("\u{2028}\u{2029}\u{85}", r"\u{2028}\u{2029}\u{85}"),
            ("\u{202e}\u{2066}\u{200f}\u{61c}", r"\u{202e}\u{2066}\u{200f}\u{61c}"),
            ("\u{200b}\u{feff}\u{a0}\u{e0041}", r"\u{200b}\u{feff}\u{a0}\u{e0041}"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }
}
