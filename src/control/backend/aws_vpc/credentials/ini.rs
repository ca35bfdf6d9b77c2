//! The files `~/.aws/config` and `~/.aws/credentials`: sections of `name = value`.

use std::collections::HashMap;

/// Members of each section. Names are in lower case.
pub(super) type Sections = HashMap<String, HashMap<String, String>>;

/// Adds the sections of `text` to `sections`. `name_of` says which profile a section's title means.
/// Lines that are neither title nor member, and those of nested members, are skipped, as AWS's
/// tools do.
pub(super) fn read(text: &str, name_of: impl Fn(&str) -> Option<String>, sections: &mut Sections) {
    let mut current = None;
    for line in text.lines() {
        let is_indented = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let title = rest.split(']').next().unwrap_or_default().trim();
            current = name_of(title);
            continue;
        }
        let (Some(section), false) = (&current, is_indented) else { continue };
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.split(" #").next().unwrap_or_default();
        let value = value.split(" ;").next().unwrap_or_default().trim().to_owned();
        let members = sections.entry(section.clone()).or_default();
        members.insert(name.trim().to_ascii_lowercase(), value);
    }
}
