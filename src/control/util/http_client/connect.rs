//! New connections: the name, TCP, TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::error::{Fault, HttpError, cause};
use super::probe::speaks_tls;
use super::{Connection, HttpClient, ServerAddr};
use crate::control::util::server_fault::{ServerFault, plain};

/// When the kernel asks whether a silent peer is still there, and how often before it gives up: a
/// watch may be silent for hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

impl HttpClient {
    /// A connection to the server, with TLS on it if that is what it speaks.
    pub(super) async fn connect(&self) -> Result<Connection, HttpError> {
        let limit = self.timeouts.connect;
        let late = |_| Fault::Connect(ServerFault::Late(limit));
        let connected = async {
            let (host, port) = match &self.server.place {
                ServerAddr::Tcp(host, port) => (host.as_str(), *port),
                ServerAddr::Unix(path) => {
                    let dialled = timeout(limit, UnixStream::connect(path)).await;
                    let fault = |error| Fault::Connect(fault_of(&error));
                    return speak_http(dialled.map_err(late)?.map_err(fault)?).await;
                }
            };
            let dialled = async {
                match &self.proxy {
                    Some(proxy) => proxy.dial(host, port, limit).await,
                    None => dial(host, port, limit).await,
                }
            };
            let dialled = timeout(limit, dialled).await.map_err(late)?;
            let stream = dialled.map_err(Fault::Connect)?;
            let Some(tls) = &self.tls else { return speak_http(stream).await };
            let secured = timeout(limit, tls.handshake(host, stream)).await.map_err(late)?;
            match secured {
                Ok(stream) => speak_http(stream).await,
                // A server without TLS may just hang up.
                Err(ServerFault::Closed)
                    if self.proxy.is_none() && !speaks_tls(host, port, limit).await =>
                {
                    Err(Fault::Connect(ServerFault::NoTls))
                }
                Err(fault) => Err(Fault::Connect(fault)),
            }
        };
        connected.await.map_err(|fault| self.server.error(fault))
    }
}

/// Tries each address of the server's name.
pub(super) async fn dial(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ServerFault> {
    let found = lookup_host((host, port)).await.map_err(|error| fault_of(&error))?;
    let addrs: Vec<SocketAddr> = found.collect();
    let share = limit / u32::try_from(addrs.len().max(1)).unwrap_or(u32::MAX);
    let mut fault = ServerFault::NoSuchHost;
    for addr in addrs {
        match timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream).map_err(|error| fault_of(&error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => fault = fault_of(&error),
            Err(_) => fault = ServerFault::Late(share),
        }
    }
    Err(fault)
}

fn fault_of(error: &io::Error) -> ServerFault {
    ServerFault::of(error).unwrap_or_else(|| ServerFault::Other(plain(error)))
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    stream.set_nodelay(true)
}

async fn speak_http(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Connection, Fault> {
    let (connection, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Fault::Broken(cause(&error)))?;
    // The error also reaches the caller that waits for the answer.
    tokio::spawn(async move { drop(driver.await) });
    Ok(connection)
}
