//! [`Credentials`]: Google's "application default credentials", and the tokens that they give.
//!
//! ```text
//! GOOGLE_APPLICATION_CREDENTIALS           a file
//! ~/.config/gcloud/application_default_credentials.json
//! the metadata server                      the instance's service account
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::jwt;
use super::metadata::Metadata;
use crate::control::backend::cloud_route::{
    Answer, CloudError, Endpoint, Environment, Fault, Retries, read_file,
};

/// What we may do with a token of a file: read and write all of Compute Engine.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";

/// How long before its end a token is replaced. The metadata server gives a new one five minutes
/// before the end of the previous one.
const MARGIN: Duration = Duration::from_secs(225);

/// A token for a caller that may live for less than [`MARGIN`] is used this long.
const LEAST: Duration = Duration::from_secs(10);

/// Where tokens come from, and the one in use.
pub(super) struct Credentials {
    /// The file of the variable.
    named: Option<PathBuf>,
    /// The file that `gcloud auth application-default login` writes.
    usual: Option<PathBuf>,
    token: Option<Token>,
}

struct Token {
    text: String,
    renew_at: Instant,
}

/// A file of credentials.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum File {
    ServiceAccount {
        client_email: String,
        private_key: String,
        #[serde(default)]
        private_key_id: Option<String>,
        #[serde(default = "token_uri")]
        token_uri: String,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        #[serde(default = "token_uri")]
        token_uri: String,
    },
}

fn token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct TokenError {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Credentials {
    pub(super) fn new(environment: &Environment) -> Self {
        let named = environment.get(&["GOOGLE_APPLICATION_CREDENTIALS"]).map(PathBuf::from);
        let config = environment.get(&["CLOUDSDK_CONFIG"]).map(PathBuf::from);
        let config = config.or_else(|| environment.in_home(".config/gcloud"));
        let usual = config.map(|dir| dir.join("application_default_credentials.json"));
        Self { named, usual, token: None }
    }

    /// A token that is valid now.
    pub(super) async fn token(&mut self, metadata: &Metadata) -> Result<String, CloudError> {
        if let Some(token) = self.token.as_ref().filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.text.clone());
        }
        let file = match (&self.named, &self.usual) {
            (Some(named), _) => Some(named),
            (None, Some(usual)) if usual.is_file() => Some(usual),
            (None, _) => None,
        };
        let answer = match file {
            Some(path) => exchange(path).await?,
            None => metadata.token().await?,
        };
        let TokenAnswer { access_token, expires_in } = serde_json::from_slice(&answer.body)
            .map_err(|error| CloudError(format!("the token is no JSON of a token: {error}")))?;
        let renew_in = Duration::from_secs(expires_in).saturating_sub(MARGIN).max(LEAST);
        let renew_at = Instant::now() + renew_in.min(Duration::from_secs(24 * 3600));
        self.token = Some(Token { text: access_token.clone(), renew_at });
        Ok(access_token)
    }

    /// Drops the token in use: the API does not take it.
    pub(super) fn forget(&mut self) {
        self.token = None;
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// A token for the credentials in a file.
async fn exchange(path: &Path) -> Result<Answer, CloudError> {
    let at =
        |what: &dyn fmt::Display| CloudError(format!("credentials {}: {what}", path.display()));
    let text = read_file(path).await.map_err(|error| at(&error))?;
    let file: File = serde_json::from_slice(&text).map_err(|error| at(&error))?;
    let (uri, form) = match file {
        File::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
            let claims = jwt::Claims::new(&client_email, SCOPE, &token_uri);
            let signed = jwt::sign(&claims, private_key_id.as_deref(), &private_key);
            let assertion = signed.map_err(|error| at(&error))?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned();
            (token_uri, vec![("grant_type", grant), ("assertion", assertion)])
        }
        File::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
            let form = vec![
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", client_id),
                ("client_secret", client_secret),
                ("refresh_token", refresh_token),
            ];
            (token_uri, form)
        }
    };
    ask(&uri, &form).await.map_err(|error| at(&error))
}

/// Posts `form` to a token endpoint.
async fn ask(uri: &str, form: &[(&str, String)]) -> Result<Answer, CloudError> {
    let server = Endpoint::api("the token endpoint", uri, None)?;
    let request = server.request(Method::POST, "").may_repeat();
    let request = request.body("application/x-www-form-urlencoded", form_encoded(form));
    let mut retries = Retries::new();
    loop {
        let fault = match server.call(&request).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(answer),
            Ok(answer) => {
                let reason = match serde_json::from_slice(&answer.body) {
                    Ok(TokenError { error, error_description }) => {
                        format!("{error}: {error_description}")
                    }
                    Err(_) => answer.status.to_string(),
                };
                let reason = format!("{} refuses a token: {reason}", server.url());
                match answer.status.is_server_error() {
                    true => Fault::Transient(reason),
                    false => Fault::Final(reason),
                }
            }
            Err(fault) => fault,
        };
        retries.wait(fault).await?;
    }
}

fn form_encoded(form: &[(&str, String)]) -> String {
    let encode =
        |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let pairs = form.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}
