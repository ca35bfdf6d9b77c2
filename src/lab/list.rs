//! The labs on this machine.

use serde::Serialize;

use super::LabError;
use super::host::process::ProcessId;
use super::network::backend::Backend;
use super::network::registry::RegistryKind;
use super::progress::warn;
use super::report::table;
use super::state::{self, LabState};

/// A lab in the list.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many of their flannelds run.
    pub running: usize,
    /// How packets travel between its nodes.
    pub backend: Backend,
    /// Where its nodes keep their leases.
    pub registry: RegistryKind,
    /// The process that will remove it; none for a lab that stays.
    pub owner: Option<ProcessId>,
    /// Whether that process died without removing it.
    pub orphan: bool,
}

/// All labs, by name; one of another version of this program is a warning. Needs no root.
///
/// # Errors
/// [`LabError`] of a state file that cannot be read.
pub fn all() -> Result<Vec<Entry>, LabError> {
    let states = state::all_labs().into_iter().map(|names| LabState::load(&names));
    let mut all = Vec::new();
    for state in states {
        match state {
            Ok(state) => all.push(Entry::of(&state)),
            // One that was removed meanwhile is no longer there.
            Err(LabError::NoSuchLab { .. }) => {}
            Err(other @ LabError::OtherVersion { .. }) => warn(&other.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

impl Entry {
    fn of(state: &LabState) -> Self {
        let processes = state.nodes.iter().filter_map(|node| node.process);
        Self {
            name: state.name.clone(),
            nodes: state.nodes.len(),
            running: processes.filter(|process| process.is_alive()).count(),
            backend: state.backend,
            registry: state.registry,
            owner: state.owner,
            orphan: state.is_orphan(),
        }
    }

    fn row(&self) -> Vec<String> {
        let registry = match self.registry {
            RegistryKind::Etcd => "etcd",
            RegistryKind::File => "file",
            RegistryKind::Kube => "kube",
        };
        let until = match self.owner {
            None => "down".to_owned(),
            Some(owner) if self.orphan => format!("the next lab (pid {} died)", owner.pid),
            Some(owner) => format!("pid {} ends", owner.pid),
        };
        let running = format!("{} of {}", self.running, self.nodes);
        vec![self.name.clone(), self.backend.to_string(), registry.to_owned(), running, until]
    }
}

/// The table that is printed.
pub fn text(labs: &[Entry]) -> String {
    if labs.is_empty() {
        return "no labs on this machine; `flannel-lab up` makes one\n".to_owned();
    }
    let header = ["lab", "backend", "registry", "flannelds", "stays until"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(labs.iter().map(Entry::row));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_says_how_long_each_lab_stays() {
        let entry = |name: &str, owner, orphan| Entry {
            name: name.to_owned(),
            nodes: 3,
            running: 2,
            backend: Backend::Vxlan,
            registry: RegistryKind::Etcd,
            owner,
            orphan,
        };
        let owner = Some(ProcessId { pid: 7, started: 1 });
        let text =
            text(&[entry("a", None, false), entry("b", owner, false), entry("c", owner, true)]);
        for (line, end) in
            text.lines().skip(1).zip(["down", "pid 7 ends", "the next lab (pid 7 died)"])
        {
            assert!(line.contains("2 of 3  ") && line.ends_with(&format!(" {end}")), "{text}");
        }
        assert!(super::text(&[]).contains("no labs"));
    }
}
