//! [`NetworkInterface`]: the instance's interface that has our address.

use std::net::Ipv4Addr;

use super::answers::{Instance, InstanceInterface};
use crate::control::backend::cloud_route::CloudError;

/// An elastic network interface (ENI).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkInterface {
    pub(super) id: String,
    pub(super) subnet: String,
    pub(super) vpc: String,
    /// Whether the VPC drops packets that are neither from nor to an address of the interface.
    pub(super) checks_source: bool,
}

/// The interface that has `addr`.
///
/// # Errors
/// [`CloudError`] that lists the interfaces.
pub(super) fn find_interface(
    instance: &Instance,
    addr: Ipv4Addr,
) -> Result<NetworkInterface, CloudError> {
    let all = &instance.interfaces.item;
    let has_addr = |interface: &&InstanceInterface| interface.addrs().any(|own| own == addr);
    if let Some(found) = all.iter().find(has_addr) {
        return Ok(NetworkInterface {
            id: found.id.clone(),
            subnet: found.subnet.clone(),
            vpc: found.vpc.clone(),
            checks_source: found.checks_source.unwrap_or(true),
        });
    }
    let listed = all.iter().map(|interface| {
        let addrs: Vec<String> = interface.addrs().map(|addr| addr.to_string()).collect();
        format!("{} has {}", interface.id, addrs.join(" and "))
    });
    let listed: Vec<String> = listed.collect();
    let listed = if listed.is_empty() { "it has none".to_owned() } else { listed.join(", ") };
    Err(CloudError(format!(
        "no network interface of instance {} has the address {addr} ({listed}): choose another \
         interface with --iface",
        instance.id
    )))
}
