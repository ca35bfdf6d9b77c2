//! [`Metadata`]: what the instance's metadata server says of it.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::control::backend::cloud_route::{
    Answer, CloudError, Endpoint, Environment, Fault, Retries,
};

/// The same address on every instance; its name is `metadata.google.internal`.
const SERVER: &str = "169.254.169.254";

/// Client and server send it, so that neither takes another one for the metadata server's.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

/// The metadata server.
#[derive(Debug)]
pub(super) struct Metadata {
    server: Endpoint,
}

/// Which instance this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) project: String,
    pub(super) zone: String,
    pub(super) instance: String,
    /// The network of the first interface.
    pub(super) network: String,
}

impl Metadata {
    pub(super) fn new(environment: &Environment) -> Result<Self, CloudError> {
        let host = environment.get(&["GCE_METADATA_HOST"]);
        let host = host.as_deref().unwrap_or(SERVER);
        // It is a host, but some write its URL.
        let host = host.strip_prefix("http://").unwrap_or(host).trim_end_matches('/');
        let server = Endpoint::metadata(&format!("http://{host}/computeMetadata/v1"));
        let server = server.map_err(|error| CloudError(format!("GCE_METADATA_HOST: {error}")))?;
        Ok(Self { server })
    }

    /// Which instance this is.
    pub(super) async fn identity(&self) -> Result<Identity, CloudError> {
        let network = self.name("/instance/network-interfaces/0/network").await?;
        let project = self.name("/project/project-id").await?;
        let zone = self.name("/instance/zone").await?;
        // The name; older servers have only the host name, which begins with it unless the
        // instance was given another one.
        let instance = match self.find("/instance/name").await? {
            Some(name) => name,
            None => self.get("/instance/hostname").await?,
        };
        let instance = instance.split('.').next().unwrap_or_default().to_owned();
        let instance = checked("/instance/name", instance)?;
        Ok(Identity { project, zone, instance, network })
    }

    /// A token of the instance's service account, as JSON.
    pub(super) async fn token(&self) -> Result<Answer, CloudError> {
        const PATH: &str = "/instance/service-accounts/default/token";
        let answer = self.call(PATH).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND => Err(CloudError(
                "the instance has no service account: give it one with the access scope \
                 compute-rw, or set GOOGLE_APPLICATION_CREDENTIALS"
                    .to_owned(),
            )),
            status => Err(self.refused(PATH, status)),
        }
    }

    /// The last element of a resource's name.
    async fn name(&self, path: &str) -> Result<String, CloudError> {
        let value = self.get(path).await?;
        checked(path, value.rsplit('/').next().unwrap_or_default().to_owned())
    }

    async fn get(&self, path: &str) -> Result<String, CloudError> {
        self.find(path).await?.ok_or_else(|| self.refused(path, StatusCode::NOT_FOUND))
    }

    /// A value, if the server has it.
    async fn find(&self, path: &str) -> Result<Option<String>, CloudError> {
        let answer = self.call(path).await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.text())),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.refused(path, status)),
        }
    }

    async fn call(&self, path: &str) -> Result<Answer, CloudError> {
        let (name, value) = FLAVOR;
        let request = self.server.request(Method::GET, path);
        let request =
            request.header(HeaderName::from_static(name), HeaderValue::from_static(value));
        let otherwise = format!(
            "the server at {} is not the metadata server of Google Compute Engine (its answer has \
             no Metadata-Flavor: Google); the gce backend runs on its instances only",
            self.server.url()
        );
        let mut retries = Retries::new();
        loop {
            let fault = match self.server.call_if(&request, FLAVOR, &otherwise).await {
                Ok(answer) if answer.status.is_server_error() => {
                    Fault::Transient(self.refused(path, answer.status).to_string())
                }
                Ok(answer) => return Ok(answer),
                Err(Fault::Transient(reason)) => Fault::Transient(format!(
                    "{reason}; the gce backend runs on instances of Google Compute Engine only"
                )),
                Err(fault) => fault,
            };
            retries.wait(fault).await?;
        }
    }

    fn refused(&self, path: &str, status: StatusCode) -> CloudError {
        let url = self.server.url();
        CloudError(format!("the metadata server at {url} answers {status} for {path}"))
    }
}

/// `name`, if it can be a part of a URL.
fn checked(path: &str, name: String) -> Result<String, CloudError> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !name.is_empty() && name.len() <= 256 && name.chars().all(is_usual) {
        return Ok(name);
    }
    let shown: String = name.chars().take(40).collect();
    Err(CloudError(format!("the metadata server says for {path}: {shown:?}, which is no name")))
}
