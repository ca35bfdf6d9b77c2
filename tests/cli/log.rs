//! The log is best effort: neither a failing log nor text that others put into it harms the daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use crate::flanneld;
use crate::host::{FLANNELD, Host, eventually, text};

const CONFIG: &str = r#"{"Network":"10.1.0.0/16"}"#;

#[test]
fn reader_of_the_log_that_goes_away_leaves_the_daemon_running() {
    let host = Host::with_etcd();
    let mut daemon = spawn(&host, Stdio::piped());
    let mut log = BufReader::new(daemon.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    drop(log);
    assert!(line.contains("INFO"), "{line}");
    // From here on the daemon logs into a closed pipe.
    host.put_config(CONFIG);
    await_subnet_file(&host, &mut daemon);
    end(daemon);
}

#[test]
fn full_pipe_that_nobody_reads_holds_nothing_up() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let (pipe, mut reader) = UnixStream::pair().unwrap();
    let num_filled = fill(&pipe);
    let mut daemon = spawn(&host, OwnedFd::from(pipe.try_clone().unwrap()).into());
    await_subnet_file(&host, &mut daemon);
    // Once the pipe is read, the daemon logs how many lines were lost.
    reader.read_exact(&mut vec![0; num_filled]).unwrap();
    let mut log = BufReader::new(reader.try_clone().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("flannel is ready")));
    end(daemon);

    // The end does not wait for the log.
    fill(&pipe);
    std::fs::remove_file(host.dir.path().join("a.env")).unwrap();
    let mut daemon = spawn(&host, OwnedFd::from(pipe).into());
    await_subnet_file(&host, &mut daemon);
    end(daemon);
    reader.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn mistake_ends_flanneld_even_if_nobody_reads_of_it() {
    let (pipe, _reader) = UnixStream::pair().unwrap();
    fill(&pipe);
    let mut child = flanneld().arg("--no-such-flag").stderr(OwnedFd::from(pipe)).spawn().unwrap();
    let status = eventually("flanneld ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}

#[test]
fn junk_in_the_registry_neither_floods_the_log_nor_forges_lines() {
    const NUM_JUNK: usize = 2400;
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let prefix = "/coreos.com/network/subnets/";
    let forgery = "0\n2026-01-01T00:00:00.000000Z ERROR the disk is on fire \u{1b}[2J\r\u{2028}\
                   \u{202e}\u{200b}\u{9b}1m";
    host.etcdctl(&["put", &format!("{prefix}{forgery}"), "{"]);
    for batch in 0..NUM_JUNK / 120 {
        let put = |number| format!("put {prefix}junk-{number} \"\\u001b[31mred\"\n");
        let puts: String = (batch * 120..(batch + 1) * 120).map(put).collect();
        let mut etcdctl = host.command(&["etcdctl", "txn"]).stdin(Stdio::piped()).spawn().unwrap();
        let transaction = format!("\n{puts}\n\n");
        etcdctl.stdin.take().unwrap().write_all(transaction.as_bytes()).unwrap();
        assert!(etcdctl.wait().unwrap().success());
    }
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Watching for new subnet leases");
    daemon.wait_for("skipped ");
    host.etcdctl(&["put", &format!("{prefix}10.1.99.0-24"), r#"{"PublicIP":"10.0.0.9"}"#]);
    daemon.wait_for("Subnet added: 10.1.99.0/24");
    daemon.signal("TERM");
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.len() < 50_000, "{} bytes", log.len());
    let num_skipped = log.lines().filter(|line| line.contains(" WARN skipped ")).count();
    assert_eq!(num_skipped, 20, "{log}");
    let more = format!("and {} more lines like ", NUM_JUNK + 1 - num_skipped);
    assert!(log.contains(&more), "no {more:?} in {log}");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
    for invisible in ['\u{2028}', '\u{202e}', '\u{200b}'] {
        assert!(!log.contains(invisible), "{log:?}");
    }
    let forged = log.lines().find(|line| line.contains("the disk is on fire")).unwrap();
    let escaped = r"0\n2026-01-01T00:00:00.000000Z ERROR the disk is on fire \x1b[2J\r\u{2028}";
    assert!(forged.contains(" WARN skipped ") && forged.contains(escaped), "{forged}");
}

#[test]
fn reader_of_an_answer_may_leave_before_its_end() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let check = host.command(&[FLANNELD, "-iface", "10.0.0.7", "--config-check"]);
    let mut help = flanneld();
    help.arg("--help");
    for mut command in [check, help] {
        let (closed, other) = UnixStream::pair().unwrap();
        drop(other);
        let output = command.stdout(OwnedFd::from(closed)).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    }
}

#[test]
fn lines_for_journald_have_a_priority_and_no_time() {
    let host = Host::new();
    let (theirs, mut ours) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let file = std::fs::metadata(format!("/proc/self/fd/{}", theirs.as_raw_fd())).unwrap();
    for (stream, is_journal) in
        [(format!("{}:{}", file.dev(), file.ino()), true), ("1:2".to_owned(), false)]
    {
        let env = format!("JOURNAL_STREAM={stream}");
        let mut command = host.command(&["env", &env, FLANNELD, "-iface=no-such-link"]);
        command.arg("-subnet-file").arg(host.dir.path().join("a.env")).arg("-logtostderr");
        let stderr = theirs.try_clone().unwrap();
        let status = command.stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(1));
        ours.set_nonblocking(true).unwrap();
        let mut log = Vec::new();
        // Until there is no more for now.
        drop(ours.read_to_end(&mut log));
        let log = text(&log);
        let lines: Vec<&str> = log.lines().collect();
        let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
        assert_eq!(first.starts_with("<6> INFO flanneld v"), is_journal, "{log}");
        assert_eq!(last.starts_with("<3>flanneld: "), is_journal, "{log}");
        assert_eq!(lines.iter().all(|line| line.starts_with('<')), is_journal, "{log}");
        assert_eq!(log.contains("Z  INFO") || log.contains("Z INFO"), !is_journal, "{log}");
    }
}

fn spawn(host: &Host, stderr: Stdio) -> Child {
    let env = host.dir.path().join("a.env");
    let mut command = host.command(&[FLANNELD, "-iface", "10.0.0.7", "-subnet-file"]);
    command.arg(env).args(["-etcd-endpoints", "http://127.0.0.1:2379"]);
    command.stderr(stderr).spawn().unwrap()
}

/// Writes until the pipe is full, and returns the number of bytes.
fn fill(mut pipe: &UnixStream) -> usize {
    pipe.set_nonblocking(true).unwrap();
    let mut num_filled = 0;
    for block in [&[b'x'; 4096][..], b"x"] {
        while let Ok(num) = pipe.write(block) {
            num_filled += num;
        }
    }
    pipe.set_nonblocking(false).unwrap();
    num_filled
}

fn await_subnet_file(host: &Host, daemon: &mut Child) {
    let env = host.dir.path().join("a.env");
    eventually("subnet.env", || {
        let ended = daemon.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}");
        env.exists().then_some(())
    });
}

fn end(mut daemon: Child) {
    let pid = daemon.id().to_string();
    let kill = std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
    assert!(kill.success());
    let status = eventually("flanneld ends", || daemon.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{status}");
}
