//! The vxlan device's addresses: IPv4 and Ethernet.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::address::AddressAttribute;

use crate::control::backend::peer_routes::Mac;
use crate::control::host::net;
use crate::control::host::net::{HostNet, KernelError, Link, Netlink};

/// Gives the device its only IPv4 address inside `network`, `addr/32`; addresses outside of the
/// network are not ours. Returns whether anything had to be done.
///
/// # Errors
/// [`KernelError`] naming the step.
pub(super) async fn set_address(
    net: &Netlink,
    link: &Link,
    addr: Ipv4Addr,
    network: Ipv4Network,
) -> Result<bool, KernelError> {
    let mut has_addr = false;
    let mut changed = false;
    let request = net.handle().address().get().set_link_index_filter(link.index);
    let listed: Vec<_> = request
        .execute()
        .try_collect()
        .await
        .map_err(|error| net::failed(format!("list addresses of {}", link.name), error))?;
    for message in listed {
        let local = message.attributes.iter().find_map(|attribute| {
            let AddressAttribute::Local(IpAddr::V4(local)) = attribute else { return None };
            Some(*local)
        });
        match local {
            Some(local) if local == addr && message.header.prefix_len == 32 => has_addr = true,
            Some(local) if network.contains(local) => {
                let prefix_len = message.header.prefix_len;
                let deleted = net.handle().address().del(message).execute().await;
                deleted.map_err(|error| {
                    net::failed(format!("delete address {local} of {}", link.name), error)
                })?;
                tracing::info!("removed IP address {local}/{prefix_len} from {}", link.name);
                changed = true;
            }
            Some(_) | None => {}
        }
    }
    if !has_addr {
        match net.add_addr(link, addr).await {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
            added => added?,
        }
        changed = true;
    }
    Ok(changed)
}

/// Gives `link` the Ethernet address `mac`.
///
/// # Errors
/// [`KernelError`] when the kernel refuses.
pub(super) async fn set_mac(net: &Netlink, link: &Link, mac: Mac) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(link.index).address(mac.octets().to_vec()).build();
    let result = net.handle().link().set(message).execute().await;
    result.map_err(|error| net::failed(format!("set address {mac} on {}", link.name), error))
}
