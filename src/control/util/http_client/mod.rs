//! [`HttpClient`]: requests to one HTTP(S) server, for the registries and clouds that speak JSON
//! over HTTP/1.1.
//!
//! - [`HttpClient::send`] ends with the head of the answer. The body is read from the [`Response`],
//!   whole and up to a limit, or line by line for as long as the server sends.
//! - Connections are kept open and used again. A request that may be made twice is made once more
//!   if the server closed the kept connection.
//! - TLS files are read again for every new connection.
//! - No redirect is followed, no cookie is kept, and no proxy is asked but the one that is given.
//!
//! docs/adr/0020 says why this is not a library.

mod connect;
mod error;
mod probe;
mod proxy;
mod response;
mod tls;
mod unverified;
#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

pub(crate) use self::error::HttpError;
pub(crate) use self::response::Response;
pub(crate) use self::tls::{TlsMaterial, TlsSource};

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Uri};
use tokio::time::timeout;

use self::error::Fault;
use self::proxy::Proxy;
use self::tls::Tls;
use super::server_fault::ServerFault;
use super::url_user::hide_user;

/// Name and version, as a server's log shows them.
const AGENT: &str = concat!("flanneld/", env!("CARGO_PKG_VERSION"));

/// Connections that are kept open. One is in use by a watch now and then; more than two requests
/// are rarely made at a time.
const MAX_IDLE: usize = 2;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// The name, the connection, and the TLS handshake.
    pub(crate) connect: Duration,
    /// The head of an answer, from the request on.
    pub(crate) head: Duration,
    /// The rest of an answer that is read as a whole.
    pub(crate) body: Duration,
}

/// Asks one server.
pub(crate) struct HttpClient {
    server: Server,
    /// Through which it is reached.
    proxy: Option<Proxy>,
    tls: Option<Tls>,
    timeouts: Timeouts,
    idle: Arc<Idle>,
}

/// Whom to ask.
#[derive(Debug, Clone)]
struct Server {
    /// What it is, for messages: `etcd`.
    service: &'static str,
    /// Without a slash at the end; the path of a unix socket.
    url: String,
    place: ServerAddr,
    /// The value of the `Host` header.
    authority: HeaderValue,
}

/// Where it listens.
#[derive(Debug, Clone)]
enum ServerAddr {
    /// A name or address without the brackets of IPv6, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Open connections without a request on them.
#[derive(Debug, Default)]
struct Idle(Mutex<Vec<Connection>>);

type Connection = SendRequest<Full<Bytes>>;

/// A request, which can be made more than once.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    may_repeat: bool,
}

impl Request {
    /// A request for `path`, which begins with a slash and may have a query.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        let may_repeat = method == Method::GET;
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { method, path: path.into(), headers, body, may_repeat }
    }

    /// The same request for a path below `base`, which has no slash at its end.
    pub(crate) fn below(mut self, base: &str) -> Self {
        self.path.insert_str(0, base);
        self
    }

    /// The same request with a header more.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same request with a body.
    pub(crate) fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    /// The same request, which does no harm when the server receives it twice.
    pub(crate) const fn may_repeat(mut self) -> Self {
        self.may_repeat = true;
        self
    }
}

/// The value of an `Authorization` header that shows name and password.
pub(crate) fn basic_auth(name: &str, password: &str) -> HeaderValue {
    let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    // Base64 has no character that a header may not have.
    let mut value = HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

impl HttpClient {
    /// Prepares to ask the server at `url`, such as `https://10.0.0.1:2379`. Sends nothing. With
    /// `https`, `tls` says what the server is verified against; the system's list without it.
    pub(crate) fn new(
        service: &'static str,
        url: &str,
        tls: Option<TlsSource>,
        timeouts: Timeouts,
    ) -> Result<Self, HttpError> {
        let (server, is_tls) = Server::parse(service, url)?;
        let tls = match is_tls {
            true => Some(Tls::new(tls).map_err(|reason| server.error(Fault::Setup(reason)))?),
            false => None,
        };
        Ok(Self { server, proxy: None, tls, timeouts, idle: Arc::default() })
    }

    /// Prepares to ask the server that listens at the unix socket `path`. Sends nothing.
    pub(crate) fn unix(service: &'static str, path: &Path, timeouts: Timeouts) -> Self {
        let server = Server {
            service,
            url: path.display().to_string(),
            place: ServerAddr::Unix(path.to_owned()),
            authority: HeaderValue::from_static("localhost"),
        };
        Self { server, proxy: None, tls: None, timeouts, idle: Arc::default() }
    }

    /// The same client, which reaches the server through the HTTP proxy at `url`.
    pub(crate) fn through(mut self, url: &str) -> Result<Self, HttpError> {
        self.proxy = Some(Proxy::parse(url)?);
        Ok(self)
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// Makes a request and waits for the head of the answer, whatever its status.
    ///
    /// # Cancel safety
    /// Dropped half-way, the server may have received the request.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response, HttpError> {
        if let Some(connection) = self.idle.take() {
            match self.exchange(connection, request).await {
                Err(Refused { is_stale: true, .. }) => {}
                result => return result.map_err(|refused| refused.error),
            }
        }
        let connection = self.connect().await?;
        match self.exchange(connection, request).await {
            Ok(response) => Ok(response),
            Err(refused) => Err(self.explain(refused.error).await),
        }
    }

    /// Drops the kept connections: later requests use new ones.
    pub(crate) fn reconnect(&self) {
        self.idle.clear();
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: &Request,
    ) -> Result<Response, Refused> {
        let url = match self.server.place {
            ServerAddr::Tcp(..) => format!("{}{}", self.server.url, request.path),
            ServerAddr::Unix(_) => self.server.url.clone(),
        };
        let at = |fault| HttpError::new(self.server.service, url.clone(), fault);
        let sent = self
            .to_hyper(request)
            .map_err(|reason| Refused { error: at(Fault::Request(reason)), is_stale: false })?;
        let answered = async {
            connection.ready().await?;
            connection.send_request(sent).await
        };
        match timeout(self.timeouts.head, answered).await {
            Ok(Ok(answer)) => {
                let place = (self.server.service, url);
                Ok(Response::new(answer, connection, &self.idle, place, self.timeouts.body))
            }
            Ok(Err(error)) => {
                let is_stale = error.is_canceled()
                    || error.is_closed()
                    || (request.may_repeat && !error.is_user() && !error.is_parse());
                Err(Refused { is_stale, error: at(Fault::of(&error)) })
            }
            Err(_) => {
                // What made this connection hang may have broken the other ones as well.
                self.idle.clear();
                Err(Refused { is_stale: false, error: at(Fault::Silent(self.timeouts.head)) })
            }
        }
    }

    /// The same error, or a better one if the server gave no answer because it speaks TLS.
    async fn explain(&self, error: HttpError) -> HttpError {
        match &self.server.place {
            ServerAddr::Tcp(host, port)
                if self.tls.is_none()
                    && self.proxy.is_none()
                    && error.is_no_answer()
                    && probe::speaks_tls(host, *port, self.timeouts.connect).await =>
            {
                self.server.error(Fault::Connect(ServerFault::IsTls))
            }
            ServerAddr::Tcp(..) | ServerAddr::Unix(_) => error,
        }
    }

    fn to_hyper(&self, request: &Request) -> Result<hyper::Request<Full<Bytes>>, String> {
        let uri: Uri = request.path.parse().map_err(|error| format!("bad path: {error}"))?;
        let mut sent = hyper::Request::new(Full::new(request.body.clone()));
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = uri;
        *sent.headers_mut() = request.headers.clone();
        sent.headers_mut().insert(HOST, self.server.authority.clone());
        sent.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Ok(sent)
    }
}

/// Why a connection carried no answer.
struct Refused {
    error: HttpError,
    /// Had the connection been new, the request could be made on another one.
    is_stale: bool,
}

impl Server {
    /// The server of a URL without a path, and whether it speaks TLS.
    fn parse(service: &'static str, url: &str) -> Result<(Self, bool), HttpError> {
        let url = url.trim_end_matches('/').to_owned();
        let bad = |reason: String| HttpError::new(service, hide_user(&url), Fault::Url(reason));
        let uri: Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it begins with neither http:// nor https://".to_owned())),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host".to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        // A user in the URL is for no header, and for no message.
        let (_, shown) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
        let header = HeaderValue::from_str(shown);
        let header = header.map_err(|error| bad(format!("{error}")))?;
        let url = url.replacen(authority.as_str(), shown, 1);
        let authority = header;
        Ok((Self { service, url, place: ServerAddr::Tcp(host, port), authority }, is_tls))
    }

    fn error(&self, fault: Fault) -> HttpError {
        HttpError::new(self.service, self.url.clone(), fault)
    }
}

impl Idle {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
