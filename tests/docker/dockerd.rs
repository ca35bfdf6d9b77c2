//! [`Dockerd`]: a Docker daemon with a node's network and everything else its own.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use twill::lab::host::command::Tool;
use twill::lab::host::process::Process;
use twill::lab::network::node::Node;

use super::{eventually, image, path};

const CGROUPS: &str = "/sys/fs/cgroup";

/// A running daemon. Dropping it ends it and all its containers, also when a test fails.
pub(crate) struct Dockerd {
    process: Process,
    socket: PathBuf,
    /// Its containers' part of the cgroup tree, which is the host's.
    cgroup: String,
}

impl Dockerd {
    /// Starts a daemon on `node` with `options`, and gives it the image that is packed in a file.
    ///
    /// It is the first process of a pid namespace, so that the kernel ends whatever it started
    /// with it, and of a mount namespace, so that its mounts go too. The network namespace is
    /// entered by `nsenter`: `ip netns exec` would hide the cgroups.
    pub(crate) fn start(node: &Node, options: &str, image: &Path) -> Self {
        let dir = node.subnet_file().with_file_name("docker");
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str| dir.join(name).display().to_string();
        let socket = dir.join("socket");
        let cgroup = node.netns().name().to_owned();
        let namespaces = "--mount --pid --fork --kill-child --mount-proc -- sh -c";
        // Plugins and shims have their sockets in directories that no option moves.
        let script = "export PATH=$0
                      for dir in /run/docker /run/containerd; do
                          mkdir -p $dir && mount -t tmpfs tmpfs $dir || exit
                      done
                      exec dockerd \"$@\"";
        let mut args: Vec<String> = namespaces.split(' ').map(str::to_owned).collect();
        args.extend([script.to_owned(), path()]);
        args.extend([
            format!("--host=unix://{}", socket.display()),
            format!("--data-root={}", file("data")),
            format!("--exec-root={}", file("exec")),
            format!("--pidfile={}", file("pid")),
            format!("--cgroup-parent=/{cgroup}"),
            "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
            // Its default wants a privilege that containers of continuous integration lack.
            "--oom-score-adjust=0".to_owned(),
        ]);
        args.extend(options.split_whitespace().map(str::to_owned));
        let process = Process::start(node.netns(), Path::new("unshare"), &args, dir.join("log"));
        let mut dockerd = Self { process: process.unwrap(), socket, cgroup };
        dockerd.wait_ready();
        dockerd.docker("import").arg(image).arg(image::NAME).run().unwrap();
        dockerd
    }

    fn wait_ready(&mut self) {
        eventually("dockerd to answer", || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "dockerd ended: {}", self.process.log_tail(20));
            self.docker("version").output().unwrap().status.success()
        });
    }

    /// `docker` with a command, for arguments to be added.
    pub(crate) fn docker(&self, command: &str) -> Tool {
        let host = format!("unix://{}", self.socket.display());
        let path = format!("PATH={}", path());
        let docker =
            Tool::new("env").arg(path).arg("docker").arg("--host").arg(host).words(command);
        docker.deadline(Duration::from_secs(180))
    }

    /// Runs a command in a container of its own, and gives what it prints.
    pub(crate) fn run(&self, command: &str) -> String {
        self.docker("run --rm").arg(image::NAME).words(command).run().unwrap()
    }

    /// Runs a command in the container called `name`, and gives what it prints.
    pub(crate) fn exec(&self, name: &str, command: &str) -> String {
        self.docker("exec").arg(name).words(command).run().unwrap()
    }

    /// Starts a container called `name` that stays; gives its address.
    pub(crate) fn start_container(&self, name: &str, command: &str) -> Ipv4Addr {
        let run = self.docker("run --detach --name").arg(name).arg(image::NAME);
        run.words(command).run().unwrap();
        let addr = self.inspect("container inspect", name);
        addr["NetworkSettings"]["IPAddress"].as_str().unwrap().parse().unwrap()
    }

    /// What `docker KIND inspect` says of `name`.
    pub(crate) fn inspect(&self, kind: &str, name: &str) -> Value {
        let json = self.docker(kind).arg(name).run().unwrap();
        let mut found: Value = serde_json::from_str(&json).unwrap();
        found[0].take()
    }

    /// The directories of its cgroup, one in each hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
        let roots = hierarchies.map(|entry| entry.path()).chain([PathBuf::from(CGROUPS)]);
        roots.map(|root| root.join(&self.cgroup)).filter(|dir| dir.is_dir()).collect()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("dockerd said last:\n{}", self.process.log_tail(10));
        }
        self.process.kill();
        // A cgroup can be removed once the last process in it is gone.
        let deadline = Instant::now() + Duration::from_secs(60);
        for dir in self.cgroups() {
            while let Err(error) = remove_cgroup(&dir) {
                if Instant::now() > deadline {
                    eprintln!("cannot remove {}: {error}", dir.display());
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Removes a cgroup with those below it. The files in them are no hindrance.
fn remove_cgroup(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
