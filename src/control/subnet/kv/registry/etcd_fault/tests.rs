//! Messages about real listeners that are no etcd, or not the one that was meant, by both APIs.

use tokio::net::TcpListener;

use crate::control::config::etcd::EtcdConfig;
use crate::control::subnet::kv::registry::Registry;
use crate::control::subnet::kv::registry::etcd2::Etcd2Registry;
use crate::control::subnet::kv::registry::etcd3::EtcdRegistry;
use crate::control::subnet::kv::registry::etcd3::servers::Timings;
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::util::http_client::double::{Double, Reply};
use crate::control::util::test_certificates::Files;

/// What v3 and v2 say of why there is no config, when they have all the time to find out.
async fn reasons(config: &EtcdConfig) -> [String; 2] {
    reasons_within(Timings::PATIENT, config).await
}

async fn reasons_within(timings: Timings, config: &EtcdConfig) -> [String; 2] {
    let v3 = EtcdRegistry::with_timings(config, timings).await.unwrap().config().await;
    let v2 = Etcd2Registry::with_timings(config, timings).unwrap().config().await;
    [v3, v2].map(|config| {
        let reason = config.unwrap_err().reason();
        assert!(!reason.contains('\n'), "{reason}");
        reason
    })
}

fn at(url: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: vec![url.to_owned()],
        prefix: "/test/network".to_owned(),
        ..EtcdConfig::default()
    }
}

#[tokio::test]
async fn nobody_there() {
    let closed = "127.0.0.1:1";
    let expected =
        format!("etcd does not answer at {closed} (refused); --etcd-endpoints says where it is");
    for scheme in ["http", "https"] {
        assert_eq!(reasons(&at(&format!("{scheme}://{closed}"))).await, [&*expected, &*expected]);
    }
    let mut both = at(&format!("http://{closed}"));
    both.endpoints.push(format!("http://{closed}"));
    let expected = format!(
        "etcd does not answer at {closed} (refused) and at {closed} (refused); --etcd-endpoints \
         says where it is"
    );
    assert_eq!(reasons(&both).await, [&*expected, &*expected]);

    // RFC 5737 and RFC 6761: what no network has, though some firewalls refuse it themselves.
    for (url, answers) in [
        ("http://192.0.2.1:2379", &["network is unreachable", "no route to host", "refused"][..]),
        ("http://twill.invalid:2379", &["no such host", "no name server answers"]),
    ] {
        for reason in reasons_within(Timings::HASTY, &at(url)).await {
            let place = url.trim_start_matches("http://");
            let rest = reason.strip_prefix(&format!("etcd does not answer at {place} ("));
            let rest = rest.unwrap_or_else(|| panic!("{reason}"));
            let late = ["no answer within 2s", "no answer within 4s", "no answer in time"];
            let end = "); --etcd-endpoints says where it is";
            let is_known = |why: &&str| rest == format!("{why}{end}");
            assert!(answers.iter().chain(&late).any(is_known), "{reason}");
        }
    }
}

#[tokio::test]
async fn silent_listener() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let end = "; --etcd-endpoints says where it is";
    for (scheme, limits) in [("http", ["4s", "4s"]), ("https", ["4s", "2s"])] {
        let found = reasons_within(Timings::HASTY, &at(&format!("{scheme}://{addr}"))).await;
        for (reason, limit) in found.iter().zip(limits) {
            let within = format!("etcd does not answer at {addr} (no answer within {limit}){end}");
            let in_time = format!("etcd does not answer at {addr} (no answer in time){end}");
            assert!(*reason == within || *reason == in_time, "{reason}");
        }
    }
}

#[tokio::test]
async fn server_of_another_kind() {
    let web = Double::start(|_| Reply::text("404 Not Found", "nothing here")).await;
    let place = web.url.trim_start_matches("http://");
    let [v3, v2] = reasons(&at(&web.url)).await;
    let end = "; --etcd-endpoints says where it is";
    assert_eq!(v3, format!("{place} is no etcd (it speaks HTTP, but not gRPC){end}"));
    assert!(v2.starts_with(&format!("etcd at {place} does not serve the v2 API; ")), "{v2}");
    let page = Double::start(|_| Reply::text("200 OK", "<html>It works!")).await;
    let [_, v2] = reasons(&at(&page.url)).await;
    let place = page.url.trim_start_matches("http://");
    assert!(v2.starts_with(&format!("{place} is no etcd (its answer is not that")), "{v2}");
    assert!(v2.ends_with(end), "{v2}");

    let old = Double::start(|request| match request {
        "GET /version" => Reply::text("200 OK", r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#),
        _ => Reply::text("404 Not Found", "404 page not found"),
    });
    let old = old.await;
    let [v3, _] = reasons(&at(&old.url)).await;
    let place = old.url.trim_start_matches("http://");
    let expected = "is of version 2, without the v3 API; use --etcd-api=2";
    assert_eq!(v3, format!("etcd at {place} {expected}"));
}

#[tokio::test]
async fn scheme_that_the_server_does_not_speak() {
    let plain = EtcdServer::start_with(&["--enable-v2=true"]).await;
    let place = plain.url.trim_start_matches("http://").to_owned();
    let advice = format!("write http://{place} in --etcd-endpoints");
    let expected = format!("{place} speaks no TLS, the URL says https; {advice}");
    assert_eq!(reasons(&at(&format!("https://{place}"))).await, [&*expected, &*expected]);

    let files = Files::make();
    let (cert, key) = files.pair("server");
    let tls = EtcdServer::start_with_tls_and(&cert, &key, None, &["--enable-v2=true"]).await;
    let place = tls.url.trim_start_matches("https://").to_owned();
    let advice = format!("write https://{place} in --etcd-endpoints");
    let expected = format!("{place} speaks TLS, the URL says http; {advice}");
    assert_eq!(reasons(&at(&format!("http://{place}"))).await, [&*expected, &*expected]);
}

#[tokio::test]
async fn certificate_that_proves_nothing() {
    let files = Files::make();
    let (cert, key) = files.pair("server");
    let v2 = ["--enable-v2=true"];
    let server = EtcdServer::start_with_tls_and(&cert, &key, None, &v2).await;
    let place = server.url.trim_start_matches("https://").to_owned();
    let expected = format!(
        "the certificate of etcd at {place} is not trusted; --etcd-cafile names the authority that \
         signed it"
    );
    assert_eq!(reasons(&at(&server.url)).await, [&*expected, &*expected]);

    let place = place.replace("127.0.0.1", "localhost");
    let config = EtcdConfig { ca_file: Some(files.ca()), ..at(&format!("https://{place}")) };
    let expected = format!(
        "the certificate of etcd at {place} is for another name: 127.0.0.1; name etcd in \
         --etcd-endpoints as its certificate does"
    );
    assert_eq!(reasons(&config).await, [&*expected, &*expected]);

    let (cert, key) = files.expired_pair();
    let server = EtcdServer::start_with_tls_and(&cert, &key, None, &v2).await;
    let place = server.url.trim_start_matches("https://").to_owned();
    let config = EtcdConfig { ca_file: Some(files.ca()), ..at(&server.url) };
    let expected = format!(
        "the certificate of etcd at {place} has expired; renew it, or set the clock of this host \
         if that is wrong"
    );
    assert_eq!(reasons(&config).await, [&*expected, &*expected]);

    let (cert, key) = files.pair("server");
    let strict = EtcdServer::start_with_tls_and(&cert, &key, Some(&files.ca()), &v2).await;
    let place = strict.url.trim_start_matches("https://").to_owned();
    let config = EtcdConfig { ca_file: Some(files.ca()), ..at(&strict.url) };
    let expected = format!(
        "etcd at {place} refuses this host: it wants a client certificate, or another one; see \
         --etcd-certfile and --etcd-keyfile"
    );
    assert_eq!(reasons(&config).await, [&*expected, &*expected]);
}

#[tokio::test]
async fn user_that_etcd_refuses() {
    let server = EtcdServer::start().await;
    let mut client = server.client().await;
    for user in ["root", "node"] {
        client.user_add(user, "s3cret", None).await.unwrap();
        client.role_add(user).await.unwrap();
        client.user_grant_role(user, user).await.unwrap();
    }
    client.auth_enable().await.unwrap();
    let place = server.url.trim_start_matches("http://").to_owned();
    let see = "see --etcd-username and --etcd-password";
    let right = "grant its role to read PREFIX/config, and to read and write PREFIX/subnets/";
    for (user, password, expected) in [
        (None, None, format!("etcd at {place} wants a user; {see}")),
        (
            Some("node"),
            Some("wr0ng"),
            format!("etcd at {place} refuses user \"node\" or its password; {see}"),
        ),
        (
            Some("node"),
            Some("s3cret"),
            format!("etcd at {place} does not allow this to user \"node\"; {right}"),
        ),
    ] {
        let [username, password] = [user, password].map(|text| text.map(str::to_owned));
        let config = EtcdConfig { username, password, ..at(&server.url) };
        let registry = EtcdRegistry::patient(&config).await;
        assert_eq!(registry.config().await.unwrap_err().reason(), expected);
    }
}
