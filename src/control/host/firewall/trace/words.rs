//! Words of a rule, and names of links with a wildcard.

/// The words of a rule as `iptables-save` writes it: blanks within quotes do not count.
pub(super) fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted, mut is_escaped) =
        (Vec::new(), String::new(), false, false);
    for c in rule.chars() {
        match c {
            _ if is_escaped => {
                word.push(c);
                is_escaped = false;
            }
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Whether `pattern`, which may end in `wildcard`, is about the link `name`.
pub(super) fn is_link(pattern: &str, wildcard: char, name: &str) -> bool {
    match pattern.strip_suffix(wildcard) {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}
