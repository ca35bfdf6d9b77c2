//! [`HttpError`]: why a server gave no answer that can be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::control::util::server_fault::{ServerFault, plain};

/// Why a server gave no answer. One line that says what did not work, and at which URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError {
    service: &'static str,
    url: String,
    fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The URL names no server.
    Url(String),
    /// The certificates cannot be used.
    Setup(String),
    /// The request cannot be written.
    Request(String),
    /// There is no connection, or none with TLS on it.
    Connect(ServerFault),
    /// The head of the answer did not come in time.
    Silent(Duration),
    /// The connection ended before the answer did.
    Broken(String),
    /// There was none, or none that is HTTP.
    Unanswered(ServerFault),
    /// The rest of the answer did not come in time.
    Slow(Duration),
    /// The answer, or a line of it, has more bytes than this.
    TooLong(usize),
}

impl Fault {
    /// Why there is no head of an answer, as hyper tells.
    pub(super) fn of(error: &hyper::Error) -> Self {
        match ServerFault::of(error) {
            Some(fault) => Self::Unanswered(fault),
            None if error.is_incomplete_message() => Self::Unanswered(ServerFault::Closed),
            None if error.is_parse() => {
                Self::Unanswered(ServerFault::Other("its answer is no HTTP".to_owned()))
            }
            None => Self::Broken(cause(error)),
        }
    }
}

impl HttpError {
    pub(super) const fn new(service: &'static str, url: String, fault: Fault) -> Self {
        Self { service, url, fault }
    }

    /// Whether there was a connection, and no answer on it that is HTTP.
    pub(super) const fn is_no_answer(&self) -> bool {
        matches!(self.fault, Fault::Unanswered(_))
    }

    /// Why there is no connection that can be used, or no answer on it; `None` for anything else.
    pub(crate) fn server_fault(&self) -> Option<ServerFault> {
        match &self.fault {
            Fault::Connect(fault) | Fault::Unanswered(fault) => Some(fault.clone()),
            Fault::Silent(limit) => Some(ServerFault::Late(*limit)),
            Fault::Url(_)
            | Fault::Setup(_)
            | Fault::Request(_)
            | Fault::Broken(_)
            | Fault::Slow(_)
            | Fault::TooLong(_) => None,
        }
    }
}

impl Error for HttpError {}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, url, fault } = self;
        match fault {
            Fault::Url(reason) => write!(f, "{url:?} is not the URL of {service}: {reason}"),
            Fault::Setup(reason) => write!(f, "TLS with {service} at {url}: {reason}"),
            Fault::Request(reason) => write!(f, "request to {service} at {url}: {reason}"),
            Fault::Connect(ServerFault::NoTls) => {
                write!(f, "{service} at {url} speaks no TLS, the URL says https")
            }
            Fault::Connect(ServerFault::IsTls) => {
                write!(f, "{service} at {url} speaks TLS, the URL says http")
            }
            Fault::Connect(fault) | Fault::Unanswered(fault) => {
                write!(f, "{service} does not answer at {url} ({fault})")
            }
            Fault::Silent(limit) => {
                write!(f, "{service} does not answer at {url} (no answer within {limit:?})")
            }
            Fault::Broken(reason) => {
                write!(f, "{service} at {url} closed the connection ({reason})")
            }
            Fault::Slow(limit) => {
                write!(f, "{service} at {url} did not finish its answer within {limit:?}")
            }
            Fault::TooLong(max) => {
                write!(f, "{service} at {url} answers with more than {max} bytes")
            }
        }
    }
}

/// The last cause of an error, which is the one that a person can do something about.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.downcast_ref::<io::Error>().map_or_else(|| last.to_string(), plain)
}
