//! [`FileWatch`]: inotify, as [`Batch`]es.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::Shared;
use crate::control::subnet::kv::registry::{
    Batch, LeaseWatch, RegistryError, Revision, Scope, StoreId,
};
use crate::control::util::atomic_file::directory_of;

/// How often the file is looked at unasked. Some file systems tell nothing of what other hosts do,
/// and the wall clock, by which leases expire, may be set.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The same where inotify is not to be had: it has a limit on instances per user.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A watch on a file.
#[derive(Debug)]
pub struct FileWatch {
    shared: Arc<Shared>,
    scope: Scope,
    store: StoreId,
    position: Revision,
    news: Arc<News>,
    inotify: Option<RecommendedWatcher>,
}

/// What inotify has reported.
#[derive(Debug, Default)]
struct News {
    file: Notify,
    /// The directory is another now, of which inotify will tell nothing.
    directory_gone: AtomicBool,
}

impl FileWatch {
    /// Watches the directory: a file that is replaced takes the watches on it along.
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, after: Revision) -> Self {
        let news = Arc::new(News::default());
        let inotify = match inotify(&shared.real_path(), Arc::clone(&news)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                let path = shared.path.display();
                tracing::warn!("watch {path} by inotify: {error}; looking every second instead");
                None
            }
        };
        let store = shared.view().history.store().clone();
        Self { shared, scope, store, position: after, news, inotify }
    }

    /// Until the file may be another, or an entry expires.
    async fn news(&self) {
        let longest = if self.inotify.is_some() { LOOK_INTERVAL } else { POLL_INTERVAL };
        let expiry = self.shared.view().next_expiry();
        let until_expiry = expiry.and_then(|at| at.duration_since(SystemTime::now()).ok());
        let pause = until_expiry.map_or(longest, |until| until.min(longest));
        drop(tokio::time::timeout(pause, self.news.file.notified()).await);
    }
}

impl LeaseWatch for FileWatch {
    fn store(&self) -> &StoreId {
        &self.store
    }

    async fn next(&mut self) -> Result<Batch, RegistryError> {
        loop {
            let pending = self.shared.view().history.after(self.position, &self.scope)?;
            if let Some(batch) = pending {
                self.position = batch.revision;
                return Ok(batch);
            }
            self.news().await;
            // A look that nobody waits for any more still puts the change in the history.
            let ended = |reason| RegistryError::WatchEnded { reason };
            let looked = Shared::run(&self.shared, |shared| shared.look()).await;
            looked.and_then(|looked| looked).map_err(ended)?;
            if self.news.directory_gone.load(Ordering::Relaxed) {
                let path = self.shared.path.display();
                return Err(ended(format!("the directory of {path} was replaced")));
            }
        }
    }
}

fn inotify(path: &Path, news: Arc<News>) -> notify::Result<RecommendedWatcher> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let directory = directory_of(path).to_owned();
    let watched = directory.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error, such as an overflown queue, may stand for anything.
        let Ok(event) = event else { return news.file.notify_one() };
        let is_gone =
            matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        if is_gone && event.paths.contains(&watched) {
            news.directory_gone.store(true, Ordering::Relaxed);
            news.file.notify_one();
        }
        if may_be_new(&event, &name) {
            news.file.notify_one();
        }
    })?;
    watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether the file `name` may have a new content now. One that is being written has not: the
/// writer's close tells.
fn may_be_new(event: &Event, name: &OsStr) -> bool {
    let is_ours = event.paths.iter().any(|path| path.file_name() == Some(name));
    match event.kind {
        EventKind::Any | EventKind::Other => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => is_ours,
        EventKind::Access(_) | EventKind::Create(_) | EventKind::Modify(_) => false,
    }
}
