//! [`GceDouble`]: a metadata server and a Compute Engine API with one project, one network and two
//! instances, of which this node is the first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::control::util::http_client::double::{Double, Reply};

/// URLs of the API as it writes them, whatever host it was asked by.
pub(super) const API: &str = "https://www.googleapis.com/compute/v1";
pub(super) const NETWORK: &str = "projects/lab-project/global/networks/default";
pub(super) const ROUTE: &str = "projects/lab-project/global/routes/flannel-10-40-7-0-24";

/// What it holds, and how it misbehaves.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) routes: BTreeMap<String, Value>,
    /// What each operation adds, its kind, and how often it is asked for until it is done.
    operations: Vec<(Option<Value>, &'static str, u32)>,
    /// Answers that the API gives first, one each to the requests that begin like this.
    pub(super) answers: Vec<(&'static str, Reply)>,
    /// Whether operations never end.
    pub(super) is_stuck: bool,
    /// What the next operation ends with.
    pub(super) fails_with: Option<Value>,
    /// How many tokens were given.
    pub(super) num_tokens: u32,
    pub(super) can_ip_forward: Option<bool>,
    /// Whether the metadata server says whose it is.
    pub(super) is_foreign: bool,
    /// Older metadata servers have no `instance/name`.
    pub(super) is_old: bool,
}

/// The servers.
pub(super) struct GceDouble {
    server: Double,
    state: Arc<Mutex<State>>,
}

impl GceDouble {
    pub(super) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = Double::start_with_heads(move |head, request| {
            shared.lock().unwrap().reply(&head.to_lowercase(), request)
        });
        Self { server: server.await, state }
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        self.server.url.trim_start_matches("http://")
    }

    /// The URL of the API.
    pub(super) fn api(&self) -> String {
        format!("{}/compute/v1", self.server.url)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The calls of the API so far, without what all of them begin with.
    pub(super) fn calls(&self) -> Vec<String> {
        let requests = self.server.requests();
        let calls = requests.iter().filter(|request| request.contains("/compute/v1/"));
        calls.map(|call| call.replacen("/compute/v1/", "", 1).replace("?alt=json", "")).collect()
    }

    pub(super) fn num_metadata_requests(&self) -> usize {
        self.server.requests().iter().filter(|it| it.contains("/computeMetadata/")).count()
    }
}

/// The URL of the instance of this name.
pub(super) fn instance(name: &str) -> String {
    format!("{API}/projects/lab-project/zones/europe-west1-b/instances/{name}")
}

impl State {
    fn reply(&mut self, head: &str, request: &str) -> Reply {
        let (method, rest) = request.split_once(' ').unwrap();
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Some(path) = path.strip_prefix("/computeMetadata/v1/") {
            if !head.contains("metadata-flavor: google") {
                return Reply::text("403 Forbidden", "Missing Metadata-Flavor:Google header.");
            }
            let (status, text) = self.metadata(path);
            let flavor = if self.is_foreign { "other" } else { "Google" };
            let headers = vec![("Metadata-Flavor", flavor.to_owned())];
            return Reply::Answer(status, headers, text);
        }
        let path = path.strip_prefix("/compute/v1/").unwrap().trim_end_matches("?alt=json");
        let call = format!("{method} {path}");
        if let Some(at) = self.answers.iter().position(|(start, _)| call.starts_with(start)) {
            return self.answers.remove(at).1;
        }
        if !head.contains(&format!("authorization: bearer token-{}\r", self.num_tokens))
            && !head.ends_with(&format!("authorization: bearer token-{}", self.num_tokens))
        {
            return refuse(401, "Invalid Credentials", "authError");
        }
        self.api(method, path, body)
    }

    fn metadata(&mut self, path: &str) -> (&'static str, String) {
        let value = match path {
            "instance/network-interfaces/0/network" => "projects/123456/networks/default",
            "project/project-id" => "lab-project",
            "instance/name" if !self.is_old => "nodea",
            "instance/hostname" => "nodea.c.lab-project.internal",
            "instance/zone" => "projects/123456/zones/europe-west1-b",
            "instance/service-accounts/default/token" => {
                self.num_tokens += 1;
                let token = format!("token-{}", self.num_tokens);
                let answer = json!({
                    "access_token": token, "expires_in": 3599, "token_type": "Bearer",
                });
                return ("200 OK", answer.to_string());
            }
            _ => return ("404 Not Found", "not found".to_owned()),
        };
        ("200 OK", value.to_owned())
    }

    fn api(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let path = path.strip_prefix("projects/lab-project/").unwrap_or_default();
        match (method, path.rsplit_once('/')) {
            ("GET", Some(("global/networks", "default"))) => {
                answer(&json!({ "name": "default", "selfLink": format!("{API}/{NETWORK}") }))
            }
            ("GET", Some(("zones/europe-west1-b/instances", name @ ("nodea" | "nodeb")))) => {
                answer(&json!({ "selfLink": instance(name), "canIpForward": self.can_ip_forward }))
            }
            ("GET", Some(("global/routes", name))) => match self.routes.get(name) {
                Some(route) => answer(route),
                None => refuse(404, &format!("The resource '{path}' was not found"), "notFound"),
            },
            ("GET", Some(("global/operations", name))) => self.operation(name),
            ("DELETE", Some(("global/routes", name))) => {
                self.routes.remove(name);
                self.start(None, "delete")
            }
            ("POST", Some(("global", "routes"))) => {
                let route: Value = serde_json::from_str(body).unwrap();
                if self.routes.contains_key(route["name"].as_str().unwrap()) {
                    return refuse(409, "The resource already exists", "alreadyExists");
                }
                self.start(Some(route), "insert")
            }
            _ => refuse(404, &format!("The resource '{path}' was not found"), "notFound"),
        }
    }

    /// Begins an operation, which takes two questions.
    fn start(&mut self, adds: Option<Value>, kind: &'static str) -> Reply {
        self.operations.push((adds, kind, 2));
        let name = format!("operation-{}", self.operations.len() - 1);
        answer(&json!({ "name": name, "operationType": kind, "status": "PENDING" }))
    }

    fn operation(&mut self, name: &str) -> Reply {
        let number: usize = name.trim_start_matches("operation-").parse().unwrap();
        let (adds, kind, num_left) = &mut self.operations[number];
        *num_left = num_left.saturating_sub(1);
        if self.is_stuck || *num_left > 0 {
            return answer(&json!({ "name": name, "operationType": kind, "status": "RUNNING" }));
        }
        if let Some(error) = self.fails_with.take() {
            let errors = json!({ "errors": [error] });
            return answer(&json!({
                "name": name, "operationType": kind, "status": "DONE", "error": errors,
            }));
        }
        if let Some(route) = adds.take() {
            self.routes.insert(route["name"].as_str().unwrap().to_owned(), route);
        }
        answer(&json!({ "name": name, "operationType": kind, "status": "DONE" }))
    }
}

fn answer(body: &Value) -> Reply {
    Reply::Answer("200 OK", vec![("Content-Type", "application/json".to_owned())], body.to_string())
}

/// A refusal as the API writes it.
pub(super) fn refuse(code: u16, message: &str, reason: &str) -> Reply {
    let status = match code {
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        409 => "409 Conflict",
        _ => "503 Service Unavailable",
    };
    let errors = json!([{ "message": message, "domain": "global", "reason": reason }]);
    let body = json!({ "error": { "code": code, "message": message, "errors": errors } });
    Reply::text(status, &body.to_string())
}
