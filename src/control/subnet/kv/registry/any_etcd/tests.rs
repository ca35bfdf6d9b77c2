use super::*;
use crate::control::subnet::kv::registry::etcd2::tests::{Operator, v2_server};
use crate::control::subnet::kv::registry::test_etcd::EtcdServer;
use crate::control::util::http_client::double::{Double, Reply};
use crate::control::util::test_log::Logs;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16"}"#;
const KEY: &str = "/coreos.com/network/config";

#[tokio::test]
async fn config_in_v2_alone_has_everything_go_by_v2() {
    let logs = Logs::capture();
    let server = v2_server().await;
    let registry = any(&server.url, EtcdApi::Auto).await;
    assert_eq!(registry.config().await, Ok(None));
    Operator::of(&server.url).put(KEY, "", CONFIG).await;
    assert_eq!(registry.config_name(), "etcd key /coreos.com/network/config");
    let name = registry.name_in_state();
    // A node that starts from its state file lists before it reads the config.
    let store = registry.list(&Scope::All).await.unwrap().store;
    assert!(store.to_string().ends_with(", v2"), "{store}");
    assert_eq!(registry.config().await, Ok(Some(CONFIG.to_owned())));
    let lines = logs.lines_with("using the v2 API");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(
            "etcd key /coreos.com/network/config does not exist, but etcd v2 key \
             /coreos.com/network/config does: using the v2 API (--etcd-api=2)"
        ),
        "{lines:?}"
    );

    // That is settled, whatever is written to v3 later.
    server.client().await.put(KEY, "{}", None).await.unwrap();
    assert_eq!(registry.config().await, Ok(Some(CONFIG.to_owned())));
    let attrs = LeaseAttrs::udp([192, 0, 2, 1].into());
    let created = registry.create("10.5.1.0/24".parse().unwrap(), &attrs).await.unwrap();
    let Write::Done(lease) = created else { panic!("{created:?}") };
    let after = Revision(lease.entry.revision.0 - 1);
    let mut watch = registry.watch(&Scope::All, after).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    assert!(
        server
            .client()
            .await
            .get("/coreos.com/network/subnets/10.5.1.0-24", None)
            .await
            .unwrap()
            .kvs()
            .is_empty()
    );
    assert_eq!(registry.config_name(), "etcd v2 key /coreos.com/network/config");
    assert_eq!(registry.name_in_state(), name, "what is remembered by that name is found again");
    assert_eq!(logs.lines_with("using the v2 API").len(), 1);
}

#[tokio::test]
async fn config_in_both_is_that_of_v3_unless_the_operator_says_so() {
    let server = v2_server().await;
    Operator::of(&server.url).put(KEY, "", "2").await;
    server.client().await.put(KEY, "3", None).await.unwrap();
    for (api, config) in [(EtcdApi::Auto, "3"), (EtcdApi::V3, "3"), (EtcdApi::V2, "2")] {
        let registry = any(&server.url, api).await;
        assert_eq!(registry.config().await, Ok(Some(config.to_owned())), "{api:?}");
        let store = registry.identity().await.unwrap().to_string();
        assert_eq!(store.ends_with(", v2"), api == EtcdApi::V2, "{store}");
    }
}

#[tokio::test]
async fn server_without_v2_has_no_config_there() {
    let server = EtcdServer::start().await;
    let registry = any(&server.url, EtcdApi::Auto).await;
    assert_eq!(registry.config().await, Ok(None));
    assert_eq!(registry.config_elsewhere().await, None);
    let store = registry.list(&Scope::All).await.unwrap().store.to_string();
    assert!(!store.ends_with(", v2"), "{store}");
}

#[tokio::test]
async fn config_elsewhere_is_found_with_the_flags_that_lead_there() {
    let server = v2_server().await;
    let operator = Operator::of(&server.url);
    let mut client = server.client().await;
    // The search ends unfinished where the machine is slow.
    let elsewhere = async |api| {
        for _ in 0..30 {
            if let Some(found) = any(&server.url, api).await.config_elsewhere().await {
                return found;
            }
        }
        panic!("nothing is found elsewhere");
    };

    operator.put("/kube-centos/network/config", "", CONFIG).await;
    let found =
        "etcd v2 key /kube-centos/network/config does: use --etcd-prefix=/kube-centos/network";
    assert_eq!(elsewhere(EtcdApi::Auto).await, found);
    assert_eq!(elsewhere(EtcdApi::V2).await, found);
    assert_eq!(elsewhere(EtcdApi::V3).await, format!("{found} --etcd-api=2"));

    operator.put(KEY, "", CONFIG).await;
    let found = "etcd v2 key /coreos.com/network/config does: use --etcd-api=2";
    assert_eq!(elsewhere(EtcdApi::V3).await, found);

    client.put("/atomic.io/network/config", CONFIG, None).await.unwrap();
    let found = "etcd key /atomic.io/network/config does: use --etcd-prefix=/atomic.io/network";
    assert_eq!(elsewhere(EtcdApi::Auto).await, found);
    assert_eq!(elsewhere(EtcdApi::V3).await, found);

    // A node that has a config of its own can see the others, too.
    client.put(KEY, CONFIG, None).await.unwrap();
    let registry = any(&server.url, EtcdApi::Auto).await;
    assert_eq!(registry.config().await, Ok(Some(CONFIG.to_owned())));
    let others = registry.other_configs().await;
    let flags: Vec<&str> = others.iter().map(|other| other.flags.as_str()).collect();
    let kube = "--etcd-prefix=/kube-centos/network --etcd-api=2";
    assert_eq!(flags, ["--etcd-prefix=/atomic.io/network", "--etcd-api=2", kube]);
    let places = others.iter().map(|other| (other.prefix.as_str(), other.api));
    let [atomic, coreos] = ["/atomic.io/network", "/coreos.com/network"];
    let expected =
        [(atomic, EtcdApi::V3), (coreos, EtcdApi::V2), ("/kube-centos/network", EtcdApi::V2)];
    assert!(places.eq(expected));
}

#[tokio::test]
async fn etcd_2_is_asked_by_v2_and_one_that_is_away_is_not() {
    let double = Double::start(|request| match request {
        "GET /version" => Reply::text("200 OK", r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#),
        _ if request.starts_with("GET /v2/keys/coreos.com/network/config?") => Reply::etcd2(
            "200 OK",
            7,
            r#"{"action":"get","node":{"key":"/coreos.com/network/config","value":"{}","modifiedIndex":4,"createdIndex":4}}"#,
        ),
        _ => Reply::text("404 Not Found", "404 page not found"),
    })
    .await;
    let registry = any(&double.url, EtcdApi::Auto).await;
    assert_eq!(registry.config().await, Ok(Some("{}".to_owned())));
    assert_eq!(registry.identity().await.unwrap().to_string(), "etcd cluster abc, v2");

    let away = any("http://127.0.0.1:1", EtcdApi::Auto).await;
    let error = away.config().await.unwrap_err().to_string();
    let expected = "read network config: etcd does not answer at 127.0.0.1:1 (refused); ";
    assert!(error.starts_with(expected), "{error}");
    assert!(away.list(&Scope::All).await.is_err());
}

async fn any(url: &str, api: EtcdApi) -> AnyEtcd {
    let config = EtcdConfig {
        endpoints: vec![url.to_owned()],
        prefix: "/coreos.com/network".to_owned(),
        api,
        ..EtcdConfig::default()
    };
    let (v3, v2) = (EtcdRegistry::patient(&config).await, Etcd2Registry::patient(&config));
    AnyEtcd::of(&config, v3, v2)
}
