//! The endpoint's thread: it accepts and answers even if the daemon's own loop hangs.

pub(crate) mod connections;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tracing::{debug, info, warn};

use self::connections::{Connections, Place};
use super::{Endpoint, readiness, stats};
use crate::control::node::status::SharedStatus;
use crate::control::util::panics::HEALTH_THREAD;

/// Connections that the kernel keeps for us until they are accepted: what it takes at most by
/// default, `SOMAXCONN` in include/linux/socket.h.
const BACKLOG: i32 = 4096;

/// How long a connection may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may live: a scrape of the metrics takes milliseconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest head of a request, in bytes. Browsers and probes stay far below it.
const MAX_HEAD_LEN: usize = 16 << 10;

/// Pause after a connection that could not be accepted: the listener stays readable, so without
/// one we would spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Its address is taken, or not ours.
    #[error("bind the health endpoint to {addr} (--healthz-ip, --healthz-port)")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its thread could not be started.
    #[error("start the thread of the health endpoint")]
    Thread(#[source] io::Error),
}

/// Opens the endpoint and serves it, for the life of the process, on a thread of its own.
///
/// # Errors
/// [`HealthError`] when the address is taken, or not ours.
pub fn start(addr: SocketAddr, status: Arc<SharedStatus>) -> Result<SocketAddr, HealthError> {
    let endpoint = Arc::new(Endpoint::new(status));
    let opened = open(addr).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (bound, listener) = opened.map_err(|source| HealthError::Bind { addr, source })?;
    let serve = move || {
        let served = serve_all(listener, &endpoint);
        // The endpoint is closed, which probes notice.
        let Err(error) = served;
        tracing::error!(%error, "health endpoint ends");
    };
    let thread = std::thread::Builder::new().name(HEALTH_THREAD.to_owned()).spawn(serve);
    thread.map_err(HealthError::Thread)?;
    info!("health endpoint listens on {bound}");
    Ok(bound)
}

/// Serves for ever, unless the runtime cannot be created.
fn serve_all(listener: std::net::TcpListener, endpoint: &Arc<Endpoint>) -> io::Result<Infallible> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = Arc::new(TcpListener::from_std(listener)?);
        loop {
            let accepting = accept(Arc::clone(&listener), Arc::clone(endpoint));
            // It ends only by a panic, which has been logged: restart it.
            drop(tokio::spawn(accepting).await);
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Whether the endpoint could be opened now. It is closed again at once.
///
/// # Errors
/// As [`start`].
pub(in crate::control) fn check_addr(addr: SocketAddr) -> Result<(), HealthError> {
    open(addr).map(drop).map_err(|source| HealthError::Bind { addr, source })
}

fn open(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A port that our predecessor used a moment ago is free.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: Arc<TcpListener>, endpoint: Arc<Endpoint>) -> Infallible {
    let connections = Connections::new(max_descriptors());
    loop {
        match listener.accept().await {
            Ok((stream, from)) => connections.admit(from.ip(), |place| {
                tokio::spawn(serve(stream, Arc::clone(&endpoint), place)).abort_handle()
            }),
            Err(error) => {
                // Mostly for lack of descriptors: close a connection without a request.
                warn!(%error, "health endpoint cannot accept a connection");
                connections.close_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What the new one has sent already is read before anything is closed for the next one.
        tokio::task::yield_now().await;
    }
}

/// The soft limit of open files, as proc_pid_limits(5) shows it.
fn max_descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    limit.unwrap_or(usize::MAX)
}

/// Answers one request. Connections are not kept: a probe comes every few seconds.
async fn serve(stream: TcpStream, endpoint: Arc<Endpoint>, place: Place) {
    let service = service_fn(|request| {
        place.has_asked();
        answer(request, &endpoint)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_LEN)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "health connection failed"),
        Err(_) => debug!("health connection took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    endpoint: &Endpoint,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const JSON: &str = "application/json";
    const OK: StatusCode = StatusCode::OK;
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    Ok(match request.uri().path() {
        "/healthz" => match endpoint.status.stalled(Instant::now()) {
            None => respond(OK, TEXT, "flanneld is running"),
            Some(reason) => respond(UNAVAILABLE, TEXT, format!("flanneld hangs: {reason}")),
        },
        "/readyz" => match readiness(&endpoint.status).await {
            (true, json) => respond(OK, JSON, json),
            (false, json) => respond(UNAVAILABLE, JSON, json),
        },
        "/metrics" => respond(OK, prometheus::TEXT_FORMAT, endpoint.metrics().await),
        "/stats" => match stats(&endpoint.status).await {
            Some(json) => respond(OK, JSON, json),
            None => respond(UNAVAILABLE, TEXT, "flanneld is not ready yet"),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, PATHS),
    })
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to every other path.
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
