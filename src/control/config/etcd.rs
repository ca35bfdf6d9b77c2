//! [`EtcdConfig`]: how to reach etcd, checked before anything is sent.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hyper::Uri;

/// Which of etcd's APIs, and so which of its two stores: each shows only its own keys.
/// Parses from `auto`, `3` and `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EtcdApi {
    /// v3, unless only v2 has the network config.
    #[default]
    Auto,
    /// v3, as flannel from 0.18 on.
    V3,
    /// v2, as flannel up to 0.17.
    V2,
}

/// A text that is no [`EtcdApi`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, 3 and 2")]
pub struct UnknownEtcdApi(String);

impl FromStr for EtcdApi {
    type Err = UnknownEtcdApi;

    fn from_str(text: &str) -> Result<Self, UnknownEtcdApi> {
        match text {
            "auto" => Ok(Self::Auto),
            "3" => Ok(Self::V3),
            "2" => Ok(Self::V2),
            _ => Err(UnknownEtcdApi(text.to_owned())),
        }
    }
}

/// Where etcd is and how to talk to it: the values of flannel's `-etcd-*` flags.
#[derive(Clone, Default)]
pub struct EtcdConfig {
    /// `-etcd-endpoints`, split at the commas: `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// `-etcd-prefix`: what all keys begin with.
    pub prefix: String,
    /// `-etcd-api`: where the keys are.
    pub api: EtcdApi,
    /// `-etcd-cafile`: who may sign a server's certificate; the system's list when not given.
    pub ca_file: Option<PathBuf>,
    /// `-etcd-certfile`: our certificate, if servers ask for one.
    pub cert_file: Option<PathBuf>,
    /// `-etcd-keyfile`: the key of our certificate.
    pub key_file: Option<PathBuf>,
    /// `-etcd-username`.
    pub username: Option<String>,
    /// `-etcd-password`.
    pub password: Option<String>,
}

/// What is wrong with an [`EtcdConfig`]. One line that begins with the flag.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// There is no endpoint at all.
    #[error("-etcd-endpoints: empty")]
    NoEndpoints,
    /// One of the endpoints is no URL.
    #[error("-etcd-endpoints: entry {position}: {reason}")]
    Endpoint {
        /// Which of the list, from 1.
        position: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{flag}: read {}", path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else, or only a part of it.
    #[error("{flag}: {} holds no {expected} in PEM form", path.display())]
    Pem {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{given}: {} needs {missing} with it", path.display())]
    HalfPair {
        /// The flag that is there.
        given: &'static str,
        /// Its file.
        path: PathBuf,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A password without a user.
    #[error("-etcd-password: needs -etcd-username with it")]
    NoUser,
    /// The certificates do not fit together, or cannot be used.
    #[error("-etcd-endpoints: {endpoint}: set up connection: {reason}")]
    Connection {
        /// The endpoint.
        endpoint: String,
        /// What the TLS library said.
        reason: String,
    },
}

impl EtcdConfig {
    /// The endpoints as URLs; gaps in the list do not count. One without a scheme speaks TLS if any
    /// TLS file is given, as in etcd's own client.
    pub(crate) fn urls(&self) -> Result<Vec<String>, EtcdConfigError> {
        let default_scheme = if self.wants_tls() { "https" } else { "http" };
        let urls: Result<Vec<String>, EtcdConfigError> = self
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| (index, endpoint.trim()))
            .filter(|(_, endpoint)| !endpoint.is_empty())
            .map(|(index, endpoint)| {
                read_endpoint(endpoint, default_scheme)
                    .map_err(|reason| EtcdConfigError::Endpoint { position: index + 1, reason })
            })
            .collect();
        match urls?.as_slice() {
            [] => Err(EtcdConfigError::NoEndpoints),
            urls => Ok(urls.to_vec()),
        }
    }

    /// Name and password for etcd's authentication, if it is used.
    pub(crate) fn user(&self) -> Result<Option<(String, String)>, EtcdConfigError> {
        let password = self.password.clone().filter(|password| !password.is_empty());
        match (self.username.clone().filter(|name| !name.is_empty()), password) {
            (Some(name), password) => Ok(Some((name, password.unwrap_or_default()))),
            (None, Some(_)) => Err(EtcdConfigError::NoUser),
            (None, None) => Ok(None),
        }
    }

    /// Whether any TLS file is given.
    pub(crate) fn wants_tls(&self) -> bool {
        [&self.ca_file, &self.cert_file, &self.key_file].into_iter().any(Option::is_some)
    }
}

/// Shows everything but the password.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("api", &self.api)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An endpoint as a URL without a path, or what is wrong with it. A user in the URL is not
/// repeated in the message: a password may be next to it.
fn read_endpoint(endpoint: &str, default_scheme: &str) -> Result<String, String> {
    const EXAMPLE: &str = "is not a URL such as http://127.0.0.1:2379";
    if endpoint.contains('@') {
        return Err("a user belongs into -etcd-username, not into the URL".to_owned());
    }
    let (scheme, rest) = endpoint.split_once("://").unwrap_or((default_scheme, endpoint));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("{endpoint:?}: unknown scheme {scheme:?}; use http or https"));
    }
    let url = format!("{scheme}://{}", rest.trim_end_matches('/'));
    let uri: Uri = url.parse().map_err(|error| format!("{endpoint:?} {EXAMPLE}: {error}"))?;
    let has_more = uri.query().is_some() || url.contains('#');
    let is_bare = matches!(uri.path(), "" | "/") && !has_more;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let Some(authority) = authority.filter(|_| is_bare) else {
        return Err(format!("{endpoint:?} {EXAMPLE}"));
    };
    let has_port_text = authority.as_str().len() > authority.host().len();
    if has_port_text && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("{endpoint:?}: bad port"));
    }
    Ok(url)
}

/// `prefix` as Go's `path.Join` leaves it: no empty parts, no `.` or `..`, no `/` at the end.
pub(crate) fn clean_prefix(prefix: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match (part, parts.last()) {
            ("..", Some(&last)) if last != ".." => {
                parts.pop();
            }
            ("..", None) if prefix.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    let root = if prefix.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// `name` under a cleaned `prefix`.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    match prefix {
        "" | "/" => format!("{prefix}{name}"),
        _ => format!("{prefix}/{name}"),
    }
}
