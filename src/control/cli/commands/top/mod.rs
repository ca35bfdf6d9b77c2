//! `flanneld top`: live rates of workers and peers.

mod frame;
mod rates;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use self::frame::{Size, frame};
use self::rates::{Reading, TopRates};
use self::screen::{Screen, Wish};
use self::view::View;
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
        let before = Reading::take(client).await?;
        tokio::time::sleep(PAUSE).await;
        let now = Reading::take(client).await?;
        if !self.ask.json && is_terminal() {
            live(client, View::new(status, &before, now)).await?;
        } else {
            let rates = TopRates::new(&before, &now);
            match self.ask.json {
                true => print_json(&rates)?,
                false => print(&frame(&status, &rates, Size::default(), Paint::stdout()))?,
            }
        }
        Ok(Exit::Well)
    }
}

/// Whether there is somebody at a terminal that can do more than print lines.
fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Draws a frame a second until the user has seen enough, also while the daemon is away.
async fn live(client: &Client, mut view: View) -> Result<(), ToolError> {
    let mut screen = Screen::open()?;
    let paint = Paint::stdout();
    loop {
        let next = Instant::now() + INTERVAL;
        let wants_status = view.wants_status();
        let mut news = pin!(async {
            tokio::time::sleep_until(next).await;
            let reading = Reading::take(client).await?;
            let status = match wants_status {
                true => Some(client.get(paths::STATUS).await?),
                false => None,
            };
            Ok::<_, ToolError>((reading, status))
        });
        let news = loop {
            screen.draw(|size| view.text(size, paint))?;
            tokio::select! {
                wish = screen.wish() => match wish? {
                    Wish::Quit => return Ok(()),
                    Wish::Redraw => {}
                },
                news = &mut news => break news,
            }
        };
        view.update(news);
    }
}
