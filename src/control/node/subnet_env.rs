//! subnet.env: describes this host's network to docker, CNI plugins and our next start.

mod keeper;

use ipnetwork::{Ipv4Network, Ipv6Network};
pub(super) use keeper::SubnetFile;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use tracing::warn;

use crate::control::config::network::Subnets;
use crate::control::util::atomic_file::{FileError, read_file, replace_file};
use crate::routes::Prefix;

/// The contents of subnet.env.
///
/// Its `Display` is the file's text: `KEY=value` lines in the order of flannel's
/// `pkg/subnet/subnet.go`. `FLANNEL_SUBNET` carries the subnet's first host address, which docker
/// takes for its bridge. `FLANNEL_IPMASQ` tells docker whether to leave masquerading to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole overlay.
    pub network: Ipv4Network,
    /// Our lease.
    pub subnet: Ipv4Network,
    /// The same of IPv6, on a dual-stack network.
    pub v6: Option<(Ipv6Network, Ipv6Network)>,
    /// MTU for the containers: the overlay device's, in bytes.
    pub mtu: u16,
    /// Whether we masquerade.
    pub ip_masq: bool,
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, subnet, v6, mtu, ip_masq } = self;
        let bridge = Ipv4Addr::from_bits(subnet.network().to_bits() | 1);
        writeln!(f, "FLANNEL_NETWORK={network}")?;
        writeln!(f, "FLANNEL_SUBNET={bridge}/{}", subnet.prefix())?;
        if let Some((network, subnet)) = v6 {
            let bridge = Ipv6Addr::from_bits(subnet.network().to_bits() | 1);
            writeln!(f, "FLANNEL_IPV6_NETWORK={network}")?;
            writeln!(f, "FLANNEL_IPV6_SUBNET={bridge}/{}", subnet.prefix())?;
        }
        writeln!(f, "FLANNEL_MTU={mtu}")?;
        writeln!(f, "FLANNEL_IPMASQ={ip_masq}")
    }
}

impl SubnetEnv {
    /// Replaces the file at `path` as a whole: a reader sees the old text or the new, never half.
    ///
    /// A new file gets mode 0644 whatever the umask; an existing one keeps its own. Missing
    /// directories are made.
    ///
    /// # Errors
    /// [`FileError`] naming the file or directory.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        replace_file(path, &self.to_string())
    }
}

/// The subnet that the file at `path` names, if there is one file and one subnet.
///
/// Unknown lines are skipped: some unit files have `mk-docker-opts.sh` write to this file, too.
pub fn previous_subnet(path: &Path) -> Option<Ipv4Network> {
    read_range(path, "FLANNEL_SUBNET")
}

/// The same, and the IPv6 subnet that the file names.
pub(crate) fn previous_subnets(path: &Path) -> Option<Subnets> {
    let v4 = previous_subnet(path)?;
    Some(Subnets { v4, v6: read_range(path, "FLANNEL_IPV6_SUBNET") })
}

/// The network that the file at `path` names, as [`previous_subnet`].
pub fn previous_network(path: &Path) -> Option<Ipv4Network> {
    read_range(path, "FLANNEL_NETWORK")
}

fn read_range<P: Prefix>(path: &Path, wanted: &str) -> Option<P> {
    match read_file(path) {
        Ok(text) => range_in(&String::from_utf8_lossy(&text), wanted),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read the previous subnet");
            None
        }
    }
}

/// Reads dotenv lines: comments, `export`, quotes, and a comma list of which one entry must fit.
/// `ReadCIDRsFromSubnetFile` in `pkg/subnet/subnet.go`.
pub(crate) fn range_in<P: Prefix>(text: &str, wanted: &str) -> Option<P> {
    let value = text.lines().rev().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (key, value) = line.split_once('=')?;
        (key.trim() == wanted).then_some(value)
    })?;
    let value = value.split(" #").next().unwrap_or(value).trim();
    let value = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)))
        .unwrap_or(value);
    let mut subnets = value.split(',').filter_map(|entry| P::parse(entry.trim()).ok());
    match (subnets.next(), subnets.next()) {
        (Some(only), None) => Some(only),
        (None, _) | (Some(_), Some(_)) => {
            warn!(value, "{wanted} names no single range: there is no previous one");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ENV: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.15.1/24\n\
                       FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

    fn env() -> SubnetEnv {
        let [network, subnet] = ["10.1.0.0/16", "10.1.15.0/24"].map(|text| text.parse().unwrap());
        SubnetEnv { network, subnet, v6: None, mtu: 1472, ip_masq: false }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn text_is_flannels_to_the_byte() {
        assert_eq!(env().to_string(), ENV);
        let text = SubnetEnv { ip_masq: true, ..env() }.to_string();
        assert_eq!(text, ENV.replace("IPMASQ=false", "IPMASQ=true"));
    }

    #[test]
    fn dual_stack_lines_are_those_of_stock() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.15.1/24\n\
                    FLANNEL_IPV6_NETWORK=fd00:5::/32\nFLANNEL_IPV6_SUBNET=fd00:5:0:5a::1/64\n\
                    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let [network, subnet] = ["10.5.0.0/16", "10.5.15.0/24"].map(|text| text.parse().unwrap());
        let v6 = ["fd00:5::/32", "fd00:5:0:5a::/64"].map(|text| text.parse().unwrap());
        let env = SubnetEnv { network, subnet, v6: Some(v6.into()), mtu: 1450, ip_masq: false };
        assert_eq!(env.to_string(), text);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        env.write(&path).unwrap();
        assert_eq!(previous_subnets(&path), Some(Subnets { v4: subnet, v6: Some(v6[1]) }));
    }

    #[test]
    fn written_subnet_is_the_previous_one_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/flannel/subnet.env");
        assert_eq!(previous_subnet(&path), None);
        env().write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), ENV);
        assert_eq!(previous_subnet(&path), Some(env().subnet));
        assert_eq!(previous_network(&path), Some(env().network));
        assert_eq!(mode(path.parent().unwrap()), 0o755);
    }

    #[test]
    fn new_file_is_world_readable_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        env().write(&path).unwrap();
        assert_eq!(mode(&path), 0o644);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        SubnetEnv { mtu: 1422, ..env() }.write(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("FLANNEL_MTU=1422\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn failure_names_the_file_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        fs::create_dir(&path).unwrap();
        let error = env().write(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("replace {}", path.display()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let under_file = dir.path().join("file/subnet.env");
        fs::write(dir.path().join("file"), "").unwrap();
        let error = env().write(&under_file).unwrap_err();
        assert!(error.to_string().starts_with("create directory "), "{error}");
    }

    #[test]
    fn reading_back_follows_dotenv() {
        let found = Some("10.1.15.0/24".parse().unwrap());
        for text in [
            "FLANNEL_SUBNET=10.1.15.1/24",
            "export FLANNEL_SUBNET=\"10.1.15.1/24\"\r\n",
            "# a comment\n  FLANNEL_SUBNET = '10.1.15.1/24' # ours\n",
            "DOCKER_OPTS=\" --bip=10.9.9.1/24\"\nFLANNEL_SUBNET=10.1.15.1/24,nonsense\n",
            "FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=10.1.15.1/24\n",
        ] {
            assert_eq!(range_in::<Ipv4Network>(text, "FLANNEL_SUBNET"), found, "{text:?}");
        }
        for text in [
            "",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=10.1.15.1",
            "FLANNEL_SUBNET=10.1.15.1/24,10.1.16.1/24",
            "#FLANNEL_SUBNET=10.1.15.1/24",
            "DOCKER_OPTS=\" --bip=10.1.15.1/24\"",
            "\0=\n=\nexport \n=FLANNEL_SUBNET",
        ] {
            assert_eq!(range_in::<Ipv4Network>(text, "FLANNEL_SUBNET"), None, "{text:?}");
        }
    }
}
