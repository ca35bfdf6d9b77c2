//! The subnet that this node had before: whose is it now?

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{Acquirer, Attempt};
use crate::control::config::network::Subnets;
use crate::control::subnet::kv::registry::{
    Entry, Malformed, Read, Registry, RegistryError, Snapshot, Stored, TtlLease, Write, key_of,
    subnets_of,
};
use crate::control::subnet::lease::{Lease, print_key};

impl<R: Registry> Acquirer<'_, R> {
    /// The previous subnet and its entry, if that names no owner and no other node has any of the
    /// subnet.
    pub(super) fn overwritten<'s>(&self, snapshot: &'s Snapshot) -> Option<(Subnets, &'s Read)> {
        let previous = self.previous.filter(|previous| self.config.accepts(*previous))?;
        let key = print_key(previous);
        let overlapping = || snapshot.entries.iter().filter(|e| overlaps(e, previous.v4));
        let found = overlapping().find(|entry| key_of(entry) == key)?;
        let is_free = overlapping().all(|entry| key_of(entry) == key);
        (is_free && owner_of(found).is_none()).then_some((previous, found))
    }

    pub(super) async fn take_back(
        &self,
        previous: Subnets,
        found: &Read,
    ) -> Result<Attempt, RegistryError> {
        let (revision, found) = match found {
            Ok(lease) => (lease.entry.revision, format!("PublicIP is {} or missing", lease.attrs)),
            Err(Malformed { revision, reason, found, .. }) => {
                (*revision, format!("{reason}; found \"{found}\""))
            }
        };
        let Subnets { v4: subnet, v6: ipv6_subnet } = previous;
        tracing::warn!(
            "the entry of our previous subnet {subnet} was overwritten and names no owner: \
             {found}; writing it again"
        );
        let (key, ttl_lease) = (print_key(previous), Some(TtlLease::UNKNOWN));
        let entry = Entry { key, revision, ttl_lease };
        let overwritten = Stored {
            value: Lease { subnet, ipv6_subnet, attrs: self.attrs.clone(), expires: None },
            entry,
        };
        let Write::Done(lease) = self.registry.renew(&overwritten, self.attrs).await? else {
            return Ok(Attempt::TooLate(subnet));
        };
        tracing::info!("Found previously leased subnet ({subnet}), reusing");
        Ok(Attempt::Acquired(lease))
    }
}

fn overlaps(entry: &Read, subnet: Ipv4Network) -> bool {
    subnets_of(entry).is_some_and(|named| named.v4.overlaps(subnet))
}

fn owner_of(entry: &Read) -> Option<Ipv4Addr> {
    entry.as_ref().ok().and_then(|lease| lease.attrs.owner())
}

/// Who or what has some of `subnet`: a node, if an entry names one.
pub(super) fn taken_by(snapshot: &Snapshot, subnet: Ipv4Network) -> Option<String> {
    let mut overlapping = snapshot.entries.iter().filter(|entry| overlaps(entry, subnet));
    let first = overlapping.clone().next()?;
    Some(match overlapping.find_map(owner_of) {
        Some(owner) => owner.to_string(),
        None => format!("entry {}, which names no owner", key_of(first).escape_debug()),
    })
}
