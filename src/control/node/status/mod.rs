//! Status of the daemon and its node, which [`observe`](crate::control::observe) reads.

mod heartbeat;
mod node_status;
mod peer_leases;
mod report;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::{Notify, mpsc, oneshot};

use self::heartbeat::Heartbeat;
pub(in crate::control) use self::heartbeat::{BEAT, Loop};
pub(super) use self::node_status::NodeStatus;
pub(in crate::control) use self::peer_leases::{PeerLease, PeerLeases};
pub use self::report::Report;
pub(in crate::control) use self::report::{Check, NodeFacts, Stats};
use crate::control::backend::capture::{CaptureError, CaptureRequest};
use crate::control::util::systemd::notify;
use crate::dataplane::capture::Capture;

/// The phase of the daemon's start, and a way to ask its node for a [`Report`].
#[derive(Debug, Default)]
pub struct SharedStatus {
    /// What keeps the daemon from having a node, while it has none.
    phase: Mutex<&'static str>,
    /// The line that `systemctl status` shows.
    line: Mutex<String>,
    node: Mutex<Option<mpsc::Sender<ReportRequest>>>,
    captures: Mutex<Option<mpsc::Sender<CaptureJob>>>,
    heartbeat: Heartbeat,
    /// Wakes the node's loop when the operator asks for a check.
    check: Notify,
}

/// Waits for a report.
#[derive(Debug)]
pub struct ReportRequest {
    pub(in crate::control) reply: oneshot::Sender<Report>,
    /// Whether the lease source is to be asked first, to measure its latency, and the host looked at.
    pub(in crate::control) is_fresh: bool,
}

/// Waits for a capture to begin.
#[derive(Debug)]
pub struct CaptureJob {
    pub(in crate::control) request: CaptureRequest,
    pub(in crate::control) reply: oneshot::Sender<StartedCapture>,
}

/// A capture, and the device that it is of.
pub(in crate::control) type StartedCapture = Result<(String, Capture), CaptureError>;

/// Requests for reports that wait for the node's loop; it answers all in one turn.
const MAX_REQUESTS: usize = 64;

/// How long the node's loop may take to write a report.
pub(in crate::control) const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a report waits for the lease source.
pub(in crate::control) const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a report waits for another look at the host.
pub(in crate::control) const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum NoReport {
    /// There is no node yet, in this phase of the start.
    NoNode(&'static str),
    /// The node's loop does not answer.
    Silence,
}

impl SharedStatus {
    /// Shows `phase`, here and to systemd, until there is a node.
    pub(in crate::control) fn enter(&self, phase: &'static str) {
        *lock(&self.phase) = phase;
        self.show(phase.to_owned());
    }

    /// Shows `line` in `systemctl status` from now on.
    pub(in crate::control) fn show(&self, line: String) {
        let mut shown = lock(&self.line);
        if *shown != line {
            notify(&[NotifyState::Status(&line)]);
            *shown = line;
        }
    }

    /// The line that is shown.
    pub(in crate::control) fn line(&self) -> String {
        lock(&self.line).clone()
    }

    /// Takes note that one of the daemon's loops turned.
    pub(in crate::control) fn beat(&self, turned: Loop) {
        self.heartbeat.beat(turned, Instant::now());
    }

    /// Which of the daemon's loops no longer turns, in words.
    pub(in crate::control) fn stalled(&self, now: Instant) -> Option<String> {
        self.heartbeat.stalled(now)
    }

    /// Asks the node to check what can change outside of this host without a notification.
    pub(in crate::control) fn ask_for_check(&self) {
        self.check.notify_one();
    }

    /// Waits until somebody asks for a check.
    ///
    /// # Cancel safety
    /// Dropping the future loses no request.
    pub(in crate::control) async fn check_asked(&self) {
        self.check.notified().await;
    }

    /// The requests for reports, from now on, for the caller to answer.
    pub(in crate::control) fn report_requests(&self) -> mpsc::Receiver<ReportRequest> {
        let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
        *lock(&self.node) = Some(sender);
        receiver
    }

    /// The requests for captures, from now on, for the caller to answer.
    pub(in crate::control) fn capture_requests(&self) -> mpsc::Receiver<CaptureJob> {
        let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
        *lock(&self.captures) = Some(sender);
        receiver
    }

    /// Asks the node to start a capture.
    pub(in crate::control) async fn capture(
        &self,
        request: CaptureRequest,
    ) -> Result<StartedCapture, NoReport> {
        let (reply, started) = oneshot::channel();
        let no_node = || NoReport::NoNode(*lock(&self.phase));
        let node = lock(&self.captures).clone().ok_or_else(no_node)?;
        node.try_send(CaptureJob { request, reply }).map_err(|_| NoReport::Silence)?;
        match tokio::time::timeout(REPORT_TIMEOUT, started).await {
            Ok(started) => started.map_err(|_| no_node()),
            Err(_) => Err(NoReport::Silence),
        }
    }

    /// Asks the node for a report.
    pub(in crate::control) async fn report(&self) -> Result<Report, NoReport> {
        self.request(false).await
    }

    /// The same with the latency of the lease source, and with what is found on the host now.
    pub(in crate::control) async fn fresh_report(&self) -> Result<Report, NoReport> {
        self.request(true).await
    }

    async fn request(&self, is_fresh: bool) -> Result<Report, NoReport> {
        let (sender, reply) = oneshot::channel();
        let request = ReportRequest { reply: sender, is_fresh };
        let no_node = || NoReport::NoNode(*lock(&self.phase));
        let node = lock(&self.node).clone().ok_or_else(no_node)?;
        node.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => no_node(),
            mpsc::error::TrySendError::Full(_) => NoReport::Silence,
        })?;
        match tokio::time::timeout(REPORT_TIMEOUT, reply).await {
            Ok(report) => report.map_err(|_| no_node()),
            Err(_) => Err(NoReport::Silence),
        }
    }
}

/// What is behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl SharedStatus {
    /// One whose loops may take `limit` for a turn.
    pub(in crate::control) fn with_limit(limit: Duration) -> Self {
        Self { heartbeat: Heartbeat::new(limit), ..Self::default() }
    }
}
