//! The links of a lab that stays: cutting, mending, delay and loss.
//!
//! A link joins a node, or etcd, to the underlay's bridge. Its name is that of its bridge port.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LabError;
use super::host::command::{CommandError, Tool};
use super::host::netns::Netns;
use super::network::topology::Names;
use super::state::LabState;

/// What a link does to packets, in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// How much later each packet arrives.
    pub delay: Duration,
    /// How many of a hundred packets never arrive.
    pub loss_percent: f64,
}

/// The link of a lab that was found by its name.
#[derive(Debug)]
pub struct Link {
    name: String,
    underlay: Netns,
    host: Netns,
}

/// etcd's link and its namespace's last part.
const ETCD: &str = "etcd";

/// Most packets that are on their way at once: 100 ms of 10 Gb/s in packets of 1500 bytes.
const NETEM_LIMIT: u32 = 100_000;

impl Link {
    /// The link called `name`, as `status` shows it.
    ///
    /// # Errors
    /// [`LabError::NoSuch`] with the names there are.
    pub fn find(state: &LabState, name: &str) -> Result<Self, LabError> {
        let names = Names::new(&state.name)?;
        let nodes = state.nodes.iter().map(|node| (node.name.clone(), node.netns.clone()));
        let etcd = state.etcd.map(|_| (ETCD.to_owned(), Netns::named(names.etcd())));
        let all: Vec<(String, Netns)> = nodes.chain(etcd).collect();
        let known: Vec<String> = all.iter().map(|(known, _)| known.clone()).collect();
        let found = all.into_iter().find(|(known, _)| known == name);
        let (name, host) = found.ok_or_else(|| state.no_such("link", name, &known))?;
        Ok(Self { name, underlay: Netns::named(names.underlay()), host })
    }

    /// Takes the link down on the bridge's side, as if its cable were pulled: the host sees its
    /// `eth0` lose the carrier.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn cut(&self) -> Result<(), LabError> {
        self.underlay.ip(&format!("link set {} down", self.name))?;
        Ok(())
    }

    /// Takes it up again.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn mend(&self) -> Result<(), LabError> {
        self.underlay.ip(&format!("link set {} up", self.name))?;
        Ok(())
    }

    /// Makes both ends of the link delay and lose what they send.
    ///
    /// # Errors
    /// [`LabError::NoNetem`] when the kernel cannot, or [`LabError::Command`].
    pub fn set_quality(&self, quality: Quality) -> Result<(), LabError> {
        for (netns, device) in [(&self.underlay, self.name.as_str()), (&self.host, "eth0")] {
            let tc = Tool::new("tc").arg("-n").arg(netns.name());
            match tc.words(&quality.tc(device)).run() {
                Ok(_) => {}
                Err(error) if quality == Quality::default() && has_none(&error) => {}
                Err(error) if is_unknown_qdisc(&error) => return Err(LabError::NoNetem),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Quality {
    /// The words after `tc` that give `device` this quality.
    fn tc(self, device: &str) -> String {
        if self == Self::default() {
            return format!("qdisc del dev {device} root");
        }
        let mut words = format!("qdisc replace dev {device} root netem limit {NETEM_LIMIT}");
        if !self.delay.is_zero() {
            words.push_str(&format!(" delay {}us", self.delay.as_micros()));
        }
        if self.loss_percent > 0.0 {
            words.push_str(&format!(" loss {}%", self.loss_percent));
        }
        words
    }
}

/// The links that are cut: the ports of the underlay's bridge that are down.
///
/// # Errors
/// [`LabError::Command`] when the lab's namespaces are gone.
pub(super) fn cut_links(names: &Names) -> Result<Vec<String>, LabError> {
    let links = Netns::named(names.underlay()).ip("-j link show master br0")?;
    Ok(down(&links))
}

/// The names of links without the flag UP, in the output of `ip -j link show`.
fn down(links: &str) -> Vec<String> {
    let links: Value = serde_json::from_str(links).unwrap_or_default();
    let is_down = |link: &&Value| {
        let flags = link["flags"].as_array();
        !flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
    };
    let down = links.as_array().into_iter().flatten().filter(is_down);
    down.filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect()
}

/// Whether tc failed because the kernel has no netem.
fn is_unknown_qdisc(error: &CommandError) -> bool {
    failure(error).is_some_and(|said| said.contains("qdisc kind is unknown"))
}

/// Whether tc failed because there was nothing to remove.
fn has_none(error: &CommandError) -> bool {
    failure(error).is_some_and(|said| {
        said.contains("handle of zero") || said.contains("No such file or directory")
    })
}

fn failure(error: &CommandError) -> Option<&str> {
    match error {
        CommandError::Failed { stderr, .. } => Some(stderr),
        CommandError::Missing { .. }
        | CommandError::Run { .. }
        | CommandError::TimedOut { .. }
        | CommandError::Interrupted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_and_loss_are_one_queue() {
        let mut quality = Quality { delay: Duration::from_millis(20), loss_percent: 0.5 };
        let both = "qdisc replace dev n1 root netem limit 100000 delay 20000us loss 0.5%";
        assert_eq!(quality.tc("n1"), both);
        quality.delay = Duration::ZERO;
        assert_eq!(quality.tc("n1"), "qdisc replace dev n1 root netem limit 100000 loss 0.5%");
        assert_eq!(Quality::default().tc("n1"), "qdisc del dev n1 root");
    }

    #[test]
    fn links_that_are_down_are_cut() {
        let links = r#"[{},{"ifname":"n1","flags":["BROADCAST","UP"]},
            {"ifname":"n2","flags":["BROADCAST","M-DOWN"]}]"#;
        assert_eq!(down(links), ["n2"]);
        assert!(down("").is_empty());
    }
}
