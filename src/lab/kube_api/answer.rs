//! Answers: JSON, statuses, and bodies without an end.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Response<Body>;

pub(super) fn json(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    with_type(code, body.map_err(|never: Infallible| match never {}).boxed_unsync())
}

/// A refusal, as the API server words it.
pub(super) fn status(code: StatusCode, reason: &str, message: &str) -> Answer {
    json(code, &status_object(code, reason, message))
}

pub(super) fn status_object(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
}

/// A body of the lines that are sent; an error breaks the connection off.
pub(super) fn lines(lines: mpsc::Receiver<io::Result<Bytes>>) -> Answer {
    let frames = stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?;
        Some((line.map(Frame::data), lines))
    });
    with_type(StatusCode::OK, StreamBody::new(frames).boxed_unsync())
}

fn with_type(code: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
