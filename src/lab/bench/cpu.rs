//! CPU time of the whole machine and of single processes, from `/proc`.

use std::fs;
use std::time::Duration;

use crate::lab::LabError;

/// CPU time spent since boot, or between two readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// Time all cores were busy: programs, kernel, interrupts.
    pub(super) machine: Duration,
    /// Time of the processes asked for.
    pub(super) daemons: Duration,
}

/// A clock tick of `/proc`, in milliseconds: `USER_HZ` is 100 on all architectures we run on
/// (include/asm-generic/param.h).
const TICK_MILLIS: u64 = 10;

impl CpuTime {
    /// Reads what was spent until now; a process that is gone counts nothing.
    ///
    /// # Errors
    /// [`LabError`] when `/proc/stat` cannot be read.
    pub(super) fn read(pids: &[u32]) -> Result<Self, LabError> {
        let stat = fs::read_to_string("/proc/stat").map_err(LabError::io("read /proc/stat"))?;
        let Some(machine) = busy_ticks(&stat) else {
            return Err(LabError::Unreadable { what: "/proc/stat".to_owned(), text: stat });
        };
        let stats =
            pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        let daemons = stats.filter_map(|stat| process_ticks(&stat)).sum();
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

/// Time that all threads of these processes have run, to the nanosecond: the first field of
/// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst).
///
/// # Errors
/// [`LabError`] when a process is gone.
pub(super) fn run_time(pids: &[u32]) -> Result<Duration, LabError> {
    let mut nanos = 0;
    for pid in pids {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).map_err(LabError::io(format!("read {tasks}")))?.flatten() {
            // A thread may end meanwhile.
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += stat.split(' ').next().and_then(|run| run.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}

const fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * TICK_MILLIS)
}

/// user, nice, system, irq and softirq of the first line; not idle, iowait and steal (proc(5)).
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

/// utime and stime, fields 14 and 15; the program's name in brackets may hold spaces (proc(5)).
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn machine_is_busy_with_interrupts_but_not_with_idling() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 8 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(7_600_321));
        assert_eq!(busy_ticks("cpu  1 2"), None);
    }

    #[test]
    fn process_counts_user_and_system_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 40 2 0 0 20 0 1 0 4711 1 2\n";
        assert_eq!(process_ticks(stat), Some(42));
    }

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
    }
}
