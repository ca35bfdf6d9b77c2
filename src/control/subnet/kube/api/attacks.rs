//! API servers that answer with what no API server should, each with one clear line.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::tests::config;
use super::*;
use crate::control::config::kube::KubeConfig;
use crate::control::util::http_client::double::{Double, Reply};

const LIST: &str =
    r#"{"kind":"NodeList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}"#;

fn client(url: &str) -> ApiClient {
    let config = KubeConfig { api_url: Some(url.to_owned()), ..config() };
    ApiClient::new(Access::find(&config).unwrap()).unwrap()
}

async fn list(client: &ApiClient) -> Result<Vec<String>, ApiError> {
    let mut names = Vec::new();
    client.list_nodes(Freshness::Any, |node| names.push(node.metadata.name)).await?;
    Ok(names)
}

/// What a list ends with that is answered so.
async fn fault(status: &'static str, headers: &[(&'static str, &str)], body: &str) -> ApiError {
    let headers: Vec<_> = headers.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    let body = body.to_owned();
    let double = Double::start(move |_| Reply::Answer(status, headers.clone(), body.clone())).await;
    let error = list(&client(&double.url)).await.unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

#[tokio::test]
async fn answers_of_another_kind_are_named() {
    for (body, line) in [
        (LIST.replace("NodeList", "PodList"), "it is \"PodList\", not NodeList"),
        (
            LIST.replace("{\"metadata\":{\"name", "{\"kind\":\"Pod\",\"metadata\":{\"name"),
            "it is \"Pod\", not Node",
        ),
        (LIST.replace("\"name\":\"a\"", "\"uid\":\"a\""), "a node has no name"),
        (
            r#"{"kind":"Status","status":"Failure","metadata":{}}"#.to_owned(),
            "missing field `resourceVersion`",
        ),
        ("<html>sign in</html>".to_owned(), "expected value at line 1"),
        (String::new(), "EOF while parsing"),
        (LIST[..LIST.len() - 3].to_owned(), "EOF while parsing"),
        (LIST.replace("\"name\":\"a\"", "\"name\":7"), "invalid type: integer `7`"),
    ] {
        let error = fault("200 OK", &[], &body).await.to_string();
        assert!(
            error.starts_with("list nodes: the answer of the Kubernetes API server"),
            "{error}"
        );
        assert!(error.contains(line), "{error}");
    }
    let error = fault("200 OK", &[("Content-Encoding", "gzip")], "\u{1f}\u{b}").await.to_string();
    assert!(error.ends_with("it is in gzip, which nobody asked for"), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let moved = [("Location", "https://elsewhere:6443/api\n".trim())];
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let error = fault(status, &moved, "").await.to_string();
        let line = "it redirects to https://elsewhere:6443/api, which is not followed";
        assert!(error.contains(line), "{error}");
    }
    let busy = fault("429 Too Many Requests", &[("Retry-After", "3")], "").await;
    assert_eq!(busy.retry_after(), Duration::from_secs(3));
    assert!(busy.to_string().ends_with("answers 429: too many requests"), "{busy}");
    let forever = fault("503 Service Unavailable", &[("Retry-After", "99999999")], "").await;
    assert_eq!(forever.retry_after(), Duration::from_secs(60));
    for odd in ["-1", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9"] {
        let error = fault("429 Too Many Requests", &[("Retry-After", odd)], "").await;
        assert_eq!(error.retry_after(), Duration::ZERO, "{odd}");
    }
}

/// An old proxy: no length, no chunks, the end of the connection is the end of the answer.
#[tokio::test]
async fn http_1_0_ends_with_its_connection() {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n";
    let double = Double::start(move |request| {
        let event = r#"{"type":"ADDED","object":{"kind":"Node","metadata":{"name":"b"}}}"#;
        let body = if request.contains("watch=true") { format!("{event}\n") } else { LIST.into() };
        Reply::Pieces(vec![head.to_owned(), body])
    })
    .await;
    let client = client(&double.url);
    assert_eq!(list(&client).await.unwrap(), ["a"]);
    let mut watch = client.watch_nodes("7", Duration::from_secs(481)).await.unwrap();
    assert!(
        matches!(watch.next().await, Ok(Some(NodeEvent::Put(node))) if node.metadata.name == "b")
    );
    assert!(matches!(watch.next().await, Ok(None)));
    let watched = "GET /api/v1/nodes?allowWatchBookmarks=true&resourceVersion=7&timeout=8m1s\
                   &timeoutSeconds=481&watch=true";
    assert_eq!(double.requests()[1], watched, "stock's bytes");
}

/// The headers are those of client-go as far as they matter; nothing asks for compression.
#[tokio::test]
async fn requests_have_the_headers_of_a_kubernetes_client() {
    let double = Double::start_with_heads(|head, _| {
        let head = head.to_lowercase();
        let expected = ["accept: application/json", "user-agent: flanneld/", "host: 127.0.0.1:"];
        let is_right = expected.iter().all(|line| head.contains(line))
            && !head.contains("accept-encoding")
            && !head.contains("authorization");
        match (is_right, head.starts_with("patch")) {
            (true, true)
                if !head.contains("content-type: application/strategic-merge-patch+json") =>
            {
                Reply::text("415 Unsupported Media Type", "")
            }
            (true, true) => Reply::text("200 OK", r#"{"kind":"Node","metadata":{"name":"a"}}"#),
            (true, false) => Reply::text("200 OK", LIST),
            (false, _) => Reply::text("400 Bad Request", &format!("{{\"message\":{head:?}}}")),
        }
    })
    .await;
    let client = client(&double.url);
    assert_eq!(list(&client).await.unwrap(), ["a"]);
    client.patch_status("a", "{}".to_owned()).await.unwrap();
    assert_eq!(double.requests()[1], "PATCH /api/v1/nodes/a/status {}");
}

#[tokio::test]
async fn events_that_are_no_nodes_end_the_watch_and_a_bare_bookmark_does_not() {
    for (object, line) in [
        (r#"{"kind":"Pod","metadata":{"name":"a"}}"#, "it is \"Pod\", not Node"),
        (r#"{"kind":"Node","metadata":{}}"#, "a node has no name"),
        (
            r#"{"kind":"Node","metadata":{"name":"a"},"spec":{"podCIDRs":"10.0.0.0/8"}}"#,
            "invalid type",
        ),
    ] {
        for kind in ["ADDED", "DELETED"] {
            let line_of = format!(r#"{{"type":"{kind}","object":{object}}}"#);
            let error = watch::read_event(line_of.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
    let bookmark = br#"{"type":"BOOKMARK","object":{"kind":"Node","metadata":{}}}"#;
    assert!(
        matches!(watch::read_event(bookmark), Ok(NodeEvent::Bookmark(version)) if version.is_empty())
    );
    let silent = watch::read_event(br#"{"type":"ERROR","object":{"code":500}}"#).unwrap_err();
    assert!(silent.to_string().ends_with("ended: an error with code 500"), "{silent}");
}

#[tokio::test]
async fn server_is_reached_through_the_proxy_of_the_kubeconfig() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // It is proxy and server at once: the connection that it makes leads to itself.
    let double = Double::start_with_heads(move |head, request| {
        if !request.starts_with("CONNECT") {
            return Reply::text("200 OK", LIST);
        }
        count.fetch_add(1, Ordering::Relaxed);
        match head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0") {
            true => Reply::text("200 Connection established", ""),
            false => Reply::text("407 Proxy Authentication Required", ""),
        }
    })
    .await;
    let place = double.url.trim_start_matches("http://");
    let ask = async |proxy: &str| {
        let access = Access::at("http://apiserver.invalid:8080", None, Auth::None);
        let access = Access { proxy: Some(proxy.to_owned()), ..access };
        let client = ApiClient::new(access).map_err(|error| error.to_string())?;
        list(&client).await.map_err(|error| error.to_string())
    };
    assert_eq!(ask(&format!("http://me:secret@{place}")).await.unwrap(), ["a"]);
    assert!(double.requests()[0].starts_with("CONNECT apiserver.invalid:8080"));
    let refused = ask(&format!("http://{place}")).await.unwrap_err();
    let line = format!("(proxy {place}: it answers HTTP/1.1 407 Proxy Authentication Required)");
    assert!(refused.ends_with(&line), "{refused}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let absent = ask("http://me:secret@127.0.0.1:1").await.unwrap_err();
    assert!(
        absent.contains("proxy 127.0.0.1:1: refused") && !absent.contains("secret"),
        "{absent}"
    );
    for url in ["socks5://me:secret@p:1080", "p:3128", "http://"] {
        let error = ask(url).await.unwrap_err();
        assert!(
            error.contains("is not the URL of a proxy") && !error.contains("secret"),
            "{error}"
        );
    }
}
