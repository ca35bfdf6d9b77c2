//! What a user probably meant by a wrong name.

/// How alike two names must be, by Jaro's measure. clap's own suggestions start there too.
const ALIKE: f64 = 0.7;

/// For the end of a message on a wrong name: `; did you mean n1?` if one of `known` is like it, and
/// what there is.
pub(super) fn hint(wrong: &str, known: &[String]) -> String {
    let likeness = |name: &&String| strsim::jaro(&wrong.to_lowercase(), name);
    let alike = known.iter().filter(|name| likeness(name) > ALIKE);
    let meant = alike.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    let all = match known {
        [] => "there are none".to_owned(),
        known => format!("there are {}", known.join(", ")),
    };
    let separator = if meant.is_empty() { ":" } else { "" };
    format!("{meant}{separator} {all}")
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_name_that_is_alike_is_suggested() {
        let known = ["n1", "n2", "etcd"].map(str::to_owned);
        assert_eq!(hint("ectd", &known), "; did you mean etcd? there are n1, n2, etcd");
        assert_eq!(hint("N2", &known), "; did you mean n2? there are n1, n2, etcd");
        assert_eq!(hint("node-7", &known), ": there are n1, n2, etcd");
        assert_eq!(hint("lab", &[]), ": there are none");
    }
}
