//! [`Observer`]: a daemon's CPU time and log lines during an outage.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use twill::lab::network::node::Node;

/// What one daemon had used and logged when the observation began.
pub struct Observer {
    pid: u32,
    start: Instant,
    cpu_times: BTreeMap<OsString, u64>,
    num_lines: usize,
}

impl Observer {
    pub fn start(node: &Node) -> Self {
        let pid = node.process().unwrap().id().pid;
        let num_lines = log(node).lines().count();
        Self { pid, start: Instant::now(), cpu_times: control_times(pid), num_lines }
    }

    /// The control plane used less than one per cent of a core since the start.
    pub fn assert_idle(&self, what: &str) {
        let before = |thread| self.cpu_times.get(thread).copied().unwrap_or_default();
        let now = control_times(self.pid);
        let nanos = now.iter().map(|(thread, nanos)| nanos - before(thread)).sum();
        let (used, elapsed) = (Duration::from_nanos(nanos), self.start.elapsed());
        println!("{what}: control plane used {used:?} in {elapsed:?}");
        assert!(used * 100 < elapsed, "{what}: {used:?} of CPU time in {elapsed:?}");
    }

    /// No warning was logged twice in a minute, and not too many lines in all.
    pub fn assert_terse(&self, node: &Node, what: &str) {
        let log = log(node);
        let lines: Vec<&str> = log.lines().skip(self.num_lines).collect();
        assert!(lines.len() <= 20, "{what}: {} logged\n{}", node.name(), lines.join("\n"));
        let mut complaints: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &lines {
            if let Some((_, complaint)) = line.split_once("WARN ") {
                *complaints.entry(complaint).or_default() += 1;
            }
        }
        let bearable = 1 + self.start.elapsed().as_secs() / 60;
        for (complaint, num) in complaints {
            assert!(num <= bearable, "{what}: {} said {num} times: {complaint}", node.name());
        }
    }
}

/// Everything that the node's daemons have logged.
pub fn log(node: &Node) -> String {
    node.log_tail(usize::MAX)
}

/// CPU time of each thread that does not forward packets, by thread ID, as the scheduler counts it: the
/// first field of `/proc/PID/task/TID/schedstat`, in nanoseconds (`Documentation/scheduler/sched-stats`).
fn control_times(pid: u32) -> BTreeMap<OsString, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let times = tasks.filter_map(|task| {
        let task = task.ok()?;
        let (thread, task) = (task.file_name(), task.path());
        // A thread may end while we look.
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let stat = fs::read_to_string(task.join("schedstat")).ok()?;
        let is_worker = name.starts_with("flannel-w");
        let nanos = stat.split(' ').next()?.parse().ok()?;
        (!is_worker).then_some((thread, nanos))
    });
    times.collect()
}
