//! The server as a process, which keeps its nodes in a file, so that it can be killed.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::KubeApi;

/// Serves at `listen` until it is killed, with TLS if there are a certificate and its key. Its nodes
/// are those in the file `store`, if it is there.
pub(in crate::lab) fn run(
    listen: SocketAddrV4,
    store: PathBuf,
    tls: Option<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    let tls = tls.map(|(certificate, key)| acceptor(&certificate, &key)).transpose()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let api = KubeApi::default();
        api.load(&store)?;
        drop(api.shared.file.set(store));
        api.serve(TcpListener::bind(listen).await?, tls).await;
        Ok(())
    })
}

fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    Ok(Arc::new(config.map_err(io::Error::other)?).into())
}

impl KubeApi {
    /// Takes over the nodes of an earlier run, with a version that is later than all of that run.
    fn load(&self, store: &Path) -> io::Result<()> {
        let text = match fs::read_to_string(store) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        let document: Value = serde_json::from_str(&text)?;
        let nodes = document["nodes"].as_array().into_iter().flatten().cloned();
        self.change(|store| {
            nodes.for_each(|node| store.put(node));
            store.revision = document["revision"].as_u64().unwrap_or(0).max(store.revision);
            store.oldest = store.revision;
            store.history.clear();
        });
        Ok(())
    }

    /// Writes all nodes to the file, if there is one.
    pub(super) fn save(&self) {
        let Some(path) = self.shared.file.get() else { return };
        let text = {
            let store = self.store();
            let nodes = store.nodes_after("", usize::MAX);
            json!({ "revision": store.revision, "nodes": nodes }).to_string()
        };
        let fresh = path.with_extension("fresh");
        // What cannot be saved is lost with the process.
        drop(fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)));
    }
}
