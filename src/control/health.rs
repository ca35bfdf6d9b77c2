//! The health endpoint: `/healthz`, `/readyz` and `/stats` over HTTP.
//!
//! The first two answer as flannel's `pkg/healthz` does. Only the daemon's own loop knows the
//! statistics, so a request for them is handed to it and answered there.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

/// What the endpoint knows of the daemon.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    stats: OnceLock<mpsc::Sender<StatsRequest>>,
}

/// Waits for the statistics, as JSON text.
pub type StatsRequest = oneshot::Sender<String>;

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("bind the health endpoint to {addr} (--healthz-ip, --healthz-port)")]
pub struct HealthError {
    addr: SocketAddr,
    source: io::Error,
}

impl Health {
    /// Makes `/readyz` answer well, from now on.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Whether `/readyz` answers well.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The requests for statistics, for the caller to answer; until then there are none.
    pub fn stats_requests(&self) -> mpsc::Receiver<StatsRequest> {
        let (sender, receiver) = mpsc::channel(MAX_CONNECTIONS);
        if self.stats.set(sender).is_err() {
            warn!("statistics are served already");
        }
        receiver
    }

    /// The statistics; `None` while nobody answers for them.
    pub(super) async fn ask_for_stats(&self) -> Option<String> {
        let (request, reply) = oneshot::channel();
        self.stats.get()?.try_send(request).ok()?;
        reply.await.ok()
    }
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
    const TEXT: &str = "text/plain; charset=utf-8";
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    Ok(match request.uri().path() {
        "/healthz" => respond(StatusCode::OK, TEXT, "flanneld is running"),
        "/readyz" if health.is_ready() => respond(StatusCode::OK, TEXT, "flanneld is ready"),
        "/readyz" => respond(UNAVAILABLE, TEXT, "flanneld is not ready yet"),
        "/stats" => match health.ask_for_stats().await {
            Some(json) => respond(StatusCode::OK, "application/json", json),
            None => respond(UNAVAILABLE, TEXT, "flanneld is not ready yet"),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /stats"),
    })
}

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
    async fn probes_answer_as_flannels() {
        let (addr, health) = endpoint().await;
        assert_eq!(get(addr, "/healthz").await, (200, "flanneld is running".to_owned()));
        assert_eq!(get(addr, "/readyz").await, (503, "flanneld is not ready yet".to_owned()));
        health.set_ready();
        assert_eq!(get(addr, "/readyz?x=1").await, (200, "flanneld is ready".to_owned()));
        assert_eq!(get(addr, "/").await.0, 404);
    }

    #[tokio::test]
    async fn stats_are_answered_by_whoever_took_the_requests() {
        let (addr, health) = endpoint().await;
        assert_eq!(get(addr, "/stats").await.0, 503);
        let mut requests = health.stats_requests();
        let daemon = tokio::spawn(async move {
            let request: StatsRequest = requests.recv().await.unwrap();
            request.send("{}".to_owned()).unwrap();
        });
        assert_eq!(get(addr, "/stats").await, (200, "{}".to_owned()));
        daemon.await.unwrap();
        assert_eq!(get(addr, "/stats").await.0, 503, "the daemon is gone");
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
