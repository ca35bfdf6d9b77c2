//! [`Tls`]: what a server is verified against and what it is shown, as the files are now.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::unverified::Unverified;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::server_fault::{ServerFault, plain};

/// What a client needs for TLS, in PEM form.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsMaterial {
    /// Who may sign the server's certificate; the system's list without it.
    pub(crate) ca: Option<Vec<u8>>,
    /// Our certificate with what leads to its authority, and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate is to have, if not the one in the URL.
    pub(crate) server_name: Option<String>,
    /// Whether any certificate is taken: the operator asked for it.
    pub(crate) is_unverified: bool,
}

/// Reads the material from where it is kept, or says in one line why not.
pub(crate) type TlsSource = Arc<dyn Fn() -> Result<TlsMaterial, String> + Send + Sync>;

/// How long the disk may take before the previous material is used.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How to speak TLS with one server.
pub(super) struct Tls {
    source: TlsSource,
    state: Mutex<State>,
}

struct State {
    material: TlsMaterial,
    config: Arc<ClientConfig>,
    log: LogLimit,
}

impl Tls {
    /// Reads the material for the first time.
    pub(super) fn new(source: Option<TlsSource>) -> Result<Self, String> {
        let source = source.unwrap_or_else(|| Arc::new(|| Ok(TlsMaterial::default())));
        let material = source()?;
        let config = Arc::new(config_of(&material)?);
        let state = Mutex::new(State { material, config, log: LogLimit::default() });
        Ok(Self { source, state })
    }

    /// Speaks TLS on a new connection to `host`.
    pub(super) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ServerFault> {
        let config = self.config().await;
        let name = self.server_name().unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name);
        let name = name.map_err(|error| ServerFault::Other(error.to_string()))?;
        let connector = TlsConnector::from(config);
        let other = |error: &io::Error| ServerFault::Other(plain(error));
        let fault = |error| ServerFault::of(&error).unwrap_or_else(|| other(&error));
        connector.connect(name, stream).await.map_err(fault)
    }

    fn server_name(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.material.server_name.clone()
    }

    /// The material as it is now: certificates are renewed in place while the daemon runs. If
    /// it cannot be read or used, the previous material stays in use.
    async fn config(&self) -> Arc<ClientConfig> {
        let source = Arc::clone(&self.source);
        let read = tokio::task::spawn_blocking(move || source());
        let read = match timeout(READ_TIMEOUT, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the TLS files were not read within {READ_TIMEOUT:?}")),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = match read {
            Ok(material) if material == state.material => Ok(None),
            Ok(material) => config_of(&material).map(|config| Some((material, config))),
            Err(reason) => Err(reason),
        };
        match renewed {
            Ok(None) => {}
            Ok(Some((material, config))) => {
                (state.material, state.config) = (material, Arc::new(config));
            }
            Err(reason) => {
                if state.log.is_due(&reason) {
                    tracing::warn!("{reason}; going on with the TLS files as they were before");
                }
            }
        }
        Arc::clone(&state.config)
    }
}

fn config_of(material: &TlsMaterial) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match material.is_unverified {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new())),
        false => builder.with_root_certificates(roots(material.ca.as_deref())?),
    };
    let Some((certificate, key)) = &material.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("client certificate: {error}"))
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| format!("CA certificate: {error}"))?;
            }
            if roots.is_empty() {
                return Err("CA certificate: there is none in PEM form".to_owned());
            }
        }
        // A certificate that cannot be read verifies no server; the handshake reports that.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(|error| format!("certificate: {error}"))
}
