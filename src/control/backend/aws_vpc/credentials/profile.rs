//! Profiles of the shared files: keys, or roles to assume with the keys of another profile.

use std::path::PathBuf;

use aws_credential_types::Credentials;

use super::ini::{self, Sections};
use super::sts::{Role, WebIdentity};
use crate::control::backend::cloud_route::{CloudError, Environment, read_file};

/// How a profile gives credentials.
#[derive(Debug)]
pub(in crate::control::backend::aws_vpc) struct ProfilePlan {
    /// Those that come first.
    pub(super) base: Base,
    /// Roles to assume with them, one after the other.
    pub(super) roles: Vec<Role>,
}

/// Where a profile's credentials come from.
#[derive(Debug)]
pub(super) enum Base {
    Keys(Credentials),
    WebIdentity(WebIdentity),
    Environment,
    Container,
    Instance,
}

/// How many profiles may refer to each other in a row.
const MAX_ROLES: usize = 8;

/// The region that the profile names.
pub(in crate::control::backend::aws_vpc) async fn region(
    environment: &Environment,
) -> Result<Option<String>, CloudError> {
    let (name, _) = chosen(environment);
    let sections = sections(environment).await?;
    Ok(sections.get(&name).and_then(|members| members.get("region")).cloned())
}

/// How the chosen profile gives credentials; `None` if it gives none, and nobody chose it.
pub(super) async fn read(environment: &Environment) -> Result<Option<ProfilePlan>, CloudError> {
    let (name, is_asked_for) = chosen(environment);
    let sections = sections(environment).await?;
    match resolve(&sections, &name) {
        Ok(None) if is_asked_for => {
            Err(CloudError(format!("profile {name}: the shared files have no credentials for it")))
        }
        resolved => resolved.map_err(CloudError),
    }
}

/// The profile's name, and whether somebody chose it.
fn chosen(environment: &Environment) -> (String, bool) {
    match environment.get(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]) {
        Some(name) => (name, true),
        None => ("default".to_owned(), false),
    }
}

/// All profiles of both files.
async fn sections(environment: &Environment) -> Result<Sections, CloudError> {
    let mut sections = Sections::new();
    let of_config = |title: &str| match title {
        "default" => Some(title.to_owned()),
        title => title.strip_prefix("profile ").map(|name| name.trim().to_owned()),
    };
    for (variable, usual, is_config) in [
        ("AWS_CONFIG_FILE", ".aws/config", true),
        // Read last: its members win.
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", false),
    ] {
        let named = environment.get(&[variable]).map(PathBuf::from);
        let is_named = named.is_some();
        let Some(path) = named.or_else(|| environment.in_home(usual)) else { continue };
        let text = match read_file(&path).await {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if is_named => {
                let path = path.display();
                return Err(CloudError(format!("{variable} {path}: {error}")));
            }
            Err(_) => continue,
        };
        match is_config {
            true => ini::read(&text, of_config, &mut sections),
            false => ini::read(&text, |title| Some(title.to_owned()), &mut sections),
        }
    }
    Ok(sections)
}

/// Follows the profile `name` to where its credentials begin.
fn resolve(sections: &Sections, name: &str) -> Result<Option<ProfilePlan>, String> {
    let (mut name, mut roles) = (name.to_owned(), Vec::new());
    let is_first = |roles: &Vec<Role>| roles.is_empty();
    loop {
        let at = |what: &str| format!("profile {name}: {what}");
        let Some(profile) = sections.get(&name) else {
            return match is_first(&roles) {
                true => Ok(None),
                false => Err(at("it is in none of the shared files")),
            };
        };
        let member = |key: &str| profile.get(key).filter(|value| !value.is_empty()).cloned();
        let keys = || {
            let (id, secret) = (member("aws_access_key_id")?, member("aws_secret_access_key")?);
            let token = member("aws_session_token");
            Some(Base::Keys(Credentials::new(id, secret, token, None, "profile")))
        };
        let Some(arn) = member("role_arn") else {
            if let Some(base) = keys() {
                roles.reverse();
                return Ok(Some(ProfilePlan { base, roles }));
            }
            let other = ["credential_process", "sso_session", "sso_start_url"];
            return match other.into_iter().find(|key| member(key).is_some()) {
                Some(key) => Err(at(&format!(
                    "this flanneld does not read {key}: use keys, a role, or the instance's role"
                ))),
                None if is_first(&roles) => Ok(None),
                None => Err(at("it has no keys")),
            };
        };
        let session = member("role_session_name");
        if let Some(file) = member("web_identity_token_file") {
            roles.reverse();
            let base = Base::WebIdentity(WebIdentity::new(file.into(), arn, session));
            return Ok(Some(ProfilePlan { base, roles }));
        }
        let role = Role::new(arn, session, member("external_id"));
        roles.push(role);
        if roles.len() > MAX_ROLES {
            return Err(at("source_profile leads round in a circle"));
        }
        let base = match (member("source_profile"), member("credential_source").as_deref()) {
            // Its own keys.
            (Some(source), _) if source == name => {
                keys().ok_or_else(|| at("source_profile names itself, and it has no keys"))?
            }
            (Some(source), _) => {
                name = source;
                continue;
            }
            (None, Some("Environment")) => Base::Environment,
            (None, Some("EcsContainer")) => Base::Container,
            (None, Some("Ec2InstanceMetadata")) => Base::Instance,
            (None, Some(other)) => {
                return Err(at(&format!(
                    "credential_source = {other} is none of Environment, EcsContainer and \
                     Ec2InstanceMetadata"
                )));
            }
            (None, None) => {
                return Err(at(
                    "role_arn needs source_profile or credential_source in the same section",
                ));
            }
        };
        roles.reverse();
        return Ok(Some(ProfilePlan { base, roles }));
    }
}
