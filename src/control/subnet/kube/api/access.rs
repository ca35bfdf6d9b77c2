//! [`Access`]: where the API server is and who we are there, by flags and environment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;

use super::auth::Auth;
use super::cluster::ClusterTls;
use super::kubeconfig;
use crate::control::config::kube::KubeConfig;
use crate::control::util::atomic_file::read_file;
use crate::control::util::http_client::TlsSource;

/// Where a pod finds the credentials of its service account: token, CA certificate.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach an API server.
pub(crate) struct Access {
    /// The server's URL without a path.
    pub(super) url: String,
    /// The path of it, without a slash at the end.
    pub(super) base: String,
    pub(super) tls: Option<TlsSource>,
    pub(super) auth: Auth,
    /// The HTTP proxy through which it is reached.
    pub(super) proxy: Option<String>,
}

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nothing says where it is.
    #[error(
        "fail to create kubernetes config: no API server is named: give --kubeconfig-file or \
         --kube-api-url, or run in a pod, where KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT \
         are set"
    )]
    NoServer,
    /// A file of the service account cannot be read.
    #[error("fail to create kubernetes config: read {}", path.display())]
    ServiceAccount {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kubeconfig cannot be used.
    #[error("fail to create kubernetes config: {}: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL names no server, or its certificates cannot be used.
    #[error("{0}")]
    Client(String),
}

impl Access {
    /// The way that flags and environment name: a kubeconfig, a URL alone, or that of a pod.
    ///
    /// # Errors
    /// [`AccessError`].
    pub(crate) fn find(config: &KubeConfig) -> Result<Self, AccessError> {
        Self::find_in(config, Path::new(SERVICE_ACCOUNT))
    }

    pub(super) fn find_in(
        config: &KubeConfig,
        service_account: &Path,
    ) -> Result<Self, AccessError> {
        match (&config.kubeconfig, &config.api_url, &config.service) {
            (Some(path), url, _) => kubeconfig::read(path, url.as_deref())
                .map_err(|reason| AccessError::Kubeconfig { path: path.clone(), reason }),
            (None, Some(url), _) => Ok(Self::at(&with_scheme(url, false), None, Auth::None)),
            (None, None, Some((host, port))) => in_pod(host, port, service_account),
            (None, None, None) => Err(AccessError::NoServer),
        }
    }

    /// The server at `url`, which may have a path.
    pub(super) fn at(url: &str, tls: Option<TlsSource>, auth: Auth) -> Self {
        let url = url.trim_end_matches('/');
        // What is no URL is reported by the client.
        let path = url.parse().map(|uri: Uri| uri.path().trim_end_matches('/').to_owned());
        let path = path.unwrap_or_default();
        let (url, base) = match url.strip_suffix(&path) {
            Some(server) => (server.to_owned(), path),
            None => (url.to_owned(), String::new()),
        };
        Self { url, base, tls, auth, proxy: None }
    }
}

/// As client-go, which takes `10.0.0.1:8080` for a URL without its beginning.
pub(super) fn with_scheme(url: &str, has_tls: bool) -> String {
    match url.contains("://") {
        true => url.to_owned(),
        false => format!("{}://{url}", if has_tls { "https" } else { "http" }),
    }
}

/// As `rest.InClusterConfig` of client-go.
fn in_pod(host: &str, port: &str, directory: &Path) -> Result<Access, AccessError> {
    let (token, ca) = (directory.join("token"), directory.join("ca.crt"));
    for path in [&token, &ca] {
        read_file(path)
            .map_err(|source| AccessError::ServiceAccount { path: path.clone(), source })?;
    }
    let tls = ClusterTls::verified_by(ca);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let tls: TlsSource = Arc::new(move || tls.material());
    Ok(Access::at(&format!("https://{host}:{port}"), Some(tls), Auth::token_file(token, None)))
}
