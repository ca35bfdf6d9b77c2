//! A host with etcd and one kind of iptables.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::host::{Daemon, FLANNELD, Host, eventually, text};

pub const NFT: &str = "xtables-nft-multi";
pub const LEGACY: &str = "xtables-legacy-multi";

pub struct FirewallHost(Host);

impl FirewallHost {
    /// `kind` is the program behind the names of iptables.
    pub fn new(kind: &str) -> Self {
        let host = Host::with_etcd();
        let which = Command::new("which").arg(kind).output().unwrap();
        assert!(which.status.success(), "{kind} is not installed: apt-get install iptables");
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            symlink(text(&which.stdout).trim(), host.bin().join(name)).unwrap();
        }
        let host = Self(host);
        let probe = host.command(&["iptables", "-t", "nat", "-S"]).output().unwrap();
        assert!(probe.status.success(), "{kind} finds no tables: {}", text(&probe.stderr));
        host
    }

    pub fn empty_bin(&self) -> PathBuf {
        let bin = self.dir.path().join("empty");
        fs::create_dir(&bin).unwrap();
        bin
    }

    pub fn filter(&self) -> String {
        self.output(&["iptables", "-S"])
    }

    pub fn nat(&self) -> String {
        self.output(&["iptables", "-t", "nat", "-S"])
    }

    /// All that `iptables-save` prints, but for counters and dates.
    pub fn iptables_rules(&self) -> String {
        let saved = self.output(&["iptables-save"]);
        let lines = saved.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
    }

    /// The table of nftables mode; nothing, if there is none.
    pub fn nft_table(&self) -> String {
        let list = ["nft", "list", "table", "ip", "flannel-ipv4"];
        text(&self.command(&list).output().unwrap().stdout)
    }

    pub fn subnet_file(&self) -> PathBuf {
        self.dir.path().join("subnet.env")
    }

    pub fn clean_up(&self) -> Output {
        let mut command = self.command(&[FLANNELD, "--cleanup", "--subnet-file"]);
        command.arg(self.subnet_file()).output().unwrap()
    }

    pub fn start_daemon(&self, args: &[&str]) -> Daemon {
        self.start("subnet", &[&["-iface", "10.0.0.7"], args].concat())
    }

    /// Starts it where it finds no program outside `bin`.
    pub fn start_without_programs(&self, bin: &Path, args: &[&str]) -> Daemon {
        self.start_with_path(bin, "subnet", &[&["-iface", "10.0.0.7"], args].concat())
    }

    /// Calls `look` repeatedly until the daemon is ready; returns how often.
    pub fn watch_start(&self, daemon: &Daemon, look: impl Fn()) -> usize {
        let mut looks = 0;
        eventually("flannel is ready", || {
            look();
            looks += 1;
            daemon.log().contains("flannel is ready").then_some(())
        });
        looks
    }

    /// Starts the daemon and stops it once `condition` holds. A daemon whose rules take long is ready
    /// before they are in place.
    pub fn run_until(&self, args: &[&str], what: &str, condition: impl Fn() -> bool) {
        let daemon = self.start_daemon(args);
        daemon.wait_for("flannel is ready");
        eventually(what, || condition().then_some(()));
        daemon.stop();
    }

    /// The same for these rules of iptables.
    pub fn run_until_rules(&self, args: &[&str], filter: &str, nat: &str) {
        self.run_until(args, &format!("{filter}{nat}"), || self.has_rules(filter, nat));
    }

    pub fn has_rules(&self, filter: &str, nat: &str) -> bool {
        self.filter() == filter && self.nat() == nat
    }
}

impl Deref for FirewallHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.0
    }
}
