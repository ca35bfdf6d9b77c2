//! [`ExecPlugin`]: a program that prints our credentials, as cloud providers have them.
//!
//! The program and its answer are those of `client.authentication.k8s.io`, v1 and v1beta1.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cluster::Issued;
use crate::control::util::time_text::parse_rfc3339;

/// How long the program may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most characters of what the program says that are shown.
const MAX_SHOWN: usize = 200;

/// A program that prints credentials.
#[derive(Debug)]
pub(super) struct ExecPlugin {
    pub(super) command: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) api_version: String,
    /// What the program learns about the cluster, if it asks for that.
    pub(super) cluster: Option<Value>,
    pub(super) install_hint: Option<String>,
    pub(super) issued: Issued,
    pub(super) state: State,
}

/// What the program printed last.
#[derive(Debug, Default)]
pub(super) struct State {
    known: Mutex<Option<Known>>,
    is_refused: AtomicBool,
}

#[derive(Debug, Clone)]
struct Known {
    token: Option<String>,
    expires: Option<SystemTime>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    status: Option<ExecStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

impl ExecPlugin {
    /// The token, if the program prints one. A certificate goes to `issued`. The program is asked
    /// again when what it printed has expired or is refused.
    pub(super) async fn token(&self) -> Result<Option<String>, String> {
        let mut known = self.state.known.lock().await;
        let is_refused = self.state.is_refused.swap(false, Ordering::Relaxed);
        if let Some(known) = known.as_ref().filter(|known| known.is_valid() && !is_refused) {
            return Ok(known.token.clone());
        }
        let fresh = self.run().await?;
        Ok(known.insert(fresh).token.clone())
    }

    pub(super) fn refused(&self) {
        self.state.is_refused.store(true, Ordering::Relaxed);
    }

    async fn run(&self) -> Result<Known, String> {
        let name = self.command.display();
        let output = Command::new(&self.command)
            .args(&self.args)
            .envs(&self.env)
            .env("KUBERNETES_EXEC_INFO", self.info().to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(TIMEOUT, output)
            .await
            .map_err(|_| format!("{name} printed none within {TIMEOUT:?}"))?
            .map_err(|error| match &self.install_hint {
                Some(hint) => format!("run {name}: {error}; {}", shown(hint.as_bytes())),
                None => format!("run {name}: {error}"),
            })?;
        if !output.status.success() {
            return Err(format!("{name} ended with {}: {}", output.status, shown(&output.stderr)));
        }
        self.read(&output.stdout).map_err(|reason| format!("what {name} prints {reason}"))
    }

    fn read(&self, text: &[u8]) -> Result<Known, String> {
        let credential: ExecCredential = serde_json::from_slice(text)
            .map_err(|error| format!("is no ExecCredential: {error}"))?;
        let version = credential.api_version;
        if !version.is_empty() && version != self.api_version {
            return Err(format!("is of {version:.60}, not {}", self.api_version));
        }
        let status = credential.status.ok_or("has no status")?;
        let pair = match (status.client_certificate_data, status.client_key_data) {
            (Some(certificate), Some(key)) => Some((certificate.into_bytes(), key.into_bytes())),
            (None, None) => None,
            (_, _) => return Err("has a certificate or a key without the other".to_owned()),
        };
        if pair.is_none() && status.token.is_none() {
            return Err("has neither a token nor a certificate".to_owned());
        }
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = pair;
        let expires = status.expiration_timestamp.as_deref().and_then(parse_rfc3339);
        Ok(Known { token: status.token, expires })
    }

    /// What the program is told, by a variable.
    fn info(&self) -> Value {
        let mut spec = json!({ "interactive": false });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        json!({ "apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec })
    }
}

impl Known {
    fn is_valid(&self) -> bool {
        self.expires.is_none_or(|expires| expires > SystemTime::now())
    }
}

/// What a program said, on one line.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.trim().lines().next_back().unwrap_or_default();
    line.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect()
}
