//! [`Daemon`]: which `flanneld` a node runs, and [`SubnetEnv`], the file it writes.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::lab::LabError;
use crate::lab::host::command::Tool;
use crate::lab::host::netns_agent;
use crate::routes::Prefix;

/// A program that takes stock flanneld's flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// The program.
    pub program: PathBuf,
    /// Arguments that come before the flags a lab gives.
    pub before: Vec<String>,
    /// Arguments that come after them.
    pub after: Vec<String>,
}

/// `subnet.env` as flanneld writes it (flannel `pkg/subnet/subnet.go`, `WriteSubnetFile`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetEnv {
    /// The overlay's whole range.
    pub network: Ipv4Network,
    /// The node's lease.
    pub subnet: Ipv4Network,
    /// First address of the lease: the bridge's.
    pub bridge: Ipv4Addr,
    /// MTU that pods should use, in bytes.
    pub mtu: u16,
}

/// The word that users write instead of a path, and the hidden command that runs.
const STOCK_EMULATOR: &str = "stock-emulator";

/// The word for the flanneld in the directory of this program.
const TWILL: &str = "twill";

/// Port of the health endpoint of every node.
pub const HEALTH_PORT: u16 = 8080;

impl Daemon {
    /// The `flanneld` at `program`.
    pub fn flanneld(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), before: Vec::new(), after: Vec::new() }
    }

    /// The emulator of a stock node that `flannel_lab`, this package's second binary, contains.
    pub fn stock_emulator(flannel_lab: impl Into<PathBuf>) -> Self {
        Self {
            before: vec![netns_agent::COMMAND.to_owned(), STOCK_EMULATOR.to_owned()],
            ..Self::flanneld(flannel_lab)
        }
    }

    /// Whether it is [`stock_emulator`](Self::stock_emulator), which has the udp backend only.
    pub fn is_stock_emulator(&self) -> bool {
        self.before.iter().any(|arg| arg == STOCK_EMULATOR)
    }

    /// What a user means by `choice`: the word `stock-emulator`, the word `twill`, or the path of a
    /// program.
    ///
    /// # Errors
    /// [`LabError::Io`] when there is no such program.
    pub fn chosen(flannel_lab: &Path, choice: &str) -> Result<Self, LabError> {
        if choice == STOCK_EMULATOR {
            return Ok(Self::stock_emulator(flannel_lab));
        }
        if choice == TWILL {
            return Ok(Self::flanneld(flannel_lab.with_file_name("flanneld")));
        }
        let program = fs::canonicalize(choice);
        program.map(Self::flanneld).map_err(LabError::io(format!("find flanneld {choice}")))
    }

    /// The word or the path that chooses it.
    pub fn title(&self) -> String {
        let own = env::current_exe().map(|own| own.with_file_name("flanneld"));
        match own {
            _ if self.is_stock_emulator() => STOCK_EMULATOR.to_owned(),
            Ok(own) if own == self.program => TWILL.to_owned(),
            Ok(_) | Err(_) => self.program.display().to_string(),
        }
    }

    /// Adds flags, separated by spaces.
    #[must_use]
    pub fn with(mut self, flags: &str) -> Self {
        self.after.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Whether it knows `flag`, going by its help.
    pub fn knows(&self, flag: &str) -> bool {
        let help = Tool::new(&self.program);
        let help = self.before.iter().fold(help, |tool, arg| tool.arg(arg)).arg("--help").output();
        help.is_ok_and(|help| help.stdout.contains(flag) || help.stderr.contains(flag))
    }

    /// What it says of its version, in one line; stock's flanneld says it on standard error.
    pub fn version(&self) -> String {
        if self.is_stock_emulator() {
            return format!("v{} (emulator of a stock node)", env!("CARGO_PKG_VERSION"));
        }
        let said = Tool::new(&self.program).arg("--version").output();
        let line = said.ok().and_then(|said| {
            let mut lines = said.stdout.lines().chain(said.stderr.lines());
            lines.find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
        });
        line.unwrap_or_else(|| "of unknown version".to_owned())
    }

    /// The whole argument list on a node with the flags `registry` whose `subnet.env` is
    /// `subnet_file`: with an etcd stock's flags only, and those added by [`with`](Self::with).
    pub(super) fn args(&self, registry: Vec<String>, subnet_file: &Path) -> Vec<String> {
        let flags = [
            "-iface=eth0".to_owned(),
            format!("-subnet-file={}", subnet_file.display()),
            format!("-healthz-port={HEALTH_PORT}"),
        ];
        let before = self.before.iter().cloned();
        before.chain(registry).chain(flags).chain(self.after.iter().cloned()).collect()
    }
}

impl SubnetEnv {
    /// Reads the file.
    ///
    /// # Errors
    /// [`LabError::Io`] and [`LabError::Unreadable`].
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let read = fs::read_to_string(path);
        let text = read.map_err(LabError::io(format!("read {}", path.display())))?;
        let what = || path.display().to_string();
        Self::parse(&text).ok_or_else(|| LabError::Unreadable { what: what(), text })
    }

    fn parse(text: &str) -> Option<Self> {
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let subnet = value("FLANNEL_SUBNET")?;
        Some(Self {
            network: Ipv4Network::parse(value("FLANNEL_NETWORK")?).ok()?,
            subnet: Ipv4Network::parse(subnet).ok()?,
            bridge: subnet.split_once('/')?.0.parse().ok()?,
            mtu: value("FLANNEL_MTU")?.parse().ok()?,
        })
    }

    /// The lease as its etcd key has it: `10.5.7.0-24`.
    pub fn key(&self) -> String {
        self.subnet.to_string().replace('/', "-")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn subnet_env_names_bridge_and_lease() {
        let text = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.15.1/24\nFLANNEL_MTU=1472\n\
                    FLANNEL_IPMASQ=false\n";
        let env = SubnetEnv::parse(text).unwrap();
        assert_eq!(env.subnet.to_string(), "10.1.15.0/24");
        assert_eq!(env.bridge, Ipv4Addr::new(10, 1, 15, 1));
        assert_eq!((env.mtu, env.key().as_str()), (1472, "10.1.15.0-24"));
        let json = serde_json::to_string(&env).unwrap();
        assert_eq!(serde_json::from_str::<SubnetEnv>(&json).unwrap(), env);
        assert_eq!(SubnetEnv::parse("FLANNEL_NETWORK=10.1.0.0/16\n"), None);
    }

    #[test]
    fn version_is_what_the_program_prints_first() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("flanneld");
        fs::write(&program, "#!/bin/sh\necho >&2; echo v0.27.4 >&2; echo more >&2\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Daemon::flanneld(&program).version(), "v0.27.4");
        assert_eq!(Daemon::flanneld("/no/such/flanneld").version(), "of unknown version");
    }

    #[test]
    fn added_flags_come_last() {
        let daemon = Daemon::stock_emulator("flannel-lab").with("-v=1 -ip-masq");
        let args = daemon.args(vec!["-registry=etcd".to_owned()], Path::new("/run/x/subnet.env"));
        assert_eq!(&args[..3], ["netns-agent", "stock-emulator", "-registry=etcd"]);
        assert_eq!(args.last().unwrap(), "-ip-masq");
        assert!(args.contains(&"-subnet-file=/run/x/subnet.env".to_owned()));
    }
}
