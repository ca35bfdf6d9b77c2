use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::value::to_raw_value;
use tempfile::TempDir;

use super::*;
use crate::control::config::network::parse;
use crate::control::subnet::kv::acquire::acquire_lease;
use crate::control::subnet::kv::list_watch::{ListWatch, Update};
use crate::control::subnet::kv::registry::conformance::Rig;
use crate::control::subnet::kv::registry::key_of;
use crate::control::subnet::kv::registry::{Change, LeaseWatch, Read, TtlLease};
use crate::control::subnet::kv::registry::{Stored, conformance};

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What an operator may have typed.
const TYPED: &str = r#"{
    "owner": "network team",
    "config": {"Network":   "10.1.0.0/16",
               "Backend": {"Type": "udp"}},
    "leases": {
        "10.1.7.0-24": { "PublicIP":"192.0.2.7",  "note": "the printer" },
        "10.1.8.0-24": { "note": 8, "publicIP": "192.0.2.8", "Expires": 4102444800, "x": [1,  2] }
    }
}"#;

/// A registry in a file, with the operator's editor.
struct FileRig {
    directory: TempDir,
    registry: FileRegistry,
}

impl FileRig {
    fn new(text: &str) -> Self {
        let rig = Self::without_file();
        rig.write(text);
        rig
    }

    fn without_file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = FileRegistry::new(&directory.path().join("registry.json"));
        Self { directory, registry }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("registry.json")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// As an editor does that writes in place.
    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    /// The same with one entry more or less, which the registry is given the time to see.
    async fn edit(&self, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let mut document: serde_json::Value = serde_json::from_str(&self.text()).unwrap();
        edit(document["leases"].as_object_mut().unwrap());
        self.write(&document.to_string());
        self.registry.list(&Scope::All).await.unwrap();
    }

    async fn create(&self, subnet: &str) -> Result<Write, RegistryError> {
        self.registry.create(subnet.parse().unwrap(), &LeaseAttrs::udp(OURS)).await
    }

    async fn read(&self, key: &str) -> Option<Read> {
        let scope = Scope::Key(key.to_owned());
        self.registry.list(&scope).await.unwrap().entries.pop()
    }
}

impl Rig for FileRig {
    type Registry = FileRegistry;

    fn registry(&self) -> &FileRegistry {
        &self.registry
    }

    async fn set_config(&self, text: &str) {
        self.write(&format!(r#"{{"config":{text},"leases":{{}}}}"#));
    }

    async fn put(&self, key: &str, value: &str) {
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        self.edit(|leases| drop(leases.insert(key.to_owned(), value))).await;
    }

    async fn remove(&self, key: &str) {
        self.edit(|leases| drop(leases.remove(key))).await;
    }

    async fn expire(&self, lease: &Stored<Lease>) {
        self.edit(|leases| leases[&lease.entry.key]["Expires"] = 1.into()).await;
    }

    async fn compact(&self) {
        self.registry.shared.view().history.keep_last(1);
    }
}

#[tokio::test]
async fn keeps_the_promises_of_a_registry() {
    conformance::check(&FileRig::without_file()).await;
}

#[tokio::test]
async fn what_was_typed_by_hand_stays_as_it_was_typed() {
    let rig = FileRig::new(TYPED);
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o660)).unwrap();
    let printer = rig.read("10.1.7.0-24").await.unwrap().unwrap();
    assert!(printer.is_reservation());
    let renewed = rig.registry.renew(&printer, &printer.attrs).await;
    assert!(matches!(renewed, Ok(Write::Done(_))), "{renewed:?}");
    assert_eq!(rig.text(), TYPED, "a reservation that is used is not rewritten");

    assert!(matches!(rig.create("10.1.9.0/24").await, Ok(Write::Done(_))));
    let lease = rig.read("10.1.8.0-24").await.unwrap().unwrap();
    assert!(matches!(rig.registry.renew(&lease, &lease.attrs).await, Ok(Write::Done(_))));
    let text = rig.text();
    for part in [
        "\"owner\": \"network team\"",
        "{\"Network\":   \"10.1.0.0/16\",\n               \"Backend\": {\"Type\": \"udp\"}}",
        "{ \"PublicIP\":\"192.0.2.7\",  \"note\": \"the printer\" }",
        "{\"note\":8,\"publicIP\":\"192.0.2.8\",\"x\":[1,  2],\"PublicIPv6\":null,\"Expires\":\"20",
        "    \"10.1.9.0-24\": {\"PublicIP\":\"192.0.2.1\",\"PublicIPv6\":null,\"Expires\":\"20",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let order = ["owner", "config", "10.1.7.0", "10.1.8.0", "10.1.9.0"].map(|name| text.find(name));
    assert!(order.is_sorted() && order[0].is_some(), "{text}");
    assert_eq!(fs::metadata(rig.path()).unwrap().permissions().mode() & 0o777, 0o660);
    let names: BTreeSet<_> =
        fs::read_dir(rig.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["registry.json", "registry.json.lock"].map(Into::into).into());
}

#[tokio::test]
async fn link_to_the_file_stays_a_link() {
    let rig = FileRig::new("{}");
    let link = rig.directory.path().join("link.json");
    symlink(rig.path(), &link).unwrap();
    let by_link = FileRegistry::new(&link);
    by_link.create("10.1.1.0/24".parse().unwrap(), &LeaseAttrs::udp(OURS)).await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(rig.read("10.1.1.0-24").await.is_some());
}

#[tokio::test]
async fn expiry_that_cannot_be_read_spoils_its_entry_alone() {
    let rig = FileRig::new(
        r#"{"leases": {"10.1.1.0-24": {"PublicIP": "192.0.2.1", "Expires": "tomorrow"},
                       "10.1.2.0-24": {"PublicIP": "192.0.2.2", "Expires": null}}}"#,
    );
    let Err(malformed) = rig.read("10.1.1.0-24").await.unwrap() else { panic!() };
    assert!(
        malformed.to_string().starts_with("entry 10.1.1.0-24: Expires: \"tomorrow\" is not a time")
    );
    assert!(rig.read("10.1.2.0-24").await.unwrap().unwrap().is_reservation());
    assert!(matches!(rig.create("10.1.1.0/24").await, Ok(Write::Refused(Some(Err(_))))));
}

#[tokio::test]
async fn lease_expires_in_the_eyes_of_all_and_its_text_goes_with_the_next_write() {
    let soon = document::expires(&to_raw_value(&serde_json::json!({"Expires": 1})).unwrap());
    assert_eq!(soon, Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1))));
    let rig = FileRig::new(r#"{"leases": {}}"#);
    let Ok(Write::Done(lease)) = rig.create("10.1.1.0/24").await else { panic!() };
    let mut watch = rig.registry.watch(&Scope::All, lease.entry.revision).await.unwrap();
    let at = crate::control::util::time_text::utc(SystemTime::now() + Duration::from_secs(2));
    rig.edit(|leases| leases["10.1.1.0-24"]["Expires"] = at.into()).await;
    assert!(matches!(next(&mut watch).await[..], [Change::Put(Ok(_))]));
    assert!(matches!(next(&mut watch).await[..], [Change::Delete { .. }]), "nobody wrote");
    assert!(rig.text().contains("10.1.1.0-24"));
    assert!(matches!(rig.create("10.1.2.0/24").await, Ok(Write::Done(_))));
    assert!(!rig.text().contains("10.1.1.0-24"));
}

#[tokio::test]
async fn expiry_edited_by_hand_is_news_to_the_holder() {
    let rig = FileRig::new(r#"{"leases": {}}"#);
    let Ok(Write::Done(lease)) = rig.create("10.1.1.0/24").await else { panic!() };
    rig.edit(|leases| leases["10.1.1.0-24"]["Expires"] = 4_102_444_800_i64.into()).await;
    let edited = rig.read("10.1.1.0-24").await.unwrap().unwrap();
    let bound: [Option<TtlLease>; 2] = [edited.entry.ttl_lease, lease.entry.ttl_lease];
    assert!(bound[0].is_some() && bound[0] != bound[1], "{bound:?}");
}

#[tokio::test]
async fn file_that_is_no_registry_is_an_outage_and_never_written_to() {
    let rig = FileRig::new(TYPED);
    let mut feed = ListWatch::new(&rig.registry, Scope::All);
    let Update::Snapshot(snapshot) = feed.next().await else { panic!() };
    assert_eq!(snapshot.leases().count(), 2);
    for (text, reason) in [
        (&TYPED[..100], "EOF while parsing"),
        ("", "the file is empty; {} is the least"),
        ("[]", "expected a JSON object"),
        (r#"{"leases": []}"#, "leases: "),
        (r#"{"leases": {}, "Leases": {}}"#, "leases stands there twice"),
        ("{}}", "trailing characters at line 1 column 3"),
    ] {
        rig.write(text);
        let path = rig.path().display().to_string();
        let listed = rig.registry.list(&Scope::All).await.map(|_| ());
        let created = rig.create("10.1.9.0/24").await.map(|_| ());
        let config = rig.registry.config().await.map(|_| ());
        for result in [listed, created, config] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&path) && error.contains(reason), "{error}");
        }
        assert_eq!(rig.text(), text);
    }
    let more = TYPED.replace("10.1.7.0-24", "10.1.17.0-24");
    rig.write(&more);
    hears_of(&mut feed, "10.1.17.0-24").await;
}

#[tokio::test]
async fn file_and_directory_may_go_and_come_back() {
    let outer = tempfile::tempdir().unwrap();
    let (inner, away) = (outer.path().join("inner"), outer.path().join("away"));
    let path = inner.join("registry.json");
    let registry = FileRegistry::new(&path);
    assert_eq!(registry.config().await, Ok(None), "neither is there yet");
    let error = registry.list(&Scope::All).await.unwrap_err().to_string();
    assert!(error.contains("No such file or directory"), "{error}");
    let attrs = LeaseAttrs::udp(OURS);
    assert!(registry.create("10.1.1.0/24".parse().unwrap(), &attrs).await.is_err());
    assert!(!inner.exists());

    fs::create_dir(&inner).unwrap();
    fs::write(&path, TYPED).unwrap();
    let mut feed = ListWatch::new(&registry, Scope::All);
    assert!(matches!(feed.next().await, Update::Snapshot(_)));
    let typed = |i: u8| TYPED.replace("10.1.7.0-24", &format!("10.1.2{i}.0-24"));
    fs::write(&path, typed(1)).unwrap();
    hears_of(&mut feed, "10.1.21.0-24").await;

    fs::remove_file(&path).unwrap();
    fs::write(&path, typed(2)).unwrap();
    hears_of(&mut feed, "10.1.22.0-24").await;

    fs::rename(&inner, &away).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(&path, typed(3)).unwrap();
    hears_of(&mut feed, "10.1.23.0-24").await;
    // It is the new directory that is watched.
    fs::write(&path, typed(4)).unwrap();
    hears_of(&mut feed, "10.1.24.0-24").await;
}

#[tokio::test]
async fn lock_of_somebody_else_is_waited_for_but_not_for_ever() {
    let rig = FileRig::new(r#"{"leases": {}}"#);
    let lock = rig.registry.shared.lock().unwrap();
    let error = rig.create("10.1.1.0/24").await.unwrap_err().to_string();
    assert!(error.contains("registry.json.lock is locked by somebody"), "{error}");
    assert!(rig.read("10.1.1.0-24").await.is_none(), "reading takes no lock");
    drop(lock);
    assert!(matches!(rig.create("10.1.1.0/24").await, Ok(Write::Done(_))));
}

#[tokio::test]
async fn daemons_that_share_the_file_and_start_at_once_get_a_subnet_each() {
    const NUM: u8 = 30;
    let text = format!(r#"{{"config":{{"Network":"10.1.0.0/16","SubnetMax":"10.1.{NUM}.0"}}}}"#);
    let rig = FileRig::new(&text);
    let tasks: Vec<_> = (1..=NUM)
        .map(|i| {
            let registry = FileRegistry::new(&rig.path());
            tokio::spawn(async move {
                let config = parse(&registry.config().await.unwrap().unwrap(), None).unwrap();
                let attrs = LeaseAttrs::udp(Ipv4Addr::new(192, 0, 2, i));
                let previous = "10.1.5.0/24".parse().ok();
                acquire_lease(&registry, &config, &attrs, previous).await.unwrap().lease.subnet
            })
        })
        .collect();
    let mut subnets = BTreeSet::new();
    for task in tasks {
        let subnet = tokio::time::timeout(Duration::from_secs(60), task).await.unwrap();
        subnets.insert(subnet.unwrap());
    }
    assert_eq!(subnets.len(), usize::from(NUM));
    let snapshot = rig.registry.list(&Scope::All).await.unwrap();
    assert_eq!(snapshot.leases().count(), usize::from(NUM));
}

#[test]
fn document_prints_what_it_read() {
    let read = |text: &str| Document::parse(text.as_bytes()).unwrap();
    assert_eq!(read("{}").to_string(), "{\n  \"leases\": {}\n}\n");
    let typed = read(TYPED).to_string();
    assert_eq!(read(&typed).to_string(), typed);
    let twice = read(r#"{"leases": {"a": 1, "a": 2}, "\"": 3}"#);
    assert_eq!(twice.entries().values().map(|raw| raw.get()).collect::<Vec<_>>(), ["2"]);
    assert!(twice.to_string().contains("\"a\": 1,\n") && twice.to_string().contains("\"\\\"\": 3"));
}

/// Waits until the feed has reported the entry `key`.
async fn hears_of(feed: &mut ListWatch<'_, FileRegistry>, key: &str) {
    loop {
        let update = tokio::time::timeout(Duration::from_secs(20), feed.next()).await.unwrap();
        let is_told = match update {
            Update::Changes(changes) => changes
                .iter()
                .any(|change| matches!(change, Change::Put(entry) if key_of(entry) == key)),
            Update::Snapshot(all) | Update::Relisted(all, _) | Update::Reset(all) => {
                all.entries.iter().any(|entry| key_of(entry) == key)
            }
        };
        if is_told {
            return;
        }
    }
}

async fn next(watch: &mut FileWatch) -> Vec<Change> {
    let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    batch.unwrap().unwrap().changes
}
