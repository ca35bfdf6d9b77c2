//! `flanneld top`: live rates of workers and peers.

mod frame;
mod rates;
mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;

use self::frame::frame;
use self::rates::{Reading, TopRates};
use self::screen::{Screen, Wish};
use super::peer_table::PAUSE;
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{print, print_json};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::observe::api::{Status, paths};

/// Between two frames.
const INTERVAL: Duration = Duration::from_secs(1);

/// Flags of `flanneld top`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct TopArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
}

impl TopArgs {
    pub(in crate::control::cli) async fn run(&self, client: &Client) -> Result<Exit, ToolError> {
        let status: Status = client.get(paths::STATUS).await?;
        if !self.ask.json && io::stdin().is_terminal() && io::stdout().is_terminal() {
            live(client, &status).await?;
        } else {
            let before = Reading::take(client).await?;
            tokio::time::sleep(PAUSE).await;
            let now = Reading::take(client).await?;
            let rates = TopRates::new(&before, &now);
            match self.ask.json {
                true => print_json(&rates)?,
                false => print(&frame(&status, &rates, Paint::stdout()))?,
            }
        }
        Ok(Exit::Well)
    }
}

/// Draws a frame a second until the user has seen enough.
async fn live(client: &Client, status: &Status) -> Result<(), ToolError> {
    let mut before = Reading::take(client).await?;
    tokio::time::sleep(PAUSE).await;
    let mut screen = Screen::open()?;
    loop {
        let now = Reading::take(client).await?;
        let text = frame(status, &TopRates::new(&before, &now), Paint::stdout());
        loop {
            screen.draw(&text)?;
            match screen.wait(INTERVAL)? {
                Wish::Quit => return Ok(()),
                Wish::Redraw => {}
                Wish::Next => break,
            }
        }
        before = now;
    }
}
