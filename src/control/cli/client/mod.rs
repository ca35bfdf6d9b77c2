//! [`Client`]: asks the running daemon over its unix socket.

pub(in crate::control::cli) mod daemons;
mod error;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use self::daemons::find_socket;
pub use self::error::ToolError;
use crate::control::observe::api;
use crate::control::util::http_client::{HttpClient, Request, Response, Timeouts};

/// The daemon answers within [`REPORT_TIMEOUT`](crate::control::node::status::REPORT_TIMEOUT), also
/// while its node hangs.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    head: Duration::from_secs(5),
    body: Duration::from_secs(10),
};

/// Longest answer that is read as a whole: the status of 100,000 peers is a third of it.
const MAX_ANSWER: usize = 64 << 20;

/// Asks one daemon.
pub(super) struct Client {
    socket: PathBuf,
    http: HttpClient,
}

impl Client {
    /// The daemon at `socket`, or the one that runs here.
    ///
    /// # Errors
    /// [`ToolError`] if there is none, or more than one.
    pub(super) async fn open(socket: Option<&Path>) -> Result<Self, ToolError> {
        let socket = match socket {
            Some(socket) => socket.to_owned(),
            None => find_socket()?,
        };
        error::check(&socket).await?;
        let http = HttpClient::unix("flanneld", &socket, TIMEOUTS);
        Ok(Self { socket, http })
    }

    /// What the daemon says at `path`.
    ///
    /// # Errors
    /// [`ToolError`] if it says nothing, or nothing that this version reads.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ToolError> {
        let response = self.send(path).await?;
        let version = version(&response).to_owned();
        let body = response.read(MAX_ANSWER).await.map_err(ToolError::no_answer)?;
        serde_json::from_slice(&body).map_err(|_| self.other_version(&version))
    }

    /// What the daemon says at `path`, as text, whatever the status of the answer.
    ///
    /// # Errors
    /// [`ToolError`] if it says nothing.
    pub(super) async fn text(&self, path: &str) -> Result<String, ToolError> {
        let request = Request::new(Method::GET, path);
        let response = self.http.send(&request).await.map_err(ToolError::no_answer)?;
        let body = response.read(MAX_ANSWER).await.map_err(ToolError::no_answer)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The last lines of the daemon's log.
    ///
    /// # Errors
    /// [`ToolError`] if it says nothing, or its version keeps none.
    pub(super) async fn log(&self) -> Result<String, ToolError> {
        let response = self.send(api::paths::LOG).await?;
        let body = response.read(MAX_ANSWER).await.map_err(ToolError::no_answer)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The daemon's answer at `path`, to be read piece by piece.
    ///
    /// # Errors
    /// [`ToolError`] if it is no answer of flanneld, or none with content.
    pub(super) async fn send(&self, path: &str) -> Result<Response, ToolError> {
        let request = Request::new(Method::GET, path);
        let response = self.http.send(&request).await.map_err(ToolError::no_answer)?;
        let version = version(&response);
        match response.status() {
            _ if version.is_empty() => Err(ToolError::NotOurs(self.socket.clone())),
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(self.other_version(version)),
            status => {
                let reason = response.read(MAX_ANSWER).await.map_err(ToolError::no_answer)?;
                let reason = String::from_utf8_lossy(&reason);
                let reason = reason.trim_end();
                Err(ToolError::Local(match reason {
                    "" => format!("flanneld answers with {status}"),
                    reason => reason.to_owned(),
                }))
            }
        }
    }

    fn other_version(&self, version: &str) -> ToolError {
        ToolError::OtherVersion { socket: self.socket.clone(), version: version.to_owned() }
    }
}

/// The version of the daemon that answers; empty if it is none.
fn version(response: &Response) -> &str {
    response.header("server").and_then(|name| name.strip_prefix(api::SERVER)).unwrap_or_default()
}
