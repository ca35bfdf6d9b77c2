//! What no healthy etcd answers.

use super::*;
use crate::control::util::http_client::double::{Double, Reply};

const CONFIG: &str = "GET /v2/keys/test/network/config?";

#[tokio::test]
async fn server_in_trouble_or_of_another_kind_is_passed_over_and_named() {
    let cases = [
        (
            Reply::etcd2(
                "500 Internal Server Error",
                7,
                r#"{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":7}"#,
            ),
            "refuses: 300: Raft Internal Error (etcdserver: request timed out) [7]",
        ),
        (
            Reply::etcd2("200 OK", 7, r#"{"action":"get","node":{"key":"/test/"#),
            " is no etcd (its answer is not that of the v2 API: EOF while parsing a string at line \
             1 column 37; found {\\\"action\\\":\\\"get\\\",\\\"node\\\":{\\\"key\\\":\\\"/test/); \
             --etcd-endpoints says where it is",
        ),
        (
            Reply::text("200 OK", "<html>\nIt works!"),
            " is no etcd (its answer is not that of the v2 API: no X-Etcd-Index); --etcd-endpoints \
             says where it is",
        ),
        (
            Reply::text("503 Service Unavailable", "no server\nis available"),
            "answers 503 Service Unavailable: no server\\nis available",
        ),
        (
            Reply::text("400 Bad Request", "Client sent an HTTP request to an HTTPS server.\n"),
            " speaks TLS, the URL says http; write https://",
        ),
        (Reply::text("307 Temporary Redirect", ""), "answers 307 Temporary Redirect: "),
        (Reply::Silence, " (no answer within 4s); --etcd-endpoints says where it is"),
        (
            Reply::Pieces(Vec::new()),
            " (it closes the connection); --etcd-endpoints says where it is",
        ),
    ];
    let server = v2_server().await;
    for (reply, text) in cases {
        let double = Double::start(move |_| reply.clone()).await;
        let error = hasty(&[&double.url]).list(&Scope::All).await.unwrap_err().to_string();
        assert!(error.starts_with("list leases: "), "{error}");
        let place = double.url.trim_start_matches("http://");
        assert!(error.contains(place), "{error}");
        assert!(error.contains(text), "{error}\n{text}");
        assert!(!error.contains('\n'), "{error}");
        let both = hasty(&[&double.url, &server.url]);
        assert_eq!(both.list(&Scope::All).await.unwrap().entries, []);
    }
}

#[tokio::test]
async fn server_without_the_v2_api_is_an_error_that_says_what_to_do() {
    let server = EtcdServer::start().await;
    let url = &server.url;
    let error = registry(&[url]).config().await.unwrap_err().to_string();
    let place = url.trim_start_matches("http://");
    assert_eq!(
        error,
        format!(
            "read network config: etcd at {place} does not serve the v2 API; start etcd 3.4 or 3.5 \
             with --enable-v2=true, or use --etcd-api=3"
        )
    );
}

#[tokio::test]
async fn refusal_that_every_server_would_give_is_the_last_word() {
    let double = Double::start(|_| {
        Reply::etcd2(
            "403 Forbidden",
            7,
            r#"{"errorCode":108,"message":"Directory not empty","cause":"/x","index":7}"#,
        )
    })
    .await;
    let other = Double::start(|_| panic!("asked as well")).await;
    let registry = registry(&[&double.url, &other.url]);
    let error = registry.create("10.1.1.0/24".parse().unwrap(), &attrs()).await.unwrap_err();
    assert!(error.to_string().ends_with("refuses: 108: Directory not empty (/x) [7]"), "{error}");
    assert_eq!(other.requests(), [""; 0]);
}

#[tokio::test]
async fn config_key_that_is_a_directory_is_an_error() {
    let server = v2_server().await;
    Operator::of(&server.url).put("/test/network/config/x", "", "{}").await;
    let error = registry(&[&server.url]).config().await.unwrap_err().to_string();
    assert_eq!(error, "read network config: etcd v2 key /test/network/config is a directory");
}

#[tokio::test]
async fn write_whose_answer_was_lost_counts_as_made() {
    let server = v2_server().await;
    let deaf = Double::start(|_| Reply::Pieces(Vec::new())).await;
    let operator = Operator::of(&server.url);
    let subnet: Ipv4Network = "10.1.1.0/24".parse().unwrap();
    let key = "/test/network/subnets/10.1.1.0-24";
    // What the deaf server did before it closed the connection.
    let both = || registry(&[&deaf.url, &server.url]);
    loop {
        let before = Instant::now();
        operator.put(key, "ttl=86400", &attrs().to_json()).await;
        let late = before.elapsed() > MAX_INEXACT / 2;
        match both().create(subnet.into(), &attrs()).await {
            Ok(Write::Done(_)) => break,
            created => assert!(late, "{created:?}"),
        }
    }
    // By the only server that was asked, it is somebody else's.
    let refused = registry(&[&server.url]).create(subnet.into(), &attrs()).await;
    assert!(matches!(refused, Ok(Write::Refused(Some(Ok(_))))), "{refused:?}");
    // One that is older than the call, or says something else, is so in any case.
    operator.put(key, "ttl=86000", &attrs().to_json()).await;
    let refused = both().create(subnet.into(), &attrs()).await;
    assert!(matches!(refused, Ok(Write::Refused(Some(Ok(_))))), "{refused:?}");
    operator.put(key, "ttl=86400", r#"{"PublicIP":"192.0.2.2"}"#).await;
    let refused = both().create(subnet.into(), &attrs()).await;
    assert!(matches!(refused, Ok(Write::Refused(Some(Ok(_))))), "{refused:?}");
}

#[tokio::test]
async fn deletion_that_hit_a_newer_write_puts_it_back() {
    let node = |index: i64, value: &str, ttl: &str| {
        let value = serde_json::to_string(value).unwrap();
        format!(
            r#"{{"key":"/test/network/subnets/10.1.1.0-24","value":{value}{ttl},"modifiedIndex":{index},"createdIndex":4}}"#
        )
    };
    let double = Double::start(move |request| {
        let ours = node(5, &attrs().to_json(), r#","ttl":80000"#);
        let theirs = node(6, r#"{"PublicIP":"192.0.2.2"}"#, r#","ttl":86399"#);
        match request.split(' ').next() {
            Some("GET") => {
                Reply::etcd2("200 OK", 6, &format!(r#"{{"action":"get","node":{ours}}}"#))
            }
            Some("DELETE") => Reply::etcd2(
                "200 OK",
                7,
                &format!(r#"{{"action":"delete","node":{},"prevNode":{theirs}}}"#, node(7, "", "")),
            ),
            _ => {
                Reply::etcd2("201 Created", 8, &format!(r#"{{"action":"create","node":{theirs}}}"#))
            }
        }
    })
    .await;
    let registry = registry(&[&double.url]);
    let lease = registry.list(&Scope::Key("10.1.1.0-24".to_owned())).await.unwrap();
    let lease = lease.leases().next().unwrap().clone();
    assert_eq!(registry.delete(&lease).await, Ok(false));
    assert_eq!(
        double.requests().last().unwrap(),
        "PUT /v2/keys/test/network/subnets/10.1.1.0-24?prevExist=false \
         value=%7B%22PublicIP%22%3A%22192%2E0%2E2%2E2%22%7D&ttl=86399"
    );
}

#[tokio::test]
async fn poll_that_ends_badly_ends_the_watch_with_the_reason() {
    let cases = [
        (Reply::etcd2("200 OK", 7, ""), "watch leases: the server ended a poll without an event"),
        (
            Reply::etcd2("200 OK", 7, "{\"action\":\n"),
            "watch leases: bad event: EOF while parsing a value at line 1 column 10; found \
             {\\\"action\\\":",
        ),
        (
            Reply::etcd2(
                "400 Bad Request",
                2000,
                r#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [1001/6]","index":2000}"#,
            ),
            "watch leases: the history after revision 5 is gone",
        ),
        (
            Reply::etcd2("200 OK", 4, ""),
            "watch leases: the registry that answers never was at revision 5",
        ),
    ];
    for (reply, text) in cases {
        let double = Double::start(move |request| match request.starts_with(CONFIG) {
            true => Reply::etcd2("404 Not Found", 7, r#"{"errorCode":100,"message":"","index":7}"#),
            false => reply.clone(),
        })
        .await;
        let registry = registry(&[&double.url]);
        let mut watch = registry.watch(&Scope::All, Revision(5)).await.unwrap();
        assert_eq!(watch.next().await.unwrap_err().to_string(), text);
    }
}

#[tokio::test]
async fn poll_goes_on_behind_the_event_even_if_that_is_no_lease() {
    let event = |action: &str, key: &str, index: i64| {
        format!(
            "{{\"action\":\"{action}\",\"node\":{{\"key\":\"{key}\",\"modifiedIndex\":{index},\"createdIndex\":1}}}}\n"
        )
    };
    let double = Double::start(move |request| {
        let index = request.rsplit('=').next().unwrap().parse().unwrap();
        let (action, key) = match index {
            6 => ("set", "/test/network/subnets-old/10.1.1.0-24"),
            7 => ("delete", "/test/net"),
            8 => ("set", "/test/network/subnets/a/b"),
            9 => ("compareAndDelete", "/test/network/subnets/10.1.1.0-24"),
            _ => return Reply::Silence,
        };
        Reply::etcd2("200 OK", 20, &event(action, key, index))
    })
    .await;
    let registry = registry(&[&double.url]);
    let mut watch = registry.watch(&Scope::All, Revision(5)).await.unwrap();
    for index in 6..9 {
        let batch = watch.next().await.unwrap();
        assert_eq!((batch.revision, batch.changes), (Revision(index), Vec::new()));
    }
    let (key, revision) = ("10.1.1.0-24".to_owned(), Revision(9));
    assert_eq!(watch.next().await.unwrap().changes, [Change::Delete { key, revision }]);
}
