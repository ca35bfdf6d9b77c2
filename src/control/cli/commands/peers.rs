//! `flanneld peers`: the other nodes.

use clap::Args;

use super::peer_table::{PAUSE, PeerTable};
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{print, print_json};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::observe::api::{Peers, paths};

/// Flags of `flanneld peers`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct PeersArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
}

impl PeersArgs {
    pub(in crate::control::cli) async fn run(&self, client: &Client) -> Result<Exit, ToolError> {
        let before: Peers = client.get(paths::PEERS).await?;
        let peers = if self.ask.json {
            print_json(&before)?;
            before.peers
        } else {
            tokio::time::sleep(PAUSE).await;
            let now: Peers = client.get(paths::PEERS).await?;
            let table =
                PeerTable::new((before.at_millis, &before.peers), (now.at_millis, &now.peers));
            print(&table.render(Paint::stdout()))?;
            now.peers
        };
        let has_problem = peers.iter().any(|peer| peer.problem.is_some());
        Ok(if has_problem { Exit::Degraded } else { Exit::Well })
    }
}
