//! [`Region`]: where the instance is, and so which servers know it.

use super::credentials::profile;
use super::metadata::Metadata;
use crate::control::backend::cloud_route::{CloudError, Endpoint, Environment};

/// A region, such as `eu-central-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: String,
    /// Who says so.
    pub(super) source: &'static str,
}

/// The region that the operator names, or else that the instance is in.
pub(super) async fn find(
    environment: &Environment,
    metadata: &mut Metadata,
) -> Result<Region, CloudError> {
    for variable in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        if let Some(name) = environment.get(&[variable]) {
            return checked(name, variable);
        }
    }
    if let Some(name) = profile::region(environment).await? {
        return checked(name, "the profile");
    }
    if let Some(name) = metadata.find("meta-data/placement/region").await? {
        return checked(name, Region::OF_METADATA);
    }
    let zone = metadata.find("meta-data/placement/availability-zone").await?;
    let zone = zone.unwrap_or_default();
    let name = zone.strip_suffix(|last: char| last.is_ascii_lowercase()).unwrap_or(&zone);
    checked(name.to_owned(), Region::OF_METADATA)
}

/// Checks the variables that name servers.
///
/// # Errors
/// [`CloudError`] that begins with the variable at fault.
pub(super) fn check_urls(environment: &Environment) -> Result<(), CloudError> {
    for variable in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_STS"] {
        if let Some(url) = environment.get(&[variable]) {
            let parsed = Endpoint::api("an AWS API", &url, None);
            parsed.map_err(|error| CloudError(format!("{variable}: {error}")))?;
        }
    }
    Ok(())
}

fn checked(name: String, source: &'static str) -> Result<Region, CloudError> {
    let is_usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(is_usual) {
        return Ok(Region { name, source });
    }
    let shown: String = name.chars().take(40).collect();
    Err(CloudError(format!("{source} says that the region is {shown:?}, which is no region")))
}

impl Region {
    /// The source whose word is not to be doubted.
    pub(super) const OF_METADATA: &str = "the metadata server";

    /// The URL of a service in the region, unless a variable names another one.
    pub(super) fn url(&self, environment: &Environment, service: &str) -> String {
        let own = format!("AWS_ENDPOINT_URL_{}", service.to_uppercase());
        let domain = match self.name.starts_with("cn-") {
            true => "amazonaws.com.cn",
            false => "amazonaws.com",
        };
        let usual = || format!("https://{service}.{}.{domain}", self.name);
        environment.get(&[&own, "AWS_ENDPOINT_URL"]).unwrap_or_else(usual)
    }
}
