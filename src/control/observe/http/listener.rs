//! [`Listener`]: where requests come from, a TCP port or a unix socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A socket that was opened outside of the runtime that serves it.
pub(in crate::control::observe) trait Listener: Send + 'static {
    /// The same within a runtime.
    type Async: Send + Sync + 'static;
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Hands it to the current runtime.
    fn into_async(self) -> io::Result<Self::Async>;

    /// The next connection and its source.
    fn accept(
        listener: &Self::Async,
    ) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;
}

impl Listener for std::net::TcpListener {
    type Async = tokio::net::TcpListener;
    type Stream = TcpStream;

    fn into_async(self) -> io::Result<Self::Async> {
        tokio::net::TcpListener::from_std(self)
    }

    async fn accept(listener: &Self::Async) -> io::Result<(TcpStream, IpAddr)> {
        listener.accept().await.map(|(stream, from)| (stream, from.ip()))
    }
}

impl Listener for std::os::unix::net::UnixListener {
    type Async = tokio::net::UnixListener;
    type Stream = UnixStream;

    fn into_async(self) -> io::Result<Self::Async> {
        tokio::net::UnixListener::from_std(self)
    }

    /// All of this host count as one source.
    async fn accept(listener: &Self::Async) -> io::Result<(UnixStream, IpAddr)> {
        listener.accept().await.map(|(stream, _)| (stream, Ipv4Addr::LOCALHOST.into()))
    }
}
