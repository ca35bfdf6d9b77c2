//! Reads a kubeconfig, as client-go and kubectl do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::access::Access;
use super::auth::Auth;
use super::cluster::{ClusterTls, Issued, Pem};
use super::exec::{ExecPlugin, State};
use crate::control::util::atomic_file::read_file;
use crate::control::util::http_client::TlsSource;

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
        access(cluster, user, directory, url)
    }
}

fn access(
    NamedCluster { name, cluster }: NamedCluster,
    user: User,
    directory: &Path,
    url: Option<&str>,
) -> Result<Access, String> {
    let server = url.map(str::to_owned).or_else(|| cluster.server.clone());
    let server = server.filter(|server| !server.is_empty());
    let server = server.ok_or_else(|| format!("cluster {name:?} has no server"))?;
    let cluster = cluster.checked(&name)?;
    let issued = Issued::default();
    let tls = ClusterTls {
        ca: pem(
            cluster.certificate_authority.clone(),
            cluster.certificate_authority_data.as_deref(),
            "certificate-authority-data",
            directory,
        )?,
        identity: user.identity(directory)?,
        issued: user.exec.is_some().then(|| Arc::clone(&issued)),
        server_name: cluster.tls_server_name.clone(),
        is_unverified: cluster.insecure_skip_tls_verify,
    };
    let auth = user.auth(&cluster, &server, issued, directory)?;
    let tls: TlsSource = Arc::new(move || tls.material());
    Ok(Access::at(&server, Some(tls), auth))
}

impl Cluster {
    fn checked(self, name: &str) -> Result<Self, String> {
        if self.proxy_url.as_ref().is_some_and(|proxy| !proxy.is_empty()) {
            return Err(format!("cluster {name:?}: proxy-url is not supported"));
        }
        let has_ca =
            self.certificate_authority.is_some() || self.certificate_authority_data.is_some();
        if self.insecure_skip_tls_verify && has_ca {
            return Err(format!(
                "cluster {name:?}: insecure-skip-tls-verify and certificate-authority contradict \
                 each other"
            ));
        }
        Ok(self)
    }

    /// What a plug-in is told of the cluster.
    fn info(&self, server: &str) -> serde_json::Value {
        json!({
            "server": server,
            "certificate-authority-data": self.certificate_authority_data,
            "tls-server-name": self.tls_server_name,
            "insecure-skip-tls-verify": self.insecure_skip_tls_verify,
        })
    }
}

impl User {
    fn identity(&self, directory: &Path) -> Result<Option<(Pem, Pem)>, String> {
        let certificate = pem(
            self.client_certificate.clone(),
            self.client_certificate_data.as_deref(),
            "client-certificate-data",
            directory,
        )?;
        let key = pem(
            self.client_key.clone(),
            self.client_key_data.as_deref(),
            "client-key-data",
            directory,
        )?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err("the user has a client-certificate without a client-key".into()),
            (None, Some(_)) => Err("the user has a client-key without a client-certificate".into()),
        }
    }

    fn auth(
        self,
        cluster: &Cluster,
        server: &str,
        issued: Issued,
        directory: &Path,
    ) -> Result<Auth, String> {
        let token = self.token.filter(|token| !token.is_empty());
        if self.auth_provider.is_some() {
            return Err("the user has an auth-provider: use an exec plug-in instead".into());
        }
        if self.impersonates.is_some() {
            return Err("the user has \"as\": flanneld does not impersonate".into());
        }
        match (self.exec, self.token_file, token, self.username) {
            (Some(exec), ..) => {
                Ok(Auth::Exec(Box::new(exec.plugin(cluster, server, issued, directory))))
            }
            (None, Some(path), token, _) => Ok(Auth::token_file(directory.join(path), token)),
            (None, None, Some(token), _) => Auth::token(&token),
            (None, None, None, Some(name)) => {
                Ok(Auth::basic(&name, &self.password.unwrap_or_default()))
            }
            (None, None, None, None) => Ok(Auth::None),
        }
    }
}

impl Exec {
    fn plugin(
        self,
        cluster: &Cluster,
        server: &str,
        issued: Issued,
        directory: &Path,
    ) -> ExecPlugin {
        // A command with a slash is a path, relative to the kubeconfig; another one is in PATH.
        let command = match self.command.contains('/') {
            true => directory.join(&self.command),
            false => PathBuf::from(&self.command),
        };
        let env = self.env.unwrap_or_default().into_iter();
        let env: BTreeMap<_, _> = env.map(|Variable { name, value }| (name, value)).collect();
        ExecPlugin {
            command,
            args: self.args.unwrap_or_default(),
            env,
            api_version: self.api_version,
            cluster: self.provide_cluster_info.then(|| cluster.info(server)),
            install_hint: self.install_hint,
            issued,
            state: State::default(),
        }
    }
}

/// Data wins over a file. A relative path is relative to the kubeconfig.
fn pem(
    file: Option<PathBuf>,
    data: Option<&str>,
    name: &str,
    directory: &Path,
) -> Result<Option<Pem>, String> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let data: String = data.split_ascii_whitespace().collect();
        let pem = STANDARD.decode(data).map_err(|_| format!("{name} is not base64"))?;
        return Ok(Some(Pem::Data(pem)));
    }
    Ok(file.filter(|file| !file.as_os_str().is_empty()).map(|file| Pem::File(directory.join(file))))
}
