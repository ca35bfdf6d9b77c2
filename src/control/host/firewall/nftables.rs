//! Our rules in a table of nftables, for networks with `EnableNFTables`.

mod listing;
mod script;

use ipnetwork::Ipv4Network;
use tracing::info;

use self::listing::Listing;
use self::script::{ALL_TABLES, Chain, PROBE_FULLY_RANDOM, TABLE};
use super::FirewallConfig;
use super::command::{CommandError, run};
use super::rules::{self, OwnRule, Ranges};

/// Our table, and what we know of it.
#[derive(Debug)]
pub(super) struct Nftables {
    version: String,
    network: Ipv4Network,
    /// What is about these networks is from an earlier run, until we have made our rules.
    stale: Vec<Ipv4Network>,
    chains: Vec<Chain>,
    /// Our rules as this `nft` lists them, for each chain: how it writes a rule is up to its
    /// version. Known once we have made the table.
    listed: Option<Vec<Vec<OwnRule>>>,
}

impl Nftables {
    /// Finds `nft`, for the chains that `config` asks for. What is about the networks in `stale` is
    /// from an earlier run.
    ///
    /// # Errors
    /// [`CommandError`] when it is missing, or does not work.
    pub(super) async fn find(
        config: &FirewallConfig,
        ranges: Ranges,
        stale: &[Ipv4Network],
    ) -> Result<Self, CommandError> {
        let version = run("nft", &["--version"], "").await?.trim().to_owned();
        let mut chains = Vec::new();
        if config.forward_rules {
            chains.push(Chain::forward(&rules::forward(ranges)));
        }
        if config.ip_masq {
            let fully_random = config.fully_random && has_fully_random().await;
            chains.push(Chain::postrouting(&rules::masquerade(ranges, fully_random)));
        }
        let (network, stale) = (ranges.network, stale.to_vec());
        Ok(Self { version, network, stale, chains, listed: None })
    }

    /// What `--version` says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// How many rules there are to be.
    pub(super) fn num_rules(&self) -> usize {
        self.chains.iter().map(Chain::len).sum()
    }

    /// Makes our rules in the table what they should be, if they are not. Whether anything was
    /// changed is returned.
    ///
    /// The first time they are made again: those in it are of an earlier run.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is changed then.
    pub(super) async fn ensure(&mut self) -> Result<bool, CommandError> {
        // Whatever keeps us from reading the table, if it is not that there is none, keeps us from
        // writing it, too.
        let actual = list().await.map_or_else(|_| Listing::new(), |text| listing::parse(&text));
        let script = match &self.listed {
            Some(ours) => script::repair(&self.chains, ours, &actual),
            None => Some(script::set_up(&self.chains, &actual, &self.stale)),
        };
        let Some(script) = script else { return Ok(false) };
        if self.listed.is_some() {
            info!("Some nftables rules are missing; deleting and recreating rules");
        }
        apply(&script).await?;
        if self.listed.is_none() {
            self.listed = self.read_back().await?;
            // Rules added from now on are not leftovers.
            self.stale = vec![self.network];
        }
        Ok(true)
    }

    /// Our rules as they are listed, right after we made them; `None` if another program changed them.
    async fn read_back(&self) -> Result<Option<Vec<Vec<OwnRule>>>, CommandError> {
        let listing = listing::parse(&list().await?);
        let chains = self.chains.iter().map(|chain| {
            let rules = listing.get(chain.name).map_or(&[][..], Vec::as_slice);
            chain.read_back(rules, self.network)
        });
        Ok(chains.collect())
    }
}

/// Removes our rules about `networks` from the table, and the table if nothing else is in it;
/// returns a line for what went. Without `nft` there is nothing.
///
/// # Errors
/// [`CommandError`] when there may be something left.
pub(super) async fn withdraw(networks: &[Ipv4Network]) -> Result<Vec<String>, CommandError> {
    let tables = match run("nft", &["list", "tables"], "").await {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        tables => tables?,
    };
    if !tables.lines().any(|line| line == format!("table {TABLE}")) {
        return Ok(Vec::new());
    }
    let Some(script) = script::withdraw(&listing::parse(&list().await?), networks) else {
        return Ok(Vec::new());
    };
    apply(&script).await?;
    let is_whole = script == script::delete(TABLE);
    let what = if is_whole { "table" } else { "our rules in table" };
    Ok(vec![format!("{what} {TABLE} (nft)")])
}

/// Removes the tables of any flannel, and returns a line for each. Without `nft` there are none.
///
/// # Errors
/// [`CommandError`] when there may be something left.
pub(crate) async fn remove() -> Result<Vec<String>, CommandError> {
    let tables = match run("nft", &["list", "tables"], "").await {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        tables => tables?,
    };
    let listed = |table: &&str| tables.lines().any(|line| line == format!("table {table}"));
    let mut removed = Vec::new();
    for table in ALL_TABLES.into_iter().filter(listed) {
        apply(&script::delete(table)).await?;
        removed.push(format!("table {table} (nft)"));
    }
    Ok(removed)
}

async fn list() -> Result<String, CommandError> {
    let table: Vec<&str> = TABLE.split(' ').collect();
    run("nft", &[&["-a", "list", "table"], table.as_slice()].concat(), "").await
}

async fn apply(script: &str) -> Result<(), CommandError> {
    run("nft", &["-f", "-"], script).await.map(drop)
}

async fn has_fully_random() -> bool {
    run("nft", &["-c", "-f", "-"], PROBE_FULLY_RANDOM).await.is_ok()
}
