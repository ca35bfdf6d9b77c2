//! `flanneld capture`: packets of the overlay as pcapng, of the workers and of the fast path.

mod blocks;
mod output;

use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnetwork::Ipv4Network;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::blocks::Blocks;
use self::output::Output;
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::print_json;
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::observe::api::{
    CaptureDirection, CaptureQuery, DEFAULT_COUNT, DEFAULT_SNAP_LEN, MAX_DURATION, paths,
};
use crate::routes::Prefix;

/// Flags of `flanneld capture`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct CaptureArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only packets to and from this peer: its public IP, or an address of its subnet. May be given
    /// several times.
    #[arg(long, value_name = "ADDRESS")]
    peer: Vec<Ipv4Addr>,
    /// Only packets with source or destination in this subnet. May be given several times.
    #[arg(long, value_name = "CIDR", value_parser = subnet)]
    subnet: Vec<Ipv4Network>,
    /// Only packets to peers (egress), or from them (ingress).
    #[arg(long, value_name = "egress|ingress")]
    direction: Option<CaptureDirection>,
    /// Only packets that are dropped. Each has the reason as a comment.
    #[arg(long)]
    dropped: bool,
    /// End after so many packets.
    #[arg(short, long, value_name = "NUMBER", default_value_t = DEFAULT_COUNT,
          value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// End after this time: 30s, 10m, 2h. At most a day.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Keep at most so many bytes of each packet.
    #[arg(short, long, value_name = "BYTES", default_value_t = DEFAULT_SNAP_LEN,
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    snaplen: u32,
}

/// What a capture has, for `--json`.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    packets: u64,
    lost: u64,
    file: &'a PathBuf,
}

impl CaptureArgs {
    pub(in crate::control::cli) async fn run(&self, client: &Client) -> Result<Exit, ToolError> {
        self.check()?;
        let mut response = client.send(&format!("{}?{}", paths::CAPTURE, self.query())).await?;
        let mut output = Output::open(self.write.as_deref())?;
        eprintln!(
            "capturing until Ctrl-C, at most {} packets and {} s",
            self.count,
            self.duration.as_secs_f64()
        );
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| ToolError::Local(format!("cannot wait for signals: {error}")))?;
        let mut blocks = Blocks::default();
        let mut end = Ok(());
        loop {
            let piece = tokio::select! {
                piece = response.next_piece() => piece,
                _ = tokio::signal::ctrl_c() => break,
                _ = terminate.recv() => break,
            };
            match piece {
                Ok(Some(piece)) => {
                    let whole = blocks.take(&piece)?;
                    if !output.write(&whole, blocks.num_packets())? {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    end = Err(ToolError::Local(format!("the capture broke off: {error}")));
                    break;
                }
            }
        }
        self.report(&blocks)?;
        end.map(|()| Exit::Well)
    }

    fn check(&self) -> Result<(), ToolError> {
        let advice = match &self.write {
            None if self.ask.json => "--json needs -w FILE: standard output has the packets",
            None if std::io::stdout().is_terminal() => {
                "a capture is no text: write it with -w FILE, or pipe it: flanneld capture | \
                 tcpdump -nr -"
            }
            None | Some(_) => return Ok(()),
        };
        Err(ToolError::Local(advice.to_owned()))
    }

    fn query(&self) -> CaptureQuery {
        CaptureQuery {
            peers: self.peer.clone(),
            subnets: self.subnet.clone(),
            direction: self.direction,
            dropped: self.dropped,
            count: self.count,
            duration: self.duration,
            snap_len: self.snaplen,
        }
    }

    fn report(&self, blocks: &Blocks) -> Result<(), ToolError> {
        let (packets, lost) = (blocks.num_packets(), blocks.num_lost());
        match &self.write {
            Some(file) if self.ask.json => print_json(&Summary { packets, lost, file })?,
            Some(_) | None => {
                let lost = match lost {
                    0 => String::new(),
                    lost => format!(
                        ", {lost} more were lost because they came too fast: --peer, --subnet or \
                         --snaplen=96 make a capture smaller"
                    ),
                };
                eprintln!("{packets} packets captured{lost}");
            }
        }
        Ok(())
    }
}

fn subnet(text: &str) -> Result<Ipv4Network, String> {
    let subnet = text.parse::<Ipv4Network>().ok();
    let subnet = subnet.and_then(|it| Ipv4Network::containing(it.ip(), it.prefix()).ok());
    subnet.ok_or_else(|| format!("{text} is no IPv4 subnet such as 10.5.7.0/24"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let number = text[..text.len() - unit.len()].parse::<u64>().ok();
    let seconds = number.and_then(|number| number.checked_mul(seconds)).filter(|it| *it > 0);
    let duration = seconds.map(Duration::from_secs).filter(|duration| *duration <= MAX_DURATION);
    duration.ok_or_else(|| format!("{text} is no time such as 30s, 10m or 2h, of at most a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(["30s", "7", "10m", "2h"].map(seconds), [30, 7, 600, 7200].map(Ok));
        for text in ["", "s", "0", "25h", "1d", "-1s", "1.5s", "99999999999999999999h"] {
            assert!(seconds(text).unwrap_err().contains("no time such as 30s"), "{text}");
        }
    }

    #[test]
    fn subnet_may_be_named_by_any_of_its_addresses() {
        assert_eq!(subnet("10.5.7.9/24"), Ok("10.5.7.0/24".parse().unwrap()));
        assert!(subnet("10.5.7.0/33").is_err());
    }
}
