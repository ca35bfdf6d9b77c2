//! [`Chain`]: the credentials of this node, from the first place that has some.
//!
//! ```text
//! AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY        the environment
//! ~/.aws/credentials, ~/.aws/config               a profile: keys, or a role to assume
//! AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN       a role by the token of an identity provider
//! AWS_CONTAINER_CREDENTIALS_{RELATIVE,FULL}_URI   ECS, EKS Pod Identity
//! the metadata server                             the instance's role
//! ```
//!
//! The order is that of AWS's own SDKs.

mod container;
mod ini;
pub(super) mod profile;
mod sts;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use jiff::Timestamp;
use serde::Deserialize;
use tracing::warn;

use self::sts::{Sts, WebIdentity};
use super::metadata::Metadata;
use super::region::Region;
use crate::control::backend::cloud_route::{CloudError, Environment};

/// How long before their end credentials are replaced: new ones of an instance role appear five
/// minutes before.
const MARGIN: Duration = Duration::from_secs(240);

/// Where credentials are looked for, and those in use.
#[derive(Debug)]
pub(super) struct Chain {
    environment: Environment,
    metadata: Metadata,
    sts: Sts,
    current: Option<Credentials>,
}

/// Credentials as metadata and container services write them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    /// Of the metadata server: whether there are some.
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

impl Chain {
    pub(super) fn new(environment: &Environment, region: Region) -> Result<Self, CloudError> {
        let metadata = Metadata::new(environment)?;
        let sts = Sts::new(environment, region)?;
        Ok(Self { environment: environment.clone(), metadata, sts, current: None })
    }

    /// Credentials that are valid now.
    pub(super) async fn get(&mut self) -> Result<Credentials, CloudError> {
        let left = |credentials: &Credentials| match credentials.expiry() {
            Some(end) => end.duration_since(SystemTime::now()).unwrap_or_default(),
            None => Duration::MAX,
        };
        if let Some(current) = self.current.as_ref().filter(|current| left(current) > MARGIN) {
            return Ok(current.clone());
        }
        match (self.load().await, &self.current) {
            (Ok(loaded), _) => {
                self.current = Some(loaded.clone());
                Ok(loaded)
            }
            (Err(error), Some(current)) if !left(current).is_zero() => {
                warn!("{error}; using the credentials as they are until they expire");
                Ok(current.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Drops the credentials in use: the API does not take them.
    pub(super) fn forget(&mut self) {
        self.current = None;
    }

    async fn load(&mut self) -> Result<Credentials, CloudError> {
        if let Some(found) = self.of_environment()? {
            return Ok(found);
        }
        if let Some(found) = self.of_profile().await? {
            return Ok(found);
        }
        if let Some(identity) = WebIdentity::of(&self.environment)? {
            return self.sts.assume_with_web_identity(&identity).await;
        }
        match container::load(&self.environment).await? {
            Some(found) => Ok(found),
            None => self.of_instance().await,
        }
    }

    fn of_environment(&self) -> Result<Option<Credentials>, CloudError> {
        // The second names are older, and stock reads them.
        let id = self.environment.get(&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"]);
        let secret = self.environment.get(&["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]);
        let token = self.environment.get(&["AWS_SESSION_TOKEN"]);
        let line = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only one of them is set";
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(Some(Credentials::new(id, secret, token, None, "env"))),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(CloudError(line.to_owned())),
        }
    }

    /// Those of a profile, perhaps after assuming its role.
    async fn of_profile(&mut self) -> Result<Option<Credentials>, CloudError> {
        let Some(plan) = profile::read(&self.environment).await? else { return Ok(None) };
        let mut credentials = match plan.base {
            profile::Base::Keys(keys) => keys,
            profile::Base::WebIdentity(identity) => {
                self.sts.assume_with_web_identity(&identity).await?
            }
            profile::Base::Environment => self.of_environment()?.ok_or_else(|| {
                CloudError("credential_source = Environment: AWS_ACCESS_KEY_ID is not set".into())
            })?,
            profile::Base::Container => {
                container::load(&self.environment).await?.ok_or_else(|| {
                    let line = "credential_source = EcsContainer: there is no container service";
                    CloudError(line.to_owned())
                })?
            }
            profile::Base::Instance => self.of_instance().await?,
        };
        for role in &plan.roles {
            credentials = self.sts.assume(role, &credentials).await?;
        }
        Ok(Some(credentials))
    }

    async fn of_instance(&mut self) -> Result<Credentials, CloudError> {
        const PATH: &str = "meta-data/iam/security-credentials/";
        let none = || {
            CloudError(
                "no credentials: none are in the environment, in the shared files or from a \
                 container, and the instance has no IAM role; attach one (an instance profile)"
                    .to_owned(),
            )
        };
        let roles = self.metadata.find(PATH).await?.ok_or_else(none)?;
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty());
        let role = role.ok_or_else(none)?.to_owned();
        let path = format!("{PATH}{role}");
        let text = self.metadata.find(&path).await?.ok_or_else(none)?;
        Document::read(text.as_bytes(), "instance role").map_err(|reason| {
            CloudError(format!("credentials of the instance's role {role}: {reason}"))
        })
    }
}

impl Document {
    /// The credentials that a service answered with.
    fn read(text: &[u8], provider: &'static str) -> Result<Credentials, String> {
        let document: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Self { code, access_key_id, secret_access_key, token, expiration } = document;
        if let Some(code) = code.filter(|code| code != "Success") {
            return Err(code);
        }
        let (Some(id), Some(secret)) = (access_key_id, secret_access_key) else {
            return Err("there is no key in the answer".to_owned());
        };
        let end = expiration.as_deref().map(instant).transpose()?;
        Ok(Credentials::new(id, secret, token, end, provider))
    }
}

/// A time such as `2026-11-26T21:57:13Z`.
fn instant(text: &str) -> Result<SystemTime, String> {
    let parsed: Result<Timestamp, _> = text.parse();
    let parsed = parsed.map_err(|error| format!("Expiration: {error}"))?;
    let since = u64::try_from(parsed.as_second()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(since))
}
