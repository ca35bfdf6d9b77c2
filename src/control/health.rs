//! The health endpoint: `/healthz`, `/readyz`, `/metrics` and `/stats` over HTTP.
//!
//! `/healthz` answers as flannel's `pkg/healthz` does, and so does `/readyz` by its status; its
//! body, and all of the others, are made of a [`Report`]. Only the node's own loop can write one,
//! so each request is handed to it and answered there.

mod metrics;
mod report;
mod vitals;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

use self::metrics::Metrics;
pub use self::report::Report;
pub(super) use self::report::Stats;
use self::report::{Check, readiness, to_json};
pub(super) use self::vitals::Vitals;
use super::systemd::notify;

/// What the endpoint knows of the daemon.
#[derive(Debug, Default)]
pub struct Health {
    /// What keeps the daemon from having a node, while it has none.
    phase: Mutex<&'static str>,
    node: Mutex<Option<mpsc::Sender<ReportRequest>>>,
    metrics: Mutex<Metrics>,
}

/// Waits for a report.
pub type ReportRequest = oneshot::Sender<Report>;

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("bind the health endpoint to {addr} (--healthz-ip, --healthz-port)")]
pub struct HealthError {
    addr: SocketAddr,
    source: io::Error,
}

impl Health {
    /// Tells, here and to systemd, what the daemon is about until it has a node.
    pub fn enter(&self, phase: &'static str) {
        *lock(&self.phase) = phase;
        notify(&[NotifyState::Status(phase)]);
    }

    /// The requests for reports, from now on, for the caller to answer.
    pub fn report_requests(&self) -> mpsc::Receiver<ReportRequest> {
        let (sender, receiver) = mpsc::channel(MAX_CONNECTIONS);
        *lock(&self.node) = Some(sender);
        receiver
    }

    /// `None` while there is no node.
    async fn report(&self) -> Option<Report> {
        let (request, reply) = oneshot::channel();
        let node = lock(&self.node).clone();
        node?.try_send(request).ok()?;
        reply.await.ok()
    }

    /// The statistics as JSON; `None` while there is no node.
    pub(super) async fn stats(&self) -> Option<String> {
        Some(to_json(&self.report().await?.stats))
    }

    /// Whether the node is ready, and that with the reasons as JSON.
    pub(super) async fn readiness(&self) -> (bool, String) {
        match self.report().await {
            Some(report) => readiness(&report.checks, &report.warnings),
            None => readiness(&self.no_node(), &BTreeMap::new()),
        }
    }

    fn no_node(&self) -> BTreeMap<&'static str, Check> {
        BTreeMap::from([("startup", Check::fails(*lock(&self.phase)))])
    }

    pub(super) async fn metrics(&self) -> String {
        let report = self.report().await;
        let is_ready =
            report.as_ref().is_some_and(|report| readiness(&report.checks, &report.warnings).0);
        lock(&self.metrics).text(is_ready, report.as_ref())
    }
}

/// What is behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections served at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the endpoint and serves it on the runtime the caller is in, until that ends.
///
/// # Errors
/// [`HealthError`] when the address is taken, or not ours.
pub async fn start(addr: SocketAddr, health: Arc<Health>) -> Result<SocketAddr, HealthError> {
    let failed = |source| HealthError { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    info!("health endpoint listens on {bound}");
    tokio::spawn(accept(listener, health));
    Ok(bound)
}

/// Whether the endpoint could be opened now. It is closed again at once.
///
/// # Errors
/// As [`start`].
pub(super) fn check_addr(addr: SocketAddr) -> Result<(), HealthError> {
    let bound = std::net::TcpListener::bind(addr);
    bound.map(drop).map_err(|source| HealthError { addr, source })
}

async fn accept(listener: TcpListener, health: Arc<Health>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = Arc::clone(&health);
                tokio::spawn(async move {
                    serve(stream, health).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: the listener is readable still, so do not spin.
                warn!(%error, "health endpoint cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Answers one request. Connections are not kept: a probe comes every few seconds.
async fn serve(stream: TcpStream, health: Arc<Health>) {
    let service = service_fn(|request| answer(request, &health));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "health connection failed");
    }
}

async fn answer(
    request: Request<Incoming>,
    health: &Health,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const JSON: &str = "application/json";
    const OK: StatusCode = StatusCode::OK;
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    Ok(match request.uri().path() {
        "/healthz" => respond(OK, TEXT, "flanneld is running"),
        "/readyz" => match health.readiness().await {
            (true, json) => respond(OK, JSON, json),
            (false, json) => respond(UNAVAILABLE, JSON, json),
        },
        "/metrics" => respond(OK, prometheus::TEXT_FORMAT, health.metrics().await),
        "/stats" => match health.stats().await {
            Some(json) => respond(OK, JSON, json),
            None => respond(UNAVAILABLE, TEXT, "flanneld is not ready yet"),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, PATHS),
    })
}

const TEXT: &str = "text/plain; charset=utf-8";

/// What is told to whoever asks for something else.
const PATHS: &str = "there are /healthz, /readyz, /metrics and /stats";

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let error = start(addr, health).await.unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
    }

    async fn endpoint() -> (SocketAddr, Arc<Health>) {
        let health = Arc::new(Health::default());
        let any_port = "127.0.0.1:0".parse().unwrap();
        (start(any_port, Arc::clone(&health)).await.unwrap(), health)
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
