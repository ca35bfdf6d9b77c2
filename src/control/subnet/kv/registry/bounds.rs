//! Limits for what is read of an entry.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Longest value that is read. A lease has some hundred bytes.
pub(super) const MAX_VALUE_LEN: usize = 64 << 10;

/// Longest key that is kept, in bytes. A subnet's has some twenty.
pub(super) const MAX_KEY_LEN: usize = 512;

/// A key as it is kept. One that is too long to be of any use is shown by its beginning and its
/// hash.
pub(super) fn shorten(key: &[u8]) -> String {
    if key.len() <= MAX_KEY_LEN {
        return String::from_utf8_lossy(key).into_owned();
    }
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let start = String::from_utf8_lossy(&key[..MAX_KEY_LEN]);
    format!("{start}... ({} bytes, hash {:x})", key.len(), hasher.finish())
}
