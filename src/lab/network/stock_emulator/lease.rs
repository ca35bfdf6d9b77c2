//! The emulator's side of etcd: config, a lease, and everybody else's.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use rand::seq::IndexedRandom;
use serde_json::Value;

use crate::lab::LabError;
use crate::lab::host::signals;
use crate::lab::network::backend::Backend;
use crate::lab::network::daemon::SubnetEnv;
use crate::lab::network::etcd_client::EtcdClient;
use crate::routes::Prefix;

/// What the emulator needs of the network config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Config {
    pub(crate) network: Ipv4Network,
    pub(super) subnet_len: u8,
    pub(super) port: u16,
}

/// The leases in one etcd.
#[derive(Debug)]
pub(super) struct Leases {
    etcd: EtcdClient,
}

const CONFIG: &str = "/coreos.com/network/config";
const SUBNETS: &str = "/coreos.com/network/subnets/";

/// How often the others' leases are looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// How often it looks at its own, in periods: every two seconds.
const ROUNDS_TO_RENEWAL: u32 = 8;

/// Seconds for which stock leases a subnet (flannel `pkg/subnet/etcd/local_manager.go`).
const TTL: i64 = 86400;

/// flannel's default `-subnet-lease-renew-margin`, in seconds.
const MARGIN: i64 = 60 * 60;

/// The subnet that `subnet.env` names, if the file is there.
pub(super) fn previous(subnet_file: &Path) -> Option<Ipv4Network> {
    SubnetEnv::read(subnet_file).ok().map(|env| env.subnet)
}

impl Leases {
    pub(super) fn new(endpoint: &str) -> Result<Self, LabError> {
        Ok(Self { etcd: EtcdClient::new(endpoint, None)? })
    }

    /// Asks for the config once a second until it is there and sound.
    pub(super) fn wait_for_config(&self) -> Result<Config, LabError> {
        loop {
            // An etcd that does not answer yet is as good as one without a config.
            let json = self.etcd.get(CONFIG).ok().flatten();
            if let Some(config) = json.as_deref().and_then(parse_config) {
                return Ok(config);
            }
            if signals::interrupted() {
                return Err(LabError::Interrupted);
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// The lease of `public_ip`, an old one if possible.
    ///
    /// Stock exits when it loses the race for a new one, and its service manager starts it again.
    pub(super) fn acquire(
        &self,
        config: &Config,
        public_ip: Ipv4Addr,
        previous: Option<Ipv4Network>,
    ) -> Result<Ipv4Network, LabError> {
        loop {
            if let Some(subnet) = self.try_acquire(config, public_ip, previous)? {
                return Ok(subnet);
            }
        }
    }

    /// `None` when another node was faster.
    fn try_acquire(
        &self,
        config: &Config,
        public_ip: Ipv4Addr,
        previous: Option<Ipv4Network>,
    ) -> Result<Option<Ipv4Network>, LabError> {
        let leases = self.list()?;
        let own = leases.iter().find(|(_, ip)| *ip == public_ip).map(|(subnet, _)| *subnet);
        let free = |subnet: &Ipv4Network| leases.iter().all(|(other, _)| !other.overlaps(*subnet));
        let subnet = own
            .or_else(|| previous.filter(|subnet| free(subnet)))
            .or_else(|| pick(config, free))
            .ok_or(LabError::TooMany { what: "leases", most: leases.len() })?;
        if own.is_some() {
            self.write(subnet, public_ip)?;
            return Ok(Some(subnet));
        }
        let lease = self.etcd.grant(TTL)?;
        let created = self.etcd.create(&key_of(subnet), &value_of(public_ip), lease)?;
        Ok(created.then_some(subnet))
    }

    /// Writes a lease without asking whose it is, bound to a new lease of etcd.
    fn write(&self, subnet: Ipv4Network, public_ip: Ipv4Addr) -> Result<(), LabError> {
        let lease = self.etcd.grant(TTL)?;
        self.etcd.put(&key_of(subnet), &value_of(public_ip), Some(lease))
    }

    /// Hands every list of the others' leases to `sink`, for ever; keeps the last one when etcd
    /// is away. Renews its own lease meanwhile.
    pub(super) fn follow(
        &self,
        own: Ipv4Network,
        public_ip: Ipv4Addr,
        mut sink: impl FnMut(Vec<(Ipv4Network, Ipv4Addr)>),
    ) {
        for round in 0_u32.. {
            if let Ok(mut leases) = self.list() {
                leases.retain(|(subnet, _)| *subnet != own);
                sink(leases);
            }
            if round.is_multiple_of(ROUNDS_TO_RENEWAL) {
                // The next look is soon enough when etcd is away.
                drop(self.renew(own, public_ip));
            }
            thread::sleep(PERIOD);
        }
    }

    /// Renews a lease that ends within the margin. One that never ends counts as one that has
    /// ended: that is how stock's reservations become leases.
    fn renew(&self, own: Ipv4Network, public_ip: Ipv4Addr) -> Result<(), LabError> {
        match self.etcd.ttl(&key_of(own))? {
            Some(ttl) if ttl < MARGIN => self.write(own, public_ip),
            Some(_) | None => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<(Ipv4Network, Ipv4Addr)>, LabError> {
        Ok(self.etcd.list(SUBNETS)?.iter().filter_map(parse_lease).collect())
    }
}

fn key_of(subnet: Ipv4Network) -> String {
    format!("{SUBNETS}{}", subnet.to_string().replace('/', "-"))
}

fn value_of(public_ip: Ipv4Addr) -> String {
    Backend::Udp.lease_value(public_ip)
}

/// One of the first hundred free subnets.
fn pick(config: &Config, free: impl Fn(&Ipv4Network) -> bool) -> Option<Ipv4Network> {
    let step = 1 << (32 - u32::from(config.subnet_len));
    // The first subnet of the network is never leased.
    let first = config.network.network().to_bits() + step;
    let addrs = (first..=config.network.broadcast().to_bits()).step_by(step as usize);
    let subnets =
        addrs.filter_map(|addr| Ipv4Network::containing(addr.into(), config.subnet_len).ok());
    let candidates: Vec<Ipv4Network> = subnets.filter(free).take(100).collect();
    candidates.choose(&mut rand::rng()).copied()
}

fn parse_config(json: &str) -> Option<Config> {
    let value: Value = serde_json::from_str(json).ok()?;
    let network = Ipv4Network::parse(value["Network"].as_str()?).ok()?;
    let subnet_len = value["SubnetLen"].as_u64().map_or(Some(24), |len| u8::try_from(len).ok())?;
    let port = value["Backend"]["Port"].as_u64().map_or(Some(8285), |p| u16::try_from(p).ok())?;
    let fits = subnet_len > network.prefix() && subnet_len <= 30;
    fits.then_some(Config { network, subnet_len, port })
}

/// A key without its prefix, and its value.
fn parse_lease((key, value): &(String, String)) -> Option<(Ipv4Network, Ipv4Addr)> {
    let subnet = Ipv4Network::parse(&key.replace('-', "/")).ok()?;
    let attrs: Value = serde_json::from_str(value).ok()?;
    Some((subnet, attrs["PublicIP"].as_str()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_has_stock_defaults() {
        let config = parse_config(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
        assert_eq!((config.subnet_len, config.port), (24, 8285));
        assert_eq!(parse_config(r#"{"Network":"10.5.0.0/24"}"#), None);
        assert_eq!(parse_config(""), None);
    }

    #[test]
    fn pick_skips_what_is_taken() {
        let network = "10.5.0.0/22".parse().unwrap();
        let config = Config { network, subnet_len: 24, port: 8285 };
        let taken = ["10.5.1.0/24", "10.5.3.0/24"].map(|text| text.parse().unwrap());
        let free = |subnet: &Ipv4Network| !taken.contains(subnet);
        assert_eq!(pick(&config, free).unwrap().to_string(), "10.5.2.0/24");
        assert_eq!(pick(&config, |_| false), None);
    }

    #[test]
    fn leases_without_an_address_are_passed_over() {
        let lease = |value: &str| parse_lease(&("10.5.1.0-24".to_owned(), value.to_owned()));
        let expected = ("10.5.1.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(lease(r#"{"PublicIP":"192.0.2.1"}"#), Some(expected));
        assert_eq!(lease("{}"), None);
    }
}
