//! [`Machine`]: where and how a run was made.

use std::env;
use std::io;
use std::thread;

use procfs::{CpuInfo, Current as _, Meminfo, ProcError};
use serde::Serialize;

use crate::lab::LabError;
use crate::lab::host::command::Tool;

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
    /// When it began: RFC 3339, in UTC.
    pub date: String,
    /// The command line.
    pub command: String,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// [`LabError`] of the file or tool that failed.
    pub(super) fn read() -> Result<Self, LabError> {
        let unreadable = |error: ProcError| LabError::io("read /proc")(io::Error::other(error));
        let cpus = CpuInfo::current().map_err(unreadable)?;
        let memory = Meminfo::current().map_err(unreadable)?;
        let args: Vec<String> = env::args().skip(1).collect();
        Ok(Self {
            cpu: cpus.model_name(0).unwrap_or(env::consts::ARCH).to_owned(),
            num_cpus: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.mem_total >> 20,
            kernel: Tool::new("uname").arg("-r").run()?.trim().to_owned(),
            date: Tool::new("date").words("-u +%Y-%m-%dT%H:%M:%SZ").run()?.trim().to_owned(),
            command: format!("flannel-lab {}", args.join(" ")),
        })
    }
}
