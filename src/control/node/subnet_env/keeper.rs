//! [`SubnetFile`]: keeps subnet.env as it should be while the node runs.
//!
//! The file is read, compared and written on a thread that may wait for its disk, one operation at
//! a time. inotify reports changes, and a periodic check finds what it did not report.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::SubnetEnv;
use crate::control::conditions::Condition;
use crate::control::util::atomic_file::{FileError, directory_of, read_file, replace_file};
use crate::control::util::backoff::Backoff;
use crate::control::util::error_chain::error_chain;
use crate::control::util::log_limit::LogLimit;

/// Time between two periodic checks.
const CHECK_PERIOD: Duration = Duration::from_secs(10);

/// Debounce window: a program that rewrites the file does so in several steps.
const SETTLE: Duration = Duration::from_millis(50);

/// After this time without a write, the next change is repaired without a delay again.
const CALM: Duration = Duration::from_secs(60);

/// How long the disk may take before that counts as a fault.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// subnet.env, kept for as long as the value lives. The file stays.
#[derive(Debug)]
pub(in crate::control) struct SubnetFile {
    path: PathBuf,
    progress: watch::Receiver<Progress>,
    /// The keeper's.
    _tasks: JoinSet<()>,
}

/// Progress of the keeper.
#[derive(Debug, Default)]
struct Progress {
    /// What the last operation found or made; `None` before the first has ended.
    part: Option<Condition>,
    /// When the operation in progress began.
    busy_since: Option<Instant>,
}

impl SubnetFile {
    /// Starts to keep the file at `path`.
    pub(in crate::control) fn keep(path: &Path, env: &SubnetEnv) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let path = path.to_owned();
        let keeper = Keeper {
            path: path.clone(),
            text: env.to_string(),
            changed: Arc::default(),
            progress: sender,
            is_written: false,
            pace: Backoff::new(Duration::from_millis(100), CHECK_PERIOD),
            calm_from: Instant::now(),
            log: LogLimit::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run());
        Self { path, progress, _tasks: tasks }
    }

    /// Waits until the file has been written or could not be, for no longer than a disk may take.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(in crate::control) async fn tried(&mut self) {
        let tried = self.progress.wait_for(|progress| progress.part.is_some());
        drop(timeout(DISK_TIMEOUT, tried).await);
    }

    /// Whether the file is as it should be.
    pub(in crate::control) fn state(&self) -> Condition {
        let path = self.path.display();
        if self.progress.has_changed().is_err() {
            return Condition::Failed(format!("{path} is no longer kept: restart flanneld"));
        }
        let progress = self.progress.borrow();
        let waited = progress.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        if waited > DISK_TIMEOUT {
            let seconds = waited.as_secs();
            return Condition::Failed(format!(
                "the disk of {path} has not answered for {seconds} s"
            ));
        }
        progress
            .part
            .clone()
            .unwrap_or_else(|| Condition::Failed(format!("{path} is not written yet")))
    }
}

/// Does the work of [`SubnetFile`].
#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    text: String,
    /// inotify's.
    changed: Arc<Notify>,
    progress: watch::Sender<Progress>,
    /// Whether the file was as it should be at least once.
    is_written: bool,
    /// Delay before a change is repaired, so that two daemons that share one file do not rewrite it
    /// in a busy loop.
    pace: Backoff,
    /// When the pace may start over.
    calm_from: Instant,
    log: LogLimit,
}

/// Result of a check of the file.
#[derive(Debug)]
enum Looked {
    Same,
    /// Written, because what was there was something else.
    Written(&'static str),
    Failed(FileError),
}

impl Keeper {
    async fn run(mut self) {
        let mut inotify = None;
        loop {
            let (path, text, changed) =
                (self.path.clone(), self.text.clone(), Arc::clone(&self.changed));
            let is_first = !self.is_written;
            self.progress.send_modify(|progress| progress.busy_since = Some(Instant::now()));
            let job = spawn_blocking(move || {
                // A change between check and watch would go unnoticed, so watch first.
                let first = watched(inotify, &path, &changed);
                let looked = look(&path, &text, is_first);
                // The directory may have been made just now.
                (watched(first, &path, &changed), looked)
            });
            // The job panics only if this program is wrong; state() says so then.
            let Ok((watcher, looked)) = job.await else { return };
            inotify = watcher;
            let pause = self.take_over(looked);
            self.wait(pause).await;
        }
    }

    /// Logs the result. Returns the delay before the next change is repaired.
    fn take_over(&mut self, looked: Looked) -> Duration {
        let path = self.path.display();
        let (part, pause) = match looked {
            Looked::Same => {
                if self.calm_from <= Instant::now() {
                    self.pace.reset();
                }
                (Condition::Ok, SETTLE)
            }
            Looked::Written(was) => {
                if !self.is_written {
                    info!("Wrote subnet file to {path}");
                } else if self.log.is_due(was) {
                    warn!("somebody changed {path}: {was}; written again");
                }
                (Condition::Ok, self.slow_down())
            }
            Looked::Failed(error) => {
                let reason = error_chain(&error);
                if self.log.is_due(&reason) {
                    warn!("Failed to write subnet file: {reason}; trying again");
                }
                (Condition::Failed(reason), self.slow_down())
            }
        };
        if part.is_ok() && !std::mem::replace(&mut self.is_written, true) {
            info!("flannel is ready");
        }
        self.progress.send_replace(Progress { part: Some(part), busy_since: None });
        pause
    }

    fn slow_down(&mut self) -> Duration {
        self.calm_from = Instant::now() + CALM;
        self.pace.delay()
    }

    /// Waits until the next check: after a change, but not before `pause` is over.
    async fn wait(&self, pause: Duration) {
        sleep(pause).await;
        let failed = self.progress.borrow().part.as_ref().is_some_and(|part| !part.is_ok());
        if !failed {
            drop(timeout(CHECK_PERIOD, self.changed.notified()).await);
            sleep(SETTLE).await;
        }
    }
}

/// Compares the file with `text`, and writes it if it differs. The first time it is written in any
/// case, as stock does at every start: path units and scripts wait for a file newer than the start.
fn look(path: &Path, text: &str, is_first: bool) -> Looked {
    let was = match read_file(path) {
        // A link is followed by us, but what it leads to is not ours to keep.
        Ok(content) if content == text.as_bytes() && !is_first => return Looked::Same,
        Ok(_) => "it had another content",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "it was gone",
        Err(_) => "it could not be read",
    };
    match replace_file(path, text) {
        Ok(()) => Looked::Written(was),
        Err(error) => Looked::Failed(error),
    }
}

/// A watch on the file's directory: `watcher`, if there is one, on the directory as it is by now.
/// Without inotify, whose instances are limited per user, the periodic check is enough.
fn watched(
    watcher: Option<RecommendedWatcher>,
    path: &Path,
    changed: &Arc<Notify>,
) -> Option<RecommendedWatcher> {
    let mut watcher = match watcher {
        Some(watcher) => watcher,
        None => inotify(path.file_name().unwrap_or_default(), Arc::clone(changed)).ok()?,
    };
    // The directory does not exist yet, or was replaced.
    watcher.watch(directory_of(path), RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

fn inotify(name: &OsStr, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let name = name.to_owned();
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error, such as an overflown queue, may hide any change.
        let concerns_us = event.map_or(true, |event| {
            let is_ours = event.paths.iter().any(|path| path.file_name() == Some(&*name));
            match event.kind {
                EventKind::Any | EventKind::Other => true,
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(_)
                | EventKind::Create(_) => is_ours,
                // Of the directory, too.
                EventKind::Remove(_) => true,
                EventKind::Access(_) => false,
            }
        });
        if concerns_us {
            changed.notify_one();
        }
    })
}

#[cfg(test)]
mod tests;
