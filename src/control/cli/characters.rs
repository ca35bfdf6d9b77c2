//! Invisible characters, and those that look like others: editors, web pages and environment files
//! put them into command lines.

use super::FlagError;
use super::go_flags::Word;

/// The flag whose value may hold anything.
const PASSWORD: &str = "etcd-password";

/// The flag whose value is a list that may well have line ends in it.
const LIST: &str = "etcd-endpoints";

/// `value` of the flag `name` without white space around it. A password keeps its own: only the
/// end of the line that it stood on goes.
pub(super) fn trim<'a>(name: &str, value: &'a str) -> &'a str {
    if name == PASSWORD { value.trim_end_matches(['\r', '\n']) } else { value.trim_ascii() }
}

/// Checks the value of a flag. What is odd about a password is only noted.
///
/// # Errors
/// [`FlagError::Value`] for a character that cannot have been meant.
pub(super) fn check_value(word: &Word) -> Result<Option<String>, FlagError> {
    let Some(value) = &word.value else { return Ok(None) };
    let is_list_gap = |c: char| word.name == LIST && c.is_ascii_whitespace();
    let hidden = value.chars().find(|c| is_hidden(*c) && !is_list_gap(*c));
    let origin = word.origin();
    if word.name == PASSWORD {
        return Ok(hidden.map(|c| format!("{origin} holds {}, which cannot be seen", describe(c))));
    }
    let reason = if let Some(c) = hidden {
        format!("{value:?} holds {}, which cannot be seen: type it again", describe(c))
    } else if let Some(c) = surrounding_quote(value) {
        format!("{value:?} is in quotes, {}: write it without", describe(c))
    } else if let Some(c) = value.chars().next().filter(|c| is_dash(*c)) {
        format!("{value:?} begins with {}, which starts no flag: write --", describe(c))
    } else {
        return Ok(None);
    };
    Err(FlagError::Value { origin, reason })
}

/// Checks the name of a flag.
///
/// # Errors
/// [`FlagError::Character`] for a character that no flag's name has.
pub(super) fn check_name(name: &str) -> Result<(), FlagError> {
    match name.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) => Err(FlagError::Character {
            word: name.to_owned(),
            fault: format!("holds {}", describe(c)),
        }),
        None => Ok(()),
    }
}

/// Checks a word that is no flag, at which parsing would end.
///
/// # Errors
/// [`FlagError::Character`] if it was to be a flag.
pub(super) fn check_no_flag(word: &str) -> Result<(), FlagError> {
    let Some(first) = word.chars().next() else { return Ok(()) };
    let behind_quotes = word.trim_start_matches(is_quote);
    let is_quoted = behind_quotes.starts_with(|c| c == '-' || is_dash(c));
    if !(is_dash(first) || is_hidden(first) || (is_quote(first) && is_quoted)) {
        return Ok(());
    }
    // The name is enough: the value may be a password.
    let word = word.split_once('=').map_or(word, |(name, _)| name).to_owned();
    Err(FlagError::Character { word, fault: format!("begins with {}", describe(first)) })
}

/// A curly quote at either end, or a pair of straight ones around it all.
fn surrounding_quote(value: &str) -> Option<char> {
    let (first, last) = (value.chars().next()?, value.chars().next_back()?);
    let is_curly = |c: &char| is_quote(*c) && !c.is_ascii();
    let is_pair = value.len() > 1 && first == last && is_quote(first);
    [first, last].into_iter().find(is_curly).or(is_pair.then_some(first))
}

const fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}')
}

/// Taken for the hyphen-minus, which starts a flag. Unicode's category Pd and the minus signs.
const fn is_dash(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}

/// Leaves no mark on a screen: controls, spaces but the usual one, and Unicode's format characters
/// and fillers.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// `U+00A0 (no-break space)`.
fn describe(c: char) -> String {
    let name = match c {
        '\t' => "tab",
        '\n' => "line feed",
        '\r' => "carriage return",
        '"' | '\'' => "straight quote",
        '\u{a0}' => "no-break space",
        '\u{ad}' => "soft hyphen",
        '\u{200b}' => "zero-width space",
        '\u{200c}' | '\u{200d}' => "zero-width joiner",
        '\u{2010}' => "hyphen",
        '\u{2011}' => "no-break hyphen",
        '\u{2012}' => "figure dash",
        '\u{2013}' => "en dash",
        '\u{2014}' => "em dash",
        '\u{2015}' => "horizontal bar",
        '\u{2018}'..='\u{201f}' => "curly quote",
        '\u{202f}' => "narrow no-break space",
        '\u{2060}' => "word joiner",
        '\u{2212}' => "minus sign",
        '\u{feff}' => "byte order mark",
        _ => return format!("U+{:04X}", u32::from(c)),
    };
    format!("U+{:04X} ({name})", u32::from(c))
}
