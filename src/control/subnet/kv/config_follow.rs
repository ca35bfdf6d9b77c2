//! Tells when the network config is no longer the one that this node runs with.

use std::convert::Infallible;
use std::time::Duration;

use rand::Rng;
use tokio::sync::watch;

use super::config_wait::{NotYet, read_config};
use crate::control::config::backend::BackendType;
use crate::control::config::network::NetworkConfig;
use crate::control::subnet::kv::registry::Registry;
use crate::control::util::rng::rng;

/// How long until the config is looked at again, at least and at most.
const INTERVAL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Nodes for which [`INTERVAL`] is right: etcd is asked some hundred times a second. With more of
/// them it is longer in proportion.
const INTERVAL_NODES: f64 = 200.0;

/// Hands `sink` what is wrong with the registry's config each time that changes: `None` when it
/// is `in_use`. Looks when `touch` tells that the registry is back, and now and then. A registry that
/// does not answer says nothing of the config.
///
/// A running node stays with what it started with, as stock does: its peers do, too, and a network
/// cannot be changed under connections that use it.
///
/// # Cancel safety
/// May be dropped at any time.
pub(in crate::control) async fn follow_config<R: Registry>(
    registry: &R,
    backend: Option<BackendType>,
    in_use: &NetworkConfig,
    mut touch: watch::Receiver<bool>,
    num_nodes: impl Fn() -> usize,
    mut sink: impl FnMut(Option<String>),
) -> Infallible {
    let mut said = None;
    loop {
        let found = match read_config(registry, backend).await {
            Ok(found) => Some(in_use.difference(&found.network).map(|what| {
                let name = registry.config_name();
                format!(
                    "{name} is not what this node runs with: {what}; restart to follow it, or \
                     change it back"
                )
            })),
            Err(problem @ (NotYet::Missing { .. } | NotYet::Invalid { .. })) => {
                Some(Some(format!(
                    "{problem}; this node goes on with the config it has, but could not start again"
                )))
            }
            Err(NotYet::Registry(_)) => None,
        };
        if let Some(found) = found.filter(|found| *found != said) {
            match &found {
                Some(warning) => tracing::warn!("{warning}"),
                None => {
                    let name = registry.config_name();
                    tracing::info!("{name} is again what this node runs with");
                }
            }
            sink(found.clone());
            said = found;
        }
        tracing::trace!("network config looked at: {}", said.as_deref().unwrap_or("no change"));
        let [least, most] = INTERVAL;
        let scale = (num_nodes() as f64 / INTERVAL_NODES).max(1.0);
        let pause = rng().random_range(least..=most).mul_f64(scale);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = touch.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::control::config::etcd::EtcdConfig;
    use crate::control::config::network::parse;
    use crate::control::subnet::kv::registry::etcd3::EtcdRegistry;
    use crate::control::subnet::kv::registry::file::FileRegistry;
    use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
    use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
    use crate::control::util::test_log::Logs;

    const CONFIG: &str = r#"{"Network":"10.5.0.0/16"}"#;

    /// Every change of the config, with a piece of what is said of it.
    const CASES: [(Option<&str>, Option<&str>); 9] = [
        (
            Some(r#"{"Network":"10.6.0.0/16"}"#),
            Some("is not what this node runs with: Network is 10.6.0.0/16, was 10.5.0.0/16, "),
        ),
        (Some(r#"{ "Network": "10.5.0.0/16", "SubnetLen": 24, "note": 1 }"#), None),
        (Some(r#"{"Network":"10.5.0.0/16","SubnetLen":25}"#), Some("SubnetLen is 25, was 24, ")),
        (
            Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":8286,"MTU":1400}}"#),
            Some(
                ": Backend.Port is 8286, was 8285, Backend.MTU is 1400, was not set; restart to \
                 follow it, or change it back",
            ),
        ),
        (Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#), Some("vxlan")),
        (Some(CONFIG), None),
        (Some("rubbish"), Some("; this node goes on with the config it has, but could not")),
        (None, Some("does not exist; this node goes on")),
        (Some(CONFIG), None),
    ];

    /// What `sink` was handed.
    struct Followed {
        said: Arc<Mutex<Vec<Option<String>>>>,
        touch: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Followed {
        fn start<R: Registry + 'static>(registry: Arc<R>) -> Self {
            let (said, touch) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(true));
            let (sink, touched) = (Arc::clone(&said), touch.subscribe());
            let task = tokio::spawn(async move {
                let in_use = parse(CONFIG, None).unwrap();
                let push = move |warning| sink.lock().unwrap().push(warning);
                follow_config(&*registry, None, &in_use, touched, || 3, push).await;
            });
            Self { said, touch, task }
        }

        /// Waits until this has been said in the end, so many times in all.
        async fn expect(&self, num: usize, part: Option<&str>) {
            let heard = async {
                while self.said.lock().unwrap().len() < num {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(120), heard).await;
            let said = self.said.lock().unwrap();
            assert!(in_time.is_ok() && said.len() == num, "{num} times: {said:?}");
            let last = said.last().unwrap().as_deref();
            assert_eq!(last.is_some(), part.is_some(), "{last:?}");
            assert!(last.unwrap_or_default().contains(part.unwrap_or_default()), "{last:?}");
        }
    }

    impl Drop for Followed {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_difference_is_said_once_and_so_is_its_end() {
        let logs = Logs::capture();
        let registry = Arc::new(MemoryRegistry::new());
        registry.set_config(CONFIG);
        let followed = Followed::start(Arc::clone(&registry));
        tokio::time::sleep(Duration::from_secs(60)).await;
        for (i, (text, part)) in CASES.into_iter().enumerate() {
            match text {
                Some(text) => registry.set_config(text),
                None => registry.remove_config(),
            }
            followed.expect(i + 1, part).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            followed.expect(i + 1, part).await;
        }
        let num_warnings = CASES.iter().filter(|(_, part)| part.is_some()).count();
        assert_eq!(logs.count("WARN"), num_warnings);
        assert_eq!(logs.count("is again what this node runs with"), CASES.len() - num_warnings);
    }

    #[tokio::test(start_paused = true)]
    async fn registry_that_does_not_answer_changes_nothing_and_is_asked_when_it_is_back() {
        let registry = Arc::new(MemoryRegistry::new());
        registry.set_config("{}");
        let followed = Followed::start(Arc::clone(&registry));
        followed.expect(1, Some("Network: missing")).await;
        registry.fail_next(100, Fault::NotAsked);
        tokio::time::sleep(Duration::from_secs(300)).await;
        followed.expect(1, Some("Network: missing")).await;
        registry.heal();
        registry.set_config(CONFIG);
        let back = tokio::time::Instant::now();
        followed.touch.send_replace(false);
        followed.touch.send_replace(true);
        followed.expect(2, None).await;
        assert!(back.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn change_in_etcd_is_noticed() {
        let server = EtcdServer::start().await;
        let config = EtcdConfig {
            endpoints: vec![server.url.clone()],
            prefix: "/net".to_owned(),
            ..EtcdConfig::default()
        };
        let mut client = server.client().await;
        client.put("/net/config", CONFIG, None).await.unwrap();
        let registry = EtcdRegistry::patient(&config).await;
        let followed = Followed::start(Arc::new(registry));
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.put("/net/config", r#"{"Network":"10.7.0.0/16"}"#, None).await.unwrap();
        followed.expect(1, Some("etcd key /net/config is not what this node runs with")).await;
        client.delete("/net/config", None).await.unwrap();
        followed.touch.send_replace(true);
        followed.expect(2, Some("etcd key /net/config does not exist")).await;
    }

    #[tokio::test]
    async fn change_in_a_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.json");
        let write = |path: &Path, config: &str| {
            // At once, so that nobody reads half of it.
            let new = path.with_extension("new");
            std::fs::write(&new, format!(r#"{{{config}"leases":{{}}}}"#)).unwrap();
            std::fs::rename(&new, path).unwrap();
        };
        let [first, second] =
            [CONFIG, r#"{"Network":"10.7.0.0/16"}"#].map(|text| format!(r#""config":{text},"#));
        write(&path, &first);
        let followed = Followed::start(Arc::new(FileRegistry::new(&path)));
        tokio::time::sleep(Duration::from_millis(200)).await;
        write(&path, &second);
        followed.expect(1, Some("registry.json is not what this node runs with")).await;
        write(&path, "");
        followed.touch.send_replace(true);
        followed.expect(2, Some("does not exist")).await;
    }
}
