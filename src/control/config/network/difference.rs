//! In what two network configs differ.

use super::NetworkConfig;

impl NetworkConfig {
    /// What `found` says that this config does not, by key. Of another backend the settings are
    /// others, too: its name says it all.
    pub fn difference(&self, found: &Self) -> Option<String> {
        let ours = members(self);
        let found = members(found);
        let differing: Vec<String> = ours
            .iter()
            .filter_map(|(key, ours)| {
                let (_, found) = found.iter().find(|(name, _)| name == key)?;
                (ours != found).then(|| format!("{key} is {found}, was {ours}"))
            })
            .collect();
        (!differing.is_empty()).then(|| differing.join(", "))
    }
}

fn members(config: &NetworkConfig) -> Vec<(&'static str, String)> {
    let NetworkConfig { v4, v6, nftables, backend } = config;
    let mut members = vec![
        ("Network", v4.network.to_string()),
        ("SubnetLen", v4.subnet_len.to_string()),
        ("SubnetMin", v4.subnet_min.to_string()),
        ("SubnetMax", v4.subnet_max.to_string()),
        ("EnableIPv6", v6.is_some().to_string()),
        ("EnableNFTables", nftables.to_string()),
        ("Backend.Type", backend.backend_type().to_string()),
    ];
    if let Some(v6) = v6 {
        members.extend([
            ("IPv6Network", v6.network.to_string()),
            ("IPv6SubnetLen", v6.subnet_len.to_string()),
            ("IPv6SubnetMin", v6.subnet_min.to_string()),
            ("IPv6SubnetMax", v6.subnet_max.to_string()),
        ]);
    }
    members.extend(backend.settings());
    members
}
