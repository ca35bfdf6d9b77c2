//! [`Double`]: an HTTP server that answers as a test wants it to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server does when a request has come.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status, headers and body, on a connection that stays open.
    Answer(&'static str, Vec<(&'static str, String)>, String),
    /// Pieces that arrive one by one, on a connection that ends with them.
    Pieces(Vec<String>),
    /// This much of an answer, and then nothing, for ever.
    Unfinished(String),
    /// Nothing, for ever.
    Silence,
}

impl Reply {
    /// JSON of etcd's v2 API, from a store that is at `index`.
    pub(crate) fn etcd2(status: &'static str, index: i64, body: &str) -> Self {
        let headers = vec![
            ("X-Etcd-Cluster-Id", "abc".to_owned()),
            ("X-Etcd-Index", index.to_string()),
            ("Content-Type", "application/json".to_owned()),
        ];
        Self::Answer(status, headers, body.to_owned())
    }

    /// A body of plain text.
    pub(crate) fn text(status: &'static str, body: &str) -> Self {
        Self::Answer(status, Vec::new(), body.to_owned())
    }
}

/// A server on loopback. Ends with the value.
pub(crate) struct Double {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<(usize, String)>>>,
    task: JoinHandle<()>,
}

impl Double {
    /// One that answers what `reply` says of a request, such as `GET /path`, with its body behind
    /// the next space.
    pub(crate) async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with_heads(move |_, request| reply(request)).await
    }

    /// The same for a server that also looks at the head of a request, which comes first.
    pub(crate) async fn start_with_heads(
        reply: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (Arc::clone(&requests), Arc::new(reply));
        let task = tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, reply) = (Arc::clone(&log), Arc::clone(&reply));
                tokio::spawn(async move {
                    let note = |request: &str| log.lock().unwrap().push((number, request.into()));
                    serve(stream, |head, request| {
                        note(request);
                        reply(head, request)
                    })
                    .await;
                });
            }
        });
        Self { url, requests, task }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(_, request)| request.clone()).collect()
    }

    /// By how many connections they came.
    pub(crate) fn num_connections(&self) -> usize {
        let requests = self.requests.lock().unwrap();
        let mut numbers: Vec<usize> = requests.iter().map(|(number, _)| *number).collect();
        numbers.dedup();
        numbers.len()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, reply: impl Fn(&str, &str) -> Reply) {
    while let Some((head, request)) = receive(&mut stream).await {
        match reply(&head, &request) {
            Reply::Answer(status, headers, body) => {
                let headers: String =
                    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let len = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Pieces(pieces) => {
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    // Enough for the reader to see it as a piece of its own.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                return;
            }
            Reply::Unfinished(start) => {
                stream.write_all(start.as_bytes()).await.unwrap();
                std::future::pending().await
            }
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// The first byte of a TLS client: RFC 8446, section 5.1.
const TLS_HANDSHAKE: u8 = 22;

/// The next request of a connection, if there is one, after its head.
async fn receive(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= len.map_or(0, |len| len.parse().unwrap()) {
                let line = head.lines().next()?.trim_end_matches(" HTTP/1.1");
                let request = format!("{line} {body}").trim_end().to_owned();
                return Some((head.to_owned(), request));
            }
        }
        let len = stream.read_buf(&mut received).await.ok()?;
        // A client that was hung up on tries whether this is a server of TLS.
        if len == 0 || received[0] == TLS_HANDSHAKE {
            return None;
        }
    }
}
