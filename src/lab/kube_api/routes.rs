//! Which request does what.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::KubeApi;
use super::answer::{Answer, json, status};
use super::store::Seen;
use super::watch;

/// Seconds that a watch lasts when nobody says how many.
const WATCH_SECS: u64 = 1800;

/// A request, with its body.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    fn seen(&self) -> Seen {
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        Seen {
            method: self.method.to_string(),
            path: format!("{}{query}", self.path),
            body: String::from_utf8_lossy(&self.body).into_owned(),
        }
    }

    fn parameters(&self) -> HashMap<String, String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        pairs.map(|(name, value)| (decode(name), decode(value))).collect()
    }
}

impl KubeApi {
    /// The answer to a request, as soon as there is to be one.
    pub(super) async fn answer(&self, asked: Asked) -> Answer {
        let path: Vec<String> = asked
            .path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let ["double", what] = path.as_slice() {
            return self.double(what, &asked);
        }
        let faults = {
            let mut store = self.store();
            store.requests.push(asked.seen());
            store.faults.clone()
        };
        if faults.is_silent {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
        if let Some(code) = faults.status.and_then(|code| StatusCode::from_u16(code).ok()) {
            return status(code, "Unknown", "the server is at fault");
        }
        if let Some(token) = faults.token {
            let shown = asked.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            if shown != Some(&format!("Bearer {token}")) {
                return status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
            }
        }
        let parameters = asked.parameters();
        let is_watch = parameters.get("watch").is_some_and(|it| it == "true" || it == "1");
        let (verb, resource) = match (&asked.method, path.as_slice()) {
            (&Method::GET, ["api", "v1", "nodes"]) if is_watch => ("watch", "nodes"),
            (&Method::GET, ["api", "v1", "nodes"]) => ("list", "nodes"),
            (&Method::GET, ["api", "v1", "nodes", _]) => ("get", "nodes"),
            (&Method::POST, ["api", "v1", "nodes"]) => ("create", "nodes"),
            (&Method::DELETE, ["api", "v1", "nodes", _]) => ("delete", "nodes"),
            (&Method::PATCH, ["api", "v1", "nodes", _]) => ("patch", "nodes"),
            (&Method::PATCH, ["api", "v1", "nodes", _, "status"]) => ("patch", "nodes/status"),
            (&Method::GET, ["api", "v1", "namespaces", _, "pods", _]) => ("get", "pods"),
            (_, _) => return not_found(&asked.path),
        };
        if faults.denied.contains(&format!("{verb} {resource}")) {
            let message = format!(
                "{resource} is forbidden: User \"flannel\" cannot {verb} resource \"{resource}\" in \
                 API group \"\" at the cluster scope"
            );
            return status(StatusCode::FORBIDDEN, "Forbidden", &message);
        }
        match (verb, path.as_slice()) {
            ("watch", _) => {
                let number = |name: &str| parameters.get(name).and_then(|it| it.parse().ok());
                let secs = faults.watch_secs.or(number("timeoutSeconds")).unwrap_or(WATCH_SECS);
                watch::start(self.clone(), number("resourceVersion").unwrap_or(0), secs)
            }
            ("list", _) => self.list(&parameters),
            ("create", _) => self.create(&asked),
            ("get", ["api", "v1", "namespaces", namespace, "pods", pod]) => {
                self.get_pod(namespace, pod)
            }
            ("get", [.., name]) => found(name, self.store().node(name).cloned()),
            ("delete", [.., name]) => found(name, self.change(|store| store.delete(name))),
            ("patch", ["api", "v1", "nodes", name, rest @ ..]) => {
                self.patch(name, !rest.is_empty(), &asked)
            }
            (_, _) => not_found(&asked.path),
        }
    }

    fn list(&self, parameters: &HashMap<String, String>) -> Answer {
        let store = self.store();
        let after = parameters.get("continue").map_or("", String::as_str);
        // The cache of a real server does not know pages.
        let is_cached = parameters.get("resourceVersion").is_some_and(|version| version == "0");
        let limit = parameters.get("limit").and_then(|limit| limit.parse().ok());
        let limit = limit.filter(|&limit| limit > 0 && !is_cached).unwrap_or(usize::MAX);
        let items = store.nodes_after(after, limit);
        let last = items.last().filter(|_| items.len() == limit);
        let next = last.and_then(|node| node["metadata"]["name"].as_str()).unwrap_or_default();
        let mut metadata = json!({ "resourceVersion": store.revision.to_string() });
        if !next.is_empty() {
            metadata["continue"] = json!(next);
        }
        let list = json!({
            "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items,
        });
        json(StatusCode::OK, &list)
    }

    fn create(&self, asked: &Asked) -> Answer {
        match serde_json::from_slice::<Value>(&asked.body) {
            Ok(node) if node["metadata"]["name"].is_string() => {
                self.put_node(node.clone());
                json(StatusCode::CREATED, &node)
            }
            Ok(_) | Err(_) => status(StatusCode::BAD_REQUEST, "BadRequest", "that is no node"),
        }
    }

    fn patch(&self, name: &str, is_status: bool, asked: &Asked) -> Answer {
        let kind = asked.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if kind != Some("application/strategic-merge-patch+json") {
            let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return status(code, "UnsupportedMediaType", "no such patch");
        }
        let Ok(Value::Object(mut patch)) = serde_json::from_slice(&asked.body) else {
            return status(StatusCode::BAD_REQUEST, "BadRequest", "that is no patch");
        };
        // Each of the two leaves what is the other's.
        patch.remove(if is_status { "spec" } else { "status" });
        found(name, self.change(|store| store.patch(name, &Value::Object(patch))))
    }

    fn get_pod(&self, namespace: &str, pod: &str) -> Answer {
        match self.store().node_of_pod(namespace, pod) {
            Some(node) => json(
                StatusCode::OK,
                &json!({ "kind": "Pod", "metadata": { "name": pod }, "spec": { "nodeName": node } }),
            ),
            None => status(StatusCode::NOT_FOUND, "NotFound", &format!("pods {pod:?} not found")),
        }
    }

    fn double(&self, what: &str, asked: &Asked) -> Answer {
        if (&asked.method, what) == (&Method::GET, "requests") {
            return json(StatusCode::OK, &json!(self.requests()));
        }
        match self.obey(what, asked) {
            Ok(true) => json(StatusCode::OK, &json!({})),
            Ok(false) => not_found(&asked.path),
            Err(error) => status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        }
    }

    /// Does what a test asks for; whether there is such a thing.
    fn obey(&self, what: &str, asked: &Asked) -> serde_json::Result<bool> {
        match (&asked.method, what) {
            (&Method::PUT, "faults") => self.set_faults(serde_json::from_slice(&asked.body)?),
            (&Method::POST, "nodes") => {
                let nodes: Vec<Value> = serde_json::from_slice(&asked.body)?;
                self.change(|store| nodes.into_iter().for_each(|it| store.put(it)));
            }
            (&Method::POST, "pods") => {
                let pods: Vec<[String; 3]> = serde_json::from_slice(&asked.body)?;
                for [namespace, name, node] in pods {
                    self.put_pod(&namespace, &name, &node);
                }
            }
            (&Method::POST, "compact") => self.compact(),
            (&Method::POST, "drop") => self.drop_watches(),
            (&Method::POST, "forget") => self.forget(),
            (_, _) => return Ok(false),
        }
        Ok(true)
    }
}

fn found(name: &str, node: Option<Value>) -> Answer {
    match node {
        Some(node) => json(StatusCode::OK, &node),
        None => status(StatusCode::NOT_FOUND, "NotFound", &format!("nodes {name:?} not found")),
    }
}

fn not_found(path: &str) -> Answer {
    status(StatusCode::NOT_FOUND, "NotFound", &format!("no resource has the path {path:?}"))
}
