//! [`HttpError`]: why a server gave no answer that can be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

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
    /// There is no connection.
    Connect(String),
    /// There is a connection, but no TLS on it.
    Tls(String),
    /// The head of the answer did not come in time.
    Silent(Duration),
    /// The connection ended before the answer did.
    Broken(String),
    /// The rest of the answer did not come in time.
    Slow(Duration),
    /// The answer, or a line of it, has more bytes than this.
    TooLong(usize),
}

impl HttpError {
    pub(super) const fn new(service: &'static str, url: String, fault: Fault) -> Self {
        Self { service, url, fault }
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
            Fault::Connect(reason) => write!(f, "{service} does not answer at {url} ({reason})"),
            Fault::Tls(reason) => write!(f, "no TLS with {service} at {url} ({reason})"),
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

/// What the kernel says, in its words: `connection refused`.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error().is_none() {
        return text;
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

/// The last cause of an error, which is the one that a person can do something about.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.downcast_ref::<io::Error>().map_or_else(|| last.to_string(), plain)
}
