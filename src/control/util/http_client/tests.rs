use std::time::Duration;

use super::double::{Double, Reply};
use super::*;

/// For servers that answer, however slow the machine is.
const PATIENT: Timeouts = timeouts(60);

/// For those that do not.
const HASTY: Timeouts = timeouts(1);

const fn timeouts(secs: u64) -> Timeouts {
    let limit = Duration::from_secs(secs);
    Timeouts { connect: limit, head: limit, body: limit }
}

#[tokio::test]
async fn requests_in_turn_go_by_one_connection() {
    let double = Double::start(|request| Reply::text("200 OK", request)).await;
    let client = client(&double.url);
    for path in ["/one", "/two?x=y"] {
        assert_eq!(text(&client, &Request::new(Method::GET, path)).await, format!("GET {path}"));
    }
    let put = Request::new(Method::PUT, "/three").body("text/plain", "body");
    assert_eq!(text(&client, &put).await, "PUT /three body");
    assert_eq!(double.num_connections(), 1);
    client.reconnect();
    text(&client, &put).await;
    assert_eq!(double.num_connections(), 2);
}

#[tokio::test]
async fn connection_that_the_server_closed_meanwhile_is_no_error() {
    let double = Double::start(|_| {
        Reply::Pieces(vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()])
    })
    .await;
    let client = client(&double.url);
    for _ in 0..3 {
        assert_eq!(text(&client, &Request::new(Method::GET, "/")).await, "ok");
        assert_eq!(text(&client, &Request::new(Method::PUT, "/").may_repeat()).await, "ok");
    }
}

#[tokio::test]
async fn request_that_may_not_be_made_twice_is_made_once() {
    let double = Double::start(|request| match request {
        "GET /" => Reply::text("200 OK", "ok"),
        _ => Reply::Pieces(Vec::new()),
    })
    .await;
    let client = client(&double.url);
    text(&client, &Request::new(Method::GET, "/")).await;
    let error = client.send(&Request::new(Method::POST, "/x")).await.unwrap_err().to_string();
    assert!(error.starts_with("the double does not answer at http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("/x (it closes the connection)"), "{error}");
    assert_eq!(double.requests(), ["GET /", "POST /x"]);
}

#[tokio::test]
async fn errors_say_what_did_not_work_and_where() {
    let nobody = client("http://127.0.0.1:1/");
    let error = nobody.send(&Request::new(Method::GET, "/x")).await.unwrap_err();
    assert_eq!(error.to_string(), "the double does not answer at http://127.0.0.1:1 (refused)");

    let silent = Double::start(|_| Reply::Silence).await;
    let error = hasty(&silent.url).send(&Request::new(Method::GET, "/x")).await.unwrap_err();
    let place = format!("{}/x", silent.url);
    assert_eq!(
        error.to_string(),
        format!("the double does not answer at {place} (no answer within 1s)")
    );

    let half = Double::start(|request| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        match request {
            "GET /half" => Reply::Pieces(vec![format!("{head}half")]),
            _ => Reply::Answer("200 OK", Vec::new(), "123456789".to_owned()),
        }
    })
    .await;
    let client = client(&half.url);
    let answer = client.send(&Request::new(Method::GET, "/half")).await.unwrap();
    let error = answer.read(100).await.unwrap_err().to_string();
    assert!(error.contains("/half closed the connection ("), "{error}");
    let answer = client.send(&Request::new(Method::GET, "/long")).await.unwrap();
    let error = answer.read(8).await.unwrap_err().to_string();
    assert!(error.ends_with("/long answers with more than 8 bytes"), "{error}");
}

#[tokio::test]
async fn server_that_speaks_no_tls_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        // It hangs up, then and when it is looked at once more.
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        let (mut silent, _) = listener.accept().await.unwrap();
        tokio::io::copy(&mut silent, &mut tokio::io::sink()).await.unwrap();
    });
    let get = Request::new(Method::GET, "/");
    for _ in 0..2 {
        let error = client(&url).send(&get).await.unwrap_err().to_string();
        assert_eq!(error, format!("the double at {url} speaks no TLS, the URL says https"));
    }
    let error = hasty(&url).send(&get).await.unwrap_err().to_string();
    assert_eq!(error, format!("the double does not answer at {url} (no answer within 1s)"));
    server.abort();
}

#[tokio::test]
async fn answer_that_stops_half_way_is_not_waited_for() {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let double = Double::start(|_| Reply::Unfinished(start.to_owned())).await;
    let timeouts = Timeouts { body: HASTY.body, ..PATIENT };
    let client = HttpClient::new("the double", &double.url, None, timeouts).unwrap();
    let answer = client.send(&Request::new(Method::GET, "/")).await.unwrap();
    let error = answer.read(100).await.unwrap_err().to_string();
    assert!(error.ends_with("/ did not finish its answer within 1s"), "{error}");
}

#[tokio::test]
async fn lines_arrive_whole_however_they_are_cut_and_a_reader_that_gave_up_loses_nothing() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let pieces = vec![
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        chunk("one\ntw"),
        chunk("o"),
        chunk("\n\nlast"),
        "0\r\n\r\n".to_owned(),
    ];
    let double = Double::start(move |_| Reply::Pieces(pieces.clone())).await;
    let mut answer = client(&double.url).send(&Request::new(Method::GET, "/")).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let patience = Duration::from_millis(1);
        match tokio::time::timeout(patience, answer.next_line(100)).await {
            Err(_) => {}
            Ok(Ok(Some(line))) => lines.push(String::from_utf8(line.to_vec()).unwrap()),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(lines, ["one", "two", "", "last"]);

    let mut answer = client(&double.url).send(&Request::new(Method::GET, "/")).await.unwrap();
    assert_eq!(answer.next_line(8).await.unwrap().unwrap(), "one");
    let error = loop {
        match answer.next_line(3).await {
            Ok(line) => assert!(line.is_some()),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.ends_with("answers with more than 3 bytes"), "{error}");
}

#[test]
fn url_that_names_no_server_is_an_error() {
    for (url, reason) in [
        ("127.0.0.1:2379", "it begins with neither http:// nor https://"),
        ("ftp://10.0.0.1", "it begins with neither http:// nor https://"),
        ("http://", ""),
        ("http://a b", ""),
    ] {
        let error = HttpClient::new("etcd", url, None, PATIENT).err().unwrap().to_string();
        let url = url.trim_end_matches('/');
        assert!(error.starts_with(&format!("{url:?} is not the URL of etcd: ")), "{error}");
        assert!(error.ends_with(reason), "{error}");
    }
}

#[test]
fn user_in_a_url_is_in_no_message() {
    let shown = |url| match HttpClient::new("etcd", url, None, PATIENT) {
        Ok(client) => client.url().to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(shown("http://root:pw@[::1]:1"), "http://[::1]:1");
    let error = shown("ftp://root:p@w@host");
    assert!(error.starts_with("\"ftp://(hidden)@host\" is not the URL of etcd: "), "{error}");
}

#[test]
fn name_and_password_are_written_as_rfc_7617_says() {
    let value = basic_auth("Aladdin", "open sesame");
    assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    assert!(value.is_sensitive(), "no log has it");
}

fn client(url: &str) -> HttpClient {
    HttpClient::new("the double", url, None, PATIENT).unwrap()
}

fn hasty(url: &str) -> HttpClient {
    HttpClient::new("the double", url, None, HASTY).unwrap()
}

async fn text(client: &HttpClient, request: &Request) -> String {
    let answer = client.send(request).await.unwrap().read(1000).await.unwrap();
    String::from_utf8(answer.to_vec()).unwrap()
}
