use std::fs;
use std::path::Path;

use super::*;
use crate::control::config::etcd::{clean_prefix, join};

const CERT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[test]
fn prefix_is_joined_and_cleaned() {
    for (prefix, config) in [
        ("/coreos.com/network", "/coreos.com/network/config"),
        ("/coreos.com//network/", "/coreos.com/network/config"),
        ("coreos.com/network", "coreos.com/network/config"),
        ("/a/./b/../c", "/a/c/config"),
        ("/../a", "/a/config"),
        ("../a", "../a/config"),
        ("/", "/config"),
        ("", "config"),
    ] {
        assert_eq!(join(&clean_prefix(prefix), "config"), config, "{prefix:?}");
    }
}

#[tokio::test]
async fn endpoint_that_is_no_url_is_named_with_its_position() {
    for (endpoints, expected) in [
        (&[][..], "-etcd-endpoints: empty"),
        (&["", " "], "-etcd-endpoints: empty"),
        (&["", "http://a:0"], "-etcd-endpoints: entry 2: \"http://a:0\": bad port"),
        (
            &["ftp://a:1"],
            "-etcd-endpoints: entry 1: \"ftp://a:1\": unknown scheme \"ftp\"; use http or https",
        ),
        (&["http://"], "-etcd-endpoints: entry 1: \"http://\" is not a URL"),
        (&["http://a b:1"], "-etcd-endpoints: entry 1: \"http://a b:1\" is not a URL"),
        (&["http://a:1/v2"], "-etcd-endpoints: entry 1: \"http://a:1/v2\" is not a URL"),
        (&["http://a:port"], "-etcd-endpoints: entry 1: \"http://a:port\""),
        (&["http://a:0"], "-etcd-endpoints: entry 1: \"http://a:0\": bad port"),
        (&["http://a:99999"], "-etcd-endpoints: entry 1: \"http://a:99999\": bad port"),
        (
            &["http://root:s3cret@a:1"],
            "-etcd-endpoints: entry 1: a user belongs into -etcd-username",
        ),
    ] {
        let error = error(&config(endpoints)).await;
        assert!(error.starts_with(expected), "{endpoints:?}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn endpoints_in_every_good_form_are_taken() {
    let good = [
        "http://127.0.0.1:2379",
        " https://etcd.example:2379/ ",
        "localhost:2379",
        "http://[::1]:2379",
    ];
    let registry = EtcdRegistry::connect(&config(&good)).await;
    assert!(registry.is_ok(), "{:?}", registry.err());
}

#[tokio::test]
async fn missing_or_wrong_tls_files_are_named_with_their_flag() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
    fs::write(&cert, CERT).unwrap();
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    let shown = |path: &Path| path.display().to_string();
    let absent = dir.path().join("absent");
    let none: Option<&Path> = None;
    for (ca, certificate, private_key, expected) in [
        (
            Some(&*absent),
            none,
            none,
            format!("-etcd-cafile: read {}: No such file", shown(&absent)),
        ),
        (none, Some(&*absent), Some(&*key), format!("-etcd-certfile: read {}", shown(&absent))),
        (none, Some(&*cert), Some(&*absent), format!("-etcd-keyfile: read {}", shown(&absent))),
        (none, Some(&*cert), none, format!("-etcd-certfile: {} needs -etcd-keyfile", shown(&cert))),
        (none, none, Some(&*key), format!("-etcd-keyfile: {} needs -etcd-certfile", shown(&key))),
        (Some(&*key), none, none, format!("-etcd-cafile: {} holds no certificate", shown(&key))),
        (
            none,
            Some(&*cert),
            Some(&*cert),
            format!("-etcd-keyfile: {} holds no private key", shown(&cert)),
        ),
        (
            Some(&*cert),
            Some(&*cert),
            Some(&*key),
            "-etcd-endpoints: https://a:1: set up connection: ".to_owned(),
        ),
    ] {
        let error = error(&EtcdConfig {
            ca_file: ca.map(Path::to_owned),
            cert_file: certificate.map(Path::to_owned),
            key_file: private_key.map(Path::to_owned),
            ..config(&["https://a:1"])
        })
        .await;
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn password_is_neither_shown_nor_taken_without_a_user() {
    let mut config = config(&["http://a:1"]);
    config.password = Some("s3cret".to_owned());
    assert_eq!(error(&config).await, "-etcd-password: needs -etcd-username with it");
    assert!(!format!("{config:?}").contains("s3cret"));
}

/// The message with its causes, as the daemon prints it.
async fn error(config: &EtcdConfig) -> String {
    match EtcdRegistry::connect(config).await {
        Ok(_) => panic!("{config:?} is taken"),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    }
}
