//! [`FileRegistry`]: the registry in one JSON file, for labs and small static networks.
//!
//! A person may write it, and several daemons on one machine may share it. What it looks like is
//! described in `file/document.rs`. Daemons write under a lock (`flock` on `<path>.lock`), each time by
//! replacing the file as a whole; readers need no lock. inotify reports changes, no matter who made
//! them. A file that cannot be read or understood is an outage, like an etcd that does not
//! answer: it is neither an empty registry nor ever written to.

pub(crate) mod document;
mod view;
mod watch;

pub use watch::FileWatch;

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use self::document::{Document, expires};
use self::view::{View, Written, is_expired};
use super::history::Cas;
use super::{
    LEASE_TTL, Registry, RegistryError, Revision, Scope, Snapshot, StoreId, Stored, TtlLease, Write,
};
use crate::control::config::network::Subnets;
use crate::control::subnet::lease::{Lease, LeaseAttrs, print_key};
use crate::control::util::atomic_file::{read_file, replace_file};

/// How long a write waits for others to finish theirs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the disk may take before the registry counts as away.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the lock is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// The registry in a file.
#[derive(Debug)]
pub struct FileRegistry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Held from before the file is read until the view has it: an older state must not follow a
    /// newer one. Never waited for on the control thread, because the disk may take its time.
    file: Mutex<()>,
    view: Mutex<View>,
    /// A disk that does not answer holds up one thread, not one for each attempt.
    turn: Arc<Semaphore>,
}

/// What is to become of an entry.
#[derive(Debug, Clone)]
enum Edit {
    /// It is written, to hold for [`LEASE_TTL`] or for ever.
    Put {
        attrs: LeaseAttrs,
        is_reservation: bool,
    },
    /// It is written as it stands, to hold for as long as it does.
    Announce {
        attrs: LeaseAttrs,
    },
    Delete,
}

/// Which file it was, and in which state: the least that changes when somebody writes to it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    modified: (i64, i64),
    len: u64,
}

impl FileRegistry {
    /// The registry in the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        // Each write makes another inode of it, so the path is all that stays.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let view = Mutex::new(View::of(StoreId(format!("file {}", absolute.display()))));
        let (path, file, turn) = (path.to_owned(), Mutex::default(), Arc::new(Semaphore::new(1)));
        Self { shared: Arc::new(Shared { path, file, view, turn }) }
    }

    async fn look(&self, operation: &'static str) -> Result<(), RegistryError> {
        let look = Shared::run(&self.shared, |shared| shared.look());
        look.await.and_then(|looked| looked).map_err(call(operation))
    }

    /// Makes `edit` if the entry is as `expected`, on a thread that may wait for lock and disk.
    async fn edit(
        &self,
        operation: &'static str,
        key: String,
        expected: Cas,
        edit: Edit,
    ) -> Result<Write, RegistryError> {
        let expires = Instant::now() + LEASE_TTL;
        let edited = Shared::run(&self.shared, move |shared| shared.edit(&key, expected, &edit));
        let write = edited.await.and_then(|edited| edited).map_err(call(operation))?;
        Ok(match write {
            Write::Done(lease) => {
                let expires = (!lease.is_reservation()).then_some(expires);
                Write::Done(lease.map(|it| Lease { expires, ..it }))
            }
            Write::Refused(found) => Write::Refused(found),
        })
    }
}

impl Registry for FileRegistry {
    type Watch = FileWatch;

    fn config_name(&self) -> String {
        format!("config in file {}", self.shared.path.display())
    }

    async fn config(&self) -> Result<Option<String>, RegistryError> {
        let read = Shared::run(&self.shared, |shared| match shared.read() {
            Ok((document, _)) => Ok(document.member("config").map(str::to_owned)),
            Err(ReadError::Open(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(shared.describe(&error)),
        });
        read.await.and_then(|read| read).map_err(call("read network config"))
    }

    async fn identity(&self) -> Result<StoreId, RegistryError> {
        Ok(self.shared.view().history.store().clone())
    }

    async fn list(&self, scope: &Scope) -> Result<Snapshot, RegistryError> {
        self.look("list leases").await?;
        Ok(self.shared.view().history.list(scope))
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> Result<FileWatch, RegistryError> {
        let scope = scope.clone();
        let set_up = Shared::run(&self.shared, move |shared| {
            let watch = FileWatch::new(Arc::clone(shared), scope, after);
            // What happened before inotify was set up, it will not tell.
            shared.look().map(|()| watch)
        });
        set_up.await.and_then(|watch| watch).map_err(call("watch leases"))
    }

    async fn create(&self, subnets: Subnets, attrs: &LeaseAttrs) -> Result<Write, RegistryError> {
        let edit = Edit::Put { attrs: attrs.clone(), is_reservation: false };
        self.edit("create lease", print_key(subnets), Cas::Absent, edit).await
    }

    async fn renew(
        &self,
        lease: &Stored<Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Write, RegistryError> {
        let unchanged = Cas::LastWritten(lease.entry.revision);
        let edit = Edit::Put { attrs: attrs.clone(), is_reservation: lease.is_reservation() };
        self.edit("renew lease", lease.entry.key.clone(), unchanged, edit).await
    }

    async fn announce(&self, lease: &Stored<Lease>) -> Result<Write, RegistryError> {
        let unchanged = Cas::LastWritten(lease.entry.revision);
        let edit = Edit::Announce { attrs: lease.attrs.clone() };
        let write = self.edit("announce lease", lease.entry.key.clone(), unchanged, edit);
        Ok(match write.await? {
            Write::Done(now) => Write::Done(now.map(|it| Lease { expires: lease.expires, ..it })),
            Write::Refused(found) => Write::Refused(found),
        })
    }

    async fn release(&self, _: TtlLease) -> Result<(), RegistryError> {
        Ok(()) // an entry holds its own expiry
    }

    async fn delete(&self, lease: &Stored<Lease>) -> Result<bool, RegistryError> {
        let unchanged = Cas::LastWritten(lease.entry.revision);
        let write = self.edit("delete lease", lease.entry.key.clone(), unchanged, Edit::Delete);
        Ok(matches!(write.await?, Write::Done(_)))
    }
}

fn call(operation: &'static str) -> impl Fn(String) -> RegistryError {
    move |reason| RegistryError::Call { operation, reason }
}

/// Why the file was not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Open(io::Error),
    #[error(transparent)]
    Document(#[from] document::DocumentError),
}

impl Shared {
    /// Runs `job` on a thread that may wait for the disk. Who no longer waits for it gives up its
    /// result, not its effect.
    async fn run<T: Send + 'static>(
        this: &Arc<Self>,
        job: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (shared, turn) = (Arc::clone(this), Arc::clone(&this.turn));
        let done = async {
            let turn = turn.acquire_owned().await.map_err(|error| error.to_string())?;
            let job = spawn_blocking(move || {
                let result = job(&shared);
                drop(turn);
                result
            });
            job.await.map_err(|error| error.to_string())
        };
        let silent = |_| this.describe(&"its disk does not answer");
        timeout(DISK_TIMEOUT, done).await.map_err(silent)?
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the file itself is: a link to it is to stay one.
    fn real_path(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    fn describe(&self, error: &impl std::fmt::Display) -> String {
        format!("{}: {error}", self.path.display())
    }

    fn read(&self) -> Result<(Document, Stamp), ReadError> {
        // The stamp first: a change in between makes it too old, never too new.
        let stamp = Stamp::of(&fs::metadata(&self.path).map_err(ReadError::Open)?);
        let text = read_file(&self.path).map_err(ReadError::Open)?;
        Ok((Document::parse(&text)?, stamp))
    }

    /// Takes over the file as it is now.
    fn look(&self) -> Result<(), String> {
        let _file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (document, _) = self.read().map_err(|error| self.describe(&error))?;
        self.view().observe(&document, SystemTime::now(), None);
        Ok(())
    }

    fn edit(&self, key: &str, expected: Cas, edit: &Edit) -> Result<Write, String> {
        let _lock = self.lock()?;
        let _file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (mut document, stamp) = self.read().map_err(|error| self.describe(&error))?;
            let now = SystemTime::now();
            let mut view = self.view();
            view.observe(&document, now, None);
            let Some(before) = Some(view.read(key)).filter(|_| view.history.is(expected, key))
            else {
                return Ok(Write::Refused(view.read(key)));
            };
            drop(view);
            apply(&mut document, key, edit, now).map_err(|error| self.describe(&error))?;
            if document.is_changed() {
                let path = self.real_path();
                // An editor takes no lock. What it wrote since we read is not ours to overwrite.
                if fs::metadata(&path).map(|now| Stamp::of(&now)).ok().as_ref() != Some(&stamp) {
                    continue;
                }
                replace_file(&path, &document.to_string())
                    .map_err(|e| self.describe(&chain(&e)))?;
            }
            let lease = before.and_then(Result::ok);
            let ttl_lease = lease.as_ref().and_then(|lease| lease.entry.ttl_lease);
            let mut view = self.view();
            view.observe(&document, now, Some(Written { key, ttl_lease }));
            return Ok(match (edit, view.read(key), lease) {
                (Edit::Put { .. } | Edit::Announce { .. }, Some(Ok(lease)), _) => {
                    Write::Done(lease)
                }
                (Edit::Delete, None, Some(lease)) => Write::Done(lease),
                (Edit::Put { .. } | Edit::Announce { .. } | Edit::Delete, found, _) => {
                    Write::Refused(found)
                }
            });
        }
    }

    /// The lock that every daemon takes to write. Ends with the value.
    fn lock(&self) -> Result<File, String> {
        let mut path = self.real_path().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |error: io::Error| format!("lock {}: {error}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        let deadline = std::time::Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if std::time::Instant::now() >= deadline => {
                    return Err(format!("{} is locked by somebody", path.display()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
            }
        }
    }
}

fn apply(
    document: &mut Document,
    key: &str,
    edit: &Edit,
    now: SystemTime,
) -> serde_json::Result<()> {
    match edit {
        Edit::Put { attrs, is_reservation } => {
            let expires = (!is_reservation).then_some(now + LEASE_TTL);
            document.put(key, attrs, expires)?;
        }
        Edit::Announce { attrs } => {
            let expires = document.entries().get(key).and_then(|raw| expires(raw).ok().flatten());
            document.put(key, attrs, expires)?;
        }
        Edit::Delete => document.remove(|name, _| name == key),
    }
    document.remove(|_, raw| is_expired(raw, now));
    Ok(())
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            len: metadata.len(),
        }
    }
}

#[cfg(test)]
mod tests;
