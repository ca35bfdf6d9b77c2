//! Restarting the daemon of a node in a lab that stays, also with another program.

use std::time::Duration;

use super::LabError;
use super::host::process::{Process, Signal};
use super::host::wait::wait_for;
use super::network::daemon::{Daemon, SubnetEnv};
use super::network::node::Node;
use super::network::topology::Names;
use super::state::LabState;

/// How long a flanneld may take to end.
const END: Duration = Duration::from_secs(30);

/// Stops the flanneld of `node` with SIGTERM, if it runs, starts it again, and waits until it is
/// ready; with `daemon`, that program runs from now on. Gives what it wrote to `subnet.env`.
///
/// # Errors
/// [`LabError`]: there is no such node, its daemon does not end, or is not ready in time.
pub fn restart(
    state: &mut LabState,
    node: &str,
    daemon: Option<Daemon>,
) -> Result<SubnetEnv, LabError> {
    let names = Names::new(&state.name)?;
    let index = state.position(node)?;
    let (registry, backend) = (state.registry, state.backend);
    let found = &mut state.nodes[index];
    if let Some(process) = found.process {
        process.signal(Signal::SIGTERM);
        let what = format!("the end of process {}", process.pid);
        wait_for(&what, END, || Ok((!process.is_alive()).then_some(())))?;
    }
    if let Some(daemon) = daemon {
        found.daemon = daemon;
    }
    let daemon = found.daemon.clone();
    let mut node = Node::resume(&names, index + 1, (registry, backend), daemon);
    node.start()?;
    let ready = node.wait_ready().map(|overlay| overlay.env);
    // One that runs without being ready belongs to the lab as well.
    found.process = node.process().map(Process::id);
    if let Ok(env) = &ready {
        found.env = Some(*env);
    }
    state.save(&names)?;
    ready
}
