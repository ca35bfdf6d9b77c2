//! The host's links as the tools show them. They are read when a tool asks.

use std::net::Ipv4Addr;

use super::api::Underlay;
use crate::control::host::net::{self, HostNet, KernelError};
use crate::control::node::status::Report;

/// The interface that outer packets leave by; `None` if it is gone.
pub(super) async fn underlay(report: &Report) -> Option<Underlay> {
    let (name, public_ip) = (&report.facts.interface, report.stats.public_ip);
    read_underlay(name, public_ip).await.ok().flatten()
}

async fn read_underlay(name: &str, public_ip: Ipv4Addr) -> Result<Option<Underlay>, KernelError> {
    let (connection, net) = net::connect()?;
    tokio::spawn(connection);
    let link = net.link(name).await?;
    let addrs = net.addrs_of(link.index).await?;
    // Behind a NAT the public IP is none of them.
    let public = addrs.iter().find(|own| own.addr == public_ip);
    let address = public.or(addrs.first()).map(|own| own.addr);
    let describe = |address: Ipv4Addr| Underlay {
        interface: link.name.clone(),
        mtu: link.mtu,
        address: address.into(),
    };
    Ok(address.map(describe))
}
