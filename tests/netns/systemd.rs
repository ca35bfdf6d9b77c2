//! flanneld as systemd runs it: confined by `dist/flanneld.service`, and talking to the service
//! manager.
//!
//! systemd itself is not here: `sandbox` applies the unit's restrictions by other means.

mod sandbox;
mod syscall_filter;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use twill::lab::host::process::{ProcessId, Signal};
use twill::lab::network::daemon::Daemon;
use twill::lab::network::topology::Names;
use twill::lab::{Lab, LabSpec};

use self::sandbox::Sandbox;
use crate::fast_path;
use crate::harness::{FLANNELD, eventually, overlay, ping, pod, spec};

/// So long that a busy machine makes no keep-alive late.
const WATCHDOG: Duration = Duration::from_secs(6);

#[test]
fn confined_node_forwards_and_tells_systemd_how_it_is() {
    let spec = spec("unit", 2);
    let systemd = Systemd::of(&spec);
    let sandbox = Sandbox::of_unit(&systemd.dir);
    let mut lab = systemd.start(&spec, &sandbox);
    let subnet = overlay(&lab.nodes()[0]).env.subnet;
    let peer_known = format!("STATUS={subnet} on flannel0, 1 peer");
    systemd.expect_each(&["READY=1", &peer_known]);

    let rules = lab.nodes()[0].netns().tool("iptables-save").run().unwrap();
    assert!(rules.contains("flanneld forward"), "{rules}");
    let (from, to) = (pod(&lab, 0), pod(&lab, 1));
    let (ok, said) = ping(from, "-c 3 -i 0.2", to.addr);
    assert!(ok, "{said}");
    let node = &lab.nodes()[0];
    eventually("the fast path is on", || fast_path::is_active(node));

    // Keep-alives come at half of WatchdogSec, the first perhaps a while ago.
    systemd.expect("WATCHDOG=1");
    let start = Instant::now();
    systemd.expect("WATCHDOG=1");
    assert!(start.elapsed() < WATCHDOG, "{:?}", start.elapsed());

    lab.etcd().stop();
    systemd.expect(&format!("{peer_known}; registry does not answer, packets go on"));
    systemd.expect("WATCHDOG=1");
    lab.etcd().start_again().unwrap();
    systemd.expect(&peer_known);

    // The process that we know is the sandbox's, and flanneld its only child.
    let node = &mut lab.nodes_mut()[0];
    let pid = node.process().unwrap().id().pid;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    ProcessId::of(children.trim().parse().unwrap()).unwrap().signal(Signal::SIGTERM);
    systemd.expect("STOPPING=1");
    assert!(node.wait_end(Duration::from_secs(60)).unwrap().success());
}

#[test]
fn confined_script_writes_dockers_options_beside_subnet_env() {
    let dir = tempfile::tempdir_in("/run").unwrap();
    let (input, output) = (dir.path().join("subnet.env"), dir.path().join("docker"));
    fs::write(&input, "FLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1472\n").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/mk-docker-opts.sh");
    let run = format!("{} -f {} -d {}", sandbox::PROGRAM, input.display(), output.display());
    Sandbox::of_unit(dir.path()).tool(Path::new(script)).words(&run).run().unwrap();
    let written = fs::read_to_string(output).unwrap();
    assert!(written.ends_with("DOCKER_OPTS=\" --bip=10.5.7.1/24 --mtu=1472\"\n"), "{written}");
}

#[test]
fn confinement_denies_what_flanneld_does_not_do_and_nothing_else() {
    let dir = tempfile::tempdir_in("/run").unwrap();
    let sandbox = Sandbox::of_unit(dir.path());
    let run = |script: &str| {
        let shell = sandbox.tool(Path::new("/bin/sh")).arg(sandbox::PROGRAM);
        shell.arg("-c").arg(script).output().unwrap()
    };
    let status = run("cat /proc/self/status").stdout;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: include/uapi/linux/capability.h.
    let caps = format!("{:016x}", (1_u64 << 10) | (1 << 12) | (1 << 13) | (1 << 39));
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t{caps}")), "{status}");
    }
    let own = dir.path().join("file");
    for (allowed, script) in [
        (true, format!("echo > {}", own.display())),
        (true, "head -c 1 /dev/urandom".to_owned()),
        (true, "ip link show lo".to_owned()),
        (true, "ip tuntap add dev flannel0 mode tun".to_owned()),
        (true, "taskset 1 true".to_owned()),
        (true, "iptables-nft -w -t nat -N FLANNEL-POSTRTG".to_owned()),
        (true, "iptables-legacy -w -t nat -N FLANNEL-POSTRTG".to_owned()),
        (true, "nft add table ip flannel-ipv4".to_owned()),
        (false, "echo > /etc/flanneld-was-here".to_owned()),
        (false, "echo 1 > /proc/sys/net/ipv4/conf/lo/forwarding".to_owned()),
        (false, "ls /dev/kmsg".to_owned()),
        (false, "mount -t tmpfs tmpfs /mnt".to_owned()),
        (false, "unshare --net true".to_owned()),
        (false, "chown 1 /proc/self".to_owned()),
    ] {
        let output = run(&script);
        assert_eq!(output.status.success(), allowed, "{script}: {}", output.stderr);
    }
}

/// The service manager's end of the notify socket.
struct Systemd {
    dir: std::path::PathBuf,
    socket: UnixDatagram,
}

impl Systemd {
    /// Listens next to the lab's directory, which does not exist yet.
    fn of(spec: &LabSpec) -> Self {
        let dir = Names::new(&spec.name).unwrap().dir();
        let path = Self::path(&dir);
        // Left by a run that was killed and had our pid.
        drop(fs::remove_file(&path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Self { dir, socket }
    }

    fn path(dir: &Path) -> std::path::PathBuf {
        dir.with_extension("notify")
    }

    /// Brings a lab up whose first node runs in `sandbox` and reports to us.
    fn start(&self, spec: &LabSpec, sandbox: &Sandbox) -> Lab {
        let script = format!(
            "export NOTIFY_SOCKET={} WATCHDOG_USEC={}; exec {} \"$@\"",
            Self::path(&self.dir).display(),
            WATCHDOG.as_micros(),
            sandbox.command_line(Path::new(FLANNELD)),
        );
        let before = ["-c", &script, "sh", sandbox::PROGRAM].map(str::to_owned).to_vec();
        let confined = Daemon { before, ..Daemon::flanneld("/bin/sh") };
        let daemons = [("n1".to_owned(), confined)].into();
        Lab::up(LabSpec { daemons, ..spec.clone() }).unwrap()
    }

    /// Waits for a message with this line; earlier ones are skipped.
    fn expect(&self, line: &str) {
        self.expect_each(&[line]);
    }

    /// Waits for messages with these lines, in any order.
    fn expect_each(&self, lines: &[&str]) {
        let mut missing = lines.to_vec();
        eventually(&lines.join(", "), || {
            let mut message = [0; 1024];
            let len = self.socket.recv(&mut message).unwrap_or(0);
            let message = String::from_utf8_lossy(&message[..len]);
            missing.retain(|line| !message.lines().any(|found| found == *line));
            missing.is_empty()
        });
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        drop(fs::remove_file(Self::path(&self.dir)));
    }
}
