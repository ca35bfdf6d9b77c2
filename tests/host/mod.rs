//! A host of its own for a daemon: namespaces, perhaps with etcd, and a log to read.
//!
//! None of it needs root. Where namespaces are forbidden the tests fail.
#![allow(dead_code, reason = "not every test target needs all of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const FLANNELD: &str = env!("CARGO_BIN_EXE_flanneld");

/// Namespaces with 10.0.0.7 on lo, and perhaps etcd on 127.0.0.1:2379.
pub struct Host {
    pub dir: TempDir,
    /// Lives in the namespaces, until its standard input closes.
    holder: Child,
    etcd: Option<Child>,
}

impl Host {
    pub fn new() -> Self {
        let script = "ip link set lo up && ip addr add 10.0.0.7/32 dev lo && \
                      echo 1 > /proc/sys/net/ipv4/ip_forward && echo up && exec cat";
        let mut command = clean(Command::new("unshare"));
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "cannot make namespaces");
        let host = Self { dir: TempDir::new().unwrap(), holder, etcd: None };
        fs::create_dir(host.bin()).unwrap();
        host
    }

    pub fn with_etcd() -> Self {
        let mut host = Self::new();
        host.start_etcd();
        host
    }

    pub fn start_etcd(&mut self) {
        self.start_etcd_with(&[]);
    }

    pub fn start_etcd_with(&mut self, args: &[&str]) {
        let mut etcd = self.command(&[&["etcd"], args, &["--data-dir"]].concat());
        etcd.arg(self.dir.path().join("etcd")).stdout(Stdio::null()).stderr(Stdio::null());
        self.etcd = Some(etcd.spawn().unwrap());
        let healthy = || self.command(&["etcdctl", "endpoint", "health"]).output().unwrap();
        eventually("etcd is up", || healthy().status.success().then_some(()));
    }

    /// Ends it at once, as a power failure does.
    pub fn stop_etcd(&mut self) {
        let mut etcd = self.etcd.take().unwrap();
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    }

    /// Programs in here come before those of the machine.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub fn write_program(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        drop(fs::remove_file(&path));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn command(&self, command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--user", "--net", "--target", &self.holder.id().to_string(), "--"]);
        let path = format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap());
        nsenter.args(command).env_clear().env("PATH", path).env("ETCDCTL_API", "3");
        nsenter.env("XTABLES_LOCKFILE", self.dir.path().join("lock")).stdin(Stdio::null());
        nsenter
    }

    pub fn output(&self, command: &[&str]) -> String {
        let output = self.command(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn etcdctl(&self, args: &[&str]) -> String {
        self.output(&[&["etcdctl"], args].concat())
    }

    pub fn put_config(&self, json: &str) {
        self.etcdctl(&["put", "/coreos.com/network/config", json]);
    }

    pub fn links_named_flannel(&self) -> Vec<String> {
        let links = self.output(&["ip", "-br", "link"]);
        let names = links.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with("flannel")).map(str::to_owned).collect()
    }

    /// Starts flanneld with `<name>.env` for its subnet file.
    pub fn start(&self, name: &str, args: &[&str]) -> Daemon {
        self.spawn(name, self.command(&[FLANNELD]), args)
    }

    /// The same with these variables, such as `NAME=value`.
    pub fn start_with(&self, variables: &[&str], name: &str, args: &[&str]) -> Daemon {
        let command = [&["env"], variables, &[FLANNELD]].concat();
        self.spawn(name, self.command(&command), args)
    }

    /// The same where it finds no program outside `bin`.
    pub fn start_with_path(&self, bin: &Path, name: &str, args: &[&str]) -> Daemon {
        self.start_with(&[&format!("PATH={}", bin.display())], name, args)
    }

    /// The same with variables in its environment, such as `NODE_NAME=a`.
    pub fn start_with_env(&self, name: &str, env: &[&str], args: &[&str]) -> Daemon {
        self.spawn(name, self.command(&[&["env"], env, &[FLANNELD]].concat()), args)
    }

    /// The same where `name`'s directory is a disk of its own, which is full but for its file
    /// `fill`.
    pub fn start_on_full_disk(&self, name: &str, args: &[&str]) -> Daemon {
        let script = "mount -t tmpfs -o size=64k tmpfs $0 && \
                      { dd if=/dev/zero of=$0/fill bs=4k 2>/dev/null; exec \"$@\"; }";
        let disk = self.dir.path().join(Path::new(name).parent().unwrap());
        fs::create_dir(&disk).unwrap();
        let disk = disk.to_str().unwrap();
        let command = self.command(&["unshare", "--mount", "sh", "-c", script, disk, FLANNELD]);
        self.spawn(name, command, args)
    }

    fn spawn(&self, name: &str, mut command: Command, args: &[&str]) -> Daemon {
        let file = |suffix: &str| self.dir.path().join(format!("{name}.{suffix}"));
        let (log, env) = (file("log"), file("env"));
        command.args(["-etcd-endpoints", "http://127.0.0.1:2379", "-subnet-file"]);
        command.arg(env).args(args);
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Daemon { child, log }
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
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Its log, once that has `line`.
    pub fn wait_for(&self, line: &str) -> String {
        eventually(line, || Some(self.log()).filter(|log| log.contains(line)))
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn stop(self) {
        self.signal("TERM");
        let (status, log) = self.end();
        assert_eq!(status.code(), Some(0), "{log}");
    }

    /// How it ended, and its log.
    pub fn end(mut self) -> (ExitStatus, String) {
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

/// Without our own environment, in which there may be FLANNELD_* variables.
pub fn clean(mut command: Command) -> Command {
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// Waits until `condition` gives something, for as long as a slow machine may take.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The rules of `--ip-masq` as `iptables -S` prints them, in their order.
pub fn masquerade(network: &str, subnet: &str) -> String {
    let rules = [
        "-m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN",
        "-s S -d N -m comment --comment \"flanneld masq\" -j RETURN",
        "-s N -d S -m comment --comment \"flanneld masq\" -j RETURN",
        "! -s N -d S -m comment --comment \"flanneld masq\" -j RETURN",
        "-s N ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
        "! -s N -d N -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
    ];
    let line = |rule: &str| {
        let rule =
            rule.replace(" N ", &format!(" {network} ")).replace(" S ", &format!(" {subnet} "));
        format!("-A FLANNEL-POSTRTG {rule}\n")
    };
    rules.map(line).concat()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
