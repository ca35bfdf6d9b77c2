//! [`ApiError`]: why the API server gave no answer that can be used, in one line.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;

use super::objects::Status;
use crate::control::util::http_client::{HttpError, Response};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// We do not know who we are.
    #[error("no credentials for the Kubernetes API server: {0}")]
    Credentials(String),
    /// The server does not know who we are.
    #[error(
        "{url} does not accept our credentials ({message}): the token or the client certificate is \
         wrong or has expired"
    )]
    Unauthorized {
        /// The server.
        url: String,
        /// What it says.
        message: String,
    },
    /// The server knows who we are, and does not let us.
    #[error(
        "{url} does not allow us to {operation}: add the verb {} on the resource {} to our cluster \
         role ({message})", .operation.verb(), .operation.resource()
    )]
    Forbidden {
        /// The server.
        url: String,
        /// What we may not.
        operation: Operation,
        /// What it says.
        message: String,
    },
    /// The version that was asked for is no longer there.
    #[error("{operation}: the version that is asked for is too old: {message}")]
    Gone {
        /// What we asked for.
        operation: Operation,
        /// What the server says.
        message: String,
    },
    /// Any other refusal.
    #[error("{operation}: {url} answers {code}: {message}")]
    Refused {
        /// What we asked for.
        operation: Operation,
        /// The server.
        url: String,
        /// Its status.
        code: u16,
        /// What it says.
        message: String,
        /// How long it wants us to wait.
        retry_after: Option<Duration>,
    },
    /// A watch ended with an error.
    #[error("the watch of the nodes ended: {0}")]
    WatchEnded(String),
    /// A watch went on for longer than it should.
    #[error("the watch of the nodes did not end when it should: its server may hang")]
    EndlessWatch,
    /// The answer does not read as what it should be.
    #[error("{0}: the answer of the Kubernetes API server does not read: {1}")]
    Malformed(Operation, String),
}

/// A request, as people speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reads a pod.
    GetPod,
    /// Lists nodes.
    ListNodes,
    /// Watches nodes.
    WatchNodes,
    /// Patches the status of a node.
    PatchStatus,
}

impl Operation {
    /// The verb, as RBAC has it.
    const fn verb(self) -> &'static str {
        match self {
            Self::GetPod => "get",
            Self::ListNodes => "list",
            Self::WatchNodes => "watch",
            Self::PatchStatus => "patch",
        }
    }

    /// The resource, as RBAC has it.
    const fn resource(self) -> &'static str {
        match self {
            Self::GetPod => "pods",
            Self::ListNodes | Self::WatchNodes => "nodes",
            Self::PatchStatus => "nodes/status",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.resource())
    }
}

/// Most characters of a message from the server that are shown.
const MAX_MESSAGE: usize = 300;

/// The longest pause that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What the head of a bad answer says.
#[derive(Debug)]
pub(super) struct BadHead {
    code: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
}

impl BadHead {
    pub(super) fn of(response: &Response) -> Self {
        let seconds = response.header("retry-after").and_then(|text| text.trim().parse().ok());
        let location = response.header("location").map(shown);
        Self {
            code: response.status(),
            location: location.filter(|_| response.status().is_redirection()),
            retry_after: seconds.map(|seconds| MAX_RETRY_AFTER.min(Duration::from_secs(seconds))),
        }
    }
}

impl ApiError {
    /// The error for an answer with a bad status.
    pub(super) fn refused(
        operation: Operation,
        head: BadHead,
        status: Status,
        url: String,
    ) -> Self {
        let BadHead { code, location, retry_after } = head;
        let message = match (location, shown(&status.message)) {
            (Some(location), _) => {
                format!("it redirects to {location}, which is not followed: name that server")
            }
            (None, empty) if empty.is_empty() => {
                code.canonical_reason().unwrap_or("no reason").to_lowercase()
            }
            (None, message) => message,
        };
        match code {
            StatusCode::UNAUTHORIZED => Self::Unauthorized { url, message },
            StatusCode::FORBIDDEN => Self::Forbidden { url, operation, message },
            StatusCode::GONE => Self::Gone { operation, message },
            _ => Self::Refused { operation, url, code: code.as_u16(), message, retry_after },
        }
    }

    /// The error that a watch ends with.
    pub(super) fn ended(status: Status) -> Self {
        let message = match shown(&status.message) {
            empty if empty.is_empty() => format!("an error with code {}", status.code),
            message => message,
        };
        match status.code == StatusCode::GONE.as_u16() {
            true => Self::Gone { operation: Operation::WatchNodes, message },
            false => Self::WatchEnded(message),
        }
    }

    /// How long the server wants us to wait.
    pub(in crate::control::subnet::kube) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused { retry_after: Some(asked), .. } => *asked,
            Self::Refused { .. }
            | Self::Http(_)
            | Self::Credentials(_)
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Gone { .. }
            | Self::WatchEnded(_)
            | Self::EndlessWatch
            | Self::Malformed(..) => Duration::ZERO,
        }
    }

    /// Whether no server answered, so that what it holds is not known.
    pub(in crate::control::subnet::kube) const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Http(_))
    }

    /// Whether the server sheds load: what was asked for can be asked for again.
    pub(in crate::control::subnet::kube) const fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { code: 429, .. })
    }

    /// Whether what was asked about does not exist.
    pub(in crate::control::subnet::kube) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// A text of the server on one line.
fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_MESSAGE)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .replace("\\\"", "\"")
}
