//! [`Contact`]: how the source of our lease is.

use std::collections::BTreeMap;

/// How the source of our lease is, and what it is warned of.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Whether it answered when it was last asked.
    pub(super) is_reachable: bool,
    /// How often it answered again after it had not.
    pub(super) reconnects: u64,
    /// What is not as it should be, by what it is about.
    pub(super) warnings: BTreeMap<&'static str, String>,
}

impl Contact {
    pub(super) fn new(is_reachable: bool) -> Self {
        Self { is_reachable, ..Self::default() }
    }

    pub(super) fn reachable(&mut self, is_reachable: bool) {
        self.reconnects += u64::from(is_reachable && !self.is_reachable);
        self.is_reachable = is_reachable;
    }

    pub(super) fn warn(&mut self, what: &'static str, warning: Option<String>) {
        match warning {
            Some(warning) => drop(self.warnings.insert(what, warning)),
            None => drop(self.warnings.remove(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Contact;

    #[test]
    fn reconnects_are_counted_and_a_warning_ends() {
        let mut contact = Contact::new(true);
        for is_reachable in [false, false, true, false, true] {
            contact.reachable(is_reachable);
        }
        assert_eq!((contact.reconnects, contact.is_reachable), (2, true));
        contact.warn("config", Some("it differs".to_owned()));
        assert_eq!(contact.warnings["config"], "it differs");
        contact.warn("config", None);
        assert!(contact.warnings.is_empty());
    }
}
