//! Whether a server speaks TLS, found out after a failure, for the message about it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::connect::dial;

/// The first bytes of TLS records of a server that answers: an alert, a handshake (RFC 8446, 5.1).
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;

/// Whether the server answers the first message of TLS with TLS.
pub(super) async fn speaks_tls(host: &str, port: u16, limit: Duration) -> bool {
    let hello = client_hello(host).unwrap_or_default();
    let ask = async {
        let mut stream = dial(host, port, limit).await.ok()?;
        stream.write_all(&hello).await.ok()?;
        stream.read_u8().await.ok()
    };
    matches!(timeout(limit, ask).await, Ok(Some(ALERT | HANDSHAKE)))
}

/// The first message of a TLS client. No certificate is verified after it.
fn client_hello(host: &str) -> Option<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).ok()?.write_tls(&mut hello).ok()?;
    Some(hello)
}
