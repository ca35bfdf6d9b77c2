//! The entries that one lease asks for, or why it is ignored.

use std::collections::BTreeSet;

use ipnetwork::Ipv4Network;

use super::PeerReconciler;
use crate::control::backend::peer_routes::desired::PeerEntries;
use crate::control::backend::peer_routes::entries::Key;
use crate::control::backend::peer_routes::host::PeerHost;
use crate::control::conditions::Condition;

impl<H: PeerHost> PeerReconciler<H> {
    /// Asks again what the peer of `subnet` needs. Returns what may have changed.
    pub(super) async fn evaluate(&mut self, subnet: Ipv4Network) -> BTreeSet<Key> {
        let wanted = match self.leases.get(&subnet) {
            Some(attrs) => match self.misplaced(subnet) {
                Some(fault) => Err(fault),
                None => self.host.peer(subnet, attrs).await,
            },
            None => {
                self.faults.remove(&subnet);
                if self.desired.peers().contains_key(&subnet) {
                    self.host.log_removed(subnet);
                }
                return self.desired.set(subnet, None);
            }
        };
        match wanted {
            Ok(peer) => {
                self.faults.remove(&subnet);
                self.warn_of_rivals(subnet, &peer);
                if self.desired.peers().get(&subnet) == Some(&peer) {
                    return BTreeSet::new();
                }
                self.host.log_added(subnet, &peer);
                self.desired.set(subnet, Some(peer))
            }
            Err(fault) => {
                if self.faults.get(&subnet) != Some(&fault) {
                    // While the interface is down, no peer of host-gw is reachable: logged once.
                    let underlay = self.conditions.borrow().get("underlay");
                    if !matches!(underlay, Condition::Failed(_)) {
                        tracing::warn!("lease {subnet}: {fault}; it gets no route");
                    }
                    self.faults.insert(subnet, fault);
                }
                self.desired.set(subnet, None)
            }
        }
    }

    /// Why the kernel must have no route to `subnet`: the route would divert packets of this host's
    /// own links or containers.
    fn misplaced(&self, subnet: Ipv4Network) -> Option<String> {
        let (network, own) = (self.host.network(), self.host.own());
        let is_within = |outer: Ipv4Network| {
            outer.contains(subnet.network()) && outer.contains(subnet.broadcast())
        };
        if !is_within(network) {
            return Some(format!("it is not inside the Network {network}"));
        }
        is_within(own).then(|| format!("it is inside our own subnet {own}"))
    }

    fn warn_of_rivals(&mut self, subnet: Ipv4Network, peer: &PeerEntries) {
        let Some((mac, host)) = peer.vtep else { return };
        if let Some(rival) = self.desired.rivals(mac, host).first()
            && *rival != subnet
            && self.log.is_due("rivals")
        {
            tracing::warn!(
                "leases {subnet} and {rival} have one VtepMAC {mac} on two hosts: one of them gets \
                 no packets; delete the device of a cloned host and restart its flanneld"
            );
        }
    }
}
