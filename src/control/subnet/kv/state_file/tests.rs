use std::fs;
use std::time::Duration;

use super::*;
use crate::control::subnet::kv::registry::memory::{Fault, MemoryRegistry};
use crate::control::subnet::kv::registry::{LEASE_TTL, Stored};
use crate::control::subnet::lease::{LeaseAttrs, LeaseEvent, print_key};
use crate::control::util::test_log::Logs;

const CONFIG: &str = r#"{"network":  "10.1.0.0/16"}"#;

#[tokio::test(start_paused = true)]
async fn what_was_recorded_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    assert!(load(&file).unwrap().is_none());
    let mut recorder = Recorder::new(&file, CONFIG, own(), &[lease("10.1.7.0/24", "192.0.2.7")]);
    recorder.apply(&[
        LeaseEvent::Added(lease("10.1.8.0/24", "192.0.2.8")),
        LeaseEvent::Removed("10.1.7.0/24".parse().unwrap()),
        LeaseEvent::Added(lease("10.1.9.0/24", "192.0.2.9")),
    ]);
    write(&mut recorder).await;
    let PersistedState { config, past: PersistedLeases { own, peers }, .. } =
        load(&file).unwrap().unwrap();
    assert_eq!((config.text.as_str(), config.network.v4.subnet_len), (CONFIG, 24));
    assert_eq!((own.entry.key.as_str(), own.entry.revision), ("10.1.5.0-24", Revision::UNKNOWN));
    assert!(!own.is_reservation());
    let left = own.expires.unwrap() - Instant::now();
    assert!(LEASE_TTL.abs_diff(left) < Duration::from_secs(60), "{left:?}");
    let peers: Vec<String> =
        peers.iter().map(|peer| format!("{} {}", peer.subnet, peer.attrs)).collect();
    assert_eq!(peers, ["10.1.8.0/24 192.0.2.8", "10.1.9.0/24 192.0.2.9"]);
    assert_eq!(file.own_subnets().map(|it| it.v4), Some(own.subnet));
    let other =
        StateFile::next_to(&file.path.with_extension("").with_extension("env"), "another".into());
    assert_eq!(other.own_subnets().map(|it| it.v4), None);
    recorder.clear().await;
    assert!(load(&file).unwrap().is_none());
    assert_eq!(file.own_subnets().map(|it| it.v4), None);
}

#[tokio::test(start_paused = true)]
async fn changes_are_written_together_and_not_too_often() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let mut recorder = Recorder::new(&file, CONFIG, own(), &[]);
    let start = Instant::now();
    let mut files = std::collections::BTreeSet::new();
    while start.elapsed() < Duration::from_secs(60) {
        tokio::select! {
            step = recorder.next() => recorder.take(step),
            () = tokio::time::sleep(Duration::from_millis(50)) => recorder.hold(own()),
        }
        files.extend(recorder.stamp.map(|stamp| (stamp.file, stamp.modified)));
    }
    assert!((11..=13).contains(&files.len()), "{files:?}");
    assert!(tokio::time::timeout(Duration::from_secs(9), recorder.next()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn state_that_cannot_be_relied_on_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let mut recorder = Recorder::new(&file, CONFIG, own(), &[]);
    recorder.hold(own());
    write(&mut recorder).await;
    let good = fs::read_to_string(&file.path).unwrap();
    let refused = |previous: &str| file.load(previous.parse().ok(), None).unwrap_err().to_string();
    assert!(refused("10.1.6.0/24").contains("do not agree with its subnet 10.1.5.0/24"));
    assert!(refused("no subnet.env").contains("do not agree with its subnet"));
    for (part, other, reason) in [
        ("etcd key /config", "etcd key /other", "it is that of etcd key /other"),
        ("10.1.0.0/16", "10.2.0.0/16", "do not agree with its subnet"),
        ("10.1.0.0/16", "10.1.0.0/33", "no usable network config"),
        ("\"own\"", "\"owner\"", "does not say which lease is ours"),
        ("\"own\": \"10.1.5.0-24\"", "\"own\": \"10.1.6.0-24\"", "which lease is ours"),
        ("\"Expires\":\"20", "\"Expires\":\"19", "does not say which lease is ours"),
        ("\"Expires\":\"", "\"Expires\":1,\"x\":\"", "lease 10.1.5.0/24 has expired"),
        ("}\n", "", "not a registry: EOF"),
    ] {
        let bad = good.replacen(part, other, 9);
        assert_ne!(bad, good, "{part}");
        fs::write(&file.path, bad).unwrap();
        assert!(refused("10.1.5.0/24").contains(reason), "{reason}: {}", refused("10.1.5.0/24"));
    }
}

#[tokio::test(start_paused = true)]
async fn clock_that_is_behind_revives_no_expired_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    write(&mut Recorder::new(&file, CONFIG, own(), &[])).await;
    let good = fs::read_to_string(&file.path).unwrap();
    let line = |name: &str| {
        let line = good.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
        line.to_owned()
    };
    let text = |hours: u64| {
        let at = SystemTime::now() + Duration::from_secs(3600 * hours);
        format!("  \"written\": \"{}\",", crate::control::util::time_text::utc(at))
    };
    // Written ten hours from now, before a reboot: so it is later than the clock says.
    let rebooted = good.replace(&line("boot"), "  \"boot\": \"another\",");
    let late = rebooted.replace(&line("written"), &text(10));
    fs::write(&file.path, &late).unwrap();
    let error = load(&file).unwrap_err().to_string();
    assert!(error.starts_with("the clock says "), "{error}");
    fs::write(&file.path, rebooted).unwrap();
    assert!(load(&file).unwrap().is_some());
    // The same boot tells by how much the clock was set back, and so what has expired.
    fs::write(&file.path, good.replace(&line("written"), &text(10))).unwrap();
    let left = load(&file).unwrap().unwrap().past.own.expires.unwrap() - Instant::now();
    let expected = LEASE_TTL - Duration::from_secs(3600 * 10);
    assert!(expected.abs_diff(left) < Duration::from_secs(60), "{left:?}");
    fs::write(&file.path, good.replace(&line("written"), &text(25))).unwrap();
    let error = load(&file).unwrap_err().to_string();
    assert_eq!(error, "lease 10.1.5.0/24 has expired");
}

#[tokio::test(start_paused = true)]
async fn state_of_another_store_is_of_no_use_if_that_can_be_told() {
    let logs = Logs::capture();
    let dir = tempfile::tempdir().unwrap();
    let at = |urls: &[&str]| {
        let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
        file(&dir).at(&urls)
    };
    let (old, new) = (MemoryRegistry::new(), MemoryRegistry::new());
    let written = at(&["http://a:2379", "http://b:2379"]);
    assert_eq!(written.meet(&old.identity().await.unwrap()), None);
    write(&mut Recorder::new(&written, CONFIG, own(), &[])).await;
    let recall = async |registry: &MemoryRegistry, urls: &[&str], is_down: bool| {
        registry.fail_next(usize::from(is_down), Fault::NotAsked);
        let (subnet, ip) = ("10.1.5.0/24".parse().ok(), "192.0.2.5".parse().unwrap());
        at(urls).recall(registry, subnet, None, ip, &mut LogLimit::default()).await.is_some()
    };
    assert!(recall(&old, &["http://c:2379"], false).await, "it says so");
    assert!(!recall(&new, &["http://a:2379"], false).await, "it says so");
    assert_eq!(logs.count("is of no use: it is that of memory store "), 1);
    assert!(recall(&old, &["https://b:2379", "http://c:2379"], true).await, "it may be");
    assert!(!recall(&old, &["http://c:2379"], true).await, "nothing says that it is");
    assert_eq!(logs.count("of the registry at a:2379, b:2379, and the endpoints given now"), 1);
}

#[tokio::test(start_paused = true)]
async fn state_that_cannot_be_written_is_complained_about_once_a_minute() {
    let logs = Logs::capture();
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    fs::create_dir(&file.path).unwrap();
    let mut recorder = Recorder::new(&file, CONFIG, own(), &[]);
    for _ in 0..3 {
        recorder.hold(own());
        write(&mut recorder).await;
    }
    assert_eq!(logs.count("cannot save the state for the next start"), 1);
    assert!(load(&file).is_err());
    // It is tried again without a change.
    fs::remove_dir(&file.path).unwrap();
    write(&mut recorder).await;
    assert!(load(&file).unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn state_that_somebody_removes_or_changes_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let mut recorder = Recorder::new(&file, CONFIG, own(), &[]);
    recorder.hold(own());
    write(&mut recorder).await;
    let good = fs::read_to_string(&file.path).unwrap();
    let fifo = || {
        fs::remove_file(&file.path).unwrap();
        let mkfifo = std::process::Command::new("mkfifo").arg(&file.path).status();
        assert!(mkfifo.unwrap().success());
    };
    let accidents: [&dyn Fn(); 3] =
        [&|| fs::remove_file(&file.path).unwrap(), &|| fs::write(&file.path, "{}").unwrap(), &fifo];
    for accident in accidents {
        accident();
        write(&mut recorder).await;
        assert!(fs::metadata(&file.path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&file.path).unwrap().len(), good.len());
    }
}

/// Lets the recorder go on until it has written, or tried to.
async fn write(recorder: &mut Recorder<'_>) {
    loop {
        let step = recorder.next().await;
        let is_over = step.is_write();
        recorder.take(step);
        if is_over {
            return;
        }
    }
}

fn file(dir: &tempfile::TempDir) -> StateFile {
    let file = StateFile::next_to(&dir.path().join("a.env"), "etcd key /config".to_owned());
    assert_eq!(file.path, dir.path().join("a.state.json"));
    file
}

fn load(file: &StateFile) -> Result<Option<PersistedState>, StateError> {
    file.load("10.1.5.0/24".parse().ok(), None)
}

fn own() -> Stored<Lease> {
    let ttl_lease = Some(TtlLease(std::num::NonZeroI64::MAX));
    let lease = lease("10.1.5.0/24", "192.0.2.5");
    let entry = Entry { ttl_lease, ..lease.entry };
    let expires = Some(Instant::now() + LEASE_TTL);
    Stored { value: Lease { expires, ..lease.value }, entry }
}

fn lease(subnet: &str, public_ip: &str) -> Stored<Lease> {
    let subnet = subnet.parse().unwrap();
    let attrs = LeaseAttrs::udp(public_ip.parse().unwrap());
    let entry = Entry { key: print_key(subnet), revision: Revision(7), ttl_lease: None };
    Stored { value: Lease { ipv6_subnet: None, subnet, attrs, expires: None }, entry }
}
