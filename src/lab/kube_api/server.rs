//! Connections.

use std::convert::Infallible;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::KubeApi;
use super::answer::Answer;
use super::routes::Asked;

/// Serves every connection that is made.
pub(super) async fn serve(api: KubeApi, listener: TcpListener, tls: Option<TlsAcceptor>) {
    // Connections end with the future.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // A connection that is gone before it is accepted is no matter.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (api, tls) = (api.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        speak(api, stream).await;
                    }
                }
                None => speak(api, stream).await,
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn speak(api: KubeApi, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let service = service_fn(|request| answer(api.clone(), request));
    // It ends when the other side does.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(api: KubeApi, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    Ok(api.answer(asked).await)
}
