//! The health endpoint: `/healthz`, `/readyz`, `/metrics` and `/stats` over HTTP.
//!
//! `/healthz` answers as flannel's `pkg/healthz` does as long as the daemon's loops turn, and so
//! does `/readyz` by its status; its body, and all of the others, are made of a [`Report`]. Only
//! the node's own loop can write one, so each request is handed to it and answered there. The
//! endpoint itself is a thread of its own (`server`), which answers also when that loop hangs.

mod heartbeat;
mod metrics;
mod api;
mod http;
mod node_status;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};

pub use self::api::Report;
pub(super) use self::api::Stats;
use self::api::{Check, readiness, to_json};
use self::heartbeat::Heartbeat;
pub(super) use self::heartbeat::{BEAT, Loop};
pub use self::http::{HealthError, start};
pub(super) use self::http::{THREAD, check_addr};
use self::metrics::Metrics;
pub(super) use self::node_status::Vitals;
use super::util::systemd::notify;

/// What the endpoint knows of the daemon.
#[derive(Debug, Default)]
pub struct Health {
    /// What keeps the daemon from having a node, while it has none.
    phase: Mutex<&'static str>,
    /// The line that `systemctl status` shows.
    status: Mutex<String>,
    node: Mutex<Option<mpsc::Sender<ReportRequest>>>,
    heartbeat: Heartbeat,
    metrics: Mutex<Metrics>,
}

/// Waits for a report.
pub type ReportRequest = oneshot::Sender<Report>;

/// Requests for reports that wait for the node's loop; it answers all in one turn.
const MAX_REQUESTS: usize = 64;

/// How long the node's loop may take to write a report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoReport {
    /// There is no node.
    NoNode,
    /// The node's loop does not answer.
    Silence,
}

impl Health {
    /// Tells, here and to systemd, what the daemon is about until it has a node.
    pub fn enter(&self, phase: &'static str) {
        *lock(&self.phase) = phase;
        self.show(phase.to_owned());
    }

    /// Shows `status` in `systemctl status` from now on.
    pub(super) fn show(&self, status: String) {
        let mut shown = lock(&self.status);
        if *shown != status {
            notify(&[NotifyState::Status(&status)]);
            *shown = status;
        }
    }

    /// What is shown.
    pub(super) fn status(&self) -> String {
        lock(&self.status).clone()
    }

    /// Takes note that one of the daemon's loops turned.
    pub(super) fn beat(&self, turned: Loop) {
        self.heartbeat.beat(turned, Instant::now());
    }

    /// Which of the daemon's loops no longer turns, in words.
    fn stalled(&self, now: Instant) -> Option<String> {
        self.heartbeat.stalled(now)
    }

    /// The requests for reports, from now on, for the caller to answer.
    pub fn report_requests(&self) -> mpsc::Receiver<ReportRequest> {
        let (sender, receiver) = mpsc::channel(MAX_REQUESTS);
        *lock(&self.node) = Some(sender);
        receiver
    }

    async fn report(&self) -> Result<Report, NoReport> {
        let (request, reply) = oneshot::channel();
        let node = lock(&self.node).clone().ok_or(NoReport::NoNode)?;
        node.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => NoReport::NoNode,
            mpsc::error::TrySendError::Full(_) => NoReport::Silence,
        })?;
        match tokio::time::timeout(REPORT_TIMEOUT, reply).await {
            Ok(report) => report.map_err(|_| NoReport::NoNode),
            Err(_) => Err(NoReport::Silence),
        }
    }

    /// The statistics as JSON; `None` while there is no node.
    pub(super) async fn stats(&self) -> Option<String> {
        Some(to_json(&self.report().await.ok()?.stats))
    }

    /// Whether the node is ready, and that with the reasons as JSON.
    pub(super) async fn readiness(&self) -> (bool, String) {
        match self.report().await {
            Ok(report) => readiness(&report.checks, &report.warnings),
            Err(reason) => readiness(&self.no_report(reason), &BTreeMap::new()),
        }
    }

    fn no_report(&self, reason: NoReport) -> BTreeMap<&'static str, Check> {
        match reason {
            NoReport::NoNode => BTreeMap::from([("startup", Check::fails(*lock(&self.phase)))]),
            NoReport::Silence => {
                let seconds = REPORT_TIMEOUT.as_secs();
                let reason = format!("the node's loop does not answer within {seconds} s");
                BTreeMap::from([("loop", Check::fails(reason))])
            }
        }
    }

    pub(super) async fn metrics(&self) -> String {
        let report = self.report().await.ok();
        let is_ready =
            report.as_ref().is_some_and(|report| readiness(&report.checks, &report.warnings).0);
        lock(&self.metrics).text(is_ready, report.as_ref())
    }
}

/// What is behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn without_a_node_all_but_healthz_says_what_is_missing() {
        let (addr, health) = endpoint().await;
        health.enter("waiting for the network config");
        assert_eq!(get(addr, "/healthz").await, (200, "flanneld is running".to_owned()));
        let (status, body) = get(addr, "/readyz?x=1").await;
        assert_eq!(status, 503);
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["message"], "flanneld is not ready yet");
        assert_eq!(json["checks"]["startup"]["reason"], "waiting for the network config");
        assert_eq!(get(addr, "/stats").await.0, 503);
        let (status, metrics) = get(addr, "/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("\nflannel_ready 0\n"), "{metrics}");
        assert!(metrics.contains("\nprocess_open_fds "), "{metrics}");
        assert_eq!(get(addr, "/").await.0, 404);
    }

    #[tokio::test]
    async fn node_that_is_gone_leaves_nobody_waiting() {
        let (addr, health) = endpoint().await;
        drop(health.report_requests());
        assert_eq!(get(addr, "/stats").await.0, 503);
        assert_eq!(get(addr, "/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn nonsense_harms_no_one_else() {
        let (addr, _health) = endpoint().await;
        let mut nonsense = TcpStream::connect(addr).await.unwrap();
        nonsense.write_all(&[0xff; 4096]).await.unwrap();
        let _silent = TcpStream::connect(addr).await.unwrap();
        assert_eq!(get(addr, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn taken_port_is_an_error_that_names_it() {
        let (addr, health) = endpoint().await;
        let error = start(addr, health).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
    }

    #[tokio::test]
    async fn loop_that_no_longer_turns_is_unhealthy_until_it_turns_again() {
        let heartbeat = Heartbeat::new(Duration::from_millis(100));
        let health = Arc::new(Health { heartbeat, ..Health::default() });
        let addr = start("127.0.0.1:0".parse().unwrap(), Arc::clone(&health)).unwrap();
        assert_eq!(get(addr, "/healthz").await.0, 200, "there is no loop yet");
        health.beat(Loop::Node);
        let (status, reason) = loop {
            match get(addr, "/healthz").await {
                (200, _) => tokio::time::sleep(Duration::from_millis(10)).await,
                answer => break answer,
            }
        };
        assert_eq!(status, 503);
        assert!(reason.contains("the node's loop has not turned for"), "{reason}");
        // It turns again.
        let turning = async {
            loop {
                health.beat(Loop::Node);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let is_healthy = async { while get(addr, "/healthz").await.0 != 200 {} };
        tokio::select! {
            () = turning => {}
            () = is_healthy => {}
        }
    }

    #[tokio::test]
    async fn node_that_does_not_answer_keeps_nobody_waiting() {
        let (addr, health) = endpoint().await;
        let requests = health.report_requests();
        let (status, body) = get(addr, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("the node's loop does not answer within 2 s"), "{body}");
        assert_eq!(get(addr, "/stats").await.0, 503);
        assert!(get(addr, "/metrics").await.1.contains("\nflannel_ready 0\n"));
        drop(requests);
    }

    #[tokio::test]
    async fn endpoint_answers_while_the_daemons_own_thread_hangs() {
        let (addr, _health) = endpoint().await;
        // This blocks the thread that would serve it if it were served on this runtime.
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    }

    #[tokio::test]
    async fn request_without_end_or_of_any_length_is_refused() {
        let (addr, _health) = endpoint().await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        let header = format!("x: {}\r\n", "y".repeat(1 << 20));
        // It hangs up on us half-way.
        drop(stream.write_all(header.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert_eq!(get(addr, "/healthz").await.0, 200);
    }

    async fn endpoint() -> (SocketAddr, Arc<Health>) {
        let health = Arc::new(Health::default());
        let any_port = "127.0.0.1:0".parse().unwrap();
        (start(any_port, Arc::clone(&health)).unwrap(), health)
    }

    async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}
