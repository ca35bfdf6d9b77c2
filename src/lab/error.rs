//! [`LabError`]: why a lab could not be made, used or removed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::bench::UnknownCase;
use super::host::command::CommandError;
use super::host::tools::PreflightError;
use super::network::backend::Backend;
use crate::control::config::network::ConfigError;

/// Why a lab could not be made, used or removed. One line, with what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The machine lacks something.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A case that no benchmark has.
    #[error(transparent)]
    UnknownCase(#[from] UnknownCase),
    /// Ctrl-C or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
    /// A file or a process could not be handled.
    #[error("{what}")]
    Io {
        /// The operation and what it was done to.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A condition did not come true.
    #[error("gave up after {deadline:?} waiting for {what}")]
    NotInTime {
        /// The condition.
        what: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// A daemon ended before it was ready, or never became so.
    #[error("{daemon} {what}; it last said: {said}")]
    Daemon {
        /// Which one, such as `flanneld of n1`.
        daemon: String,
        /// What happened to it.
        what: String,
        /// The last line of its log.
        said: String,
    },
    /// The name cannot be part of a namespace's name.
    #[error("{0:?} is no name for a lab: use up to 32 of a-z, 0-9 and -")]
    Name(String),
    /// The lab is there already.
    #[error(
        "lab {name} exists: `flannel-lab down --name {name}` removes it, another --name leaves it"
    )]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is no such lab.
    #[error("there is no lab {name}{hint} (`flannel-lab up --name {name}` makes one)")]
    NoSuchLab {
        /// The name asked for.
        name: String,
        /// What was probably meant, and what there is.
        hint: String,
    },
    /// The lab has no such node, pod or link.
    #[error("lab {lab} has no {what} {name}{hint}")]
    NoSuch {
        /// The lab's name.
        lab: String,
        /// What kind of part was asked for.
        what: &'static str,
        /// Its name.
        name: String,
        /// What was probably meant, and what there is.
        hint: String,
    },
    /// A flanneld for a node that the lab will not have.
    #[error("--flanneld {choice}: nodes are n1 to n{nodes}")]
    FlanneldFor {
        /// What was asked for.
        choice: String,
        /// How many nodes there are.
        nodes: usize,
    },
    /// The network config is one that flanneld refuses.
    #[error("--config: {0}")]
    Config(ConfigError),
    /// The kernel lacks the queueing discipline that delays and loses packets.
    #[error(
        "this kernel cannot delay or lose packets: it has no netem (CONFIG_NET_SCH_NETEM); on most \
         systems `modprobe sch_netem` loads it; `flannel-lab cut` works without"
    )]
    NoNetem,
    /// More nodes than the underlay has addresses, or more pods than a subnet has.
    #[error("a lab holds at most {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are possible.
        most: usize,
    },
    /// Too little of something for what was asked.
    #[error("this needs at least {least} {what}")]
    TooFew {
        /// Of what.
        what: &'static str,
        /// How many are needed.
        least: usize,
    },
    /// A daemon that knows no registry but etcd, in a lab without.
    #[error("{} cannot keep leases in a file: use --registry=etcd", .program.display())]
    NeedsEtcd {
        /// The daemon.
        program: PathBuf,
    },
    /// The emulator of a stock node in a network of another backend.
    #[error("a stock-emulator has the udp backend only, not {0}: give the path of a flanneld")]
    NeedsUdp(Backend),
    /// The node's daemon has not set up its overlay.
    #[error("flanneld of {node} was never ready")]
    NotReady {
        /// The node's name.
        node: String,
    },
    /// Its state file is that of another version of this program.
    #[error(
        "lab {name} was made by another version of flannel-lab ({why}): use that one, or remove the \
         lab with `flannel-lab down --name {name}`"
    )]
    OtherVersion {
        /// Its name.
        name: String,
        /// What its state file has that this version does not know, or lacks.
        why: String,
    },
    /// A tool's output or a file could not be understood.
    #[error("cannot read {what}: {text:?}")]
    Unreadable {
        /// What should have been there.
        what: String,
        /// What was there.
        text: String,
    },
    /// Parts of a lab could not be removed; the rest is gone.
    #[error("remove lab {name}: {}", .failures.join("; "))]
    Teardown {
        /// Its name.
        name: String,
        /// Every part that failed.
        failures: Vec<String>,
    },
}

impl LabError {
    /// For `map_err`: what was done, in the words `read /etc/hosts`.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }

    /// Whether Ctrl-C or SIGTERM is the reason, and nothing is broken.
    pub const fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Command(CommandError::Interrupted))
    }
}
