//! [`Machine`]: where and how a run was made.

use std::env;
use std::fs;
use std::thread;

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
        let read =
            |path: &str| fs::read_to_string(path).map_err(LabError::io(format!("read {path}")));
        let (cpus, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&memory, "MemTotal").unwrap_or_default();
        let args: Vec<String> = env::args().skip(1).collect();
        Ok(Self {
            cpu: value(&cpus, "model name").unwrap_or_else(|| env::consts::ARCH.to_owned()),
            num_cpus: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib / 1024),
            kernel: Tool::new("uname").arg("-r").run()?.trim().to_owned(),
            date: Tool::new("date").words("-u +%Y-%m-%dT%H:%M:%SZ").run()?.trim().to_owned(),
            command: format!("flannel-lab {}", args.join(" ")),
        })
    }
}
