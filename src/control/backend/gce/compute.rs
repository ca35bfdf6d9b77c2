//! [`Compute`]: the calls of the Compute Engine API that a route needs.

use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::credentials::Credentials;
use super::metadata::Metadata;
use crate::control::backend::cloud_route::{
    Answer, CloudError, Endpoint, Environment, Fault, Retries,
};

/// Where stock finds the API.
const API: &str = "https://www.googleapis.com/compute/v1";

/// How often an operation is asked for, and for how long: stock's numbers.
const POLL: Duration = Duration::from_secs(1);
const MAX_POLLS: u32 = 100;

/// What the operator can do when there are as many routes as there may be.
const QUOTA: &str = "; raise the project's quota of routes, or remove routes";

/// Every so many polls the operation's status is logged, as by stock.
const POLLS_PER_LINE: u32 = 5;

/// The API, with the credentials to call it.
#[derive(Debug)]
pub(super) struct Compute {
    server: Endpoint,
    credentials: Credentials,
    poll: Duration,
}

/// A network or an instance.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub(super) self_link: String,
    /// Of an instance.
    pub(super) can_ip_forward: Option<bool>,
}

/// A route as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Route {
    pub(super) name: String,
    #[serde(default)]
    pub(super) dest_range: String,
    #[serde(default)]
    pub(super) network: String,
    /// Empty if it leads elsewhere, to a VPN for example.
    #[serde(default)]
    pub(super) next_hop_instance: String,
}

/// A route to be. The order of the fields is stock's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewRoute<'a> {
    pub(super) dest_range: String,
    pub(super) name: String,
    pub(super) network: &'a str,
    pub(super) next_hop_instance: &'a str,
    pub(super) priority: u32,
}

/// A change that is under way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    name: String,
    status: String,
    #[serde(default)]
    operation_type: String,
    error: Option<OperationError>,
}

#[derive(Debug, Deserialize)]
struct OperationError {
    #[serde(default)]
    errors: Vec<OperationFault>,
}

#[derive(Debug, Deserialize)]
struct OperationFault {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the API says when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Debug, Deserialize)]
struct RefusalBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<RefusalReason>,
}

#[derive(Debug, Deserialize)]
struct RefusalReason {
    #[serde(default)]
    reason: String,
}

/// One call.
struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Option<Vec<u8>>,
    /// The IAM permission that it needs.
    permission: &'static str,
}

impl Compute {
    pub(super) fn new(
        environment: &Environment,
        credentials: Credentials,
    ) -> Result<Self, CloudError> {
        /// By this variable gcloud finds the API elsewhere.
        const OVERRIDE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE";
        let url = environment.get(&[OVERRIDE]);
        let server = Endpoint::api("the compute API", url.as_deref().unwrap_or(API), None);
        let server = server.map_err(|error| match url {
            Some(_) => CloudError(format!("{OVERRIDE}: {error}")),
            None => error,
        })?;
        Ok(Self { server, credentials, poll: POLL })
    }

    /// The same with another time between two questions for an operation.
    #[cfg(test)]
    pub(super) fn with_poll(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// What there is at `path`, if there is something.
    pub(super) async fn find<T: DeserializeOwned>(
        &mut self,
        metadata: &Metadata,
        path: &str,
        permission: &'static str,
    ) -> Result<Option<T>, CloudError> {
        let call = Call { method: Method::GET, path, body: None, permission };
        let answer = self.call(metadata, &call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => self.read(&call, &answer).map(Some),
        }
    }

    /// The route called `name`, if there is one.
    pub(super) async fn route(
        &mut self,
        metadata: &Metadata,
        project: &str,
        name: &str,
    ) -> Result<Option<Route>, CloudError> {
        let path = format!("projects/{project}/global/routes/{name}");
        self.find(metadata, &path, "compute.routes.get").await
    }

    /// Makes a route, and waits until it is there.
    pub(super) async fn insert_route(
        &mut self,
        metadata: &Metadata,
        project: &str,
        route: &NewRoute<'_>,
    ) -> Result<(), CloudError> {
        let path = format!("projects/{project}/global/routes");
        let body = serde_json::to_vec(route).map_err(|error| CloudError(error.to_string()))?;
        let permission = "compute.routes.create, compute.networks.updatePolicy and \
                          compute.instances.use";
        let call = Call { method: Method::POST, path: &path, body: Some(body), permission };
        let answer = self.call(metadata, &call).await?;
        let operation = self.read(&call, &answer)?;
        self.wait(metadata, project, operation).await
    }

    /// Removes a route, and waits until it is gone.
    pub(super) async fn delete_route(
        &mut self,
        metadata: &Metadata,
        project: &str,
        name: &str,
    ) -> Result<(), CloudError> {
        let path = format!("projects/{project}/global/routes/{name}");
        let permission = "compute.routes.delete and compute.networks.updatePolicy";
        let call = Call { method: Method::DELETE, path: &path, body: None, permission };
        let answer = self.call(metadata, &call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        let operation = self.read(&call, &answer)?;
        self.wait(metadata, project, operation).await
    }

    /// Waits for the end of an operation.
    async fn wait(
        &mut self,
        metadata: &Metadata,
        project: &str,
        mut operation: Operation,
    ) -> Result<(), CloudError> {
        let path = format!("projects/{project}/global/operations/{}", operation.name);
        let permission = "compute.globalOperations.get";
        let call = Call { method: Method::GET, path: &path, body: None, permission };
        for poll in 0..MAX_POLLS {
            let Operation { name, status, operation_type: kind, error } = &operation;
            if let Some(fault) = error.as_ref().map(|error| error.errors.first()) {
                let text = |OperationFault { code, message }: &OperationFault| {
                    let advice = if code == "QUOTA_EXCEEDED" { QUOTA } else { "" };
                    format!("{code}: {}{advice}", one_line(message))
                };
                let reason = fault.map_or_else(|| "no reason is given".to_owned(), text);
                return Err(CloudError(format!("compute API, {kind} operation {name}: {reason}")));
            }
            if status == "DONE" {
                return Ok(());
            }
            if poll % POLLS_PER_LINE == 0 {
                info!("{kind} operation status: {status} waiting for completion...");
            }
            tokio::time::sleep(self.poll).await;
            let answer = self.call(metadata, &call).await?;
            operation = self.read(&call, &answer)?;
        }
        let Operation { name, operation_type: kind, .. } = &operation;
        let limit = self.poll * MAX_POLLS;
        Err(CloudError(format!("compute API, {kind} operation {name}: not done within {limit:?}")))
    }

    /// Makes a call until it is answered: with success, or 404.
    async fn call(&mut self, metadata: &Metadata, call: &Call<'_>) -> Result<Answer, CloudError> {
        let (mut retries, mut is_fresh) = (Retries::new(), false);
        loop {
            let token = self.credentials.token(metadata).await?;
            let fault = match self.once(call, &token).await {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED && !is_fresh => {
                    // It was revoked, perhaps, before its end.
                    self.credentials.forget();
                    is_fresh = true;
                    continue;
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(answer),
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => refusal(call, &answer),
                Err(fault) => fault,
            };
            retries.wait(fault).await?;
        }
    }

    async fn once(&self, call: &Call<'_>, token: &str) -> Result<Answer, Fault> {
        let path = format!("/{}?alt=json", call.path);
        // A route that is inserted twice has the same name.
        let mut request = self.server.request(call.method.clone(), &path).may_repeat();
        if let Some(body) = &call.body {
            request = request.body("application/json", body.clone());
        }
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|_| Fault::Final("the token is no text".to_owned()))?;
        value.set_sensitive(true);
        self.server.call(&request.header(AUTHORIZATION, value)).await
    }

    /// What an answer says.
    fn read<T: DeserializeOwned>(&self, call: &Call<'_>, answer: &Answer) -> Result<T, CloudError> {
        if !answer.status.is_success() {
            return Err(refusal(call, answer).into());
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            let (url, Call { method, path, .. }) = (self.server.url(), call);
            CloudError(format!("the answer of {url} to {method} {path} is no such JSON: {error}"))
        })
    }
}

/// Why the API did not do what it was asked to.
fn refusal(call: &Call<'_>, answer: &Answer) -> Fault {
    let said: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
    let said = said.map(|refusal| refusal.error);
    let message = said.as_ref().map(|said| one_line(&said.message));
    let says = |wanted: &[&str]| {
        let mut reasons = said.iter().flat_map(|said| &said.errors);
        reasons.any(|error| wanted.contains(&error.reason.as_str()))
    };
    let (Call { method, path, permission, .. }, status) = (call, answer.status);
    let message = message.filter(|message| !message.is_empty());
    let message = message.map(|message| format!(": {message}")).unwrap_or_default();
    let reason = format!("compute API, {method} {path}: {status}{message}");
    if says(&["rateLimitExceeded", "userRateLimitExceeded"])
        || status == StatusCode::TOO_MANY_REQUESTS
    {
        return Fault::Throttled(reason);
    }
    match status {
        StatusCode::FORBIDDEN if says(&["quotaExceeded", "limitExceeded"]) => {
            Fault::Final(format!("{reason}{QUOTA}"))
        }
        StatusCode::FORBIDDEN if says(&["accessNotConfigured", "SERVICE_DISABLED"]) => {
            Fault::Final(format!("{reason}; enable the Compute Engine API for the project"))
        }
        StatusCode::FORBIDDEN => Fault::Final(format!(
            "{reason}; grant the service account {permission}, and give the instance the access \
             scope compute-rw"
        )),
        StatusCode::UNAUTHORIZED => {
            Fault::Final(format!("{reason}; the credentials are not valid any more"))
        }
        // Another call made the same route just now.
        StatusCode::CONFLICT => Fault::Final(format!("{reason}; it is checked again")),
        status if status.is_server_error() => Fault::Transient(reason),
        _ => Fault::Final(reason),
    }
}

/// A text of the API, to be followed by ours.
fn one_line(message: &str) -> String {
    message.replace(['\n', '\r'], " ").trim_end().trim_end_matches('.').to_owned()
}

/// Whether two URLs name one resource: the same API has several hosts and versions.
pub(super) fn same_resource(one: &str, other: &str) -> bool {
    let path = |url: &str| url.find("/projects/").map(|at| url[at..].to_owned());
    path(one).is_some() && path(one) == path(other)
}
