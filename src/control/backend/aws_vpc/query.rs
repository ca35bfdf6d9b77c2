//! [`Query`]: one call of an API that speaks AWS's query protocol: a signed form, answered in XML.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::answers::Refusal;
use super::region::Region;
use super::server_clock::ServerClock;
use crate::control::backend::cloud_route::{Answer, CloudError, Endpoint, Environment, Fault};
use crate::control::util::http_client::{Request, TlsMaterial, TlsSource};

/// RFC 3986, section 2.3.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An API of a region.
#[derive(Debug)]
pub(super) struct Query {
    server: Endpoint,
    /// `EC2` or `STS`.
    api: &'static str,
    version: &'static str,
    region: Region,
    clock: ServerClock,
}

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) params: Vec<(&'static str, String)>,
    /// What it is about, for messages: a table, an instance.
    pub(super) about: String,
}

/// Why a call failed, and the API's code for it.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) fault: Fault,
}

impl From<Refused> for CloudError {
    fn from(refused: Refused) -> Self {
        refused.fault.into()
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self { code: String::new(), fault }
    }
}

impl Query {
    pub(super) fn new(
        environment: &Environment,
        (api, version): (&'static str, &'static str),
        region: Region,
    ) -> Result<Self, CloudError> {
        let url = region.url(environment, &api.to_lowercase());
        let server = Endpoint::api(api, &url, ca_bundle(environment))?;
        Ok(Self { server, api, version, region, clock: ServerClock::new(api) })
    }

    pub(super) const fn region(&self) -> &Region {
        &self.region
    }

    /// Makes a call once; signed, if there are credentials. Makes it again with the API's time if
    /// our clock is wrong.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        action: &Action,
        credentials: Option<&Credentials>,
    ) -> Result<T, Refused> {
        let mut answer = self.send(action, credentials).await?;
        if answer.status.is_client_error() && self.clock.follow(answer.date) {
            answer = self.send(action, credentials).await?;
        }
        if !answer.status.is_success() {
            return Err(self.refusal(action, &answer));
        }
        let text = String::from_utf8_lossy(&answer.body);
        quick_xml::de::from_str(&text).map_err(|error| {
            self.failed(action, &format!("the answer is no XML of such an answer: {error}")).into()
        })
    }

    async fn send(
        &self,
        action: &Action,
        credentials: Option<&Credentials>,
    ) -> Result<Answer, Fault> {
        let request = self.request(action, credentials);
        let request = request.map_err(|reason| self.failed(action, &reason))?;
        self.server.call(&request).await.map_err(|fault| match fault {
            Fault::Transient(reason) => {
                let (Region { name, source }, called) = (&self.region, self.called(action));
                Fault::Transient(match *source {
                    Region::OF_METADATA => format!("{called}: {reason}"),
                    _ => format!("{called}: {reason}; is the region {name}, as {source} says?"),
                })
            }
            Fault::Throttled(_) | Fault::Final(_) => fault,
        })
    }

    fn request(
        &self,
        Action { name, params, .. }: &Action,
        credentials: Option<&Credentials>,
    ) -> Result<Request, String> {
        let mut body = format!("Action={name}&Version={}", self.version);
        for (key, value) in params {
            body += &format!("&{key}={}", utf8_percent_encode(value, UNRESERVED));
        }
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        // Every call of ours may be made twice: what it asks for is a state.
        let request = self.server.request(Method::POST, "/").may_repeat();
        let request = request.body(form, body.clone());
        match credentials {
            Some(credentials) => self.sign(request, credentials, body.as_bytes()),
            None => Ok(request),
        }
    }

    /// Adds a signature of version 4.
    fn sign(
        &self,
        mut request: Request,
        credentials: &Credentials,
        body: &[u8],
    ) -> Result<Request, String> {
        let identity = credentials.clone().into();
        let service = self.api.to_lowercase();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region.name)
            .name(&service)
            .time(self.clock.now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?;
        let url = format!("{}/", self.server.url());
        let signable =
            SignableRequest::new("POST", url, std::iter::empty(), SignableBody::Bytes(body));
        let signable = signable.map_err(|error| error.to_string())?;
        let signed = sign(signable, &params.into()).map_err(|error| error.to_string())?;
        for (name, value) in signed.into_parts().0.headers() {
            let name: HeaderName = name.parse().map_err(|error| format!("{error}"))?;
            let mut value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        Ok(request)
    }

    fn failed(&self, action: &Action, reason: &str) -> Fault {
        Fault::Final(format!("{}: {reason}", self.called(action)))
    }

    /// The call in messages.
    fn called(&self, Action { name, about, .. }: &Action) -> String {
        format!("{} {name} ({about}, {})", self.api, self.region.name)
    }

    /// Why the API did not do what it was asked to.
    fn refusal(&self, action: &Action, answer: &Answer) -> Refused {
        let text = String::from_utf8_lossy(&answer.body);
        let said: Option<Refusal> = quick_xml::de::from_str(&text).ok();
        let said = said.and_then(Refusal::first);
        let (code, message) = match said {
            Some(said) if !said.code.is_empty() => (said.code, said.message),
            Some(_) | None => (String::new(), answer.status.to_string()),
        };
        let message: String =
            message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // What follows is a text of hundreds of characters that only AWS can read.
        let message = message.split("Encoded authorization failure").next().unwrap_or_default();
        let message = message.trim().trim_end_matches('.');
        let called = self.called(action);
        let reason = match code.as_str() {
            "" => format!("{called}: {message}"),
            code => format!("{called}: {code}: {message}"),
        };
        let fault = match code.as_str() {
            "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "RequestThrottled"
            | "EC2ThrottledException"
            | "TooManyRequestsException"
            | "SlowDown"
            | "PriorRequestNotComplete" => Fault::Throttled(reason),
            _ if answer.status.is_server_error() => Fault::Transient(reason),
            code => match advice(code, self.api, action.name, &self.region) {
                Some(advice) => Fault::Final(format!("{reason}; {advice}")),
                None => Fault::Final(reason),
            },
        };
        Refused { code, fault }
    }
}

/// What the operator can do about a refusal.
fn advice(code: &str, api: &str, action: &str, region: &Region) -> Option<String> {
    Some(match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            format!("allow the IAM action {}:{action}", api.to_lowercase())
        }
        "InvalidInstanceID.NotFound" => {
            format!("is the instance in {}, as {} says?", region.name, region.source)
        }
        // EC2 writes both `ID` and `Id`.
        code if code.to_lowercase().starts_with("invalidroutetableid.") => {
            "correct Backend.RouteTableID in the network config".to_owned()
        }
        "RouteLimitExceeded" => {
            "raise the quota of routes per route table, or remove routes".to_owned()
        }
        "AuthFailure" | "InvalidClientTokenId" | "SignatureDoesNotMatch" | "RequestExpired" => {
            "check the credentials, and the clock of this host".to_owned()
        }
        "OptInRequired" => {
            format!("enable {} for the account, or correct {}", region.name, region.source)
        }
        _ => return None,
    })
}

/// Whether a refusal says that the credentials are valid no more.
pub(super) fn is_expired(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "AuthFailure"
            | "InvalidClientTokenId"
    )
}

/// The CA of the variable, read for every new connection.
pub(super) fn ca_bundle(environment: &Environment) -> Option<TlsSource> {
    const VARIABLE: &str = "AWS_CA_BUNDLE";
    let path = PathBuf::from(environment.get(&[VARIABLE])?);
    Some(Arc::new(move || match std::fs::read(&path) {
        Ok(ca) => Ok(TlsMaterial { ca: Some(ca), ..TlsMaterial::default() }),
        Err(error) => Err(format!("{VARIABLE} {}: {error}", path.display())),
    }))
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
