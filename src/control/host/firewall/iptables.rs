//! Our rules in iptables, either nf_tables or legacy.
//!
//! Reading takes no lock (`iptables-save` does without), writing takes it for one transaction of
//! `iptables-restore --noflush --wait`.

mod layout;
pub(super) mod saved;

use ipnetwork::Ipv4Network;
use tracing::info;

use self::layout::{FORWARD, Layout, MASQUERADE};
use self::saved::SavedTable;
use super::FirewallConfig;
use super::command::{CommandError, run};
use super::rules::{self, OwnRule, Ranges};

/// iptables as it is on this host.
#[derive(Debug)]
pub(crate) struct Iptables {
    /// What its programs' names begin with: `iptables`, or `ip6tables-legacy`.
    name: String,
    /// As `--version` says it: `iptables v1.8.9 (nf_tables)`.
    version: String,
    /// Whether it is new enough for `--random-fully`, and for `--wait` when restoring: both came
    /// with 1.6.2.
    is_modern: bool,
}

/// One of our chains with its rules.
#[derive(Debug)]
pub(super) struct Chain {
    layout: Layout,
    rules: Vec<OwnRule>,
    /// What else is about these networks is from an earlier run; empty once it is gone.
    stale: Vec<Ipv4Network>,
    /// The rules have been in place since we run.
    is_set_up: bool,
}

impl Iptables {
    /// Finds the programs whose names begin with `name`.
    ///
    /// # Errors
    /// [`CommandError`] when they are missing, or do not work.
    pub(crate) async fn find(name: &str) -> Result<Self, CommandError> {
        let version = run(name, &["--version"], "").await?.trim().to_owned();
        let is_modern = parse_version(&version).is_none_or(|version| version >= [1, 6, 2]);
        Ok(Self { name: name.to_owned(), version, is_modern })
    }

    /// What `--version` says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The chains that `config` asks for. What else is about the networks in `stale` is from an
    /// earlier run.
    pub(super) fn chains(
        &self,
        config: &FirewallConfig,
        ranges: Ranges,
        stale: &[Ipv4Network],
    ) -> Vec<Chain> {
        let chain = |layout: Layout, rules: Vec<rules::Rule>| {
            let rules = rules.iter().map(|rule| layout.rule(rule)).collect();
            Chain { layout, rules, stale: stale.to_vec(), is_set_up: false }
        };
        let forward = || chain(FORWARD, rules::forward(ranges));
        let fully_random = config.fully_random && self.is_modern;
        let masquerade = || chain(MASQUERADE, rules::masquerade(ranges, fully_random));
        let forward = config.forward_rules.then(forward);
        forward.into_iter().chain(config.ip_masq.then(masquerade)).collect()
    }

    /// Makes `chain` what it should be, if it is not. Whether it was changed is returned.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is changed then.
    pub(super) async fn ensure(&self, chain: &mut Chain) -> Result<bool, CommandError> {
        let mut result = self.attempt(chain).await;
        if let Err(CommandError::Failed { .. }) = result {
            // Another program may have changed the table between our reading and our writing.
            result = self.attempt(chain).await;
        }
        if result.is_ok() {
            (chain.stale, chain.is_set_up) = (Vec::new(), true);
        }
        result
    }

    async fn attempt(&self, chain: &Chain) -> Result<bool, CommandError> {
        let Chain { layout, rules, stale, is_set_up } = chain;
        let text = self.save(&["-t", layout.table]).await?;
        let actual = SavedTable::parse_all(&text).into_iter().find(|t| t.name == layout.table);
        let Some(batch) = layout.repair(rules, &actual.unwrap_or_default(), stale) else {
            return Ok(false);
        };
        if *is_set_up {
            info!("Some iptables rules are missing; deleting and recreating rules");
        }
        self.restore(&batch).await?;
        Ok(true)
    }

    /// Removes our chains, all ways into them and what `older` says, and returns a line for each
    /// thing removed.
    ///
    /// Only tables that exist are looked at: with legacy iptables, looking would make them.
    ///
    /// # Errors
    /// [`CommandError`] when there may be something left.
    pub(crate) async fn remove(&self, older: &OlderLayouts) -> Result<Vec<String>, CommandError> {
        let tables = SavedTable::parse_all(&self.save(&[]).await?);
        let mut removed = Vec::new();
        for table in &tables {
            for layout in [FORWARD, MASQUERADE].into_iter().filter(|l| l.table == table.name) {
                let is_older = |rule: &str| older.left(layout, rule);
                if let Some((batch, lines)) = layout.removal(table, is_older) {
                    self.restore(&batch).await?;
                    let place = format!("({}, table {})", self.name, table.name);
                    removed.extend(lines.iter().map(|line| format!("{line} {place}")));
                }
            }
        }
        Ok(removed)
    }

    /// Removes our rules about `networks`, and our chains if nothing else is in them; returns a line
    /// for each thing removed.
    ///
    /// # Errors
    /// [`CommandError`] when there may be something left.
    pub(super) async fn withdraw(
        &self,
        ranges: Ranges,
        networks: &[Ipv4Network],
    ) -> Result<Vec<String>, CommandError> {
        let tables = SavedTable::parse_all(&self.save(&[]).await?);
        let mut removed = Vec::new();
        for (layout, rules) in
            [(FORWARD, rules::forward(ranges)), (MASQUERADE, rules::masquerade(ranges, false))]
        {
            let rules: Vec<OwnRule> = rules.iter().map(|rule| layout.rule(rule)).collect();
            for table in tables.iter().filter(|table| table.name == layout.table) {
                if let Some((batch, lines)) = layout.withdrawal(&rules, table, networks) {
                    self.restore(&batch).await?;
                    let place = format!("({}, table {})", self.name, table.name);
                    removed.extend(lines.iter().map(|line| format!("{line} {place}")));
                }
            }
        }
        Ok(removed)
    }

    async fn save(&self, args: &[&str]) -> Result<String, CommandError> {
        run(&format!("{}-save", self.name), args, "").await
    }

    async fn restore(&self, batch: &str) -> Result<(), CommandError> {
        let args: &[&str] = if self.is_modern { &["--noflush", "--wait"] } else { &["--noflush"] };
        run(&format!("{}-restore", self.name), args, batch).await.map(drop)
    }
}

impl Chain {
    /// The table it is in.
    pub(super) const fn table(&self) -> &'static str {
        self.layout.table
    }

    /// How many rules it has.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }
}

/// Rules that flannel before 0.20 appended to the kernel's chains.
#[derive(Debug, Default)]
pub(crate) struct OlderLayouts {
    rules: Vec<(&'static str, String)>,
}

impl OlderLayouts {
    /// Those of flannel before 0.16.2, which carry no comment: they are flannel's if they are
    /// about its ranges.
    pub(crate) fn about(network: Ipv4Network, subnet: Option<Ipv4Network>) -> Self {
        let multicast = rules::MULTICAST;
        let mut rules = vec![
            (FORWARD.table, format!("-s {network} -j ACCEPT")),
            (FORWARD.table, format!("-d {network} -j ACCEPT")),
            (MASQUERADE.table, format!("-s {network} -d {network} -j RETURN")),
        ];
        for random in ["", " --random-fully"] {
            for ends in
                [format!("-s {network} ! -d {multicast}"), format!("! -s {network} -d {network}")]
            {
                rules.push((MASQUERADE.table, format!("{ends} -j MASQUERADE{random}")));
            }
        }
        let outside = |subnet| format!("! -s {network} -d {subnet} -j RETURN");
        rules.extend(subnet.map(|subnet| (MASQUERADE.table, outside(subnet))));
        Self { rules }
    }

    /// Whether an older flannel left `rule` in the kernel's chain of `layout`. From 0.16.2 on the
    /// comment says so.
    fn left(&self, layout: Layout, rule: &str) -> bool {
        rule.contains(&format!("--comment \"{}\"", layout.comment))
            || self.rules.iter().any(|(table, older)| *table == layout.table && older == rule)
    }
}

/// The number in `iptables v1.8.9 (nf_tables)`; `None` when there is none.
fn parse_version(text: &str) -> Option<[u32; 3]> {
    let number = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?])
}

#[cfg(test)]
mod tests;
