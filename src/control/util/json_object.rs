//! JSON objects as flannel reads them.
//!
//! flannel's decoder is Go's `encoding/json`: member names match in any letter case, of several
//! equal names the last wins, `null` leaves a number, a boolean or a text at its default, and an
//! integer is digits only, so neither `"24"` nor `24.0` is one.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// An object whose members keep their order and are read on demand.
#[derive(Debug, Default)]
pub(crate) struct Object(Vec<(String, Box<RawValue>)>);

/// A member that is there but of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {found} is not {expected}")]
pub struct WrongType {
    name: &'static str,
    found: String,
    expected: &'static str,
}

impl Object {
    /// Reads one object and nothing after it. The error carries line and column.
    pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// The members in their order.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Gives the member `name` a value: in place if it is there, at the end if it is not.
    pub(crate) fn set(&mut self, name: &str, value: Box<RawValue>) {
        let mut named = self.0.iter_mut().rev().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        match named.next() {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes away every member `name`.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// The raw text of the member `name`, which may be `null`; `None` when it is absent.
    pub(crate) fn raw(&self, name: &str) -> Option<&RawValue> {
        let mut named = self.0.iter().rev().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| &**value)
    }

    /// The member `name` as a `T`; `None` when it is absent or `null`.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, WrongType> {
        match self.raw(name) {
            Some(value) if value.get() != "null" => read(value, name, expected).map(Some),
            _ => Ok(None),
        }
    }

    /// The member `name` as a text; `None` when it is absent, and `null` is no text.
    pub(crate) fn text(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<String>, WrongType> {
        self.raw(name).map(|value| read(value, name, expected)).transpose()
    }
}

fn read<T: DeserializeOwned>(
    value: &RawValue,
    name: &'static str,
    expected: &'static str,
) -> Result<T, WrongType> {
    serde_json::from_str(value.get()).map_err(|_| WrongType::new(name, value.get(), expected))
}

impl WrongType {
    /// Says that `name` holds `found` instead of `expected`.
    pub(crate) fn new(name: &'static str, found: &str, expected: &'static str) -> Self {
        Self { name, found: Self::shorten(found), expected }
    }

    /// The same, of a member whose full name is `name`.
    pub(crate) fn inside(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// `found` as one short line.
    pub(crate) fn shorten(found: &str) -> String {
        const MAX_SHOWN: usize = 40;
        let one_line = |c: char| if c.is_control() { ' ' } else { c };
        let mut shown: String = found.chars().map(one_line).take(MAX_SHOWN).collect();
        if found.chars().nth(MAX_SHOWN).is_some() {
            shown.push('…');
        }
        shown
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.members())
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        Object::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_match_in_any_case_and_the_last_wins() {
        let object = object(r#"{"type": "a", "TYPE": "b", "Type": "c", "tYPE": "d"}"#);
        assert_eq!(object.text("Type", "a text"), Ok(Some("d".to_owned())));
    }

    #[test]
    fn integers_are_digits_only() {
        for text in ["\"24\"", "24.0", "2e1", "-1", "true", "[]", "99999999999999999999"] {
            let object = object(&format!(r#"{{"Len": {text}}}"#));
            let error = object.read::<u64>("Len", "a whole number").unwrap_err();
            assert!(error.to_string().starts_with("Len: "), "{error}");
        }
        assert_eq!(object(r#"{"Len": null}"#).read::<u64>("Len", "a number"), Ok(None));
        assert_eq!(object(r#"{"Len": 24}"#).read::<u64>("Len", "a number"), Ok(Some(24)));
    }

    #[test]
    fn long_values_are_shortened_in_errors() {
        let error = WrongType::new("Type", &"x\n".repeat(100), "a text").to_string();
        assert!(error.len() < 80 && !error.contains('\n'), "{error}");
    }

    #[test]
    fn deep_nesting_is_an_error_or_a_value_but_never_a_crash() {
        let deep = format!("{{\"Data\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        if let Ok(object) = Object::parse(deep.as_bytes()) {
            assert!(object.read::<serde_json::Value>("Data", "JSON").is_err());
        }
    }
}
