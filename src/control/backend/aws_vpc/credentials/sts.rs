//! [`Sts`]: AWS's Security Token Service, which gives the credentials of a role.

use std::path::PathBuf;

use aws_credential_types::Credentials;

use super::instant;
use crate::control::backend::aws_vpc::answers::AssumedRole;
use crate::control::backend::aws_vpc::query::{Action, Query};
use crate::control::backend::aws_vpc::region::Region;
use crate::control::backend::cloud_route::{CloudError, Environment, Retries, read_file};

/// The API's name and version.
const API: (&str, &str) = ("STS", "2011-06-15");

/// What AWS's log shows that assumed a role, unless the operator gives a name.
const SESSION: &str = "flanneld";

/// STS in one region.
#[derive(Debug)]
pub(super) struct Sts(Query);

/// A role to assume with other credentials.
#[derive(Debug, Clone)]
pub(super) struct Role {
    arn: String,
    session: String,
    external_id: Option<String>,
}

/// A role to assume with a token in a file, which is replaced there before it expires.
#[derive(Debug, Clone)]
pub(super) struct WebIdentity {
    file: PathBuf,
    arn: String,
    session: String,
}

impl Role {
    pub(super) fn new(arn: String, session: Option<String>, external_id: Option<String>) -> Self {
        Self { arn, session: session.unwrap_or_else(|| SESSION.to_owned()), external_id }
    }
}

impl WebIdentity {
    pub(super) fn new(file: PathBuf, arn: String, session: Option<String>) -> Self {
        Self { file, arn, session: session.unwrap_or_else(|| SESSION.to_owned()) }
    }

    /// That of the environment, if there is one.
    pub(super) fn of(environment: &Environment) -> Result<Option<Self>, CloudError> {
        let Some(file) = environment.get(&["AWS_WEB_IDENTITY_TOKEN_FILE"]) else {
            return Ok(None);
        };
        let Some(arn) = environment.get(&["AWS_ROLE_ARN"]) else {
            let line = "AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not";
            return Err(CloudError(line.to_owned()));
        };
        let session = environment.get(&["AWS_ROLE_SESSION_NAME"]);
        Ok(Some(Self::new(file.into(), arn, session)))
    }
}

impl Sts {
    pub(super) fn new(environment: &Environment, region: Region) -> Result<Self, CloudError> {
        Query::new(environment, API, region).map(Self)
    }

    /// Credentials of a role.
    pub(super) async fn assume(
        &self,
        role: &Role,
        with: &Credentials,
    ) -> Result<Credentials, CloudError> {
        let Role { arn, session, external_id } = role.clone();
        let mut params = vec![("RoleArn", arn.clone()), ("RoleSessionName", session)];
        params.extend(external_id.map(|id| ("ExternalId", id)));
        self.call(&Action { name: "AssumeRole", params, about: arn }, Some(with)).await
    }

    /// Credentials of a role, for the token of an identity provider.
    pub(super) async fn assume_with_web_identity(
        &self,
        identity: &WebIdentity,
    ) -> Result<Credentials, CloudError> {
        let WebIdentity { file, arn, session } = identity.clone();
        let token = read_file(&file).await.map_err(|error| {
            CloudError(format!("web identity token {}: {error}", file.display()))
        })?;
        let token = String::from_utf8_lossy(&token).trim().to_owned();
        let params = vec![
            ("RoleArn", arn.clone()),
            ("RoleSessionName", session),
            ("WebIdentityToken", token),
        ];
        self.call(&Action { name: "AssumeRoleWithWebIdentity", params, about: arn }, None).await
    }

    async fn call(
        &self,
        action: &Action,
        with: Option<&Credentials>,
    ) -> Result<Credentials, CloudError> {
        let mut retries = Retries::new();
        let answer: AssumedRole = loop {
            match self.0.call(action, with).await {
                Ok(answer) => break answer,
                Err(refused) => retries.wait(refused.fault).await?,
            }
        };
        let found = answer.result.credentials;
        let end = instant(&found.expiration)
            .map_err(|reason| CloudError(format!("STS {action}: {reason}")))?;
        let (id, secret) = (found.access_key_id, found.secret_access_key);
        Ok(Credentials::new(id, secret, Some(found.session_token), Some(end), "sts"))
    }
}
