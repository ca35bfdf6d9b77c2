//! [`Machine`]: where and how a run was made.

use std::env;
use std::fs;
use std::io;
use std::thread;

use procfs::{CpuInfo, Current as _, LoadAverage, Meminfo, ProcError};
use serde::Serialize;

use crate::lab::LabError;
use crate::lab::host::command::Tool;
use crate::lab::network::daemon::Daemon;

/// The first core's governor (Documentation/admin-guide/pm/cpufreq.rst).
const GOVERNOR: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";

/// Where and how a run was made.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor, as the kernel calls it.
    pub cpu: String,
    /// Cores that nodes, senders and receivers share.
    pub num_cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// `uname -r`.
    pub kernel: String,
    /// How the kernel chooses the processor's frequency; none where it does not, as in most virtual
    /// machines.
    pub governor: Option<String>,
    /// Load average over the minute before: what else the machine did.
    pub load: f64,
    /// Versions of the daemons, as each prints its own.
    pub versions: Vec<(String, String)>,
    /// When it began: RFC 3339, in UTC.
    pub date: String,
    /// The command line.
    pub command: String,
}

impl Machine {
    /// This machine, now, with `daemons` by their names.
    ///
    /// # Errors
    /// [`LabError`] of the file or tool that failed.
    pub(super) fn read(daemons: &[(&str, &Daemon)]) -> Result<Self, LabError> {
        let unreadable = |error: ProcError| LabError::io("read /proc")(io::Error::other(error));
        let cpus = CpuInfo::current().map_err(unreadable)?;
        let memory = Meminfo::current().map_err(unreadable)?;
        let args: Vec<String> = env::args().skip(1).collect();
        Ok(Self {
            cpu: cpus.model_name(0).unwrap_or(env::consts::ARCH).to_owned(),
            num_cpus: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.mem_total >> 20,
            governor: fs::read_to_string(GOVERNOR).ok().map(|name| name.trim().to_owned()),
            load: LoadAverage::current().map_err(unreadable)?.one.into(),
            versions: daemons
                .iter()
                .map(|(name, daemon)| ((*name).to_owned(), daemon.version()))
                .collect(),
            kernel: Tool::new("uname").arg("-r").run()?.trim().to_owned(),
            date: Tool::new("date").words("-u +%Y-%m-%dT%H:%M:%SZ").run()?.trim().to_owned(),
            command: format!("flannel-lab {}", args.join(" ")),
        })
    }
    /// The processor, its cores and frequency, memory, load and kernel, in one line.
    pub fn describe(&self) -> String {
        let Self { cpu, num_cpus, memory_mib, kernel, load, .. } = self;
        let governor = self.governor.as_deref().unwrap_or("none");
        format!(
            "{cpu} · {num_cpus} cores for nodes, senders and receivers · governor {governor} · \
             load {load:.2} before · {memory_mib} MiB · Linux {kernel}"
        )
    }

    /// What was measured, in one line: each daemon with its version.
    pub fn describe_versions(&self) -> String {
        let versions = self.versions.iter().map(|(name, version)| format!("{name}: {version}"));
        versions.collect::<Vec<_>>().join(" · ")
    }
}
