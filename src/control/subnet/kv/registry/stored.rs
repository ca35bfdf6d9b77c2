//! [`Stored`]: a value, and the entry of the registry that holds it.

use std::num::NonZeroI64;
use std::ops::{Deref, DerefMut};

use super::Revision;

/// What an entry's expiry is bound to: an etcd lease, of which our [`Lease`] is the content.
///
/// [`Lease`]: crate::control::subnet::lease::Lease
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TtlLease(pub NonZeroI64);

impl TtlLease {
    /// An expiry that no registry has: renewing an entry that is bound to it binds it to a new one.
    pub const UNKNOWN: Self = Self(NonZeroI64::MIN);
}

/// Where a value is in the registry, and the state in which it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, less what all entries share: `10.5.52.0-24`.
    pub key: String,
    /// The revision of its last write.
    pub revision: Revision,
    /// What its expiry is bound to; `None` for a reservation.
    pub ttl_lease: Option<TtlLease>,
}

/// A value as a registry holds it. Above the registry, only the value counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// What the entry says.
    pub value: T,
    /// The entry.
    pub entry: Entry,
}

impl<T> Stored<T> {
    /// Whether this is a reservation: written by the operator, without an expiry.
    pub const fn is_reservation(&self) -> bool {
        self.entry.ttl_lease.is_none()
    }

    /// The same entry with a value made of this one.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Stored<U> {
        Stored { value: change(self.value), entry: self.entry }
    }
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Stored<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
