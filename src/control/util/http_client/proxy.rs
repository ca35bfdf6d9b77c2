//! [`Proxy`]: reaches a server through an HTTP proxy, with `CONNECT` of RFC 9110, section 9.3.6.

use std::time::Duration;

use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect::dial;
use super::error::{Fault, HttpError};
use super::{Server, ServerAddr, basic_auth};
use crate::control::util::server_fault::{ServerFault, plain};

/// Most bytes of the head of a proxy's answer.
const MAX_HEAD: usize = 8 << 10;

/// An HTTP proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    /// Name and password, as the URL has them.
    credentials: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy of a URL such as `http://name:password@proxy.example:3128`.
    pub(super) fn parse(url: &str) -> Result<Self, HttpError> {
        // No message shows the password.
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let shown = format!("{scheme}://{place}");
        let bad =
            |reason: &str| HttpError::new("a proxy", shown.clone(), Fault::Url(reason.into()));
        if scheme != "http" {
            return Err(bad("only proxies with http:// are supported"));
        }
        let credentials = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            basic_auth(&decode(name), &decode(password))
        });
        match Server::parse("a proxy", &shown)?.0.place {
            ServerAddr::Tcp(host, port) => Ok(Self { host, port, credentials }),
            ServerAddr::Unix(_) => Err(bad("it is no proxy")),
        }
    }

    /// A connection to a server, which the proxy makes.
    pub(super) async fn dial(
        &self,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<TcpStream, ServerFault> {
        let fault = |reason: String| {
            ServerFault::Other(format!("proxy {}:{}: {reason}", self.host, self.port))
        };
        let dialled = dial(&self.host, self.port, limit).await;
        let mut stream = dialled.map_err(|error| fault(error.to_string()))?;
        let head = self.ask(&mut stream, host, port).await.map_err(|error| fault(plain(&error)))?;
        let status = head.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some(code) if code.starts_with('2') => Ok(stream),
            Some(_) | None => {
                let status: String = status.chars().take(80).flat_map(char::escape_debug).collect();
                Err(fault(format!("it answers {status}")))
            }
        }
    }

    /// Asks for a connection; the head of the answer.
    async fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> std::io::Result<String> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(credentials) = self.credentials.as_ref().and_then(|it| it.to_str().ok()) {
            request.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).await?;
        // Byte by byte: what comes behind the head is the server's.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
            head.push(stream.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }
}
