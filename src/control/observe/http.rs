//! The endpoint's thread: it accepts and answers even if the daemon's own loop hangs.

pub(super) mod answer;
pub(crate) mod connections;
mod listener;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tracing::{debug, info, warn};

use self::answer::answer;
use self::connections::{Connections, Place};
use self::listener::Listener;
use super::Endpoint;
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
    let opened = open(addr).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (bound, listener) = opened.map_err(|source| HealthError::Bind { addr, source })?;
    serve_on_thread(listener, Endpoint::public(status)).map_err(HealthError::Thread)?;
    info!("health endpoint listens on {bound}");
    Ok(bound)
}

/// Serves what comes by `listener`, for the life of the process.
pub(super) fn serve_on_thread(listener: impl Listener, endpoint: Endpoint) -> io::Result<()> {
    let serve = move || {
        let served = serve_all(listener, &Arc::new(endpoint));
        // The endpoint is closed, which probes notice.
        let Err(error) = served;
        tracing::error!(%error, "health endpoint ends");
    };
    std::thread::Builder::new().name(HEALTH_THREAD.to_owned()).spawn(serve).map(drop)
}

/// Serves for ever, unless the runtime cannot be created.
fn serve_all<L: Listener>(listener: L, endpoint: &Arc<Endpoint>) -> io::Result<Infallible> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = Arc::new(listener.into_async()?);
        loop {
            let accepting = accept::<L>(Arc::clone(&listener), Arc::clone(endpoint));
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

async fn accept<L: Listener>(listener: Arc<L::Async>, endpoint: Arc<Endpoint>) -> Infallible {
    let connections = Connections::new(max_descriptors());
    loop {
        match L::accept(&listener).await {
            Ok((stream, from)) => connections.admit(from, |place| {
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
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, endpoint: Arc<Endpoint>, place: Place) {
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
    // A tool may read from the daemon for as long as it likes.
    let limit = if endpoint.is_local { Duration::MAX } else { CONNECTION_TIMEOUT };
    match tokio::time::timeout(limit, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "health connection failed"),
        Err(_) => debug!("health connection took too long"),
    }
}
