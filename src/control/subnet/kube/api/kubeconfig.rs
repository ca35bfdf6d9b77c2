//! Reads a kubeconfig, as client-go and kubectl do.

mod resolve;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::access::Access;
use crate::control::util::atomic_file::read_file;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
struct Context {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<Exec>,
    auth_provider: Option<Unsupported>,
    #[serde(rename = "as")]
    impersonates: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<Vec<String>>,
}

/// A member whose content does not matter.
#[derive(Debug, Default, Deserialize)]
struct Unsupported {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    #[serde(default)]
    provide_cluster_info: bool,
    interactive_mode: Option<String>,
    install_hint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// The current context of the kubeconfig at `path`, but the server at `url` if that is given.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn read(path: &Path, url: Option<&str>) -> Result<Access, String> {
    let text = read_file(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(text).map_err(|_| "is not UTF-8 text".to_owned())?;
    let directory = path.parent().unwrap_or(Path::new("."));
    parse(&text)?.into_access(directory, url)
}

fn parse(text: &str) -> Result<Kubeconfig, String> {
    // JSON may be indented by tabs, which YAML does not allow.
    if text.trim_start().starts_with('{')
        && let Ok(found) = serde_json::from_str(text)
    {
        return Ok(found);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        let line: String = error.lines().next().unwrap_or_default().chars().take(200).collect();
        format!("is no kubeconfig: {line}")
    })
}

impl Kubeconfig {
    fn into_access(self, directory: &Path, url: Option<&str>) -> Result<Access, String> {
        let name = self.current_context;
        if name.is_empty() {
            return Err("current-context is not set".to_owned());
        }
        let context = self.contexts.into_iter().find(|it| it.name == name);
        let context =
            context.ok_or_else(|| format!("current-context {name:?} is not among contexts"))?;
        let Context { cluster, user } = context.context;
        let cluster = self.clusters.into_iter().find(|it| it.name == cluster).ok_or_else(|| {
            format!("cluster {cluster:?} of context {name:?} is not among clusters")
        })?;
        let found = self.users.into_iter().find(|it| it.name == user);
        let user = match found {
            Some(found) => found.user,
            None if user.is_empty() => User::default(),
            None => return Err(format!("user {user:?} of context {name:?} is not among users")),
        };
        resolve::access(cluster, user, directory, url)
    }
}
