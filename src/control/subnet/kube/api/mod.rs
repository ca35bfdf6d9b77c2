//! [`ApiClient`]: the four requests that are ever made of the Kubernetes API.
//!
//! | request | verb and resource |
//! |---|---|
//! | `GET /api/v1/namespaces/NS/pods/POD` | get pods |
//! | `GET /api/v1/nodes` | list nodes |
//! | `GET /api/v1/nodes?watch=true` | watch nodes |
//! | `PATCH /api/v1/nodes/NAME/status` | patch nodes/status |

mod access;
mod auth;
mod cluster;
mod error;
mod exec;
mod items;
mod kubeconfig;
mod objects;
mod watch;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) use self::access::{Access, AccessError};
use self::auth::Auth;
pub(crate) use self::error::ApiError;
use self::error::{BadHead, Operation};
use self::items::Items;
use self::objects::{ListHead, Pod, Status};
pub(super) use self::objects::{NodeCondition, NodeObject};
pub(super) use self::watch::NodeEvent;
use crate::control::util::http_client::{HttpClient, Request, Response, Timeouts};

/// A large cluster's API server may think for a while before it lists.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    head: Duration::from_secs(30),
    body: Duration::from_secs(30),
};

/// Nodes per answer to a list, as client-go asks for.
const PAGE: usize = 500;

/// Most bytes of one object. etcd takes 1.5 MB (`--max-request-bytes`).
const MAX_OBJECT: usize = 16 << 20;

/// Most bytes of an answer that is no list: a node, a pod, a status.
const MAX_ANSWER: usize = MAX_OBJECT;

/// Asks one API server.
pub(crate) struct ApiClient {
    http: HttpClient,
    /// The path of the server's URL, such as `/k8s/clusters/c-1` behind Rancher.
    base: String,
    auth: Auth,
}

/// Which state a list is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Any, from the server's cache.
    Any,
    /// The latest: what there is in the cache is too old.
    Latest,
}

impl ApiClient {
    /// Prepares to ask the server that `access` leads to. Sends nothing.
    pub(crate) fn new(access: Access) -> Result<Self, AccessError> {
        let Access { url, base, tls, auth, proxy } = access;
        let http = HttpClient::new("the Kubernetes API server", &url, tls, TIMEOUTS);
        let http = http.and_then(|http| match proxy {
            Some(proxy) => http.through(&proxy),
            None => Ok(http),
        });
        let http = http.map_err(|error| AccessError::Client(error.to_string()))?;
        Ok(Self { http, base, auth })
    }

    /// The server's URL.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.http.url(), self.base)
    }

    /// The node on which a pod runs, once it is known.
    pub(super) async fn node_of_pod(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<String>, ApiError> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", encode(namespace), encode(pod));
        let response = self.send(Operation::GetPod, Request::new(Method::GET, path)).await?;
        let body = response.read(MAX_ANSWER).await?;
        let pod: Pod = parse(Operation::GetPod, &body)?;
        Ok(pod.spec.node_name.filter(|name| !name.is_empty()))
    }

    /// Lists all nodes and hands them to `sink` one by one: the whole list may have a hundred
    /// megabytes. Returns its version.
    pub(super) async fn list_nodes(
        &self,
        freshness: Freshness,
        mut sink: impl FnMut(NodeObject),
    ) -> Result<String, ApiError> {
        let mut rest = match freshness {
            Freshness::Any => "&resourceVersion=0".to_owned(),
            Freshness::Latest => String::new(),
        };
        loop {
            let path = format!("/api/v1/nodes?limit={PAGE}{rest}");
            let mut response =
                self.send(Operation::ListNodes, Request::new(Method::GET, path)).await?;
            let mut items = Items::new(MAX_OBJECT);
            let mut fault = None;
            while let Some(chunk) = response.chunk().await? {
                items
                    .feed(&chunk, |item| match read_node(Operation::ListNodes, item) {
                        Ok(node) => sink(node),
                        Err(error) => fault = Some(error),
                    })
                    .map_err(|reason| ApiError::Malformed(Operation::ListNodes, reason))?;
                if let Some(fault) = fault {
                    return Err(fault);
                }
            }
            let head: ListHead = parse(Operation::ListNodes, &items.finish())?;
            expect_kind(Operation::ListNodes, &head.kind, "NodeList")?;
            if head.metadata.next.is_empty() {
                return Ok(head.metadata.resource_version);
            }
            rest = format!("&continue={}", encode(&head.metadata.next));
        }
    }

    /// Asks for something small that everybody may see who may follow the nodes: one node.
    pub(super) async fn ping(&self) -> Result<(), ApiError> {
        let request = Request::new(Method::GET, "/api/v1/nodes?limit=1");
        let response = self.send(Operation::ListNodes, request).await?;
        response.read(MAX_ANSWER).await?;
        Ok(())
    }

    /// Merges `patch` into the status of a node, and returns what it is now.
    pub(super) async fn patch_status(
        &self,
        node: &str,
        patch: String,
    ) -> Result<NodeObject, ApiError> {
        let path = format!("/api/v1/nodes/{}/status", encode(node));
        let request = Request::new(Method::PATCH, path)
            .body("application/strategic-merge-patch+json", patch)
            .may_repeat();
        let response = self.send(Operation::PatchStatus, request).await?;
        let body = response.read(MAX_ANSWER).await?;
        read_node(Operation::PatchStatus, &body)
    }

    /// The head of a good answer. The path is one of the API, such as `/api/v1/nodes`.
    async fn send(&self, operation: Operation, request: Request) -> Result<Response, ApiError> {
        let request = request.below(&self.base).header(ACCEPT, JSON);
        let request = match self.auth.header().await.map_err(ApiError::Credentials)? {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        let response = self.http.send(&request).await?;
        if response.status().is_success() {
            return match response.header("content-encoding") {
                None | Some("identity") => Ok(response),
                Some(encoding) => {
                    let reason = format!("it is in {encoding:.20}, which nobody asked for");
                    Err(ApiError::Malformed(operation, reason))
                }
            };
        }
        let head = BadHead::of(&response);
        if response.status() == StatusCode::UNAUTHORIZED {
            self.auth.refused();
            // A client certificate belongs to the connection.
            self.http.reconnect();
        }
        // A body that cannot be read is a proxy's, and says nothing.
        let body = response.read(MAX_ANSWER).await.unwrap_or_default();
        let status: Option<Status> = serde_json::from_slice(&body).ok();
        Err(ApiError::refused(operation, head, status.unwrap_or_default(), self.url()))
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn parse<'a, T: serde::Deserialize<'a>>(
    operation: Operation,
    text: &'a [u8],
) -> Result<T, ApiError> {
    serde_json::from_slice(text).map_err(|error| {
        let reason: String = error.to_string().chars().take(120).collect();
        ApiError::Malformed(operation, reason)
    })
}

/// A node, and nothing else.
fn read_node(operation: Operation, text: &[u8]) -> Result<NodeObject, ApiError> {
    let node: NodeObject = parse(operation, text)?;
    expect_kind(operation, &node.kind, "Node")?;
    match node.metadata.name.is_empty() {
        true => Err(ApiError::Malformed(operation, "a node has no name".to_owned())),
        false => Ok(node),
    }
}

/// An object that does not say what it is is taken for what was asked for.
fn expect_kind(operation: Operation, kind: &str, expected: &str) -> Result<(), ApiError> {
    if kind.is_empty() || kind == expected {
        return Ok(());
    }
    Err(ApiError::Malformed(operation, format!("it is {kind:.40?}, not {expected}")))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// What RFC 3986, section 2.3, calls unreserved stays as it is.
const UNRESERVED: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
