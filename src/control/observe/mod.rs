//! The health endpoint: `/healthz`, `/readyz`, `/metrics` and `/stats` over HTTP. On the unix socket
//! (`socket`) the same answers, and those that only the tools need ([`api`]).
//!
//! `/healthz` answers as flannel's `pkg/healthz` does, as long as no loop of the daemon hangs. The
//! other bodies are made from a [`Report`], which only the node's own loop can write: each request is
//! passed to that loop. The endpoint has a thread of its own (`http`), so that it also answers when
//! that loop hangs.

pub mod api;
mod capture;
mod drops;
mod host_view;
mod http;
mod metrics;
pub mod socket;
mod status;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use self::api::readiness::to_json;
use self::api::{CaptureDirection, CaptureQuery, Drops, Peers, Status, Workers};
use self::capture::CaptureBody;
pub(super) use self::http::check_addr;
pub use self::http::{HealthError, start};
use self::metrics::Metrics;
use crate::control::backend::capture::CaptureRequest;
pub use crate::control::node::status::Report;
use crate::control::node::status::{Check, NoReport, REPORT_TIMEOUT, SharedStatus};
use crate::dataplane::capture::Direction;

/// What the endpoint answers with.
#[derive(Debug)]
pub(super) struct Endpoint {
    status: Arc<SharedStatus>,
    metrics: Mutex<Metrics>,
    started: Instant,
    /// Whether only this host's root and the group may ask.
    is_local: bool,
}

impl Endpoint {
    /// For anybody who reaches the port.
    pub(super) fn public(status: Arc<SharedStatus>) -> Self {
        Self { status, metrics: Mutex::default(), started: Instant::now(), is_local: false }
    }

    /// For the tools.
    fn local(status: Arc<SharedStatus>) -> Self {
        Self { is_local: true, ..Self::public(status) }
    }

    async fn tool_status(&self) -> Status {
        let report = self.status.fresh_report().await;
        let underlay = match &report {
            Ok(report) => host_view::underlay(report).await,
            Err(_) => None,
        };
        Status { underlay, ..status::status(report, self.started.elapsed()) }
    }

    async fn peers(&self) -> Peers {
        let peers = self.status.report().await.map(|report| status::peers(&report));
        Peers { at_millis: self.millis(), peers: peers.unwrap_or_default() }
    }

    async fn drops(&self) -> Drops {
        let report = self.status.report().await.ok();
        report.map_or_else(Drops::default, |report| drops::drops(&report, self.millis()))
    }

    async fn workers(&self) -> Workers {
        let report = self.status.report().await.ok();
        report.map_or_else(Workers::default, |report| workers::workers(&report, self.millis()))
    }

    /// Of this daemon's clock.
    fn millis(&self) -> u64 {
        status::millis(self.started.elapsed())
    }

    /// Starts a capture; an error is one line.
    async fn capture(&self, query: &str) -> Result<CaptureBody, String> {
        let wanted: CaptureQuery = query.parse()?;
        let direction = wanted.direction.map(|direction| match direction {
            CaptureDirection::Egress => Direction::Egress,
            CaptureDirection::Ingress => Direction::Ingress,
        });
        let request = CaptureRequest {
            peers: wanted.peers,
            subnets: wanted.subnets,
            direction,
            only_dropped: wanted.dropped,
            snap_len: usize::try_from(wanted.snap_len).unwrap_or(usize::MAX),
        };
        let (device, capture) = match self.status.capture(request).await {
            Ok(started) => started.map_err(|error| error.to_string())?,
            Err(NoReport::NoNode(phase)) => return Err(format!("flanneld is not ready: {phase}")),
            Err(NoReport::Silence) => return Err("the node's loop does not answer".to_owned()),
        };
        let bounds = (wanted.count, wanted.duration);
        Ok(CaptureBody::new(capture, &device, wanted.snap_len, bounds))
    }

    pub(super) async fn metrics(&self) -> String {
        let report = self.status.report().await.ok();
        let is_ready = report
            .as_ref()
            .is_some_and(|report| api::readiness::of(&report.checks, &report.warnings).0);
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.text(is_ready, report.as_ref())
    }
}

/// The statistics as JSON; `None` while there is no node.
pub(super) async fn stats(status: &SharedStatus) -> Option<String> {
    Some(to_json(&status.report().await.ok()?.stats))
}

/// Whether the node is ready, and that with the reasons as JSON.
pub(super) async fn readiness(status: &SharedStatus) -> (bool, String) {
    match status.report().await {
        Ok(report) => api::readiness::of(&report.checks, &report.warnings),
        Err(reason) => api::readiness::of(&without_report(reason), &BTreeMap::new()),
    }
}

fn without_report(reason: NoReport) -> BTreeMap<&'static str, Check> {
    match reason {
        NoReport::NoNode(phase) => BTreeMap::from([("startup", Check::fails(phase))]),
        NoReport::Silence => {
            let seconds = REPORT_TIMEOUT.as_secs();
            let reason = format!("the node's loop does not answer within {seconds} s");
            BTreeMap::from([("loop", Check::fails(reason))])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::control::node::status::Loop;

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
        let health = Arc::new(SharedStatus::with_limit(Duration::from_millis(100)));
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
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
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

    async fn endpoint() -> (SocketAddr, Arc<SharedStatus>) {
        let health = Arc::new(SharedStatus::default());
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
