//! [`Servers`]: one client per endpoint, and calls that find one that answers.

use std::error::Error as _;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::sync::OnceCell;

use super::settings::{EtcdConfig, EtcdConfigError};
use crate::control::registry::RegistryError;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timings {
    /// A connection, of one server.
    pub(super) connect: Duration,
    /// The answer to one call, of one server.
    pub(super) call: Duration,
    /// Between two pings on a connection with a watch. etcd hangs up on a client that pings more
    /// often than every 5 s (its `--grpc-keepalive-min-time`).
    pub(super) ping: Duration,
    /// Without news on a watch until the server is asked for a sign of life.
    pub(super) silence: Duration,
}

impl Timings {
    pub(super) const DEFAULT: Self = Self {
        connect: Duration::from_secs(2),
        call: Duration::from_secs(5),
        ping: Duration::from_secs(10),
        silence: Duration::from_secs(60),
    };
}

/// Every endpoint with its own client.
///
/// One client for all would choose a server for each call anew, and pay for a dead one again
/// and again; this stays with the server that answered last.
pub(super) struct Servers {
    servers: Vec<Server>,
    /// The one that answered last.
    current: AtomicUsize,
    user: Option<(String, String)>,
    pub(super) timings: Timings,
}

struct Server {
    url: String,
    options: ConnectOptions,
    session: Mutex<Session>,
}

/// A connection, made and made again as needed by the client, and whether we have said there who
/// we are.
#[derive(Clone)]
struct Session {
    client: Client,
    signed_in: Arc<OnceCell<()>>,
}

impl Servers {
    /// Makes the clients. Sends nothing.
    pub(super) async fn new(
        config: &EtcdConfig,
        timings: Timings,
    ) -> Result<Self, EtcdConfigError> {
        let (urls, user) = (config.urls()?, config.user()?);
        let mut options = ConnectOptions::new()
            .with_connect_timeout(timings.connect)
            .with_keep_alive(timings.ping, timings.call)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        // The files are checked even if no endpoint needs them: somebody thinks that one does.
        let tls = if config.wants_tls() { Some(config.tls()?) } else { None };
        if tls.is_some() && urls.iter().any(|url| url.starts_with("http:")) {
            tracing::warn!(
                "TLS files are given, but some of -etcd-endpoints are http: no TLS there"
            );
        }
        let plain = options.clone();
        if urls.iter().any(|url| url.starts_with("https:")) {
            options = options.with_tls(match tls {
                Some(tls) => tls,
                None => config.tls()?,
            });
        }
        let mut servers = Vec::new();
        for url in urls {
            let options = if url.starts_with("https:") { &options } else { &plain };
            let session = Session::prepare(&url, options).await;
            let session = session.map_err(|error| EtcdConfigError::Connection {
                endpoint: url.clone(),
                reason: describe(&error),
            })?;
            let (options, session) = (options.clone(), Mutex::new(session));
            servers.push(Server { url, options, session });
        }
        Ok(Self { servers, current: AtomicUsize::new(0), user, timings })
    }

    /// Asks the server that answered last, then the others, until one gives an answer or a
    /// refusal that any other would give, too.
    ///
    /// A server that fell silent may have done what it was asked. `rpc` must be such that asking
    /// another once more does no harm.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        rpc: impl Fn(Client) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut reasons = vec![String::new(); self.servers.len()];
        let start = self.current.load(Ordering::Relaxed);
        for turn in 0..self.servers.len() {
            let index = (start + turn) % self.servers.len();
            let server = &self.servers[index];
            let session = server.session();
            let asked = async {
                self.sign_in(server, &session).await?;
                rpc(session.client.clone()).await
            };
            let reason = match tokio::time::timeout(self.timings.call, asked).await {
                Ok(Ok(answer)) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) if is_final(&error) => {
                    let reason = format!("{}: {}", server.url, describe(&error));
                    return Err(RegistryError::Call { operation, reason });
                }
                Ok(Err(error)) => describe(&error),
                Err(_) => {
                    server.abandon_session().await;
                    format!("no answer within {:?}", self.timings.call)
                }
            };
            reasons[index] = format!("{}: {reason}", server.url);
        }
        Err(RegistryError::Call { operation, reason: reasons.join("; ") })
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
    async fn prepare(url: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let client = Client::connect([url], Some(options.clone())).await?;
        Ok(Self { client, signed_in: Arc::default() })
    }
}

impl Server {
    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the next call make a new connection. One on which a call got no answer may be dead
    /// without anybody having said so, and pings look after connections with a watch only.
    async fn abandon_session(&self) {
        if let Ok(session) = Session::prepare(&self.url, &self.options).await {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
        }
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

/// An error with its causes, which `Error` itself keeps to itself.
pub(super) fn describe(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), None);
    if let Error::GRpcStatus(status) = error {
        (text, source) = (status.message().to_owned(), status.source());
    } else if let Error::TransportError(error) = error {
        source = error.source();
    }
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
