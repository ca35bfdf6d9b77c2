//! [`Cluster`]: etcd with three members in the namespace of a lab's etcd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use twill::lab::Lab;
use twill::lab::host::netns::Netns;
use twill::lab::host::process::Process;
use twill::lab::host::wait::wait_for;

/// How many members.
pub const LEN: usize = 3;

/// An election takes a second, or several on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// The members, one address each. They end with the lab.
pub struct Cluster {
    netns: Netns,
    dir: PathBuf,
    members: Vec<Process>,
}

/// What flanneld is given.
pub fn endpoints() -> String {
    (0..LEN).map(|member| url(member, 2379)).collect::<Vec<_>>().join(",")
}

fn addr(member: usize) -> String {
    format!("192.168.64.{}", 3 + member)
}

fn url(member: usize, port: u16) -> String {
    format!("http://{}:{port}", addr(member))
}

impl Cluster {
    /// Starts all members and waits until they answer.
    pub fn start(lab: &mut Lab) -> Self {
        let netns = lab.etcd().netns().clone();
        for member in 0..LEN {
            netns.ip(&format!("addr add {}/24 dev eth0", addr(member))).unwrap();
        }
        let dir = lab.names().dir();
        let members = (0..LEN).map(|member| spawn(&netns, &dir, member)).collect();
        let cluster = Self { netns, dir, members };
        cluster.ctl(&["get", "/"]);
        cluster
    }

    /// Ends a member at once, as a power failure does.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts it again with its data, and waits until it answers.
    pub fn start_again(&mut self, member: usize) {
        self.members[member] = spawn(&self.netns, &self.dir, member);
        self.ctl_at(&url(member, 2379), &["get", "/"]);
    }

    /// Runs `etcdctl` until it succeeds.
    pub fn ctl(&self, args: &[&str]) {
        self.ctl_at(&endpoints(), args);
    }

    fn ctl_at(&self, endpoints: &str, args: &[&str]) {
        wait_for(&format!("etcd to {args:?}"), READY, || {
            let tool = self.netns.tool("etcdctl").words("--command-timeout=2s --endpoints");
            let tool = args.iter().fold(tool.arg(endpoints), |tool, arg| tool.arg(arg));
            Ok(tool.output()?.status.success().then_some(()))
        })
        .unwrap();
    }
}

fn spawn(netns: &Netns, dir: &Path, member: usize) -> Process {
    let (client, peer) = (url(member, 2379), url(member, 2380));
    let all: Vec<String> =
        (0..LEN).map(|member| format!("m{member}={}", url(member, 2380))).collect();
    let data = dir.join(format!("m{member}"));
    let args = [
        format!("--name=m{member}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={}", all.join(",")),
    ];
    Process::start(netns, Path::new("etcd"), &args, dir.join(format!("m{member}.log"))).unwrap()
}
