//! Servers that want to know who we are, and that show who they are.

use std::fs;

use super::*;
use crate::control::util::test_certificates::Files;
use crate::control::util::test_log::Logs;

#[tokio::test]
async fn user_is_shown_to_etcd_and_refused_without_the_password() {
    let server = EtcdServer::start().await;
    let mut config = with_user(&server).await;

    let early = EtcdRegistry::patient(&config).await;
    assert_eq!(early.config().await, Ok(None), "etcd without authentication takes everybody");

    server.client().await.auth_enable().await.unwrap();
    let registry = EtcdRegistry::patient(&config).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch =
        registry.watch(&Scope::All, Revision(lease.entry.revision.0 - 1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);

    config.password = Some("wr0ng".to_owned());
    let stranger = EtcdRegistry::patient(&config).await;
    let error = stranger.config().await.unwrap_err().to_string();
    assert!(error.contains(" refuses user \"root\" or its password; "), "{error}");
    assert!(!error.contains("wr0ng"), "{error}");
}

#[tokio::test]
async fn role_for_the_subnets_alone_is_enough_to_watch_them() {
    let server = EtcdServer::start().await;
    let config = with_user(&server).await;
    let mut client = server.client().await;
    client.user_add("node", "s3cret", None).await.unwrap();
    client.role_add("node").await.unwrap();
    client.user_grant_role("node", "node").await.unwrap();
    let subnets = etcd_client::Permission::read_write("/test/network/subnets/").with_prefix();
    client.role_grant_permission("node", subnets).await.unwrap();
    client.auth_enable().await.unwrap();
    let config = EtcdConfig { username: Some("node".to_owned()), ..config };
    let registry = EtcdRegistry::patient(&config).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&registry, "10.1.2.0/24").await;
    assert!(matches!(watch.next().await.unwrap().changes[..], [Change::Put(Ok(_))]));
}

#[tokio::test]
async fn token_that_ran_out_is_fetched_anew_whatever_is_asked() {
    let mut server = EtcdServer::start_with(&["--auth-token-ttl=3"]).await;
    let config = with_user(&server).await;
    server.client().await.auth_enable().await.unwrap();
    let registry = EtcdRegistry::patient(&config).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    // The token lives for three seconds, and is looked at once a second.
    let run_out = || tokio::time::sleep(Duration::from_secs(5));

    run_out().await;
    assert!(matches!(registry.renew(&lease, &attrs()).await, Ok(Write::Done(_))));
    let batch = watch.next().await.unwrap();
    assert_eq!(batch.changes.len(), 1, "the old watch goes on");
    run_out().await;
    create(&registry, "10.1.2.0/24").await;
    run_out().await;
    let mut watch = registry.watch(&Scope::All, batch.revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    run_out().await;
    assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 2);

    // A server forgets all tokens when it starts again.
    server.kill();
    server.restart().await;
    let end = watch.next().await;
    assert!(matches!(end, Err(RegistryError::WatchEnded { .. })), "{end:?}");
    let mut watch = registry.watch(&Scope::All, batch.revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    assert_eq!(registry.list(&Scope::All).await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn ca_file_alone_is_enough_for_tls() {
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let server = EtcdServer::start_with_tls(&cert, &key, None).await;

    let mut config = config(&[&server.url]);
    let stranger = EtcdRegistry::patient(&config).await;
    let error = stranger.config().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");

    config.ca_file = Some(files.ca());
    let registry = EtcdRegistry::patient(&config).await;
    assert_eq!(registry.config().await, Ok(None));
}

#[tokio::test]
async fn certificate_is_shown_to_a_server_that_asks_for_one() {
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let server = EtcdServer::start_with_tls(&cert, &key, Some(&files.ca())).await;

    let mut config = config(&[&server.url]);
    config.ca_file = Some(files.ca());
    let stranger = EtcdRegistry::patient(&config).await;
    let error = stranger.config().await.unwrap_err().to_string();
    assert!(error.contains(" refuses this host: it wants a client certificate"), "{error}");

    let (cert, key) = files.pair("client");
    (config.cert_file, config.key_file) = (Some(cert), Some(key));
    let registry = EtcdRegistry::patient(&config).await;
    let lease = create(&registry, "10.1.1.0/24").await;
    let before = Revision(lease.entry.revision.0 - 1);
    let mut watch = registry.watch(&Scope::All, before).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn certificates_replaced_in_place_are_used_from_the_next_call_on() {
    let logs = Logs::capture();
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let mut server = EtcdServer::start_with_tls(&cert, &key, Some(&files.ca())).await;
    let (ours, our_key) = files.pair("client");
    let ca = files.path("our-ca.pem");
    fs::copy(files.ca(), &ca).unwrap();
    let mut config = config(&[&server.url]);
    config.ca_file = Some(ca.clone());
    (config.cert_file, config.key_file) = (Some(ours.clone()), Some(our_key.clone()));
    let registry = EtcdRegistry::patient(&config).await;
    let lease = create(&registry, "10.1.1.0/24").await;

    // Files that are being written, or do not fit together, are not used yet.
    let others = Files::make();
    let (new, new_key) = others.pair("client");
    let whole = fs::read(&new).unwrap();
    for half in [&whole[..0], &whole[..30], &whole[..whole.len() / 2], &whole[..]] {
        fs::write(&ours, half).unwrap();
        assert_eq!(registry.config().await, Ok(None), "{} of {} bytes", half.len(), whole.len());
    }
    fs::remove_file(&ours).unwrap();
    assert_eq!(registry.config().await, Ok(None));
    let kept = logs.lines_with("; going on with the TLS files as they were before");
    assert_eq!(kept.len(), 3, "one for each kind of fault: {kept:?}");
    assert!(kept[0].contains("-etcd-certfile: ") && kept[0].contains("client.pem"), "{kept:?}");

    // Whole again, and the server takes nobody but those whom another authority knows.
    fs::write(&ours, &whole).unwrap();
    fs::copy(&new_key, &our_key).unwrap();
    fs::copy(others.ca(), files.ca()).unwrap();
    server.restart_with_tls().await;
    assert_eq!(answer(&registry).await, None);
    assert_eq!(logs.count("connecting with the TLS files as they are now"), 1);

    // The server itself shows a certificate of that authority.
    let (new, new_key) = others.pair("server");
    fs::copy(&new, &cert).unwrap();
    fs::copy(&new_key, &key).unwrap();
    fs::copy(others.ca(), &ca).unwrap();
    server.restart_with_tls().await;
    assert_eq!(answer(&registry).await, None);
    let mut watch = registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    create(&registry, "10.1.2.0/24").await;
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
}

/// What the registry says of the config, once it answers.
async fn answer(registry: &EtcdRegistry) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match registry.config().await {
            Ok(config) => return config,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How to reach `server` as its user root, whom it has now.
async fn with_user(server: &EtcdServer) -> EtcdConfig {
    let mut client = server.client().await;
    client.user_add("root", "s3cret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    EtcdConfig {
        username: Some("root".to_owned()),
        password: Some("s3cret".to_owned()),
        ..config(&[&server.url])
    }
}
