//! [`Document`]: a registry as JSON text, which people write, too.
//!
//! ```json
//! {
//!   "config": { "Network": "10.5.0.0/16" },
//!   "leases": {
//!     "10.5.7.0-24": { "PublicIP": "192.0.2.7", "note": "a reservation: it never expires" },
//!     "10.5.52.0-24": {"PublicIP":"192.0.2.1","PublicIPv6":null,"Expires":"2026-11-22T09:30:00Z"}
//!   }
//! }
//! ```
//!
//! Keys and values are those of etcd; `Expires` stands for what a key is bound to there. Whatever
//! else is in the text stays in it, and what nobody changes stays as it was typed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::{RawValue, to_raw_value};

use crate::control::subnet::lease::{LeaseAttrs, LeaseError};
use crate::control::util::json_object::{Object, WrongType};
use crate::control::util::time_text;

/// A registry's text, member by member.
#[derive(Debug, Default)]
pub(crate) struct Document {
    members: Object,
    /// In the order of the text; of a key that is there twice the last counts.
    leases: Vec<(String, Box<RawValue>)>,
    is_changed: bool,
}

/// Why a text is no registry. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("not a registry: {0}")]
    Json(String),
    #[error("not a registry: leases: {0}")]
    Leases(String),
    #[error("not a registry: leases stands there twice")]
    Twice,
    #[error("not a registry: the file is empty; {{}} is the least there must be")]
    Empty,
}

impl Document {
    /// Reads a text.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        if text.trim_ascii().is_empty() {
            return Err(DocumentError::Empty);
        }
        let members =
            Object::parse(text).map_err(|error| DocumentError::Json(error.to_string()))?;
        if members.members().filter(|(name, _)| is_leases(name)).count() > 1 {
            return Err(DocumentError::Twice);
        }
        let leases = match members.raw("leases").map(RawValue::get) {
            None | Some("null") => Object::default(),
            Some(text) => Object::parse(text.as_bytes())
                .map_err(|error| DocumentError::Leases(error.to_string()))?,
        };
        let leases = leases.members().map(|(key, raw)| (key.to_owned(), raw.to_owned())).collect();
        Ok(Self { members, leases, is_changed: false })
    }

    /// The text of the member `name`; `None` when it is absent or `null`.
    pub(crate) fn member(&self, name: &str) -> Option<&str> {
        self.members.raw(name).map(RawValue::get).filter(|text| *text != "null")
    }

    /// Gives the member `name` a value.
    pub(crate) fn set_member(&mut self, name: &str, value: Box<RawValue>) {
        self.members.set(name, value);
        self.is_changed = true;
    }

    /// The entries in byte order of their keys.
    pub(crate) fn entries(&self) -> BTreeMap<&str, &RawValue> {
        self.leases.iter().map(|(key, raw)| (key.as_str(), &**raw)).collect()
    }

    /// Writes what `attrs` say to the entry `key`, and when it expires, if it does. Members that
    /// are neither's business stay.
    pub(crate) fn put(
        &mut self,
        key: &str,
        attrs: &LeaseAttrs,
        expires: Option<SystemTime>,
    ) -> serde_json::Result<()> {
        let place = self.leases.iter().rposition(|(name, _)| name == key);
        let Some(place) = place else { return self.append(key, attrs, expires) };
        let old = self.leases[place].1.get().as_bytes();
        let is_reservation = matches!(self::expires(&self.leases[place].1), Ok(None));
        if expires.is_none() && is_reservation && LeaseAttrs::from_json(old).as_ref() == Ok(attrs) {
            // A reservation says already what it should; leave it as its author wrote it.
            return Ok(());
        }
        let entry = Object::parse(old).unwrap_or_default();
        self.leases[place].1 = overwrite(entry, attrs, expires)?;
        self.is_changed = true;
        Ok(())
    }

    /// Writes an entry `key` that is known not to be there: without a search, which would make
    /// writing 100,000 of them take minutes.
    pub(crate) fn append(
        &mut self,
        key: &str,
        attrs: &LeaseAttrs,
        expires: Option<SystemTime>,
    ) -> serde_json::Result<()> {
        let entry = overwrite(Object::default(), attrs, expires)?;
        self.leases.push((key.to_owned(), entry));
        self.is_changed = true;
        Ok(())
    }

    /// Takes the entries away for which `is_gone` holds.
    pub(crate) fn remove(&mut self, is_gone: impl Fn(&str, &RawValue) -> bool) {
        let num = self.leases.len();
        self.leases.retain(|(key, raw)| !is_gone(key, raw));
        self.is_changed |= self.leases.len() < num;
    }

    /// Whether it is another text now than the one that was read.
    pub(crate) const fn is_changed(&self) -> bool {
        self.is_changed
    }
}

/// The text: every member and every entry on lines of its own.
impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "{\n";
        for (name, raw) in self.members.members() {
            write!(f, "{separator}  {}: ", quoted(name))?;
            separator = ",\n";
            match is_leases(name) {
                true => self.write_leases(f)?,
                false => f.write_str(raw.get())?,
            }
        }
        if self.members.raw("leases").is_none() {
            write!(f, "{separator}  \"leases\": ")?;
            self.write_leases(f)?;
        }
        f.write_str("\n}\n")
    }
}

impl Document {
    fn write_leases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.leases.is_empty() {
            return f.write_str("{}");
        }
        let mut separator = "{\n";
        for (key, raw) in &self.leases {
            write!(f, "{separator}    {}: {}", quoted(key), raw.get())?;
            separator = ",\n";
        }
        f.write_str("\n  }")
    }
}

/// The value of an entry that says what `attrs` say, and of `entry` what is neither's business.
fn overwrite(
    mut entry: Object,
    attrs: &LeaseAttrs,
    expires: Option<SystemTime>,
) -> serde_json::Result<Box<RawValue>> {
    for name in ["BackendType", "BackendData", "Expires"] {
        entry.remove(name);
    }
    for (name, value) in Object::parse(attrs.to_json().as_bytes())?.members() {
        entry.set(name, value.to_owned());
    }
    if let Some(expires) = expires {
        entry.set("Expires", to_raw_value(&time_text::utc(whole_second_after(expires)))?);
    }
    to_raw_value(&entry)
}

const fn is_leases(name: &str) -> bool {
    name.eq_ignore_ascii_case("leases")
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::from(text)
}

/// When the entry with the value `raw` expires: `Expires` is a text of RFC 3339, or the seconds
/// since 1970. `None` for a reservation.
///
/// # Errors
/// [`LeaseError`] when it is neither, or the value is no object.
pub(crate) fn expires(raw: &RawValue) -> Result<Option<SystemTime>, LeaseError> {
    const NAME: &str = "Expires";
    const TIME: &str = "a time such as \"2026-08-14T09:30:00Z\", or seconds since 1970";
    let object = Object::parse(raw.get().as_bytes());
    let object = object.map_err(|error| LeaseError::Json(error.to_string()))?;
    let Some(raw) = object.raw(NAME).filter(|raw| raw.get() != "null") else {
        return Ok(None);
    };
    let time = match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => time_text::parse_rfc3339(&text),
        Err(_) => serde_json::from_str(raw.get())
            .ok()
            .and_then(|secs| UNIX_EPOCH.checked_add(Duration::from_secs(secs))),
    };
    time.map(Some).ok_or_else(|| WrongType::new(NAME, raw.get(), TIME).into())
}

/// Times are written to the second. An expiry that came early would let others in too soon.
fn whole_second_after(time: SystemTime) -> SystemTime {
    time.checked_add(Duration::from_nanos(999_999_999)).unwrap_or(time)
}
