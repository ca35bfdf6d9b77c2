//! What a kubeconfig's cluster and user come to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::access::{Access, with_scheme};
use super::super::auth::Auth;
use super::super::cluster::{ClusterTls, Issued, Pem};
use super::super::exec::{ExecPlugin, State};
use super::{Cluster, Exec, NamedCluster, User, Variable};
use crate::control::util::http_client::TlsSource;

/// The versions of exec plug-ins' answers that client-go takes.
const API_VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

pub(super) fn access(
    NamedCluster { name, cluster }: NamedCluster,
    user: User,
    directory: &Path,
    url: Option<&str>,
) -> Result<Access, String> {
    let server = url.map(str::to_owned).or_else(|| cluster.server.clone());
    let server = server.filter(|server| !server.is_empty());
    let server = server.ok_or_else(|| format!("cluster {name:?} has no server"))?;
    let mut cluster = cluster.checked(&name)?;
    let proxy = cluster.proxy_url.take().filter(|proxy| !proxy.is_empty());
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
    // As client-go: what names certificates means TLS.
    let has_tls = tls.ca.is_some() || tls.identity.is_some() || tls.is_unverified;
    let server = with_scheme(&server, has_tls);
    let auth = user.auth(&cluster, &server, issued, directory)?;
    let tls: TlsSource = Arc::new(move || tls.material());
    Ok(Access { proxy, ..Access::at(&server, Some(tls), auth) })
}

impl Cluster {
    fn checked(self, name: &str) -> Result<Self, String> {
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

    /// What a plug-in learns about the cluster.
    fn info(&self, server: &str, directory: &Path) -> Result<serde_json::Value, String> {
        let ca = pem(
            self.certificate_authority.clone(),
            self.certificate_authority_data.as_deref(),
            "certificate-authority-data",
            directory,
        )?;
        let ca = ca.map(|ca| ca.read()).transpose()?;
        Ok(json!({
            "server": server,
            "certificate-authority-data": ca.map(|ca| STANDARD.encode(ca)),
            "tls-server-name": self.tls_server_name,
            "insecure-skip-tls-verify": self.insecure_skip_tls_verify,
        }))
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
        let groups = self.as_groups.is_some_and(|groups| !groups.is_empty());
        if self.impersonates.is_some() || self.as_uid.is_some() || groups {
            return Err("the user has \"as\": flanneld does not impersonate".into());
        }
        match (self.exec, self.token_file, token, self.username) {
            (Some(exec), ..) => {
                let plugin = exec.plugin(cluster, server, issued, directory)?;
                Ok(Auth::Exec(Box::new(plugin)))
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
    ) -> Result<ExecPlugin, String> {
        if !API_VERSIONS.contains(&self.api_version.as_str()) {
            let (found, [v1, v1beta1]) = (&self.api_version, API_VERSIONS);
            return Err(format!("the user's exec has apiVersion {found:?}, not {v1} or {v1beta1}"));
        }
        if self.command.is_empty() {
            return Err("the user's exec has no command".into());
        }
        if self.interactive_mode.as_deref() == Some("Always") {
            return Err(format!(
                "the user's exec has interactiveMode: Always, and flanneld has no terminal for {}",
                self.command
            ));
        }
        // A command with a slash is a path, relative to the kubeconfig; another one is in PATH.
        let command = match self.command.contains('/') {
            true => directory.join(&self.command),
            false => PathBuf::from(&self.command),
        };
        let env = self.env.unwrap_or_default().into_iter();
        let env: BTreeMap<_, _> = env.map(|Variable { name, value }| (name, value)).collect();
        let cluster = match self.provide_cluster_info {
            true => Some(cluster.info(server, directory)?),
            false => None,
        };
        Ok(ExecPlugin {
            command,
            args: self.args.unwrap_or_default(),
            env,
            api_version: self.api_version,
            cluster,
            install_hint: self.install_hint,
            issued,
            state: State::default(),
        })
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
