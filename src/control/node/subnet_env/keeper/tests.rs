use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::control::util::test_log::Logs;

const TEXT: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.15.1/24\n\
                    FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

#[tokio::test]
async fn file_that_somebody_removes_or_changes_is_written_again() {
    let logs = Logs::capture();
    let (dir, mut file) = kept();
    let path = dir.path().join("flannel/subnet.env");
    file.tried().await;
    assert_eq!(file.state(), Condition::Ok);
    assert_eq!(logs.count("Wrote subnet file to"), 1);
    assert_eq!(logs.count("flannel is ready"), 1);
    let accidents: [(&str, &dyn Fn()); 6] = [
        ("removed", &|| fs::remove_file(&path).unwrap()),
        ("truncated", &|| fs::write(&path, "").unwrap()),
        ("changed in place", &|| fs::write(&path, TEXT.replace("1472", "1500")).unwrap()),
        ("replaced", &|| {
            fs::write(path.with_extension("new"), "nonsense").unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
        }),
        ("a FIFO now", &|| {
            fs::remove_file(&path).unwrap();
            mkfifo(&path);
        }),
        ("gone with its directory", &|| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
    ];
    for (what, accident) in accidents {
        accident();
        // A FIFO is not to be opened here.
        let is_back =
            || fs::metadata(&path).is_ok_and(|found| found.is_file()) && read(&path) == TEXT;
        until(what, is_back).await;
    }
    until("the state", || file.state().is_ok()).await;
    assert!(logs.count("somebody changed") > 0);
    assert_eq!(logs.count("flannel is ready"), 1);
}

#[tokio::test]
async fn file_that_cannot_be_written_is_amiss_until_it_can() {
    let logs = Logs::capture();
    let dir = tempfile::tempdir().unwrap();
    // What a full disk does, too: no file can be made.
    fs::write(dir.path().join("flannel"), "not a directory").unwrap();
    let path = dir.path().join("flannel/subnet.env");
    let mut file = SubnetFile::keep(&path, &env());
    file.tried().await;
    let Condition::Failed(reason) = file.state() else { panic!("it is not written") };
    assert!(reason.starts_with("create directory "), "{reason}");
    assert_eq!(logs.count("Failed to write subnet file"), 1);
    assert_eq!(logs.count("flannel is ready"), 0);
    fs::remove_file(dir.path().join("flannel")).unwrap();
    until("there is room", || file.state().is_ok()).await;
    assert_eq!(read(&path), TEXT);
    assert_eq!(logs.count("flannel is ready"), 1);
}

#[tokio::test]
async fn what_is_no_file_is_replaced_but_for_a_device_or_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| dir.path().join(name);
    symlink("/dev/zero", of("endless")).unwrap();
    symlink(of("nowhere"), of("dangling")).unwrap();
    mkfifo(&of("fifo"));
    fs::create_dir(of("directory")).unwrap();
    for name in ["endless", "dangling", "fifo"] {
        let mut file = SubnetFile::keep(&of(name), &env());
        file.tried().await;
        assert_eq!(file.state(), Condition::Ok, "{name}");
        assert!(fs::symlink_metadata(of(name)).unwrap().is_file(), "{name}");
    }
    for (path, says) in [(of("directory"), "replace "), ("/dev/null".into(), "it is a device")] {
        let mut file = SubnetFile::keep(&path, &env());
        file.tried().await;
        let Condition::Failed(reason) = file.state() else { panic!("{}", path.display()) };
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn silent_disk_is_amiss_and_stops_nobody() {
    let (sender, progress) = watch::channel(Progress::default());
    let file = SubnetFile { path: "subnet.env".into(), progress, _tasks: JoinSet::new() };
    let Condition::Failed(reason) = file.state() else { panic!() };
    assert_eq!(reason, "subnet.env is not written yet");
    let busy_since = Instant::now().checked_sub(Duration::from_secs(9));
    sender.send_replace(Progress { part: Some(Condition::Ok), busy_since });
    let Condition::Failed(reason) = file.state() else { panic!() };
    assert!(reason.starts_with("the disk of subnet.env has not answered for "), "{reason}");
    drop(sender);
    assert!(!file.state().is_ok());
}

fn env() -> SubnetEnv {
    let [network, subnet] = ["10.1.0.0/16", "10.1.15.0/24"].map(|text| text.parse().unwrap());
    SubnetEnv { network, subnet, v6: None, mtu: 1472, ip_masq: false }
}

fn kept() -> (tempfile::TempDir, SubnetFile) {
    let dir = tempfile::tempdir().unwrap();
    let file = SubnetFile::keep(&dir.path().join("flannel/subnet.env"), &env());
    (dir, file)
}

fn mkfifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
