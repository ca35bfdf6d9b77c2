//! [`Metadata`]: the instance metadata service (IMDS), version 2 or, where that gives no token, 1.

use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::time::Instant;
use tracing::debug;

use crate::control::backend::cloud_route::{
    Answer, CloudError, Endpoint, Environment, Fault, Retries,
};

/// The same addresses on every instance.
const SERVER: &str = "http://169.254.169.254";
const SERVER_V6: &str = "http://[fd00:ec2::254]";

/// How long a token is good for, in seconds: the longest that the service gives.
const TOKEN_TTL: u32 = 21_600;

/// The metadata service.
#[derive(Debug)]
pub(super) struct Metadata {
    server: Endpoint,
    is_disabled: bool,
    session: Session,
}

/// How the service is asked.
#[derive(Debug)]
enum Session {
    /// It is not known yet.
    New,
    /// Version 2.
    V2 { token: HeaderValue, renew_at: Instant },
    /// Version 1: there is no token, for this reason.
    V1(String),
}

impl Metadata {
    pub(super) fn new(environment: &Environment) -> Result<Self, CloudError> {
        const VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
        let is = |name, value: &str| {
            environment.get(&[name]).is_some_and(|found| found.eq_ignore_ascii_case(value))
        };
        let usual = match is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv6") {
            true => SERVER_V6,
            false => SERVER,
        };
        let url = environment.get(&[VARIABLE]);
        let server = Endpoint::metadata(url.as_deref().unwrap_or(usual));
        let server = server.map_err(|error| CloudError(format!("{VARIABLE}: {error}")))?;
        let is_disabled = is("AWS_EC2_METADATA_DISABLED", "true");
        Ok(Self { server, is_disabled, session: Session::New })
    }

    /// The instance that this is.
    pub(super) async fn instance_id(&mut self) -> Result<String, CloudError> {
        const PATH: &str = "meta-data/instance-id";
        match self.find(PATH).await? {
            Some(id) if is_id(&id) => Ok(id),
            Some(id) => {
                let shown: String = id.chars().take(40).collect();
                Err(CloudError(format!("the metadata server says for {PATH}: {shown:?}")))
            }
            None => Err(self.refused(PATH, StatusCode::NOT_FOUND)),
        }
    }

    /// The value at `path` below `/latest`, if there is one.
    pub(super) async fn find(&mut self, path: &str) -> Result<Option<String>, CloudError> {
        if self.is_disabled {
            let line = "AWS_EC2_METADATA_DISABLED is true, so the instance cannot be found out";
            return Err(CloudError(line.to_owned()));
        }
        let mut retries = Retries::new();
        let mut is_fresh = false;
        loop {
            let fault = match self.ask(path).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(Some(answer.text())),
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(None),
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED && !is_fresh => {
                    // The token is too old, or version 1 is switched off.
                    (self.session, is_fresh) = (Session::New, true);
                    continue;
                }
                Ok(answer) => self.refusal(path, answer.status),
                Err(Fault::Transient(reason)) => Fault::Transient(format!(
                    "{reason}; the aws-vpc backend runs on EC2 instances only"
                )),
                Err(fault) => fault,
            };
            retries.wait(fault).await?;
        }
    }

    async fn ask(&mut self, path: &str) -> Result<Answer, Fault> {
        let request = self.server.request(Method::GET, &format!("/latest/{path}"));
        let name = HeaderName::from_static("x-aws-ec2-metadata-token");
        let request = match self.token().await {
            Some(token) => request.header(name, token),
            None => request,
        };
        self.server.call(&request).await
    }

    /// The token of version 2; `None` for version 1.
    async fn token(&mut self) -> Option<HeaderValue> {
        match &self.session {
            Session::V2 { token, renew_at } if Instant::now() < *renew_at => {
                return Some(token.clone());
            }
            Session::V1(_) => return None,
            Session::V2 { .. } | Session::New => {}
        }
        let name = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
        let request = self.server.request(Method::PUT, "/latest/api/token").may_repeat();
        let request = request.header(name, HeaderValue::from(TOKEN_TTL));
        let reason = match self.server.call(&request).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                match HeaderValue::from_str(&answer.text()) {
                    Ok(mut token) => {
                        token.set_sensitive(true);
                        let ttl = Duration::from_secs((TOKEN_TTL - 300).into());
                        let renew_at = Instant::now() + ttl;
                        self.session = Session::V2 { token: token.clone(), renew_at };
                        return Some(token);
                    }
                    Err(_) => "it is no text".to_owned(),
                }
            }
            Ok(answer) => answer.status.to_string(),
            Err(fault) => CloudError::from(fault).to_string(),
        };
        debug!("the metadata server gives no token of IMDSv2 ({reason}): using IMDSv1");
        self.session = Session::V1(reason);
        None
    }

    fn refusal(&mut self, path: &str, status: StatusCode) -> Fault {
        let error = self.refused(path, status).to_string();
        let is_v1 = match &self.session {
            Session::V1(reason) => Some(reason.clone()),
            Session::V2 { .. } | Session::New => None,
        };
        // The next attempt asks for a token again.
        self.session = Session::New;
        match is_v1 {
            Some(reason) if status == StatusCode::UNAUTHORIZED => Fault::Transient(format!(
                "{error}: it requires IMDSv2, but gave no token ({reason}); in a container the \
                 instance needs --http-put-response-hop-limit 2"
            )),
            Some(_) | None if status == StatusCode::FORBIDDEN => Fault::Final(format!(
                "{error}: the instance has it switched off; it needs --http-endpoint enabled"
            )),
            Some(_) | None if status.is_server_error() => Fault::Transient(error),
            Some(_) | None if status == StatusCode::TOO_MANY_REQUESTS => Fault::Throttled(error),
            Some(_) | None => Fault::Final(error),
        }
    }

    fn refused(&self, path: &str, status: StatusCode) -> CloudError {
        let url = self.server.url();
        CloudError(format!("the metadata server at {url} answers {status} for /latest/{path}"))
    }
}

/// Whether this can be the identifier of a resource.
fn is_id(text: &str) -> bool {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !text.is_empty() && text.len() <= 64 && text.chars().all(is_usual)
}
