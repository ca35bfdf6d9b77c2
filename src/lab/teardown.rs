//! Removing a lab by its name, also one whose maker crashed.
//!
//! Everything a lab starts runs in its namespaces, so the names suffice: kill what runs there,
//! delete the namespaces (their links go with them), delete the directory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use super::LabError;
use super::host::netns::{NETNS_DIR, Netns};
use super::host::process::{ProcessId, Signal};
use super::network::topology::Names;

/// A killed process is gone at once, unless the kernel is busy with it.
const KILLED: Duration = Duration::from_secs(30);

/// Removes everything of the lab; goes on past failures. A lab that is gone is no error.
///
/// # Errors
/// [`LabError::Teardown`] with every part that could not be removed.
pub fn remove(names: &Names) -> Result<(), LabError> {
    let mut failures = Vec::new();
    let namespaces = namespaces(names);
    if let Err(error) = kill_all(&namespaces) {
        failures.push(error);
    }
    for netns in &namespaces {
        if let Err(error) = netns.delete()
            && netns.inode().is_some()
        {
            failures.push(error.to_string());
        }
    }
    match fs::remove_dir_all(names.dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failures.push(format!("delete {}: {error}", names.dir().display()));
        }
        Ok(()) | Err(_) => {}
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(LabError::Teardown { name: names.lab().to_owned(), failures })
}

/// The namespaces of the lab.
pub(super) fn namespaces(names: &Names) -> Vec<Netns> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| entry.file_name().into_string().ok());
    found.filter(|name| names.owns(name)).map(Netns::named).collect()
}

/// Kills every process in the namespaces and waits for their end.
fn kill_all(namespaces: &[Netns]) -> Result<(), String> {
    let inodes: HashSet<u64> = namespaces.iter().filter_map(Netns::inode).collect();
    let start = Instant::now();
    loop {
        let processes = processes_in(&inodes);
        if processes.is_empty() {
            return Ok(());
        }
        if start.elapsed() > KILLED {
            let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
            return Err(format!("processes {} outlive SIGKILL", pids.join(", ")));
        }
        for process in processes {
            process.signal(Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn processes_in(netns_inodes: &HashSet<u64>) -> Vec<ProcessId> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let netns = fs::metadata(format!("/proc/{pid}/ns/net"));
        netns.is_ok_and(|netns| netns_inodes.contains(&netns.ino()))
    })
    .filter_map(ProcessId::of)
    .collect()
}
