//! Every way to say where the API server is and who we are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::watch::read_event;
use super::*;
use crate::control::config::kube::{KubeConfig, NodeIdentity};
use crate::control::util::test_certificates::Files;
use crate::lab::kube_api::{Faults, KubeApi};

/// An API server that speaks TLS.
struct Server {
    api: KubeApi,
    files: Files,
    dir: TempDir,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One that wants a client certificate if `is_strict`, and a token if there is one.
    async fn start(is_strict: bool, token: Option<&str>) -> Self {
        let (files, dir) = (Files::make(), tempfile::tempdir().unwrap());
        let api = KubeApi::default();
        api.add_node("nodea", &["10.244.1.0/24"]);
        api.set_faults(Faults { token: token.map(str::to_owned), ..Faults::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(api.clone().serve(listener, Some(acceptor(&files, is_strict))));
        Self { api, files, dir, port, task }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn ca_data(&self) -> String {
        STANDARD.encode(fs::read(self.files.ca()).unwrap())
    }

    /// A kubeconfig of one context with these members of cluster and user, in YAML's flow style.
    fn kubeconfig(&self, cluster: &str, user: &str) -> KubeConfig {
        let path = self.dir.path().join("kubeconfig");
        let text = format!(
            "# a comment\napiVersion: v1\nkind: Config\npreferences: {{}}\n\
             current-context: here\n\
             clusters:\n- name: there\n  cluster: {{server: 'https://127.0.0.1:1'}}\n\
             - name: here\n  cluster:\n    server: {}\n    {cluster}\n\
             users:\n- {{name: nobody, user: {{token: wrong}}}}\n- name: me\n  user: {{{user}}}\n\
             contexts:\n- {{name: there, context: {{cluster: there, user: nobody}}}}\n\
             - {{name: here, context: {{cluster: here, user: me, namespace: x}}}}\n",
            self.url()
        );
        fs::write(&path, text).unwrap();
        KubeConfig { kubeconfig: Some(path), ..config() }
    }
}

pub(super) fn config() -> KubeConfig {
    KubeConfig {
        api_url: None,
        kubeconfig: None,
        service: None,
        prefix: "flannel.alpha.coreos.com".parse().unwrap(),
        net_conf: PathBuf::new(),
        sets_condition: true,
        node: NodeIdentity::Name("nodea".to_owned()),
        queue_depth: 1,
    }
}

fn acceptor(files: &Files, is_strict: bool) -> TlsAcceptor {
    let (certificate, key) = files.pair("server");
    let chain = |path: &Path| {
        let pem = fs::read(path).unwrap();
        CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect::<Vec<_>>()
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match is_strict {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            chain(&files.ca()).into_iter().for_each(|it| roots.add(it).unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    Arc::new(builder.with_single_cert(chain(&certificate), key).unwrap()).into()
}

/// The names of all nodes.
async fn ask(config: &KubeConfig) -> Result<Vec<String>, String> {
    let access = Access::find(config).map_err(|error| error.to_string())?;
    let client = ApiClient::new(access).map_err(|error| error.to_string())?;
    names(&client).await.map_err(|error| error.to_string())
}

async fn names(client: &ApiClient) -> Result<Vec<String>, ApiError> {
    let mut names = Vec::new();
    client.list_nodes(Freshness::Any, |node| names.push(node.metadata.name)).await?;
    Ok(names)
}

#[tokio::test]
async fn every_form_of_token_is_shown() {
    let server = Server::start(false, Some("secret")).await;
    let data = format!("certificate-authority-data: {}", server.ca_data());
    fs::write(server.dir.path().join("token"), "secret\n").unwrap();
    for user in ["token: secret", "tokenFile: token", "tokenFile: token, token: old"] {
        assert_eq!(ask(&server.kubeconfig(&data, user)).await.unwrap(), ["nodea"], "{user}");
    }
    let error = ask(&server.kubeconfig(&data, "token: guessed")).await.unwrap_err();
    let line =
        "does not accept our credentials (Unauthorized): the token or the client certificate";
    assert!(error.contains(line), "{error}");
    assert!(!error.contains("guessed"), "{error}");
    let basic = server.kubeconfig(&data, "username: me, password: p");
    assert!(ask(&basic).await.unwrap_err().contains("does not accept our credentials"));
}

#[tokio::test]
async fn server_is_verified_as_the_cluster_says() {
    let server = Server::start(false, None).await;
    fs::copy(server.files.ca(), server.dir.path().join("ca.pem")).unwrap();
    for cluster in ["certificate-authority: ca.pem", "insecure-skip-tls-verify: true"] {
        assert_eq!(ask(&server.kubeconfig(cluster, "")).await.unwrap(), ["nodea"], "{cluster}");
    }
    let error = ask(&server.kubeconfig("tls-server-name: other", "")).await.unwrap_err();
    assert!(error.ends_with("(its certificate is not trusted)"), "{error}");
    let other = "certificate-authority: ca.pem\n    tls-server-name: other.example";
    let error = ask(&server.kubeconfig(other, "")).await.unwrap_err();
    assert!(error.contains("(its certificate is for another name: "), "{error}");
    let wrong = KubeConfig {
        api_url: Some("https://127.0.0.1:1".to_owned()),
        ..server.kubeconfig("insecure-skip-tls-verify: true", "")
    };
    let error = ask(&wrong).await.unwrap_err();
    assert!(error.contains("does not answer at https://127.0.0.1:1"), "the flag wins: {error}");
}

#[tokio::test]
async fn client_certificate_is_taken_from_files_data_and_a_program() {
    let server = Server::start(true, None).await;
    let ca = format!("certificate-authority-data: {}", server.ca_data());
    let (certificate, key) = server.files.pair("client");
    let files =
        format!("client-certificate: {}, client-key: {}", certificate.display(), key.display());
    let encoded = |path: &Path| STANDARD.encode(fs::read(path).unwrap());
    let data = format!(
        "client-certificate-data: {}, client-key-data: {}",
        encoded(&certificate),
        encoded(&key)
    );
    let status = serde_json::json!({ "status": {
        "clientCertificateData": fs::read_to_string(&certificate).unwrap(),
        "clientKeyData": fs::read_to_string(&key).unwrap(),
    } });
    let program = program(&server, &format!("cat <<'END'\n{status}\nEND"));
    for user in [files, data, program] {
        assert_eq!(ask(&server.kubeconfig(&ca, &user)).await.unwrap(), ["nodea"], "{user}");
    }
    assert!(ask(&server.kubeconfig(&ca, "")).await.is_err());
}

/// The user whose plug-in is this shell script, named by a relative path.
fn program(server: &Server, script: &str) -> String {
    let path = server.dir.path().join("plugin");
    // Written at once: a program that is open for writing cannot be run.
    let fresh = server.dir.path().join("fresh");
    fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(fresh, path).unwrap();
    "exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin, args: [get-token], \
     env: [{name: WHO, value: me}], provideClusterInfo: true, interactiveMode: Never}"
        .to_owned()
}

#[tokio::test]
async fn program_is_asked_once_until_its_token_expires_or_is_refused() {
    let server = Server::start(false, Some("one")).await;
    let ca = format!("certificate-authority-data: {}", server.ca_data());
    let log = server.dir.path().join("log");
    let status = r#"{"kind":"ExecCredential","status":{"token":"'"$(cat token)"'"}}"#;
    let script = format!(
        "cd {}\necho \"$1 $WHO $KUBERNETES_EXEC_INFO\" >>log\necho '{status}'",
        server.dir.path().display()
    );
    let user = program(&server, &script);
    let token = |token: &str| fs::write(server.dir.path().join("token"), token).unwrap();
    token("one");
    let access = Access::find(&server.kubeconfig(&ca, &user)).unwrap();
    let client = ApiClient::new(access).unwrap();
    for _ in 0..3 {
        assert_eq!(names(&client).await.unwrap(), ["nodea"]);
    }
    let logged = || fs::read_to_string(&log).unwrap();
    assert_eq!(logged().lines().count(), 1);
    assert!(
        logged().starts_with("get-token me {\"apiVersion\":\"client.authentication.k8s.io/v1\"")
    );
    assert!(logged().contains(&format!("\"server\":\"{}\"", server.url())), "{}", logged());
    server.api.set_faults(Faults { token: Some("two".to_owned()), ..Faults::default() });
    token("two");
    assert!(matches!(names(&client).await, Err(ApiError::Unauthorized { .. })));
    assert_eq!(names(&client).await.unwrap(), ["nodea"], "it is asked again");
    assert_eq!(logged().lines().count(), 2);
}

#[tokio::test]
async fn program_that_fails_is_named_with_what_it_says() {
    let server = Server::start(false, Some("x")).await;
    let ca = format!("certificate-authority-data: {}", server.ca_data());
    for (script, line) in [
        ("echo no luck >&2; exit 3", "plugin ended with exit status: 3: no luck"),
        ("echo hello", "plugin prints is no ExecCredential: "),
        ("echo '{}'", "plugin prints has no status"),
        ("echo '{\"status\":{}}'", "plugin prints has neither a token nor a certificate"),
        (
            "echo '{\"apiVersion\":\"v9\"}'",
            "plugin prints is of v9, not client.authentication.k8s.io/v1",
        ),
    ] {
        let user = program(&server, script);
        let error = ask(&server.kubeconfig(&ca, &user)).await.unwrap_err();
        assert!(error.starts_with("no credentials for the Kubernetes API server: "), "{error}");
        assert!(error.contains(line), "{error}");
    }
}

#[tokio::test]
async fn program_that_is_missing_is_named_with_its_hint() {
    let server = Server::start(false, Some("x")).await;
    let ca = format!("certificate-authority-data: {}", server.ca_data());
    let absent = "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: no-such-program, \
                  installHint: get it}";
    let error = ask(&server.kubeconfig(&ca, absent)).await.unwrap_err();
    assert!(error.contains("run no-such-program: No such file"), "{error}");
    assert!(error.ends_with("; get it"), "{error}");
}

#[tokio::test]
async fn kubeconfig_that_cannot_be_used_is_one_line() {
    let server = Server::start(false, None).await;
    let read = |text: &str| {
        let path = server.dir.path().join("bad");
        fs::write(&path, text).unwrap();
        let config = KubeConfig { kubeconfig: Some(path), ..config() };
        Access::find(&config).err().unwrap().to_string()
    };
    let context = "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n";
    let cluster = |cluster: &str, user: &str| {
        format!(
            "{context}clusters: [{{name: k, cluster: {{server: 'https://h', {cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    };
    for (text, line) in [
        ("a: [".to_owned(), "is no kubeconfig: "),
        ("{}".to_owned(), "current-context is not set"),
        ("current-context: c".to_owned(), "current-context \"c\" is not among contexts"),
        (context.to_owned(), "cluster \"k\" of context \"c\" is not among clusters"),
        (
            format!("{context}clusters: [{{name: k, cluster: {{server: 'https://h'}}}}]"),
            "user \"u\" of context \"c\" is not among users",
        ),
        (
            cluster("", "exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}"),
            "v1alpha1\", not client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1",
        ),
        (
            cluster(
                "",
                "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}",
            ),
            "interactiveMode: Always, and flanneld has no terminal for x",
        ),
        (cluster("", "as-groups: [a]"), "flanneld does not impersonate"),
        (
            cluster("insecure-skip-tls-verify: true, certificate-authority: /ca", ""),
            "insecure-skip-tls-verify and certificate-authority contradict each other",
        ),
        (
            cluster("certificate-authority-data: '%'", ""),
            "certificate-authority-data is not base64",
        ),
        (cluster("", "client-key: /k"), "client-key without a client-certificate"),
        (cluster("", "auth-provider: {name: gcp}"), "auth-provider: use an exec plug-in instead"),
        (cluster("", "as: root"), "flanneld does not impersonate"),
    ] {
        let error = read(&text);
        assert!(error.starts_with("fail to create kubernetes config: /"), "{error}");
        assert!(error.contains(line), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let absent = KubeConfig { kubeconfig: Some("/no/such/file".into()), ..config() };
    let error = Access::find(&absent).err().unwrap().to_string();
    assert!(error.contains("/no/such/file: cannot be read: No such file"), "{error}");
}

#[tokio::test]
async fn kubeconfig_may_be_json_with_tabs_and_a_server_without_a_scheme() {
    let server = Server::start(false, None).await;
    let KubeConfig { kubeconfig, .. } = server.kubeconfig("insecure-skip-tls-verify: true", "");
    let path = kubeconfig.unwrap();
    let json = serde_json::json!({
        "kind": "Config", "apiVersion": "v1", "current-context": "c", "preferences": {},
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "" } }],
        "clusters": [{ "name": "k", "cluster": {
            "server": format!("127.0.0.1:{}", server.port),
            "certificate-authority-data": server.ca_data(),
        } }],
        "users": [],
    });
    fs::write(&path, format!("{json:#}").replace("  ", "\t")).unwrap();
    let config = KubeConfig { kubeconfig: Some(path.clone()), ..config() };
    assert_eq!(ask(&config).await.unwrap(), ["nodea"], "https, as there is a CA");
    fs::write(&path, format!("{json}").replace(&server.ca_data(), "bm90aGluZw==")).unwrap();
    let error = ask(&config).await.unwrap_err();
    assert!(error.ends_with("CA certificate: there is none in PEM form"), "{error}");
}

#[tokio::test]
async fn pod_shows_the_token_of_its_service_account_and_follows_its_rotation() {
    let server = Server::start(false, Some("first")).await;
    let account = server.dir.path();
    fs::copy(server.files.ca(), account.join("ca.crt")).unwrap();
    let service = Some(("127.0.0.1".to_owned(), server.port.to_string()));
    let config = KubeConfig { service, ..config() };
    let error = Access::find_in(&config, account).err().unwrap().to_string();
    assert!(error.starts_with("fail to create kubernetes config: read /"), "{error}");
    fs::write(account.join("token"), "first").unwrap();
    let client = ApiClient::new(Access::find_in(&config, account).unwrap()).unwrap();
    assert_eq!(names(&client).await.unwrap(), ["nodea"]);
    server.api.set_faults(Faults { token: Some("second".to_owned()), ..Faults::default() });
    fs::write(account.join("token"), "second").unwrap();
    assert_eq!(names(&client).await.unwrap(), ["nodea"]);
    fs::remove_file(account.join("token")).unwrap();
    assert_eq!(names(&client).await.unwrap(), ["nodea"], "the last token that was read");
}

#[test]
fn url_may_have_a_path_and_an_ipv6_address() {
    for (url, server, base) in [
        ("https://h:6443", "https://h:6443", ""),
        ("https://h/k8s/clusters/c-1/", "https://h", "/k8s/clusters/c-1"),
        ("https://[fd00::1]:443/", "https://[fd00::1]:443", ""),
    ] {
        let access = Access::at(url, None, Auth::None);
        assert_eq!((access.url.as_str(), access.base.as_str()), (server, base));
        assert_eq!(ApiClient::new(access).unwrap().url(), format!("{server}{base}"));
    }
}

/// Without the cache a list has pages.
#[tokio::test]
async fn list_is_read_page_by_page() {
    let server = Server::start(false, None).await;
    for number in 0..1200 {
        server.api.add_node(&format!("n{number:04}"), &[]);
    }
    let access = Access::find(&server.kubeconfig("insecure-skip-tls-verify: true", "")).unwrap();
    let client = ApiClient::new(access).unwrap();
    let mut num = 0;
    let version = client.list_nodes(Freshness::Latest, |_| num += 1).await.unwrap();
    assert_eq!((num, version.as_str()), (1201, "1201"));
    assert_eq!(server.api.requests().len(), 3);
}

#[test]
fn answers_that_do_not_read_say_so() {
    for (line, message) in [
        ("{", "watch nodes: the answer of the Kubernetes API server does not read: EOF"),
        (r#"{"type":"NEW","object":{}}"#, "\"NEW\" is no type of an event"),
        (r#"{"type":"ADDED","object":[[1]]}"#, "does not read: invalid type"),
        (
            r#"{"type":"ERROR","object":{"message":"oh\nno"}}"#,
            "the watch of the nodes ended: oh\\nno",
        ),
    ] {
        let error = read_event(line.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let gone = r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#;
    assert!(matches!(read_event(gone.as_bytes()), Err(ApiError::Gone { .. })));
}
