//! The daemon that runs here.

use std::path::Path;

use crate::control::cli::client::Client;
use crate::control::cli::client::daemons::running;
use crate::control::observe::api::{Status, paths};

/// The pids of the flannelds in this network namespace, first of those that have a socket: others may
/// be of another product.
pub(in crate::control::cli) fn own_daemons() -> Vec<u32> {
    let mut here: Vec<_> = running().into_iter().filter(|daemon| daemon.is_here).collect();
    here.sort_by_key(|daemon| !daemon.has_socket());
    here.into_iter().filter_map(|daemon| u32::try_from(daemon.pid).ok()).collect()
}

/// What the daemon says of itself, if it is one that can be asked.
pub(in crate::control::cli) async fn status(socket: Option<&Path>) -> Option<Status> {
    let client = Client::open(socket).await.ok()?;
    client.get(paths::STATUS).await.ok()
}
