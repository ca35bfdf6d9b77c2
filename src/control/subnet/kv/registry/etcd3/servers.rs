//! [`Servers`]: one client per endpoint, and calls that find one that answers.
//!
//! One client for all would choose a server for each call, and pay for a dead one again and
//! again; [`Failover`] stays with the server that answered last.

use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use hyper::Method;
use tokio::sync::OnceCell;

use super::tls::TlsFiles;
use crate::control::config::etcd::{EtcdConfig, EtcdConfigError};
use crate::control::subnet::kv::registry::RegistryError;
use crate::control::subnet::kv::registry::etcd_fault::{self, place};
use crate::control::subnet::kv::registry::failover::{Failover, Miss};
use crate::control::util::http_client::{HttpClient, HttpError, Request, Timeouts, TlsSource};
use crate::control::util::log_limit::LogLimit;
use crate::control::util::server_fault::ServerFault;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(in crate::control::subnet::kv::registry) struct Timings {
    /// A connection, of one server.
    pub(in crate::control::subnet::kv::registry) connect: Duration,
    /// The answer to one call, of one server.
    pub(in crate::control::subnet::kv::registry) call: Duration,
    /// Between two pings on a connection with a watch. etcd hangs up on a client that pings more
    /// often than every 5 s (its `--grpc-keepalive-min-time`).
    pub(in crate::control::subnet::kv::registry) ping: Duration,
    /// Without news on a watch until the server is asked for a sign of life.
    pub(in crate::control::subnet::kv::registry) silence: Duration,
}

impl Timings {
    pub(in crate::control::subnet::kv::registry) const DEFAULT: Self = Self {
        connect: Duration::from_secs(2),
        call: Duration::from_secs(5),
        ping: Duration::from_secs(10),
        silence: Duration::from_secs(60),
    };

    /// For tests in which every server answers, however slow the machine is.
    #[cfg(test)]
    pub(in crate::control::subnet::kv::registry) const PATIENT: Self =
        Self { connect: Duration::from_secs(60), call: Duration::from_secs(60), ..Self::DEFAULT };

    /// For tests that wait for what a server does not say.
    #[cfg(test)]
    pub(in crate::control::subnet::kv::registry) const HASTY: Self = Self {
        connect: Duration::from_secs(2),
        call: Duration::from_secs(4),
        silence: Duration::from_millis(500),
        ..Self::DEFAULT
    };
}

/// Every endpoint with its own client.
pub(super) struct Servers {
    servers: Vec<Server>,
    failover: Failover,
    user: Option<(String, String)>,
    /// Of every connection, but for TLS.
    options: ConnectOptions,
    /// Where the TLS files are.
    config: EtcdConfig,
    log: Mutex<LogLimit>,
    pub(super) timings: Timings,
}

struct Server {
    url: String,
    session: Mutex<Session>,
}

/// A connection, made and made again as needed by the client, and whether we have said there who
/// we are.
#[derive(Clone)]
struct Session {
    client: Client,
    /// What it was made of, where there is TLS.
    tls: Option<TlsFiles>,
    signed_in: Arc<OnceCell<()>>,
}

impl Servers {
    /// Makes the clients. Sends nothing.
    pub(super) async fn new(
        config: &EtcdConfig,
        timings: Timings,
    ) -> Result<Self, EtcdConfigError> {
        let (urls, user) = (config.urls()?, config.user()?);
        let options = ConnectOptions::new()
            .with_connect_timeout(timings.connect)
            .with_keep_alive(timings.ping, timings.call)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        // The files are checked even if no endpoint needs them: somebody thinks that one does.
        let files = TlsFiles::read(config)?;
        if config.wants_tls() && urls.iter().any(|url| url.starts_with("http:")) {
            tracing::warn!(
                "TLS files are given, but some of -etcd-endpoints are http: no TLS there"
            );
        }
        let mut servers = Vec::new();
        for url in urls {
            let tls = url.starts_with("https:").then(|| files.clone());
            let session = Session::prepare(&url, &options, tls).await;
            let session = session.map_err(|error| EtcdConfigError::Connection {
                endpoint: url.clone(),
                reason: describe_set_up(&error),
            })?;
            servers.push(Server { url, session: Mutex::new(session) });
        }
        let (config, log) = (config.clone(), Mutex::default());
        let failover = Failover::new(servers.len());
        Ok(Self { servers, failover, user, options, config, log, timings })
    }

    /// See [`Failover::call`].
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        rpc: impl Fn(Client) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.failover.call(operation, |index| self.ask(index, &rpc)).await
    }

    /// See [`Failover::read`].
    pub(super) async fn read<T, F>(
        &self,
        operation: &'static str,
        rpc: impl Fn(Client) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.failover.read(operation, |index| self.ask(index, &rpc)).await
    }

    /// Asks one server.
    async fn ask<T, F>(&self, index: usize, rpc: &impl Fn(Client) -> F) -> Result<T, Miss>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let server = &self.servers[index];
        let session = self.session(server).await;
        let asked = async {
            self.sign_in(server, &session).await?;
            rpc(session.client.clone()).await
        };
        match tokio::time::timeout(self.timings.call, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.miss(server, &error).await),
            Err(_) => {
                self.abandon_session(server).await;
                Err(etcd_fault::miss(&server.url, &ServerFault::Late(self.timings.call)))
            }
        }
    }

    /// Why a server gave no answer. If it hung up, it is looked at once more.
    async fn miss(&self, server: &Server, error: &Error) -> Miss {
        let url = &server.url;
        match cause(error) {
            Cause::Server(fault) => etcd_fault::miss(url, &fault),
            Cause::HungUp => etcd_fault::hung_up(url, &self.version(url).await),
            Cause::Said(code, text) => {
                let miss = self.refusal(url, code, text);
                if is_final(error) { miss.finally() } else { miss }
            }
            Cause::Other => Miss::new(format!("etcd at {}: {}", place(url), describe(error))),
        }
    }

    /// What the server answers over HTTP/1 when it is asked for its version.
    async fn version(&self, url: &str) -> Result<String, ServerFault> {
        let other = |error: HttpError| ServerFault::Other(error.to_string());
        let fault = |error: HttpError| error.server_fault().unwrap_or_else(|| other(error));
        let files = self.config.clone();
        let tls: TlsSource = Arc::new(move || match TlsFiles::read(&files) {
            Ok(files) => Ok(files.into()),
            Err(error) => Err(chain(&error)),
        });
        let limit = self.timings.connect;
        let timeouts = Timeouts { connect: limit, head: limit, body: limit };
        let client = HttpClient::new("etcd", url, Some(tls), timeouts).map_err(other)?;
        let answer = client.send(&Request::new(Method::GET, "/version")).await.map_err(fault)?;
        let answer = answer.read(MAX_VERSION_LEN).await.map_err(fault)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What an answer means that is none: in etcd's words (`api/v3rpc/rpctypes/error.go`), or in
    /// those of gRPC about a server of another kind.
    fn refusal(&self, url: &str, code: i32, text: &str) -> Miss {
        let user = self.user.as_ref().map(|(name, _)| name.as_str());
        let says = |words: &str| text.contains(words);
        if says("authentication failed") || says("user name is empty") {
            return etcd_fault::refused_user(url, user);
        }
        if says("permission denied") {
            return etcd_fault::no_right(url, user);
        }
        if says("database space exceeded") {
            return Miss::new(format!("etcd at {} has no space left", place(url)))
                .hint("compact and defragment it, then: etcdctl alarm disarm");
        }
        if says("grpc-status header missing") || code == UNIMPLEMENTED {
            return etcd_fault::no_etcd(url, "it does not know etcd's API");
        }
        let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
        Miss::new(format!("etcd at {} refuses: {text}", place(url)))
    }

    /// The session to ask `server` in: another one than before if its TLS files were replaced. One
    /// that is there keeps what it was made of, however often its connection is made again.
    async fn session(&self, server: &Server) -> Session {
        let session = server.session();
        let Some(before) = &session.tls else {
            return session;
        };
        match self.read_files().await {
            Ok(files) if files == *before => session,
            Ok(files) => match Session::prepare(&server.url, &self.options, Some(files)).await {
                Ok(session) => {
                    tracing::info!("{}: connecting with the TLS files as they are now", server.url);
                    server.replace_session(session.clone());
                    session
                }
                Err(error) => {
                    self.keep_files(&describe_set_up(&error));
                    session
                }
            },
            Err(reason) => {
                self.keep_files(&reason);
                session
            }
        }
    }

    /// On a thread that may wait for the disk.
    async fn read_files(&self) -> Result<TlsFiles, String> {
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || TlsFiles::read(&config));
        match tokio::time::timeout(self.timings.connect, read).await {
            Ok(Ok(files)) => files.map_err(|error| chain(&error)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the TLS files were not read within {:?}", self.timings.connect)),
        }
    }

    fn keep_files(&self, reason: &str) {
        if self.log.lock().unwrap_or_else(PoisonError::into_inner).is_due(reason) {
            tracing::warn!("{reason}; going on with the TLS files as they were before");
        }
    }

    /// Has the next call make a new connection. One on which a call got no answer may be dead
    /// without anybody having said so, and pings look after connections with a watch only.
    async fn abandon_session(&self, server: &Server) {
        let tls = server.session().tls;
        if let Ok(session) = Session::prepare(&server.url, &self.options, tls).await {
            server.replace_session(session);
        }
    }

    /// The same for all servers.
    pub(super) async fn abandon_sessions(&self) {
        for server in &self.servers {
            self.abandon_session(server).await;
        }
    }

    /// Shows name and password, once per server; its client keeps the token fresh from there on.
    async fn sign_in(&self, server: &Server, session: &Session) -> Result<(), Error> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        let sign_in = || async {
            match session.client.clone().update_user(Some(user.clone())).await {
                // As etcd's own client: a server without authentication takes everybody.
                Err(Error::GRpcStatus(status)) if status.message().contains("not enabled") => {
                    tracing::warn!(
                        "-etcd-username is given, but {} asks nobody's name",
                        server.url
                    );
                    Ok(())
                }
                result => result,
            }
        };
        session.signed_in.get_or_try_init(sign_in).await.copied()
    }

    /// Has `client` ask for a new token: a watch shows the token it has, however old.
    pub(super) async fn refresh_token(&self, client: &Client) -> Result<(), Error> {
        match self.user {
            Some(_) => client.refresh_token().await,
            None => Ok(()),
        }
    }
}

impl Session {
    /// Sends nothing: without a user, the client connects when it is first used.
    async fn prepare(
        url: &str,
        options: &ConnectOptions,
        tls: Option<TlsFiles>,
    ) -> Result<Self, Error> {
        let options = match &tls {
            Some(files) => options.clone().with_tls(files.options()),
            None => options.clone(),
        };
        let client = Client::connect([url], Some(options)).await?;
        Ok(Self { client, tls, signed_in: Arc::default() })
    }
}

impl Server {
    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace_session(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }
}

/// Longest answer to the question of the version, in bytes; etcd's has 50.
const MAX_VERSION_LEN: usize = 64 << 10;

/// The gRPC status of a server that does not know what it is asked for.
const UNIMPLEMENTED: i32 = 12;

/// Where an error of the client comes from.
enum Cause<'e> {
    /// There is no connection that can be used.
    Server(ServerFault),
    /// There was one, and the server closed it, or sent what is no HTTP/2.
    HungUp,
    /// The server answered with an error: its gRPC status, and in words.
    Said(i32, &'e str),
    /// The client itself.
    Other,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others have a source like any error")]
fn cause(error: &Error) -> Cause<'_> {
    let source = match error {
        Error::GRpcStatus(status) => match status.source() {
            None => return Cause::Said(status.code() as i32, status.message()),
            source => source,
        },
        Error::TransportError(error) => error.source(),
        error => std::error::Error::source(error),
    };
    match source {
        None => Cause::Other,
        Some(source) => match ServerFault::of(source) {
            None | Some(ServerFault::Closed) => Cause::HungUp,
            Some(fault) => Cause::Server(fault),
        },
    }
}

/// Whether another server would say the same: the gRPC status says that the request itself is at
/// fault. The numbers are those of gRPC's `doc/statuscodes.md`.
fn is_final(error: &Error) -> bool {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const PERMISSION_DENIED: i32 = 7;
    const FAILED_PRECONDITION: i32 = 9;
    const OUT_OF_RANGE: i32 = 11;
    const UNAUTHENTICATED: i32 = 16;
    let Error::GRpcStatus(status) = error else {
        return false;
    };
    matches!(
        status.code() as i32,
        INVALID_ARGUMENT
            | NOT_FOUND
            | PERMISSION_DENIED
            | FAILED_PRECONDITION
            | OUT_OF_RANGE
            | UNAUTHENTICATED
    )
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// An error of a connection that is being prepared, with what the TLS library says.
fn describe_set_up(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), None);
    if let Error::TransportError(error) = error {
        source = error.source();
    }
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An error in a few words, whether it comes from etcd or from the way there.
pub(super) fn describe(error: &Error) -> String {
    match cause(error) {
        Cause::Server(fault) => fault.to_string(),
        Cause::HungUp => ServerFault::Closed.to_string(),
        Cause::Said(_, text) => text.to_owned(),
        Cause::Other => error.to_string(),
    }
}
