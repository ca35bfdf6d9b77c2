//! Which path is answered with what.

use std::convert::Infallible;
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Request, Response, StatusCode};

use super::Endpoint;
use crate::control::observe::api::readiness::to_json;
use crate::control::observe::api::{self, paths};
use crate::control::observe::{readiness, stats};
use crate::control::util::log;

/// A body that may also be made piece by piece.
type Body = UnsyncBoxBody<Bytes, Infallible>;

const OK: StatusCode = StatusCode::OK;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

const JSON: &str = "application/json";
const PCAPNG: &str = "application/x-pcapng";
const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to every other path.
const PATHS: &str = "there are /healthz, /readyz, /metrics and /stats";

/// Answers `request`. What only the tools need is for those who may open the unix socket.
pub(super) async fn answer(
    request: Request<Incoming>,
    endpoint: &Endpoint,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let mut response = match for_everyone(path, endpoint).await {
        Some(response) => response,
        None if endpoint.is_local => for_tools(path, query, endpoint).await,
        None => respond(StatusCode::NOT_FOUND, TEXT, PATHS),
    };
    if let Ok(name) =
        HeaderValue::from_str(&format!("{}{}", api::SERVER, env!("CARGO_PKG_VERSION")))
    {
        response.headers_mut().insert(SERVER, name);
    }
    Ok(response)
}

async fn for_everyone(path: &str, endpoint: &Endpoint) -> Option<Response<Body>> {
    Some(match path {
        "/healthz" => match endpoint.status.stalled(Instant::now()) {
            None => respond(OK, TEXT, "flanneld is running"),
            Some(reason) => respond(UNAVAILABLE, TEXT, format!("flanneld hangs: {reason}")),
        },
        "/readyz" => match readiness(&endpoint.status).await {
            (true, json) => respond(OK, JSON, json),
            (false, json) => respond(UNAVAILABLE, JSON, json),
        },
        "/metrics" => respond(OK, prometheus::TEXT_FORMAT, endpoint.metrics().await),
        "/stats" => match stats(&endpoint.status).await {
            Some(json) => respond(OK, JSON, json),
            None => respond(UNAVAILABLE, TEXT, "flanneld is not ready yet"),
        },
        _ => return None,
    })
}

async fn for_tools(path: &str, query: &str, endpoint: &Endpoint) -> Response<Body> {
    match path {
        paths::STATUS => respond(OK, JSON, to_json(&endpoint.tool_status().await)),
        paths::PEERS => respond(OK, JSON, to_json(&endpoint.peers().await)),
        paths::CAPTURE => match endpoint.capture(query).await {
            Ok(body) => respond_with(OK, PCAPNG, body.boxed_unsync()),
            Err(reason) => respond(StatusCode::BAD_REQUEST, TEXT, reason),
        },
        paths::DROPS => respond(OK, JSON, to_json(&endpoint.drops().await)),
        paths::WORKERS => respond(OK, JSON, to_json(&endpoint.workers().await)),
        paths::LOG => respond(OK, TEXT, log::recent()),
        _ => respond(StatusCode::NOT_FOUND, TEXT, PATHS),
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    respond_with(status, content_type, Full::new(body.into()).boxed_unsync())
}

fn respond_with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
