//! What operators write: flags in Go's way, variables, and how to reach etcd.

use super::assert_one_line;
use crate::control::cli;
use crate::control::cli::{FlagError, Invocation};
use crate::control::config::etcd::EtcdConfig;
use crate::control::config::etcd::clean_prefix;

/// A command line, one word a line, and behind an empty line variables such as `FLANNELD_V=1`.
///
/// # Panics
/// The message about it is no line, or the same words give another outcome the second time.
pub fn flags(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (words, variables) = text.split_once("\n\n").unwrap_or((text, ""));
    let variables = || {
        let variables = variables.lines().filter_map(|line| line.split_once('='));
        variables.map(|(name, value)| (name.into(), value.into()))
    };
    let parse = || cli::parse(words.lines().map(Into::into), variables());
    match parse() {
        Ok(Invocation::Run(config) | Invocation::Check { config, .. }) => {
            if let Err(error) = config.etcd.urls() {
                assert_one_line(&error);
            }
            assert!(config.num_workers > 0);
        }
        Ok(Invocation::CleanUp(_) | Invocation::Version | Invocation::Tool(_)) => {}
        Ok(Invocation::Help(text)) => assert!(text.contains("Usage: flanneld")),
        Err(error) => {
            assert_one_line(&error);
            assert!(!matches!(error, FlagError::Help(_)), "help is no error");
            assert_eq!(parse().unwrap_err().to_string(), error.to_string());
        }
    }
}

/// How to reach etcd, a setting a line: endpoints, prefix, user, password.
///
/// # Panics
/// What is taken for a URL is none, a password shows, or a message is no line.
pub fn etcd_settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let endpoints = line().split(',').map(str::to_owned).collect();
    let (prefix, username, password) = (line(), Some(line()), Some(line()));
    let config = EtcdConfig { endpoints, username, password, ..EtcdConfig::default() };
    match config.urls() {
        Ok(urls) => {
            let given = config.endpoints.iter().filter(|text| !text.trim().is_empty());
            assert_eq!(urls.len(), given.count());
            for url in &urls {
                let uri: hyper::Uri = url.parse().unwrap();
                assert!(uri.host().is_some_and(|host| !host.is_empty()), "{url}");
                assert!(!url.contains('@'), "{url}");
            }
            // What was understood is understood as the same.
            let again = EtcdConfig { endpoints: urls.clone(), ..EtcdConfig::default() };
            assert_eq!(again.urls().unwrap(), urls);
        }
        Err(error) => assert_one_line(&error),
    }
    if let Err(error) = config.user() {
        assert_one_line(&error);
    }
    let secret = EtcdConfig { password: Some("(*secret*)".to_owned()), ..config };
    assert!(!format!("{secret:?}").contains("(*secret*)"));

    let clean = clean_prefix(&prefix);
    assert_eq!(clean_prefix(&clean), clean, "cleaning twice is cleaning once");
    assert!(!clean.contains("//"), "{clean:?}");
}
