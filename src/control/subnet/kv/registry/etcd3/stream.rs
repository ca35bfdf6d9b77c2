//! [`EtcdWatch`]: what etcd streams, as [`Batch`]es.

use etcd_client::{WatchResponse, WatchStream};
use tokio::time::Instant;

use super::servers::{Timings, describe};
use super::{Keys, store_of};
use crate::control::subnet::kv::registry::{
    Batch, Change, LeaseWatch, RegistryError, Revision, StoreId,
};

/// A watch on one etcd server.
#[derive(Debug)]
pub struct EtcdWatch {
    stream: WatchStream,
    /// The server's acknowledgement, until it is read.
    first: Option<WatchResponse>,
    store: StoreId,
    keys: Keys,
    position: Revision,
    timings: Timings,
    /// When the server has been silent for too long.
    patience: Instant,
    /// Whether it has been asked for a sign of life since it last gave one.
    asked: bool,
}

impl EtcdWatch {
    /// A watch which the server acknowledged by `first`.
    pub(super) fn new(
        (stream, first): (WatchStream, WatchResponse),
        keys: Keys,
        after: Revision,
        timings: Timings,
    ) -> Self {
        let store = store_of(first.header());
        let (first, patience) = (Some(first), Instant::now() + timings.silence);
        Self { stream, first, store, keys, position: after, timings, patience, asked: false }
    }

    /// What a response says: a batch, or nothing but that the server is alive.
    fn read(&mut self, response: &WatchResponse) -> Result<Option<Batch>, RegistryError> {
        // etcd ends a watch on compacted history with a message, and leaves the stream open.
        if response.canceled() && response.compact_revision() != 0 {
            return Err(RegistryError::HistoryGone { after: self.position });
        }
        if response.canceled() {
            return Err(ended(match response.cancel_reason() {
                "" => "cancelled by the server",
                reason => reason,
            }));
        }
        let revision =
            response.header().map_or(self.position, |header| Revision(header.revision()));
        if revision < self.position || store_of(response.header()) != self.store {
            // The store was restored from a backup, or wiped, or a proxy leads to another one.
            // The revisions we would wait for are those of other writes.
            return Err(RegistryError::SetBack { after: self.position });
        }
        let changes: Vec<Change> =
            response.events().iter().filter_map(|e| self.change(e)).collect();
        let last = response.events().iter().filter_map(|event| event.kv()).next_back();
        self.position = match last {
            // The header may be ahead of a batch of old events.
            Some(kv) => Revision(kv.mod_revision()),
            // The answer to our own question is no progress report before etcd 3.4.25: it may be
            // ahead of events that are still on their way. Nor is the acknowledgement.
            None if response.created() || response.watch_id() < 0 => return Ok(None),
            None => revision,
        };
        Ok(Some(Batch { revision: self.position, changes }))
    }

    fn change(&self, event: &etcd_client::Event) -> Option<Change> {
        let kv = event.kv()?;
        if !kv.key().starts_with(self.keys.subnets.as_bytes()) {
            return Some(Change::Foreign);
        }
        // A deletion carries key and revision alone; a key that exists has a version. (The
        // client's own `event_type` panics on a type that it does not know.)
        if kv.version() == 0 {
            let key = self.keys.short(kv.key());
            return Some(Change::Delete { key, revision: Revision(kv.mod_revision()) });
        }
        Some(Change::Put(self.keys.read(kv)))
    }
}

impl LeaseWatch for EtcdWatch {
    fn store(&self) -> &StoreId {
        &self.store
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        if let Some(first) = self.first.take()
            && let Some(batch) = self.read(&first)?
        {
            return Ok(batch);
        }
        loop {
            match tokio::time::timeout_at(self.patience, self.stream.message()).await {
                Ok(Ok(Some(response))) => {
                    self.patience = Instant::now() + self.timings.silence;
                    self.asked = false;
                    if let Some(batch) = self.read(&response)? {
                        return Ok(batch);
                    }
                }
                Ok(Ok(None)) => return Err(ended("the server closed the stream")),
                Ok(Err(error)) => return Err(ended(&describe(&error))),
                Err(_) if self.asked => return Err(ended("the server does not answer")),
                Err(_) => {
                    let asked = self.stream.request_progress().await;
                    asked.map_err(|error| ended(&describe(&error)))?;
                    self.patience = Instant::now() + self.timings.call;
                    self.asked = true;
                }
            }
        }
    }
}

fn ended(reason: &str) -> RegistryError {
    RegistryError::WatchEnded { reason: reason.to_owned() }
}
