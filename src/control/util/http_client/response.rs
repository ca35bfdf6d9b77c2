//! [`Response`]: an answer whose head has arrived.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use tokio::time::timeout;

use super::error::{Fault, HttpError, cause};
use super::{Connection, Idle};

/// An answer, with the part of its body that has been received and not yet read.
#[derive(Debug)]
pub(crate) struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    /// `None` once the body has ended.
    connection: Option<Connection>,
    idle: Arc<Idle>,
    service: &'static str,
    url: String,
    limit: Duration,
}

impl Response {
    pub(super) fn new(
        answer: hyper::Response<Incoming>,
        connection: Connection,
        idle: &Arc<Idle>,
        (service, url): (&'static str, String),
        limit: Duration,
    ) -> Self {
        let (head, body) = answer.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            buffer: BytesMut::new(),
            connection: Some(connection),
            idle: Arc::clone(idle),
            service,
            url,
            limit,
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The value of a header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole body, of at most `max` bytes.
    pub(crate) async fn read(mut self, max: usize) -> Result<Bytes, HttpError> {
        let limit = self.limit;
        let read = async {
            while self.receive(max).await? {}
            Ok(self.buffer.split().freeze())
        };
        let read = timeout(limit, read).await;
        read.unwrap_or_else(|_| Err(self.error(Fault::Slow(limit))))
    }

    /// The next piece of the body, if it comes in time; `None` at the end of the body.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let limit = self.limit;
        let piece = timeout(limit, self.next_piece()).await;
        piece.unwrap_or_else(|_| Err(self.error(Fault::Slow(limit))))
    }

    /// The next piece of the body, as it comes; `None` at the end of the body. Waits for as long as the
    /// server does.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next_piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        while self.buffer.is_empty() {
            if !self.receive(usize::MAX).await? {
                return Ok(None);
            }
        }
        Ok(Some(self.buffer.split().freeze()))
    }

    /// The next line of the body without its end, of at most `max` bytes; `None` at the end of the
    /// body. Waits for as long as the server does.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next_line(&mut self, max: usize) -> Result<Option<Bytes>, HttpError> {
        let mut num_searched = 0;
        loop {
            let end = self.buffer[num_searched..].iter().position(|&byte| byte == b'\n');
            if let Some(len) = end.map(|end| num_searched + end) {
                let mut line = self.buffer.split_to(len + 1);
                line.truncate(len);
                return Ok(Some(line.freeze()));
            }
            num_searched = self.buffer.len();
            if !self.receive(max).await? {
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
        }
    }

    /// Adds a piece of the body to the buffer; `false` at the end of the body.
    async fn receive(&mut self, max: usize) -> Result<bool, HttpError> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if self.buffer.len() + data.len() > max {
                        return Err(self.error(Fault::TooLong(max)));
                    }
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(self.error(Fault::Broken(cause(&error)))),
            None => {
                self.connection.take().into_iter().for_each(|it| self.idle.put(it));
                Ok(false)
            }
        }
    }

    fn error(&self, fault: Fault) -> HttpError {
        HttpError::new(self.service, self.url.clone(), fault)
    }
}
