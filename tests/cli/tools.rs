//! The tools: sockets that are not there or not ours, and a daemon through its life.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::flanneld;
use crate::host::{Daemon, FLANNELD, Host, clean, eventually, text};

/// Its exit status and what it says, on one stream: the other is empty.
fn says(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(stdout.is_empty() || stderr.is_empty(), "{command:?}: {stdout}{stderr}");
    (status.code().unwrap(), stdout + &stderr)
}

/// The one line that it ends with.
fn fails(command: &mut Command, status: i32) -> String {
    let (code, line) = says(command);
    assert_eq!(code, status, "{command:?}: {line}");
    assert!(line.starts_with("flanneld: ") && line.lines().count() == 1, "{line}");
    line
}

fn status_at(socket: &Path) -> Command {
    let mut command = flanneld();
    command.arg("status").arg("--socket").arg(socket);
    command
}

#[test]
fn wrong_words_are_one_line_and_start_no_daemon() {
    let line = fails(flanneld().arg("statsu"), 1);
    assert!(line.contains("\"statsu\": did you mean status?"), "{line}");
    let line = fails(flanneld().args(["-ip-masq", "true"]), 1);
    assert!(line.contains("write --ip-masq=true"), "{line}");
    let line = fails(flanneld().args(["status", "--jsn"]), 1);
    assert!(line.contains("'--jsn'") && line.contains("flanneld status --help"), "{line}");
    let line = fails(flanneld().args(["capture", "--count", "0"]), 1);
    assert!(line.contains("'0'") && line.contains("flanneld capture --help"), "{line}");
    let (code, help) = says(flanneld().args(["help", "drops"]));
    assert!(code == 0 && help.contains("Exit status: 0 all is well"), "{help}");
}

#[test]
fn socket_that_is_absent_dead_or_forbidden_is_told_in_one_line() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("x.sock");
    let line = fails(&mut status_at(&socket), 3);
    assert!(line.contains("does not run here: there is no /"), "{line}");
    drop(UnixListener::bind(&socket).unwrap());
    let line = fails(&mut status_at(&socket), 3);
    assert!(line.contains("nobody listens at"), "{line}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let line = fails(&mut status_at(&file), 1);
    assert!(line.contains("is no socket"), "{line}");

    let forbidden = dir.path().join("forbidden.sock");
    let _listener = UnixListener::bind(&forbidden).unwrap();
    fs::set_permissions(&forbidden, Permissions::from_mode(0o000)).unwrap();
    // As a user without capabilities, even if the test runs as root.
    let mut command = clean(Command::new("unshare"));
    command.args(["--user", "--map-user=1000", FLANNELD, "status", "--socket"]).arg(&forbidden);
    let line = fails(&mut command, 1);
    assert!(line.contains("as root or as a member of the group flannel"), "{line}");
}

#[test]
fn other_programs_and_other_versions_are_told_apart_from_a_daemon() {
    let cases: [(Option<&'static str>, &str); 5] = [
        (Some("220 mail ESMTP\r\n"), "its answer is no HTTP"),
        (Some(""), "it closes the connection"),
        (Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), "another program answers"),
        (
            Some("HTTP/1.1 404 Not Found\r\nserver: flanneld/9.8.7\r\ncontent-length: 0\r\n\r\n"),
            "flanneld 9.8.7 at ",
        ),
        (None, "does not answer"),
    ];
    for (answer, expected) in cases {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // It ends with the test program; nobody waits for the connection of a silent one.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(answer) = answer else {
                    std::mem::forget(stream);
                    continue;
                };
                let mut request = [0; 4096];
                drop(stream.read(&mut request));
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        let line = fails(&mut status_at(&socket), 1);
        assert!(line.contains(expected), "{answer:?}: {line}");
    }
}

/// A daemon with leases in a file, which does not touch the firewall.
pub fn start(host: &Host, name: &str, more: &[&str]) -> Daemon {
    let registry = format!("file:{}", host.dir.path().join("registry.json").display());
    let args = ["-iface", "10.0.0.7", "-iptables-forward-rules=false", "-registry", &registry];
    host.start(name, &[&args, more].concat())
}

#[test]
fn tools_follow_a_daemon_through_its_life() {
    let host = Host::new();
    let tool = |args: &[&str]| says(&mut host.command(&[&[FLANNELD], args].concat()));
    let secret = ["-etcd-username", "u", "-etcd-password", "open-sesame"];
    let daemon = start(&host, "a", &secret);
    daemon.wait_for("tools such as flanneld status ask at");
    eventually("it says what it waits for", || {
        let (code, said) = tool(&["status"]);
        (code == 1 && said.contains("not ready: waiting for the network config")).then_some(())
    });

    let registry = host.dir.path().join("registry.json");
    fs::write(&registry, r#"{"config":{"Network":"10.1.0.0/16"}}"#).unwrap();
    daemon.wait_for("Watching for new subnet leases");
    let said = eventually("it is ready", || {
        let (code, said) = tool(&["status"]);
        (code == 0).then_some(said)
    });
    for part in
        ["state      ready", "registry   config in file", "lease      10.1.", "lo, 10.0.0.7"]
    {
        assert!(said.contains(part), "no {part}: {said}");
    }
    assert!(!said.contains('\x1b') && said.lines().all(|line| line.len() <= 80), "{said}");
    for command in ["status", "peers", "drops", "top"] {
        let (code, json) = tool(&[command, "--json"]);
        assert_eq!(code, 0, "{command}: {json}");
        assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap().is_object());
    }
    assert!(tool(&["top"]).1.contains("\nWORKER "), "without a terminal it prints one frame");

    let report = host.dir.path().join("report.txt");
    let (code, said) = tool(&["bugreport", "-o", report.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let report = fs::read_to_string(report).unwrap();
    // Its log goes to a file here: the daemon has kept the last lines.
    let log = "Watching for new subnet leases";
    for part in ["settings of the daemon", "\"subnet\"", "flannel_ready 1", "flanneld doctor", log]
    {
        assert!(report.contains(part), "no {part}: {report}");
    }
    assert!(!report.contains("open-sesame"));

    // One that hangs is not one that is dead.
    daemon.signal("STOP");
    let line = fails(&mut host.command(&[FLANNELD, "status"]), 1);
    assert!(line.contains("does not answer"), "{line}");
    daemon.signal("KILL");
    drop(daemon);
    let socket = host.dir.path().join("a.sock");
    assert!(socket.exists(), "nobody has removed it");
    fails(&mut status_at(&socket), 3);
    let daemon = start(&host, "a", &[]);
    daemon.wait_for("Watching for new subnet leases");
    eventually("it is ready", || (tool(&["status"]).0 == 0).then_some(()));
    daemon.stop();
    assert!(!socket.exists());
}

#[test]
fn several_daemons_are_named_and_a_directory_that_is_read_only_costs_a_warning() {
    let host = Host::new();
    let (first, second) = (start(&host, "a", &[]), start(&host, "b", &[]));
    for daemon in [&first, &second] {
        daemon.wait_for("tools such as flanneld status ask at");
    }
    let line = fails(&mut host.command(&[FLANNELD, "status"]), 1);
    assert!(line.contains("/a.sock") && line.contains("/b.sock"), "{line}");
    let named = host.dir.path().join("b.sock");
    let (code, said) =
        says(&mut host.command(&[FLANNELD, "status", "--socket", named.to_str().unwrap()]));
    assert!(code == 1 && said.contains("waiting for the network config"), "{said}");

    let taken = host.dir.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let below = format!("{}/x.sock", taken.display());
    let third = start(&host, "c", &["-socket", &below]);
    third.wait_for("no socket for flanneld status and other tools");
    third.wait_for("network config");
}
