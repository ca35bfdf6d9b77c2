//! What a lab is like: the options that `up` and `demo` share.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args, ValueEnum};

use crate::control::config::network;
use crate::lab::choice::Choice;
use crate::lab::network::backend::Backend;
use crate::lab::network::daemon::Daemon;
use crate::lab::network::registry::RegistryKind;
use crate::lab::network::topology::MAX_NODES;
use crate::lab::{LabError, LabSpec};

/// What a lab is like.
#[derive(Debug, Args)]
pub struct ShapeArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = num_nodes)]
    pub nodes: usize,
    /// How many pods on each node
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub pods: usize,
    /// MTU of the underlay, in bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: u16,
    /// Where the nodes keep their leases
    #[arg(long, value_enum, default_value_t = RegistryKind::default())]
    pub registry: RegistryKind,
    /// Short for --registry kube
    #[arg(long, conflicts_with = "registry")]
    pub kube: bool,
    /// Network config to write to the registry; checked before anything is made
    #[arg(long, value_name = "JSON", conflicts_with = "backend")]
    pub config: Option<String>,
    /// Backend of the network config
    #[arg(long, value_enum, default_value_t = Backend::default())]
    pub backend: Backend,
    /// The flanneld to run: PATH on all nodes, NODE=PATH on one
    ///
    /// May be given several times. The word `stock-emulator` for PATH is the built-in emulator of a
    /// stock node. Without it, all nodes run the flanneld in the directory of this program.
    #[arg(long, value_name = "[NODE=]PATH")]
    pub flanneld: Vec<Choice>,
    /// What the underlay's links carry
    #[arg(long, value_enum, default_value_t = Wire::Superpackets)]
    pub wire: Wire,
}

/// What the underlay's links carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Whole superpackets, as veth links do: like an ideal NIC
    Superpackets,
    /// Frames of the MTU's size only: like a NIC without offloads
    Frames,
}

/// A number of nodes that a lab can have.
fn num_nodes(text: &str) -> Result<usize, String> {
    let num = text.parse().ok().filter(|num| (1..=MAX_NODES).contains(num));
    num.ok_or_else(|| format!("a lab has 1 to {MAX_NODES} nodes"))
}

impl ShapeArgs {
    /// The lab called `name` of this shape; our flanneld is in the directory of `flannel_lab`,
    /// which is this program.
    ///
    /// # Errors
    /// [`LabError`] of a network config, a node or a program that cannot be.
    pub fn spec(self, name: String, flannel_lab: &Path) -> Result<LabSpec, LabError> {
        if let Some(config) = &self.config {
            network::parse(config, None).map_err(LabError::Config)?;
        }
        let mut daemon = Daemon::flanneld(flannel_lab.with_file_name("flanneld"));
        let mut daemons = BTreeMap::new();
        for choice in &self.flanneld {
            let chosen = choice.daemon(flannel_lab)?;
            match &choice.name {
                Some(node) if (1..=self.nodes).any(|number| *node == format!("n{number}")) => {
                    daemons.insert(node.clone(), chosen);
                }
                Some(node) => {
                    let choice = format!("{node}={}", choice.path);
                    return Err(LabError::FlanneldFor { choice, nodes: self.nodes });
                }
                None => daemon = chosen,
            }
        }
        Ok(LabSpec {
            num_nodes: self.nodes,
            num_pods: self.pods,
            mtu: self.mtu,
            registry: if self.kube { RegistryKind::Kube } else { self.registry },
            flannel_lab: flannel_lab.to_owned(),
            config: Some(self.config.unwrap_or_else(|| self.backend.config())),
            daemons,
            frames_only: self.wire == Wire::Frames,
            ..LabSpec::new(name, daemon)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        shape: ShapeArgs,
    }

    fn spec(words: &[&str]) -> Result<LabSpec, String> {
        let words = ["up"].iter().chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let spec = cli.shape.spec("lab".to_owned(), Path::new("/opt/flannel-lab"));
        spec.map_err(|error| error.to_string())
    }

    #[test]
    fn config_is_checked_as_the_daemon_checks_it() {
        let good = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
        assert_eq!(spec(&["--config", good]).unwrap().backend(), Backend::Vxlan);
        for wrong in ["oops", "{}", r#"{"Network":"10.5.0.0/30"}"#] {
            let refused = spec(&["--config", wrong]).unwrap_err();
            let daemons = network::parse(wrong, None).unwrap_err();
            assert_eq!(refused, format!("--config: {daemons}"));
        }
    }

    #[test]
    fn a_lab_has_nodes() {
        for wrong in ["0", "201", "-1", "many"] {
            let refused = spec(&[&format!("--nodes={wrong}")]).unwrap_err();
            assert!(refused.contains("a lab has 1 to 200 nodes"), "{refused}");
        }
    }

    #[test]
    fn flanneld_is_chosen_for_all_nodes_or_for_one() {
        let chosen = ["--flanneld", "/proc/self/exe", "--flanneld", "n2=stock-emulator"];
        let spec = spec(&chosen).unwrap();
        assert!(spec.daemon_of("n2").is_stock_emulator());
        assert!(!spec.daemon_of("n1").is_stock_emulator());
        let other = super::tests::spec(&["--flanneld", "n4=stock-emulator"]).unwrap_err();
        assert_eq!(other, "--flanneld n4=stock-emulator: nodes are n1 to n3");
    }
}
