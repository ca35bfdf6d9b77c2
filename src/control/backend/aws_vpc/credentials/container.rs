//! Credentials of a container, from a service beside it: ECS, EKS Pod Identity.

use std::net::IpAddr;
use std::path::PathBuf;

use aws_credential_types::Credentials;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};

use super::Document;
use crate::control::backend::cloud_route::{
    CloudError, Endpoint, Environment, Fault, Retries, read_file,
};

/// Where ECS has the service.
const ECS: &str = "http://169.254.170.2";

/// Those that the service of the environment gives, if there is one.
pub(super) async fn load(environment: &Environment) -> Result<Option<Credentials>, CloudError> {
    const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let url = match (environment.get(&[RELATIVE]), environment.get(&[FULL])) {
        (Some(path), _) => format!("{ECS}{path}"),
        (None, Some(url)) => url,
        (None, None) => return Ok(None),
    };
    if !may_be_asked(&url) {
        return Err(CloudError(format!(
            "{FULL}: {url} is neither https nor an address of this host or of ECS and EKS"
        )));
    }
    let server = Endpoint::api("the container's credential service", &url, None)?;
    let mut request = server.request(Method::GET, "");
    if let Some(token) = token(environment).await? {
        let value = HeaderValue::from_str(token.trim());
        let line = || CloudError("the token of the container is no text".to_owned());
        let mut value = value.map_err(|_| line())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let mut retries = Retries::new();
    loop {
        let fault = match server.call(&request).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let read = Document::read(&answer.body, "container");
                return read.map(Some).map_err(|reason| CloudError(format!("{url}: {reason}")));
            }
            Ok(answer) => {
                let reason = format!("{url} gives no credentials: {}", answer.status);
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

/// What the service knows the container by.
async fn token(environment: &Environment) -> Result<Option<String>, CloudError> {
    const FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    let Some(path) = environment.get(&[FILE]).map(PathBuf::from) else {
        return Ok(environment.get(&["AWS_CONTAINER_AUTHORIZATION_TOKEN"]));
    };
    let read = read_file(&path).await;
    let read = read.map_err(|error| CloudError(format!("{FILE} {}: {error}", path.display())))?;
    Ok(Some(String::from_utf8_lossy(&read).into_owned()))
}

/// Whether the token and the credentials may cross this connection: only encrypted, or not beyond
/// this host.
fn may_be_asked(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(addr)) => addr.is_loopback() || addr.octets()[..3] == [169, 254, 170],
        Ok(IpAddr::V6(addr)) => addr.is_loopback() || addr.segments()[..2] == [0xfd00, 0xec2],
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::may_be_asked;

    #[test]
    fn credentials_cross_no_network_in_the_clear() {
        for url in [
            "https://example.com/x",
            "http://127.0.0.1:9/x",
            "http://localhost/x",
            "http://169.254.170.2/v2/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://[::1]:80/",
        ] {
            assert!(may_be_asked(url), "{url}");
        }
        for url in ["http://example.com/x", "http://10.0.0.1/", "ftp://127.0.0.1/", "http://[::2]/"]
        {
            assert!(!may_be_asked(url), "{url}");
        }
    }
}
