//! [`Etcd2Watch`]: one long poll after the other, as [`Batch`]es.
//!
//! A server answers a poll with the head at once, and with one event as soon as there is one. The
//! next poll begins at the index after it. etcd keeps the last 1000 events of the whole store.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::Keys;
use super::answer::{Action, Code, Failure};
use super::servers::{Poll, Servers, get, parse, wait};
use crate::control::subnet::kv::registry::{
    Batch, Change, LeaseWatch, RegistryError, Revision, Scope, StoreId,
};
use crate::control::util::http_client::{Request, Response};

/// Longest event that is read. etcd takes values of 10 MB, and an event has two of them.
const MAX_EVENT_LEN: usize = 64 << 20;

/// A watch on one etcd server.
pub struct Etcd2Watch {
    servers: Arc<Servers>,
    /// Which of them.
    server: usize,
    store: StoreId,
    keys: Keys,
    scope: Scope,
    position: Revision,
    /// The poll that is under way.
    poll: Option<Response>,
    /// Whether an event has come by it.
    has_event: bool,
    /// Why there is none, once the server said so.
    end: Option<RegistryError>,
    /// When the server has been silent for too long.
    patience: Instant,
}

impl Etcd2Watch {
    /// Begins with the event after `after`.
    pub(super) async fn open(
        servers: &Arc<Servers>,
        keys: Keys,
        scope: Scope,
        after: Revision,
    ) -> Result<Self, RegistryError> {
        let request = request(&keys, &scope, after);
        let poll = servers.open("watch leases", &request).await?;
        let patience = Instant::now() + servers.timings.silence;
        let mut watch = Self {
            servers: Arc::clone(servers),
            server: poll.server,
            store: poll.store.clone(),
            keys,
            scope,
            position: after,
            poll: None,
            has_event: false,
            end: None,
            patience,
        };
        watch.end = watch.take(poll).err();
        Ok(watch)
    }

    /// Takes over a poll, unless its head says that the event we wait for will not come.
    fn take(&mut self, poll: Poll) -> Result<(), RegistryError> {
        let response = match poll.result {
            Ok(response) => response,
            Err(failure) if failure.code() == Code::IndexCleared => {
                return Err(RegistryError::HistoryGone { after: self.position });
            }
            Err(failure) => return Err(ended(&refused(&failure))),
        };
        if poll.index < self.position || poll.store != self.store {
            // The store was restored from a backup, or wiped, or a proxy leads to another one. The
            // index we would wait for is that of another event.
            return Err(RegistryError::SetBack { after: self.position });
        }
        (self.poll, self.has_event) = (Some(response), false);
        self.patience = Instant::now() + self.servers.timings.silence;
        Ok(())
    }

    /// What an event says.
    fn read(&mut self, line: &[u8]) -> Result<Batch, RegistryError> {
        let action = parse(line).map_err(|reason| ended(&format!("bad event: {reason}")))?;
        let revision = Revision(action.node.modified_index);
        if revision <= self.position {
            return Err(RegistryError::SetBack { after: self.position });
        }
        self.position = revision;
        let changes = self.change(action).into_iter().collect();
        Ok(Batch { revision, changes })
    }

    fn change(&self, action: Action) -> Option<Change> {
        let revision = Revision(action.node.modified_index);
        let watched = match &self.scope {
            Scope::All => self.keys.subnets.clone(),
            Scope::Key(key) => self.keys.full(key),
        };
        let is_deletion = action.is_deletion();
        if is_deletion && holds(&action.node.key, &watched) {
            return Some(match &self.scope {
                Scope::All => Change::Cleared { revision },
                Scope::Key(key) => Change::Delete { key: key.clone(), revision },
            });
        }
        if is_deletion {
            let key = self.keys.short(&action.node.key)?;
            let key = super::shorten(key.as_bytes());
            return Some(Change::Delete { key, revision });
        }
        Some(Change::Put(self.keys.read(action.node)?))
    }

    /// Asks the server that is silent for a sign of life.
    async fn check(&mut self) -> Result<(), RegistryError> {
        let request = get(&self.keys.config, false);
        let checked = self.servers.ask(self.server, &request).await;
        checked.map_err(|miss| ended(&miss.to_string()))?;
        self.patience = Instant::now() + self.servers.timings.silence;
        Ok(())
    }
}

impl LeaseWatch for Etcd2Watch {
    fn store(&self) -> &StoreId {
        &self.store
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        loop {
            if let Some(end) = self.end.take() {
                return Err(end);
            }
            let Some(poll) = &mut self.poll else {
                let request = request(&self.keys, &self.scope, self.position);
                let poll = self.servers.poll(self.server, &request).await;
                self.take(poll.map_err(|miss| ended(&miss.to_string()))?)?;
                continue;
            };
            match timeout_at(self.patience, poll.next_line(MAX_EVENT_LEN)).await {
                Ok(Ok(Some(line))) if line.is_empty() => {}
                Ok(Ok(Some(line))) => {
                    self.has_event = true;
                    return self.read(&line);
                }
                Ok(Ok(None)) if self.has_event => self.poll = None,
                Ok(Ok(None)) => return Err(ended("the server ended a poll without an event")),
                Ok(Err(error)) => return Err(ended(&error.to_string())),
                Err(_) => self.check().await?,
            }
        }
    }
}

fn request(keys: &Keys, scope: &Scope, after: Revision) -> Request {
    match scope {
        Scope::All => wait(&keys.subnets, true, after.0 + 1),
        Scope::Key(key) => wait(&keys.full(key), false, after.0 + 1),
    }
}

/// Whether `key` is `dir` or in it.
fn holds(dir: &str, key: &str) -> bool {
    key.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn refused(failure: &Failure) -> String {
    format!("etcd refuses: {failure}")
}

fn ended(reason: &str) -> RegistryError {
    RegistryError::WatchEnded { reason: reason.to_owned() }
}
