//! [`ClusterTls`]: what the API server's certificate is verified against, and what it is shown.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::control::util::atomic_file::read_file;
use crate::control::util::http_client::TlsMaterial;

/// PEM from a file, which may be another at the next look, or from the kubeconfig itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pem {
    File(PathBuf),
    Data(Vec<u8>),
}

/// A certificate and its key, as an exec plug-in prints them.
pub(super) type Issued = Arc<Mutex<Option<(Vec<u8>, Vec<u8>)>>>;

/// TLS with one cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterTls {
    pub(super) ca: Option<Pem>,
    pub(super) identity: Option<(Pem, Pem)>,
    /// Takes the place of `identity` once there is one.
    pub(super) issued: Option<Issued>,
    pub(super) server_name: Option<String>,
    pub(super) is_unverified: bool,
}

impl ClusterTls {
    pub(super) fn verified_by(ca: PathBuf) -> Self {
        Self { ca: Some(Pem::File(ca)), ..Self::default() }
    }

    /// The material as it is now.
    pub(super) fn material(&self) -> Result<TlsMaterial, String> {
        let issued = self.issued.as_ref();
        let issued =
            issued.and_then(|it| it.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let identity = match (issued, &self.identity) {
            (Some(issued), _) => Some(issued),
            (None, Some((certificate, key))) => Some((certificate.read()?, key.read()?)),
            (None, None) => None,
        };
        Ok(TlsMaterial {
            ca: self.ca.as_ref().map(Pem::read).transpose()?,
            identity,
            server_name: self.server_name.clone(),
            is_unverified: self.is_unverified,
        })
    }
}

impl Pem {
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Data(pem) => Ok(pem.clone()),
            Self::File(path) => {
                read_file(path).map_err(|error| format!("read {}: {error}", path.display()))
            }
        }
    }
}
