//! CPU time of the whole machine and of single processes, from `/proc`.

use std::time::Duration;

use procfs::process::Process;
use procfs::{CurrentSI as _, KernelStats, ProcError, ProcResult, ticks_per_second};

use crate::lab::LabError;

/// CPU time spent since boot, or between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// Time all cores were busy: programs, kernel, interrupts.
    pub(super) machine: Duration,
    /// Time of the processes asked for.
    pub(super) daemons: Duration,
}

impl CpuTime {
    /// Reads what was spent until now; a process that is gone counts nothing.
    ///
    /// # Errors
    /// [`LabError`] when `/proc/stat` cannot be read.
    pub(super) fn read(pids: &[u32]) -> Result<Self, LabError> {
        let total = KernelStats::current().map_err(unreadable)?.total;
        // Neither idle, nor waiting for a disk, nor another machine's (proc(5)).
        let machine = total.user
            + total.nice
            + total.system
            + total.irq.unwrap_or_default()
            + total.softirq.unwrap_or_default();
        let stats = pids.iter().filter_map(|pid| process(*pid).and_then(|it| it.stat()).ok());
        let daemons = stats.map(|stat| stat.utime + stat.stime).sum();
        Ok(Self { machine: from_ticks(machine), daemons: from_ticks(daemons) })
    }

    /// What was spent since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(earlier.machine),
            daemons: self.daemons.saturating_sub(earlier.daemons),
        }
    }
}

/// Time that all threads of these processes have run, to the nanosecond: `/proc/PID/task/TID/schedstat`
/// (Documentation/scheduler/sched-stats.rst).
///
/// # Errors
/// [`LabError`] when a process is gone.
pub(super) fn run_time(pids: &[u32]) -> Result<Duration, LabError> {
    let mut nanos = 0;
    for pid in pids {
        let tasks = process(*pid).and_then(|it| it.tasks()).map_err(unreadable)?;
        // A thread may end meanwhile.
        let stats = tasks.filter_map(|task| task.and_then(|task| task.schedstat()).ok());
        nanos += stats.map(|stat| stat.sum_exec_runtime).sum::<u64>();
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// [`LabError`] when it is gone.
pub(super) fn resident_mib(pid: u32) -> Result<f64, LabError> {
    let status = process(pid).and_then(|it| it.status()).map_err(unreadable)?;
    Ok(status.vmrss.unwrap_or_default() as f64 / 1024.0)
}

fn process(pid: u32) -> ProcResult<Process> {
    Process::new(i32::try_from(pid).unwrap_or(i32::MAX))
}

fn unreadable(error: ProcError) -> LabError {
    LabError::io("read /proc")(std::io::Error::other(error))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / ticks_per_second())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn own_time_passes() {
        let start = CpuTime::read(&[std::process::id()]).unwrap();
        let passed = || CpuTime::read(&[std::process::id()]).unwrap().since(start);
        let deadline = Instant::now() + Duration::from_secs(20);
        // The kernel counts the two apart: one may be a tick ahead.
        while passed().daemons.is_zero() || passed().machine.is_zero() {
            assert!(Instant::now() < deadline, "{:?}", passed());
            std::hint::black_box(vec![0_u8; 1 << 16]);
        }
        assert!(run_time(&[std::process::id()]).unwrap() > Duration::ZERO);
        assert!(resident_mib(std::process::id()).unwrap() > 1.0);
    }
}
