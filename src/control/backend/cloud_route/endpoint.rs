//! [`Endpoint`]: one server of a cloud, at a URL that may have a path.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::retries::{CloudError, Fault};
use crate::control::util::http_client::{HttpClient, Request, Response, Timeouts, TlsSource};

/// Longest answer, in bytes: a route table of 1000 routes has some 300,000.
const MAX_BODY_LEN: usize = 4 << 20;

/// How long an API may take. Clouds answer within seconds, also when they are busy.
const API: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    head: Duration::from_secs(30),
    body: Duration::from_secs(30),
};

/// The metadata server is part of the host below us.
const METADATA: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    head: Duration::from_secs(5),
    body: Duration::from_secs(5),
};

/// One server, and the path that everything on it begins with.
pub(in crate::control::backend) struct Endpoint {
    client: HttpClient,
    path: String,
}

/// A whole answer.
#[derive(Debug)]
pub(in crate::control::backend) struct Answer {
    pub(in crate::control::backend) status: StatusCode,
    pub(in crate::control::backend) body: Bytes,
    /// When it was given, by the server's clock.
    #[cfg_attr(not(feature = "aws"), expect(dead_code, reason = "only signatures need it"))]
    pub(in crate::control::backend) date: Option<SystemTime>,
}

impl Endpoint {
    /// An API at `url`, which is `service` in messages.
    ///
    /// # Errors
    /// [`CloudError`] when `url` names no server.
    pub(in crate::control::backend) fn api(
        service: &'static str,
        url: &str,
        tls: Option<TlsSource>,
    ) -> Result<Self, CloudError> {
        Self::new(service, url, tls, API)
    }

    /// A metadata server at `url`.
    ///
    /// # Errors
    /// [`CloudError`] when `url` names no server.
    pub(in crate::control::backend) fn metadata(url: &str) -> Result<Self, CloudError> {
        Self::new("the metadata server", url, None, METADATA)
    }

    fn new(
        service: &'static str,
        url: &str,
        tls: Option<TlsSource>,
        timeouts: Timeouts,
    ) -> Result<Self, CloudError> {
        let url = url.trim_end_matches('/');
        let authority = url.find("://").map_or(0, |at| at + "://".len());
        let path = url[authority..].find('/').map_or(url.len(), |at| authority + at);
        let (server, path) = url.split_at(path);
        let client = HttpClient::new(service, server, tls, timeouts);
        let client = client.map_err(|error| CloudError(error.to_string()))?;
        Ok(Self { client, path: path.to_owned() })
    }

    /// Its URL.
    pub(in crate::control::backend) fn url(&self) -> String {
        format!("{}{}", self.client.url(), self.path)
    }

    /// The path of `path`, relative to ours, on the server.
    pub(in crate::control::backend) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }

    /// A request for `path`, relative to ours.
    pub(in crate::control::backend) fn request(&self, method: Method, path: &str) -> Request {
        Request::new(method, self.path(path))
    }

    /// Makes a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Fault::Transient`] when there is none.
    pub(in crate::control::backend) async fn call(
        &self,
        request: &Request,
    ) -> Result<Answer, Fault> {
        Answer::read(self.client.send(request).await?).await
    }

    /// The same, if the answer has the header `name` with this value.
    ///
    /// # Errors
    /// [`Fault::Transient`] when there is no answer; [`Fault::Final`] with `otherwise`.
    pub(in crate::control::backend) async fn call_if(
        &self,
        request: &Request,
        (name, value): (&str, &str),
        otherwise: &str,
    ) -> Result<Answer, Fault> {
        let response = self.client.send(request).await?;
        if response.header(name) != Some(value) {
            return Err(Fault::Final(otherwise.to_owned()));
        }
        Answer::read(response).await
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url()).finish()
    }
}

impl Answer {
    async fn read(response: Response) -> Result<Self, Fault> {
        let status = response.status();
        let date = response.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(Self { status, body: response.read(MAX_BODY_LEN).await?, date })
    }

    /// The body as text.
    pub(in crate::control::backend) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}
