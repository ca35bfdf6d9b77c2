//! [`Servers`]: one HTTP client per endpoint, and what their answers mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::answer::{Action, Code, Failure};
use super::path_of;
use crate::control::config::etcd::{EtcdConfig, EtcdConfigError};
use crate::control::subnet::kv::registry::etcd_fault::{self, place};
use crate::control::subnet::kv::registry::etcd3::servers::Timings;
use crate::control::subnet::kv::registry::etcd3::tls::TlsFiles;
use crate::control::subnet::kv::registry::failover::{Failover, Miss};
use crate::control::subnet::kv::registry::{RegistryError, Revision, StoreId};
use crate::control::subnet::lease::excerpt;
use crate::control::util::http_client::{
    HttpClient, HttpError, Request, Response, Timeouts, TlsSource, basic_auth,
};
use crate::control::util::server_fault::ServerFault;

/// Longest answer that is read: some 200 000 leases.
const MAX_ANSWER_LEN: usize = 64 << 20;

/// Longest refusal that is read. etcd's have a hundred bytes; what a proxy says is shown in part.
const MAX_REFUSAL_LEN: usize = 64 << 10;

/// Most characters of an answer that are shown.
const MAX_SHOWN: usize = 80;

/// How long the whole of an answer may take, in times of its head: a long listing.
const BODY_TIMES: u32 = 4;

/// Every endpoint with its own client.
pub(super) struct Servers {
    clients: Vec<HttpClient>,
    failover: Failover,
    user: Option<String>,
    authorization: Option<HeaderValue>,
    pub(super) timings: Timings,
}

/// What a server that speaks v2 said, with what its headers say of the store.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) store: StoreId,
    /// How far the store was.
    pub(super) index: Revision,
    pub(super) result: Result<Action, Failure>,
}

/// A long poll that a server took on.
#[derive(Debug)]
pub(super) struct Poll {
    /// Which of the servers.
    pub(super) server: usize,
    pub(super) store: StoreId,
    pub(super) index: Revision,
    pub(super) result: Result<Response, Failure>,
}

impl Servers {
    pub(super) fn new(config: &EtcdConfig, timings: Timings) -> Result<Self, EtcdConfigError> {
        let (urls, user) = (config.urls()?, config.user()?);
        TlsFiles::read(config)?;
        let files = config.clone();
        let tls: TlsSource = Arc::new(move || match TlsFiles::read(&files) {
            Ok(files) => Ok(files.into()),
            Err(error) => Err(crate::control::util::error_chain::error_chain(&error)),
        });
        let timeouts = Timeouts {
            connect: timings.connect,
            head: timings.call,
            body: timings.call * BODY_TIMES,
        };
        let client = |url: String| {
            HttpClient::new("etcd", &url, Some(Arc::clone(&tls)), timeouts).map_err(|error| {
                EtcdConfigError::Connection { endpoint: url, reason: error.to_string() }
            })
        };
        let clients = urls.into_iter().map(client).collect::<Result<Vec<HttpClient>, _>>()?;
        let failover = Failover::new(clients.len());
        let authorization = user.as_ref().map(|(name, password)| basic_auth(name, password));
        let user = user.map(|(name, _)| name);
        Ok(Self { clients, failover, user, authorization, timings })
    }

    /// See [`Failover::call`].
    pub(super) async fn call(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<Answer, RegistryError> {
        self.call_counted(operation, request, &AtomicU32::new(0)).await
    }

    /// The same, which counts the servers that were asked.
    pub(super) async fn call_counted(
        &self,
        operation: &'static str,
        request: &Request,
        num_asked: &AtomicU32,
    ) -> Result<Answer, RegistryError> {
        let ask = |server| {
            num_asked.fetch_add(1, Ordering::Relaxed);
            self.ask(server, request)
        };
        self.failover.call(operation, ask).await
    }

    /// See [`Failover::read`].
    pub(super) async fn read(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<Answer, RegistryError> {
        self.failover.read(operation, |server| self.ask(server, request)).await
    }

    /// Has a server take on a long poll.
    pub(super) async fn open(
        &self,
        operation: &'static str,
        request: &Request,
    ) -> Result<Poll, RegistryError> {
        self.failover.call(operation, |server| self.poll(server, request)).await
    }

    /// The version of a server, as it says itself.
    pub(super) async fn version(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Version {
            etcdserver: String,
        }
        let ask = |server: usize| async move {
            let answer = self.send(server, &Request::new(Method::GET, "/version")).await?;
            let body = answer.read(MAX_REFUSAL_LEN).await;
            let body = body.map_err(|error| self.miss(server, &error))?;
            let version: Result<Version, _> = serde_json::from_slice(&body);
            version.map_err(|error| Miss::new(error.to_string()))
        };
        Some(self.failover.read("read version", ask).await.ok()?.etcdserver)
    }

    /// The time by a server's clock, as the head of its answer says it: RFC 9110, section 6.6.1.
    pub(super) async fn date(&self) -> Option<String> {
        let ask = |server: usize| async move {
            let answer = self.send(server, &Request::new(Method::GET, "/version")).await?;
            Ok::<_, Miss>(answer.header("date").map(str::to_owned))
        };
        self.failover.read("read the clock", ask).await.ok()?
    }

    /// Has the next requests go by new connections.
    pub(super) fn reconnect(&self) {
        self.clients.iter().for_each(HttpClient::reconnect);
    }

    /// Asks one server.
    pub(super) async fn ask(&self, server: usize, request: &Request) -> Result<Answer, Miss> {
        let Poll { store, index, result, .. } = self.poll(server, request).await?;
        let result = match result {
            Ok(response) => {
                let url = self.clients[server].url();
                let body = response.read(MAX_ANSWER_LEN).await;
                let body = body.map_err(|error| self.miss(server, &error))?;
                Ok(parse(&body).map_err(|reason| wrong_answer(url, &reason))?)
            }
            Err(failure) => Err(failure),
        };
        Ok(Answer { store, index, result })
    }

    /// Asks one server and waits for the head of its answer alone, unless it refuses.
    pub(super) async fn poll(&self, server: usize, request: &Request) -> Result<Poll, Miss> {
        let response = self.send(server, request).await?;
        let store = response.header("x-etcd-cluster-id").unwrap_or("of an unknown id").to_owned();
        let store = StoreId(format!("etcd cluster {store}, v2"));
        let index = response.header("x-etcd-index").and_then(|index| index.parse().ok());
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::CREATED) {
            let Some(index) = index.map(Revision) else {
                return Err(wrong_answer(self.clients[server].url(), "no X-Etcd-Index"));
            };
            return Ok(Poll { server, store, index, result: Ok(response) });
        }
        let body = response.read(MAX_REFUSAL_LEN).await;
        let body = body.map_err(|error| self.miss(server, &error))?;
        let Ok(failure) = serde_json::from_slice::<Failure>(&body) else {
            return Err(self.refusal(server, status, &body));
        };
        let place = place(self.clients[server].url());
        let miss = || Miss::new(format!("etcd at {place} refuses: {failure}"));
        match failure.code() {
            Code::Raft => Err(miss()),
            Code::Other => Err(miss().finally()),
            Code::Unauthorized => Err(self.unauthorized(server)),
            Code::KeyNotFound | Code::CompareFailed | Code::NodeExist | Code::IndexCleared => {
                let index = Revision(index.unwrap_or(failure.index));
                Ok(Poll { server, store, index, result: Err(failure) })
            }
        }
    }

    async fn send(&self, server: usize, request: &Request) -> Result<Response, Miss> {
        let mut request = request.clone();
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        self.clients[server].send(&request).await.map_err(|error| self.miss(server, &error))
    }

    /// What a refusal means that is none of the API's.
    fn refusal(&self, server: usize, status: StatusCode, body: &[u8]) -> Miss {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let said = match serde_json::from_slice::<Message>(body) {
            Ok(Message { message }) => excerpt(message.as_bytes(), MAX_SHOWN),
            Err(_) => excerpt(body.trim_ascii(), MAX_SHOWN),
        };
        let url = self.clients[server].url();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(server),
            StatusCode::NOT_FOUND => {
                Miss::new(format!("etcd at {} does not serve the v2 API", place(url)))
                    .hint("start etcd 3.4 or 3.5 with --enable-v2=true, or use --etcd-api=3")
            }
            // What Go's TLS servers answer to a client without TLS.
            StatusCode::BAD_REQUEST if said.contains("HTTP request to an HTTPS server") => {
                etcd_fault::miss(url, &ServerFault::IsTls)
            }
            _ => Miss::new(format!("etcd at {} answers {status}: {said}", place(url))),
        }
    }

    /// etcd says the same of a wrong password and of a user without the right.
    fn unauthorized(&self, server: usize) -> Miss {
        let url = self.clients[server].url();
        let Some(user) = &self.user else { return etcd_fault::refused_user(url, None) };
        let place = place(url);
        let why = "a wrong password, or no right to this key";
        Miss::new(format!("etcd at {place} refuses user {user:?}: {why}"))
            .hint("see --etcd-username and --etcd-password")
            .finally()
    }

    fn miss(&self, server: usize, error: &HttpError) -> Miss {
        match error.server_fault() {
            Some(fault) => etcd_fault::miss(self.clients[server].url(), &fault),
            None => Miss::new(error.to_string()),
        }
    }
}

/// An answer that succeeded, or an event.
pub(super) fn parse(body: &[u8]) -> Result<Action, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("{error}; found {}", excerpt(body.trim_ascii(), MAX_SHOWN)))
}

fn wrong_answer(url: &str, reason: &str) -> Miss {
    etcd_fault::no_etcd(url, &format!("its answer is not that of the v2 API: {reason}"))
}

/// Reads a key as the whole cluster has it, with what is below it if it is a directory.
pub(super) fn get(key: &str, is_recursive: bool) -> Request {
    let path = path_of(key);
    Request::new(Method::GET, format!("{path}?quorum=true&recursive={is_recursive}&sorted=false"))
}

/// Waits for the next change from `index` on.
pub(super) fn wait(key: &str, is_recursive: bool, index: i64) -> Request {
    let path = path_of(key);
    Request::new(
        Method::GET,
        format!("{path}?recursive={is_recursive}&wait=true&waitIndex={index}"),
    )
}

/// Writes a key if it is as the `condition` of the query says, for so many seconds if any.
pub(super) fn put(key: &str, condition: &str, value: &str, ttl: Option<u64>) -> Request {
    let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
    let form = match ttl {
        Some(secs) => format!("value={value}&ttl={secs}"),
        None => format!("value={value}"),
    };
    Request::new(Method::PUT, format!("{}?{condition}", path_of(key)))
        .body("application/x-www-form-urlencoded", form)
        .may_repeat()
}

/// Deletes a key.
pub(super) fn delete(key: &str) -> Request {
    Request::new(Method::DELETE, path_of(key)).may_repeat()
}
