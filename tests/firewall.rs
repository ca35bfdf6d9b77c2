//! flanneld's rules on a real kernel: what it installs, mends, leaves and removes.
//!
//! Every test makes a user and network namespace of its own, so none needs root. Where namespaces
//! are forbidden they fail.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");

const NFT: &str = "xtables-nft-multi";
const LEGACY: &str = "xtables-legacy-multi";

/// Leaves no choice but 10.1.15.0/24.
const CONFIG: &str = r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.15.0","SubnetMax":"10.1.15.0"}"#;

/// What `iptables -S` prints of the rules in [`CONFIG`]'s network.
const FILTER: &str = r#"-P INPUT ACCEPT
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N FLANNEL-FWD
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"#;

/// And what `iptables -t nat -S` prints.
const NAT: &str = r#"-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N FLANNEL-POSTRTG
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.15.0/24 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/16 -d 10.1.15.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.15.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;

/// And `nft list table ip flannel-ipv4`.
const NFT_TABLE: &str = "\
table ip flannel-ipv4 {
	comment \"rules for flannel-ipv4\"
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.1.0.0/16 accept
		ip daddr 10.1.0.0/16 accept
	}

	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00004000 return
		ip saddr 10.1.15.0/24 ip daddr 10.1.0.0/16 return
		ip saddr 10.1.0.0/16 ip daddr 10.1.15.0/24 return
		ip saddr != 10.1.0.0/16 ip daddr 10.1.15.0/24 return
		ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random
	}
}
";

#[test]
fn iptables_over_nftables_is_kept_as_stock_keeps_it() {
    iptables_is_kept_as_stock_keeps_it(NFT);
}

#[test]
fn legacy_iptables_is_kept_as_stock_keeps_it() {
    iptables_is_kept_as_stock_keeps_it(LEGACY);
}

fn iptables_is_kept_as_stock_keeps_it(kind: &str) {
    let Some(host) = Host::with_tables(kind) else { return };
    host.put_config(CONFIG);
    let daemon = host.start(&["-ip-masq", "-iptables-resync=1"]);
    daemon.wait_for("flannel is ready");
    assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
    assert!(host.subnet_env().contains("FLANNEL_IPMASQ=true\n"));
    for damage in [
        "iptables -t nat -D FLANNEL-POSTRTG 3",
        // The first rule goes last.
        "iptables -t nat -D FLANNEL-POSTRTG 1 && iptables -t nat -A FLANNEL-POSTRTG -m mark \
         --mark 0x4000/0x4000 -m comment --comment 'flanneld masq' -j RETURN",
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -t nat -D POSTROUTING 1",
        "iptables -t nat -F && iptables -t nat -X",
    ] {
        host.output(&["sh", "-c", damage]);
        assert_ne!(host.nat(), NAT, "{damage}");
        eventually(damage, || (host.nat() == NAT).then_some(()));
    }
    host.output(&["iptables", "-I", "FLANNEL-FWD", "-s", "10.9.0.0/16", "-j", "ACCEPT"]);
    host.output(&["iptables", "-D", "FLANNEL-FWD", "2"]);
    let mended = || Some(host.filter()).filter(|filter| filter.contains("-s 10.1.0.0/16"));
    let filter = eventually("the rule is back", mended);
    assert!(filter.contains("-A FLANNEL-FWD -s 10.9.0.0/16 -j ACCEPT\n"), "not ours: {filter}");
    daemon.signal("TERM");
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("Some iptables rules are missing; deleting and recreating rules"));
    assert_eq!((host.filter(), host.nat()), (filter, NAT.to_owned()), "rules stay");
}

#[test]
fn restart_leaves_no_gap_in_iptables_over_nftables_and_a_change_nothing_stale() {
    restart_leaves_no_gap_and_a_change_nothing_stale(NFT);
}

#[test]
fn restart_leaves_no_gap_in_legacy_iptables_and_a_change_nothing_stale() {
    restart_leaves_no_gap_and_a_change_nothing_stale(LEGACY);
}

fn restart_leaves_no_gap_and_a_change_nothing_stale(kind: &str) {
    let Some(host) = Host::with_tables(kind) else { return };
    host.put_config(CONFIG);
    host.start_and_stop(&["-ip-masq"]);
    let daemon = host.start(&["-ip-masq"]);
    let mut looks = 0;
    while !daemon.log().contains("flannel is ready") {
        assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
        looks += 1;
    }
    assert!(looks > 1, "too fast to be watched");
    daemon.signal("TERM");
    let (_, log) = daemon.end();
    assert!(!log.contains("rules are in place"), "nothing was to be changed: {log}");

    host.put_config(&CONFIG.replace("10.1.15.0", "10.1.16.0"));
    host.start_and_stop(&["-ip-masq"]);
    assert_eq!(host.nat(), NAT.replace("10.1.15.0", "10.1.16.0"));
    host.put_config(&CONFIG.replace("10.1.", "10.2."));
    host.start_and_stop(&["-ip-masq", "-ip-masq-fully-random-disable"]);
    assert_eq!(host.filter(), FILTER.replace("10.1.", "10.2."));
    let nat = NAT.replace("10.1.", "10.2.").replace(" --random-fully", "");
    assert_eq!(host.nat(), nat);
}

#[test]
fn nftables_mode_keeps_its_table() {
    let host = Host::new(NFT);
    host.put_config(&nftables(CONFIG));
    let daemon = host.start(&["-ip-masq", "-iptables-resync=1"]);
    daemon.wait_for("flannel is ready");
    assert_eq!(host.nft_table(), NFT_TABLE);
    assert!(!host.iptables_rules().contains("FLANNEL"));
    for damage in [
        "nft flush chain ip flannel-ipv4 forward",
        "nft delete rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 \
         postrtg | sed -n 's/.*0x00004000.* handle //p')",
        "nft 'flush chain ip flannel-ipv4 forward; \
         add rule ip flannel-ipv4 forward ip daddr 10.1.0.0/16 accept; \
         add rule ip flannel-ipv4 forward ip saddr 10.1.0.0/16 accept'",
        "nft delete chain ip flannel-ipv4 postrtg",
        "nft delete table ip flannel-ipv4",
    ] {
        host.output(&["sh", "-c", damage]);
        assert_ne!(host.nft_table(), NFT_TABLE, "{damage}");
        eventually(damage, || (host.nft_table() == NFT_TABLE).then_some(()));
    }
    daemon.signal("TERM");
    let (_, log) = daemon.end();
    assert!(log.contains("Some nftables rules are missing"), "{log}");

    let daemon = host.start(&["-ip-masq"]);
    let mut looks = 0;
    while !daemon.log().contains("flannel is ready") {
        assert_eq!(host.nft_table(), NFT_TABLE, "a gap");
        looks += 1;
    }
    assert!(looks > 1, "too fast to be watched");
    daemon.stop();
    host.put_config(&nftables(CONFIG).replace("10.1.15.0", "10.1.16.0"));
    host.start_and_stop(&["-ip-masq"]);
    assert_eq!(host.nft_table(), NFT_TABLE.replace("10.1.15.0", "10.1.16.0"));
    host.start_and_stop(&[]);
    assert!(!host.nft_table().contains("postrtg"), "{}", host.nft_table());
}

#[test]
fn rules_of_the_tool_not_in_use_are_removed() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    host.start_and_stop(&["-ip-masq"]);
    host.put_config(&nftables(CONFIG));
    host.start_and_stop(&["-ip-masq"]);
    assert!(!host.iptables_rules().contains("FLANNEL"), "{}", host.iptables_rules());
    assert_eq!(host.nft_table(), NFT_TABLE);
    host.put_config(CONFIG);
    host.start_and_stop(&["-ip-masq"]);
    assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
    assert_eq!(host.nft_table(), "");
}

#[test]
fn clean_up_leaves_iptables_over_nftables_as_before() {
    clean_up_leaves_all_as_before(NFT);
}

#[test]
fn clean_up_leaves_legacy_iptables_as_before() {
    clean_up_leaves_all_as_before(LEGACY);
}

fn clean_up_leaves_all_as_before(kind: &str) {
    let Some(host) = Host::with_tables(kind) else { return };
    host.put_config(CONFIG);
    host.output(&["iptables", "-A", "FORWARD", "-s", "10.1.0.0/17", "-j", "ACCEPT"]);
    host.output(&["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "lo", "-j", "ACCEPT"]);
    let (before, links) = (host.iptables_rules(), host.output(&["ip", "-br", "link"]));
    let daemon = host.start(&["-ip-masq", "-ip-blackhole-route"]);
    daemon.wait_for("flannel is ready");
    daemon.wait_for("blackhole route is in place");
    let refused = host.clean_up();
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    let pid = daemon.child.id();
    assert!(stderr.contains(&format!("flanneld is running with pid {pid}: stop it")), "{stderr}");
    daemon.stop();
    for leftover in [
        "iptables -t nat -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "iptables -A FORWARD -d 10.7.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT",
        "ip tuntap add flannel7 mode tun && ip link set flannel7 up",
        "nft add table ip6 flannel-ipv6",
    ] {
        host.output(&["sh", "-c", leftover]);
    }
    let state = host.dir.path().join("subnet.state.json");
    fs::write(&state, "{}").unwrap();
    let cleaned = host.clean_up();
    let stdout = text(&cleaned.stdout);
    assert!(!state.exists(), "{stdout}");
    assert!(cleaned.status.success(), "{}", text(&cleaned.stderr));
    let file = format!("removed file {}\n", host.dir.path().join("subnet.env").display());
    for line in [
        "removed chain FLANNEL-FWD (iptables, table filter)\n",
        "removed chain FLANNEL-POSTRTG (iptables, table nat)\n",
        "removed rule -A POSTROUTING -s 10.1.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE (",
        "removed table ip6 flannel-ipv6 (nft)\n",
        "removed device flannel7\n",
        "removed route blackhole 10.1.15.0/24\n",
        &file,
    ] {
        assert!(stdout.contains(line), "no {line} in {stdout}");
    }
    assert_eq!(host.iptables_rules(), before);
    assert_eq!(host.output(&["ip", "-br", "link"]), links);
    assert_eq!(host.output(&["ip", "route"]), "");
    assert_eq!(host.output(&["nft", "list", "tables", "ip6"]), "");
    let again = host.clean_up();
    assert!(again.status.success() && again.stderr.is_empty(), "{}", text(&again.stderr));
    assert_eq!(text(&again.stdout), "nothing to remove\n");
    if kind == NFT {
        let legacy = host.output(&["cat", "/proc/net/ip_tables_names"]);
        assert_eq!(legacy, "", "looking for rules made tables");
    }
}

#[test]
fn daemon_works_without_iptables_and_says_so_once() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    let bin = host.empty_bin();
    let daemon = host.start_with_path(&bin, &["-iptables-resync=1", "-ip-masq"]);
    daemon.wait_for("flannel is ready");
    for name in ["iptables", "iptables-save", "iptables-restore"] {
        symlink(host.bin().join(name), bin.join(name)).unwrap();
    }
    let log = daemon.wait_for("rules are in place: 6 in table nat");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings.as_slice() else { panic!("{log}") };
    for part in ["run iptables: it is not in PATH", "install iptables", "forward-rules=false"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!((host.filter(), host.nat()), (FILTER.to_owned(), NAT.to_owned()));
}

#[test]
fn daemon_that_needs_no_rules_runs_no_tool_and_touches_nothing() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    let daemon = host.start_with_path(&host.empty_bin(), &["-iptables-forward-rules=false"]);
    let log = daemon.wait_for("flannel is ready");
    assert!(!log.contains("rules") && !log.contains("WARN"), "{log}");
    assert!(!host.iptables_rules().contains("FLANNEL"));
}

#[test]
fn unusable_table_is_told_and_the_other_is_kept() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    let bin = host.bin();
    let real = fs::read_link(bin.join("iptables-restore")).unwrap();
    fs::rename(bin.join("iptables-restore"), bin.join("real")).unwrap();
    let script = format!(
        "#!/bin/sh\ncat > $0.$$\nif grep -q nat $0.$$; then echo 'no table nat' >&2; exit 3; fi\n\
         exec -a iptables-restore {} \"$@\" < $0.$$\n",
        real.display()
    );
    host.write_program("iptables-restore", &script.replace("/bin/sh", "/bin/bash"));
    let daemon = host.start(&["-ip-masq", "-iptables-resync=1"]);
    let log = daemon.wait_for("flannel is ready");
    assert!(log.contains("Failed to set up rules in table nat: iptables-restore: no table nat"));
    assert_eq!(host.filter(), FILTER);
}

#[test]
fn iptables_that_hangs_keeps_nobody_waiting_but_for_readiness() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    host.write_program("iptables-save", "#!/bin/sh\nexec sleep 1000\n");
    let daemon = host.start(&[]);
    let peer = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
    host.output(&["etcdctl", "put", "/coreos.com/network/subnets/10.1.99.0-24", peer]);
    let log = daemon.wait_for("Subnet added: 10.1.99.0/24");
    assert!(!log.contains("flannel is ready") && !host.has_subnet_env(), "{log}");
    let log = daemon.wait_for("flannel is ready");
    assert!(log.contains("iptables-save does not end: killed after 10 s"), "{log}");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0.code(), Some(0));
}

#[test]
fn blackhole_route_gives_way_to_a_bridge_and_follows_the_subnet() {
    let host = Host::new(NFT);
    host.put_config(CONFIG);
    let daemon = host.start(&["-ip-blackhole-route"]);
    daemon.wait_for("blackhole route is in place");
    let routes = |dst: &str| host.output(&["ip", "route", "show", "type", "blackhole", dst]);
    assert!(routes("10.1.15.0/24").starts_with("blackhole 10.1.15.0/24 "));
    host.output(&["ip", "link", "add", "docker0", "up", "type", "bridge"]);
    host.output(&["ip", "addr", "add", "10.1.15.1/24", "dev", "docker0"]);
    let route = host.output(&["ip", "route", "get", "10.1.15.7"]);
    assert!(route.contains("dev docker0"), "{route}");
    daemon.wait_for("flannel is ready");
    daemon.stop();
    assert_ne!(routes("10.1.15.0/24"), "", "it stays");
    host.put_config(&CONFIG.replace("10.1.15.0", "10.1.16.0"));
    let daemon = host.start(&["-ip-blackhole-route"]);
    daemon.wait_for("blackhole route is in place");
    assert_eq!(routes("10.1.15.0/24"), "");
    assert_ne!(routes("10.1.16.0/24"), "");
}

/// `config`, for nodes that keep their rules with nftables.
fn nftables(config: &str) -> String {
    config.replacen('{', r#"{"EnableNFTables":true,"#, 1)
}

/// A host of its own: namespaces with 10.0.0.7 on lo, etcd on 127.0.0.1:2379, and one kind of
/// iptables.
struct Host {
    dir: TempDir,
    /// Lives in the namespaces, until its standard input closes.
    holder: Child,
    etcd: Option<Child>,
}

impl Host {
    /// `kind` is the program behind the names of iptables.
    fn new(kind: &str) -> Self {
        let script = "ip link set lo up && ip addr add 10.0.0.7/32 dev lo && echo up && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "cannot make namespaces");
        let mut host = Self { dir: TempDir::new().unwrap(), holder, etcd: None };
        fs::create_dir(host.bin()).unwrap();
        let which = Command::new("which").arg(kind).output().unwrap();
        assert!(which.status.success(), "{kind} is not installed: apt-get install iptables");
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            symlink(text(&which.stdout).trim(), host.bin().join(name)).unwrap();
        }
        let mut etcd = host.command(&["etcd", "--data-dir"]);
        etcd.arg(host.dir.path().join("etcd")).stdout(Stdio::null()).stderr(Stdio::null());
        host.etcd = Some(etcd.spawn().unwrap());
        let healthy = || host.command(&["etcdctl", "endpoint", "health"]).output().unwrap();
        eventually("etcd is up", || healthy().status.success().then_some(()));
        host
    }

    /// The host, if its kernel has tables for `kind`. If not, all there is to prove is that
    /// flanneld says so and works on, and that is proved here.
    fn with_tables(kind: &str) -> Option<Self> {
        let host = Self::new(kind);
        let probe = host.command(&["iptables", "-t", "nat", "-S"]).output().unwrap();
        if probe.status.success() {
            return Some(host);
        }
        println!("{kind} finds no tables in this kernel: {}", text(&probe.stderr));
        host.put_config(CONFIG);
        let log = host.start(&["-ip-masq"]).wait_for("flannel is ready");
        assert!(log.contains("Failed to set up rules in table nat: "), "{log}");
        None
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn empty_bin(&self) -> PathBuf {
        let bin = self.dir.path().join("empty");
        fs::create_dir(&bin).unwrap();
        bin
    }

    fn write_program(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        drop(fs::remove_file(&path));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--user", "--net", "--target", &self.holder.id().to_string(), "--"]);
        let path = format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap());
        nsenter.args(command).env_clear().env("PATH", path).env("ETCDCTL_API", "3");
        nsenter.env("XTABLES_LOCKFILE", self.dir.path().join("lock")).stdin(Stdio::null());
        nsenter
    }

    fn output(&self, command: &[&str]) -> String {
        let output = self.command(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn put_config(&self, json: &str) {
        self.output(&["etcdctl", "put", "/coreos.com/network/config", json]);
    }

    fn filter(&self) -> String {
        self.output(&["iptables", "-S"])
    }

    fn nat(&self) -> String {
        self.output(&["iptables", "-t", "nat", "-S"])
    }

    /// All that `iptables-save` prints, but for counters and dates.
    fn iptables_rules(&self) -> String {
        let saved = self.output(&["iptables-save"]);
        let lines = saved.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
    }

    /// The table of nftables mode; nothing, if there is none.
    fn nft_table(&self) -> String {
        let list = ["nft", "list", "table", "ip", "flannel-ipv4"];
        text(&self.command(&list).output().unwrap().stdout)
    }

    fn subnet_env(&self) -> String {
        fs::read_to_string(self.dir.path().join("subnet.env")).unwrap()
    }

    fn has_subnet_env(&self) -> bool {
        self.dir.path().join("subnet.env").exists()
    }

    fn clean_up(&self) -> Output {
        let mut command = self.command(&[FLANNELD, "--cleanup", "--subnet-file"]);
        command.arg(self.dir.path().join("subnet.env")).output().unwrap()
    }

    fn start(&self, args: &[&str]) -> Daemon {
        self.spawn(self.command(&[FLANNELD]), args)
    }

    /// Starts it where it finds no program outside `bin`.
    fn start_with_path(&self, bin: &std::path::Path, args: &[&str]) -> Daemon {
        let path = format!("PATH={}", bin.display());
        self.spawn(self.command(&["env", &path, FLANNELD]), args)
    }

    fn spawn(&self, mut command: Command, args: &[&str]) -> Daemon {
        let log = self.dir.path().join("log");
        command.args(["-iface", "10.0.0.7", "-etcd-endpoints", "http://127.0.0.1:2379"]);
        command.arg("-subnet-file").arg(self.dir.path().join("subnet.env")).args(args);
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Daemon { child, log }
    }

    fn start_and_stop(&self, args: &[&str]) {
        let daemon = self.start(args);
        daemon.wait_for("flannel is ready");
        daemon.stop();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.etcd.iter_mut().chain([&mut self.holder]) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A running flanneld, logging to a file.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Its log, once that has `line`.
    fn wait_for(&self, line: &str) -> String {
        eventually(line, || Some(self.log()).filter(|log| log.contains(line)))
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn stop(self) {
        self.signal("TERM");
        let (status, log) = self.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }

    /// How it ended, and its log.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let status = eventually("flanneld ends", || self.child.try_wait().unwrap());
        (status, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `condition` gives something, for thirty seconds.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
