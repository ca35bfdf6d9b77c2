//! A real etcd on loopback, for tests.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;

use crate::control::util::test_port::free_addr;

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Most that an answer to a test's own questions takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The smallest store that holds the leases of a test, in bytes.
const SMALL_QUOTA: &str = "--quota-backend-bytes=2000000";

/// A server with a data directory of its own. Ends with the value.
pub(crate) struct EtcdServer {
    process: Child,
    data: TempDir,
    pub(crate) url: String,
    peer_url: String,
    args: Vec<String>,
}

impl EtcdServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One with more arguments.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let mut server = Self::spawn("http", args);
        server.wait_until_ready().await;
        server
    }

    /// One that can be [filled](Self::fill).
    pub(crate) async fn start_small() -> Self {
        Self::start_with(&[SMALL_QUOTA]).await
    }

    /// Fills a small one until it takes no write, however short.
    pub(crate) async fn fill(&self) {
        let mut client = self.client().await;
        // What would exceed the quota is refused first, and with it etcd raises an alarm, after which
        // nothing at all is taken.
        let (long, short) = (300_000, 1);
        let mut len = long;
        for index in 0..200 {
            match client.put(format!("junk{index}"), vec![b'x'; len], None).await {
                Err(error) if !error.to_string().contains("database space exceeded") => {
                    eprintln!("etcd does not say whether it is full: {error}");
                }
                Err(_) if len == short => return,
                Err(_) => len = short,
                Ok(_) => len = long,
            }
            // etcd measures itself when it commits, ten times a second.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd takes everything");
    }

    /// One that speaks TLS. Its certificate must be good for 127.0.0.1. If there is a `client_ca`,
    /// it takes only clients with a certificate of that.
    pub(crate) async fn start_with_tls(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Self {
        Self::start_with_tls_and(cert, key, client_ca, &[]).await
    }

    /// The same, with more arguments.
    pub(crate) async fn start_with_tls_and(
        cert: &Path,
        key: &Path,
        client_ca: Option<&Path>,
        more: &[&str],
    ) -> Self {
        let [cert, key, ca] = [Some(cert), Some(key), client_ca]
            .map(|path| path.map_or(String::new(), |path| path.display().to_string()));
        let mut args = [&["--cert-file", &cert, "--key-file", &key], more].concat();
        if client_ca.is_some() {
            args.extend(["--client-cert-auth", "--trusted-ca-file", &ca]);
        }
        let mut server = Self::spawn("https", &args);
        server.wait_until_it_listens().await;
        server
    }

    /// Ends one with TLS and starts it again; it reads its files again.
    pub(crate) async fn restart_with_tls(&mut self) {
        self.kill();
        self.process = spawn(&self.data, &self.url, &self.peer_url, &self.args);
        self.wait_until_it_listens().await;
    }

    async fn wait_until_it_listens(&mut self) {
        let addr = self.url.trim_start_matches("https://").to_owned();
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&addr).is_err() {
            self.assert_starting(deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(scheme: &str, args: &[&str]) -> Self {
        let url = format!("{scheme}://{}", free_addr());
        let peer_url = format!("http://{}", free_addr());
        let data = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = spawn(&data, &url, &peer_url, &args);
        Self { process, data, url, peer_url, args }
    }

    /// Ends the process at once, as a power failure does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, with the same data at the same address.
    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.data, &self.url, &self.peer_url, &self.args);
        self.wait_until_ready().await;
    }

    /// Starts it again at the same address, with nothing in it.
    pub(crate) async fn restart_empty(&mut self) {
        self.data = tempfile::tempdir().unwrap();
        self.restart().await;
    }

    /// Starts it again at another address, of which nobody knows; what it had comes back. The next
    /// `restart_at` that leads it back.
    pub(crate) async fn restart_hidden(&mut self) -> String {
        let known = std::mem::replace(&mut self.url, format!("http://{}", free_addr()));
        self.restart().await;
        known
    }

    /// Ends it and starts it again at `url`.
    pub(crate) async fn restart_at(&mut self, url: String) {
        self.kill();
        self.url = url;
        self.restart().await;
    }

    /// A backup of it as it is now.
    pub(crate) fn save(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        etcdctl(&["--endpoints", &self.url, "snapshot", "save"], &dir.path().join("db"));
        dir
    }

    /// Puts a backup in the place of its data, while it does not run.
    pub(crate) fn restore(&mut self, backup: &TempDir) {
        self.data = tempfile::tempdir().unwrap();
        let data = self.data.path().display().to_string();
        let cluster = format!("test={}", self.peer_url);
        let args = ["snapshot", "restore", "--name", "test", "--data-dir", &data]
            .into_iter()
            .chain(["--initial-cluster", &cluster, "--initial-advertise-peer-urls"])
            .chain([self.peer_url.as_str()]);
        std::fs::remove_dir(self.data.path()).unwrap();
        etcdctl(&args.collect::<Vec<&str>>(), &backup.path().join("db"));
    }

    /// Empties it while it does not run.
    pub(crate) fn wipe(&mut self) {
        self.data = tempfile::tempdir().unwrap();
    }

    /// Makes it another cluster, while it does not run.
    pub(crate) fn become_another_cluster(&mut self) {
        self.wipe();
        self.args.extend(["--initial-cluster-token".to_owned(), "another".to_owned()]);
    }

    /// Stops (`STOP`) or resumes (`CONT`) the process, connections and all.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) async fn client(&self) -> Client {
        let options = ConnectOptions::new().with_timeout(CALL_TIMEOUT);
        Client::connect([&self.url], Some(options)).await.unwrap()
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut client = self.client().await;
        while let Err(error) = client.get("ready", None).await {
            if error.to_string().contains("user name is empty") {
                return; // it answers, if only those whom it knows
            }
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

fn spawn(data: &TempDir, url: &str, peer_url: &str, args: &[String]) -> Child {
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

/// Runs `etcdctl` with `args` and, behind them, a path.
fn etcdctl(args: &[&str], path: &Path) {
    let run = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).arg(path).output();
    let run = run.expect("cannot run `etcdctl`: install etcd-client");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
