//! [`TlsFiles`]: what the operator's TLS files hold, at one time.
//!
//! Certificates are renewed in place while the daemon runs, so the files are read again for every
//! call, of which there are few.

use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};

use crate::control::config::etcd::{EtcdConfig, EtcdConfigError};
use crate::control::util::http_client::TlsMaterial;

const CA_FLAG: &str = "-etcd-cafile";
const CERT_FLAG: &str = "-etcd-certfile";
const KEY_FLAG: &str = "-etcd-keyfile";

const CERTIFICATE: (&str, &str) = ("CERTIFICATE-----", "certificate");
const KEY: (&str, &str) = ("PRIVATE KEY-----", "private key");

/// The content of all TLS files.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::control::subnet::kv::registry) struct TlsFiles {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    pair: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsFiles {
    /// Reads the files that `config` names.
    pub(in crate::control::subnet::kv::registry) fn read(
        config: &EtcdConfig,
    ) -> Result<Self, EtcdConfigError> {
        let ca = config.ca_file.as_ref().map(|path| read_pem(CA_FLAG, path, CERTIFICATE));
        let pair = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => {
                Some((read_pem(CERT_FLAG, cert, CERTIFICATE)?, read_pem(KEY_FLAG, key, KEY)?))
            }
            (Some(path), None) => return Err(half_pair(CERT_FLAG, path, KEY_FLAG)),
            (None, Some(path)) => return Err(half_pair(KEY_FLAG, path, CERT_FLAG)),
            (None, None) => None,
        };
        Ok(Self { ca: ca.transpose()?, pair })
    }

    /// What `https` endpoints are verified against, and what we show them.
    ///
    /// Unlike stock's, a CA file alone counts.
    pub(super) fn options(&self) -> TlsOptions {
        let tls = match &self.ca {
            Some(pem) => TlsOptions::new().ca_certificate(Certificate::from_pem(pem)),
            None => TlsOptions::new().with_native_roots(),
        };
        match &self.pair {
            Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
            None => tls,
        }
    }
}

impl From<TlsFiles> for TlsMaterial {
    fn from(TlsFiles { ca, pair }: TlsFiles) -> Self {
        Self { ca, identity: pair, ..Self::default() }
    }
}

/// A file that holds something between marks that end in `mark`. One that is being written may
/// end in the middle.
fn read_pem(
    flag: &'static str,
    path: &Path,
    (mark, expected): (&str, &'static str),
) -> Result<Vec<u8>, EtcdConfigError> {
    let pem = std::fs::read(path).map_err(|source| EtcdConfigError::File {
        flag,
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&pem);
    let num_marks = |start: &str| {
        text.lines().filter(|line| line.starts_with(start) && line.contains(mark)).count()
    };
    let (num_begun, num_ended) = (num_marks("-----BEGIN "), num_marks("-----END "));
    if num_begun == 0 || num_begun != num_ended {
        return Err(EtcdConfigError::Pem { flag, path: path.to_owned(), expected });
    }
    Ok(pem)
}

fn half_pair(given: &'static str, path: &PathBuf, missing: &'static str) -> EtcdConfigError {
    EtcdConfigError::HalfPair { given, path: path.to_owned(), missing }
}
