//! Servers that want to know who we are, and that show who they are.

use std::fs;

use super::*;
use crate::control::util::test_certificates::Files;
use crate::control::util::test_log::Logs;

#[tokio::test]
async fn user_is_shown_to_etcd_and_refused_without_the_password() {
    let server = v2_server().await;
    let operator = Operator::of(&server.url);
    let json = |method, path: &str, body: &str| {
        Request::new(method, format!("/v2/auth/{path}"))
            .body("application/json", body.to_owned())
            .header(hyper::header::AUTHORIZATION, basic_auth("root", "s3cret"))
    };
    let root = r#"{"user":"root","password":"s3cret"}"#;
    operator.ask(&json(hyper::Method::PUT, "users/root", root)).await;
    operator.ask(&json(hyper::Method::PUT, "enable", "")).await;
    // By default everybody may do everything.
    let guests = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
    operator.ask(&json(hyper::Method::PUT, "roles/guest", guests)).await;

    let user = |name: &str, password: &str| {
        let [username, password] = [name, password].map(|text| Some(text.to_owned()));
        let config = EtcdConfig { username, password, ..config(&[&server.url]) };
        Etcd2Registry::patient(&config)
    };
    let known = user("root", "s3cret");
    let lease = create(&known, "10.1.1.0/24").await;
    let mut watch = known.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&known, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);

    let error = user("root", "wr0ng").config().await.unwrap_err().to_string();
    assert!(error.contains(" refuses user \"root\": a wrong password, or no right"), "{error}");
    assert!(!error.contains("wr0ng"), "{error}");
    let error = registry(&[&server.url]).config().await.unwrap_err().to_string();
    assert!(error.contains(" wants a user; see --etcd-username "), "{error}");
    assert!(registry(&[&server.url]).watch(&Scope::All, Revision(1)).await.is_err());
}

#[tokio::test]
async fn ca_file_alone_is_enough_for_tls_unless_the_server_asks_for_a_certificate() {
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let tls = ["--enable-v2=true"];
    let server = EtcdServer::start_with_tls_and(&cert, &key, None, &tls).await;
    let mut config = config(&[&server.url]);
    let stranger = Etcd2Registry::patient(&config);
    let error = stranger.config().await.unwrap_err().to_string();
    assert!(error.contains(" is not trusted; --etcd-cafile names"), "{error}");
    config.ca_file = Some(files.ca());
    assert_eq!(Etcd2Registry::patient(&config).config().await, Ok(None));

    let strict = EtcdServer::start_with_tls_and(&cert, &key, Some(&files.ca()), &tls).await;
    config.endpoints = vec![strict.url.clone()];
    let error = Etcd2Registry::patient(&config).config().await.unwrap_err();
    assert!(error.to_string().contains("ertificate"), "{error}");
    let (cert, key) = files.pair("client");
    (config.cert_file, config.key_file) = (Some(cert), Some(key));
    let registry = Etcd2Registry::patient(&config);
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&registry, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn certificates_replaced_in_place_are_used_for_the_next_connection() {
    let logs = Logs::capture();
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let tls = ["--enable-v2=true"];
    let mut server = EtcdServer::start_with_tls_and(&cert, &key, Some(&files.ca()), &tls).await;
    let (ours, our_key) = files.pair("client");
    let mut config = config(&[&server.url]);
    config.ca_file = Some(files.ca());
    (config.cert_file, config.key_file) = (Some(ours.clone()), Some(our_key.clone()));
    let registry = Etcd2Registry::patient(&config);
    assert_eq!(registry.config().await, Ok(None));

    // Files that are being written, or do not fit together, are not used yet.
    let others = Files::make();
    let (new, new_key) = others.pair("client");
    let whole = fs::read(&new).unwrap();
    for half in [&whole[..0], &whole[..whole.len() / 2], &whole[..]] {
        fs::write(&ours, half).unwrap();
        registry.reconnect().await;
        assert_eq!(registry.config().await, Ok(None), "{} of {} bytes", half.len(), whole.len());
    }
    let kept = logs.lines_with("; going on with the TLS files as they were before");
    assert_eq!(kept.len(), 2, "one for each kind of fault: {kept:?}");
    assert!(kept[0].contains("-etcd-certfile: ") && kept[0].contains("client.pem"), "{kept:?}");

    // Both sides move to another authority.
    fs::copy(&new_key, &our_key).unwrap();
    let (new, new_key) = others.pair("server");
    fs::copy(&new, &cert).unwrap();
    fs::copy(&new_key, &key).unwrap();
    fs::copy(others.ca(), files.ca()).unwrap();
    server.restart_with_tls().await;
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = registry.config().await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
