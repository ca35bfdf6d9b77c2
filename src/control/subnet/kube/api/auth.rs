//! [`Auth`]: how a request says who we are.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::exec::ExecPlugin;
use crate::control::util::atomic_file::read_file;
use crate::control::util::http_client::basic_auth;

/// How long the disk may take before the previous token is used.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How a request says who we are. A client certificate says it without a header.
#[derive(Debug)]
pub(super) enum Auth {
    /// By nothing, or by a certificate.
    None,
    /// By a header that never changes.
    Fixed(HeaderValue),
    /// By the token in a file, which is read for every request: tokens of service accounts are
    /// renewed every hour.
    File(TokenFile),
    /// By what a program prints.
    Exec(Box<ExecPlugin>),
}

/// A token in a file.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    /// What it was when it could last be read.
    last: Mutex<Option<String>>,
}

impl Auth {
    /// The token itself.
    pub(super) fn token(token: &str) -> Result<Self, String> {
        bearer(token).map(Self::Fixed)
    }

    /// The token in a file, and the one to use while the file cannot be read.
    pub(super) fn token_file(path: PathBuf, token: Option<String>) -> Self {
        Self::File(TokenFile { path, last: Mutex::new(token) })
    }

    /// Name and password.
    pub(super) fn basic(name: &str, password: &str) -> Self {
        Self::Fixed(basic_auth(name, password))
    }

    /// The value of the `Authorization` header, if there is one.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, String> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::File(file) => bearer(&file.token().await?).map(Some),
            Self::Exec(plugin) => plugin.token().await?.as_deref().map(bearer).transpose(),
        }
    }

    /// Takes note that the server did not accept us.
    pub(super) fn refused(&self) {
        if let Self::Exec(plugin) = self {
            plugin.refused();
        }
    }
}

impl TokenFile {
    async fn token(&self) -> Result<String, String> {
        let path = self.path.clone();
        let read = timeout(READ_TIMEOUT, spawn_blocking(move || read_token(&path))).await;
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("{} was not read in time", self.path.display())),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, &*last) {
            (Ok(token), _) => Ok(last.insert(token).clone()),
            (Err(_), Some(last)) => Ok(last.clone()),
            (Err(reason), None) => Err(reason),
        }
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = read_file(path).map_err(|error| format!("read {shown}: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    match text.trim() {
        "" => Err(format!("{shown} is empty")),
        token => Ok(token.to_owned()),
    }
}

/// The header of a token. The error does not show it.
fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| "the token has characters that no token has".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
