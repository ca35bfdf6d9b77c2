//! A real etcd on loopback, for tests.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server with a data directory of its own. Ends with the value.
pub(crate) struct EtcdServer {
    process: Child,
    data: TempDir,
    pub(crate) url: String,
    peer_url: String,
}

impl EtcdServer {
    pub(crate) async fn start() -> Self {
        let mut server = Self::spawn("http", &[]);
        server.wait_until_ready().await;
        server
    }

    /// One that speaks TLS. Its certificate must be good for 127.0.0.1.
    pub(crate) async fn start_with_tls(cert: &Path, key: &Path) -> Self {
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let mut server = Self::spawn("https", &["--cert-file", &cert, "--key-file", &key]);
        let addr = server.url.trim_start_matches("https://").to_owned();
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&addr).is_err() {
            server.assert_starting(deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    fn spawn(scheme: &str, args: &[&str]) -> Self {
        let url = format!("{scheme}://{}", free_addr());
        let peer_url = format!("http://{}", free_addr());
        let data = tempfile::tempdir().unwrap();
        let process = spawn(&data, &url, &peer_url, args);
        Self { process, data, url, peer_url }
    }

    /// Ends the process at once, as a power failure does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, with the same data at the same address.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.data, &self.url, &self.peer_url, &[]);
        self.wait_until_ready().await;
    }

    /// Starts it again at the same address, with nothing in it.
    pub(crate) async fn restart_empty(&mut self) {
        self.data = tempfile::tempdir().unwrap();
        self.restart().await;
    }

    /// Stops (`STOP`) or resumes (`CONT`) the process, connections and all.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) async fn client(&self) -> Client {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(5));
        Client::connect([&self.url], Some(options)).await.unwrap()
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut client = self.client().await;
        while client.get("ready", None).await.is_err() {
            self.assert_starting(deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn assert_starting(&mut self, deadline: Instant) {
        assert!(Instant::now() < deadline, "etcd at {} did not start in time", self.url);
        assert_eq!(self.process.try_wait().unwrap(), None, "etcd ended by itself");
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(data: &TempDir, url: &str, peer_url: &str, args: &[&str]) -> Child {
    Command::new("etcd")
        .args(args)
        .args(["--name", "test", "--logger", "zap", "--log-outputs", "/dev/null"])
        .args(["--unsafe-no-fsync", "--initial-cluster", &format!("test={peer_url}")])
        .args(["--listen-client-urls", url, "--advertise-client-urls", url])
        .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
        .arg("--data-dir")
        .arg(data.path())
        .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cannot run `etcd`: install etcd-server")
}

fn free_addr() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
