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

use super::error::{Fault, HttpError, cause, plain};
use super::{Connection, HttpClient, ServerAddr};

/// When the kernel asks whether a silent peer is still there, and how often before it gives up: a
/// watch may be silent for hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

impl HttpClient {
    /// A connection to the server, with TLS on it if that is what it speaks.
    pub(super) async fn connect(&self) -> Result<Connection, HttpError> {
        let limit = self.timeouts.connect;
        let late = || Fault::Connect(format!("no connection within {limit:?}"));
        let connected = async {
            let (host, port) = match &self.server.place {
                ServerAddr::Tcp(host, port) => (host.as_str(), *port),
                ServerAddr::Unix(path) => {
                    let dialled = timeout(limit, UnixStream::connect(path)).await;
                    let dialled = dialled.map_err(|_| late())?;
                    return speak_http(dialled.map_err(|e| Fault::Connect(plain(&e)))?).await;
                }
            };
            let dialled = timeout(limit, self.dial(host, port)).await;
            let stream = dialled.map_err(|_| late())?.map_err(Fault::Connect)?;
            let Some(tls) = &self.tls else { return speak_http(stream).await };
            let secured = timeout(limit, tls.handshake(host, stream)).await;
            let late = || Err(format!("no handshake within {limit:?}"));
            speak_http(secured.unwrap_or_else(|_| late()).map_err(Fault::Tls)?).await
        };
        connected.await.map_err(|fault| self.server.error(fault))
    }

    /// Tries each address of the server's name.
    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let addrs: Vec<SocketAddr> = match lookup_host((host, port)).await {
            Ok(addrs) => addrs.collect(),
            Err(error) => return Err(format!("name {host}: {}", plain(&error))),
        };
        let share = self.timeouts.connect / u32::try_from(addrs.len().max(1)).unwrap_or(u32::MAX);
        let mut reason = format!("name {host} has no address");
        for addr in addrs {
            match timeout(share, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => {
                    keep_alive(&stream).map_err(|error| plain(&error))?;
                    return Ok(stream);
                }
                Ok(Err(error)) => reason = plain(&error),
                Err(_) => reason = format!("no connection within {share:?}"),
            }
        }
        Err(reason)
    }
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
