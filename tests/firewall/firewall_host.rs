//! A host with etcd and one kind of iptables.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::expected::CONFIG;
use crate::host::{Daemon, FLANNELD, Host, text};

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
        Self(host)
    }

    /// The host, if its kernel has tables for `kind`. If not, all there is to prove is that
    /// flanneld says so and works on, and that is proved here.
    pub fn with_tables(kind: &str) -> Option<Self> {
        let host = Self::new(kind);
        let probe = host.command(&["iptables", "-t", "nat", "-S"]).output().unwrap();
        if probe.status.success() {
            return Some(host);
        }
        println!("{kind} finds no tables in this kernel: {}", text(&probe.stderr));
        host.put_config(CONFIG);
        let log = host.start_daemon(&["-ip-masq"]).wait_for("flannel is ready");
        assert!(log.contains("Failed to set up rules in table nat: "), "{log}");
        None
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

    pub fn start_and_stop(&self, args: &[&str]) {
        let daemon = self.start_daemon(args);
        daemon.wait_for("flannel is ready");
        daemon.stop();
    }
}

impl Deref for FirewallHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.0
    }
}
