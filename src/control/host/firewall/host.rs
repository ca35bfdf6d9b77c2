//! Settings of the host that forwarded packets need, beyond our rules. They are only logged as advice.

use std::fs;
use std::io;
use std::path::Path;

/// Whether the kernel forwards at all; kernel `Documentation/networking/ip-sysctl.rst`.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// There if packets between two ports of a bridge meet iptables; same file.
const BRIDGE_NF: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

const FORWARD_ADVICE: &str = "net.ipv4.ip_forward is 0, so this host forwards no packets of \
    containers: Docker sets it when it starts, else run `sysctl -w net.ipv4.ip_forward=1`";

const BRIDGE_ADVICE: &str = "br_netfilter is not loaded, so packets that stay on a bridge pass by \
    iptables: run `modprobe br_netfilter` if rules are to see them";

/// What an operator may want to change, a line for each.
pub(super) fn advice(uses_iptables: bool) -> Vec<&'static str> {
    advice_for(uses_iptables, fs::read_to_string(IP_FORWARD), Path::new(BRIDGE_NF))
}

fn advice_for(
    uses_iptables: bool,
    ip_forward: io::Result<String>,
    bridge_nf: &Path,
) -> Vec<&'static str> {
    let no_forwarding = ip_forward.is_ok_and(|text| text.trim() == "0");
    let no_bridge_nf = uses_iptables && !bridge_nf.exists();
    let forward = no_forwarding.then_some(FORWARD_ADVICE);
    forward.into_iter().chain(no_bridge_nf.then_some(BRIDGE_ADVICE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_amiss_is_mentioned() {
        let directory = tempfile::tempdir().unwrap();
        let (there, absent) = (directory.path(), directory.path().join("absent"));
        let sysctl = |text: &str| Ok(text.to_owned());
        assert_eq!(advice_for(true, sysctl("1\n"), there), [""; 0]);
        assert_eq!(advice_for(true, sysctl("0\n"), there), [FORWARD_ADVICE]);
        assert_eq!(advice_for(true, sysctl("1\n"), &absent), [BRIDGE_ADVICE]);
        assert_eq!(advice_for(false, sysctl("1\n"), &absent), [""; 0]);
        let unreadable = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(advice_for(true, unreadable, &absent), [BRIDGE_ADVICE]);
    }
}
