//! What a signal does at which moment.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{FLANNELD, Host, eventually};

const CONFIG: &str = r#"{"Network":"10.1.0.0/16"}"#;

#[test]
fn signals_without_a_meaning_are_a_line_in_the_log_at_any_moment() {
    let host = Host::with_etcd();
    let daemon = host.start("a", &["-iface", "10.0.0.7"]);
    daemon.wait_for("Created subnet manager");
    daemon.signal("USR1");
    daemon.wait_for("SIGUSR1 received: waiting for the network config");
    host.put_config(CONFIG);
    daemon.wait_for("flannel is ready");
    for signal in ["HUP", "USR1", "USR2", "PIPE"] {
        daemon.signal(signal);
    }
    daemon.wait_for("SIGHUP received: settings are read at the start only");
    for signal in ["SIGUSR1", "SIGUSR2"] {
        let log = daemon.wait_for(&format!("{signal} received: 10.1."));
        assert!(log.contains("on flannel0, 0 peers"), "{log}");
    }
    assert_eq!(host.links_named_flannel(), ["flannel0"]);
    daemon.stop();
}

#[test]
fn terminal_that_hangs_up_stops_the_daemon_in_good_order_unless_it_is_ignored() {
    let host = Host::with_etcd();
    host.put_config(CONFIG);
    let env = host.dir.path().join("a.env");
    for (before, ends) in [("", true), ("trap '' HUP;", false)] {
        // script(1) gives it a terminal of its own.
        let flags = "-iface 10.0.0.7 -etcd-endpoints http://127.0.0.1:2379 -subnet-file";
        let run = format!("echo $$ > pid; {before} exec {FLANNELD} {flags} {}", env.display());
        let mut script = host.command(&["script", "-qfc", &run, "typescript"]);
        let script = script.current_dir(host.dir.path()).stdout(Stdio::null());
        let mut script = script.spawn().unwrap();
        eventually("subnet.env", || env.exists().then_some(()));
        let log = || fs::read_to_string(host.dir.path().join("typescript")).unwrap();
        eventually("ready", || log().contains("flannel is ready").then_some(()));
        let pid = fs::read_to_string(host.dir.path().join("pid")).unwrap();
        let signal = |name| Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap();
        assert!(signal("HUP").success());
        if !ends {
            assert!(signal("USR1").success());
            eventually("it goes on", || log().contains("SIGUSR1 received").then_some(()));
            assert!(signal("TERM").success());
        }
        eventually("the end", || script.try_wait().unwrap());
        let log = log();
        assert_eq!(log.contains("SIGHUP received, stopping"), ends, "{log}");
        assert!(log.contains("Exiting cleanly..."), "{log}");
        assert!(host.links_named_flannel().is_empty());
        fs::remove_file(&env).unwrap();
    }
}

#[test]
fn first_signal_ends_the_daemon_however_early_it_is_caught() {
    let host = Host::new();
    for (signal, number) in [(Signal::SIGINT, 2), (Signal::SIGTERM, 15)].repeat(10) {
        let daemon = host.start("a", &["-iface", "10.0.0.7"]);
        let pid = daemon.pid().cast_signed();
        let status = format!("/proc/{pid}/status");
        // No pause between two looks: the moment after the first handler is short.
        let is_caught = || {
            let status = fs::read_to_string(&status).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (number - 1)) != 0
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_caught() {
            assert!(Instant::now() < deadline, "{}", daemon.log());
        }
        kill(Pid::from_raw(pid), signal).unwrap();
        let (status, log) = daemon.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

#[test]
fn stop_during_a_lookup_of_a_name_does_not_wait_for_its_answer() {
    let host = Host::new();
    // A name server that never answers: nothing comes out of this device.
    host.output(&["ip", "tuntap", "add", "hole", "mode", "tun"]);
    host.output(&["ip", "addr", "add", "10.98.0.1/24", "dev", "hole"]);
    host.output(&["ip", "link", "set", "hole", "up"]);
    let conf = host.dir.path().join("resolv.conf");
    fs::write(&conf, "nameserver 10.98.0.53\noptions timeout:30 attempts:5\n").unwrap();
    let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
    let conf = conf.to_str().unwrap();
    let mut daemon = host.command(&["unshare", "--mount", "sh", "-c", script, conf, FLANNELD]);
    daemon.args(["-etcd-endpoints", "http://etcd.example:2379", "-subnet-file"]);
    let log = host.dir.path().join("log");
    daemon.arg(host.dir.path().join("a.env")).stderr(fs::File::create(&log).unwrap());
    let mut daemon = daemon.spawn().unwrap();
    let log = || fs::read_to_string(&log).unwrap();
    eventually("an attempt", || log().contains("no answer within").then_some(()));
    let pid = daemon.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    // That is 30 s; the lookup takes 150.
    let status = eventually("flanneld ends", || daemon.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", log());
    assert!(log().contains("Exiting cleanly..."), "{}", log());
}
