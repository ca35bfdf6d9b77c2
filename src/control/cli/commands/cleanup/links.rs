//! Overlay devices without a running flanneld.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use crate::control::host::net;
use crate::control::host::net::{KernelError, Link, Netlink};

/// Lists devices of the names and kinds that flannel's backends make, except for TUN devices that
/// somebody has open.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub(super) async fn left_over(net: &Netlink) -> Result<Vec<Link>, KernelError> {
    let messages = net.handle().link().get().execute();
    let links = messages.try_filter_map(|message| std::future::ready(Ok(flannels(&message))));
    links.try_collect().await.map_err(|error| net::failed("list links".to_owned(), error))
}

/// Names of all links.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub(super) async fn names(net: &Netlink) -> Result<Vec<String>, KernelError> {
    let messages = net.handle().link().get().execute();
    let names = messages.map_ok(|message| net::link_of(&message).name).try_collect().await;
    names.map_err(|error| net::failed("list links".to_owned(), error))
}

/// Deletes `link`, and with it its addresses and routes.
///
/// # Errors
/// [`KernelError`] when the kernel refuses.
pub(super) async fn delete(net: &Netlink, link: &Link) -> Result<(), KernelError> {
    let result = net.handle().link().del(link.index).execute().await;
    result.map_err(|error| net::failed(format!("delete device {}", link.name), error))
}

fn flannels(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut kind) = (None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(found) = info {
                    kind = Some(found.clone());
                }
            }
        }
    }
    let (name, kind) = (name?, kind?);
    // A TUN device has a carrier while it is open.
    let is_open = kind == InfoKind::Tun && message.header.flags.contains(LinkFlags::LowerUp);
    (!is_open && is_flannels(&name, &kind)).then(|| net::link_of(message))
}

/// Names by backend, in `pkg/backend`: udp `flannel0`, vxlan `flannel.1`, ipip, wireguard; and the
/// device of our own fast path, `flannel0.gpe`.
fn is_flannels(name: &str, kind: &InfoKind) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let numbered = |prefix: &str| name.strip_prefix(prefix).is_some_and(is_number);
    if *kind == InfoKind::Tun {
        numbered("flannel")
    } else if *kind == InfoKind::Vxlan {
        let of_fast_path = name.strip_prefix("flannel").and_then(|rest| rest.strip_suffix(".gpe"));
        numbered("flannel.") || numbered("flannel-v6.") || of_fast_path.is_some_and(is_number)
    } else if *kind == InfoKind::IpIp {
        name == "flannel.ipip"
    } else {
        *kind == InfoKind::Wireguard && ["flannel-wg", "flannel-wg-v6"].contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_kind_must_both_be_flannels() {
        for (name, kind) in [
            ("flannel0", InfoKind::Tun),
            ("flannel.1", InfoKind::Vxlan),
            ("flannel-v6.1", InfoKind::Vxlan),
            ("flannel0.gpe", InfoKind::Vxlan),
            ("flannel.ipip", InfoKind::IpIp),
            ("flannel-wg", InfoKind::Wireguard),
        ] {
            assert!(is_flannels(name, &kind), "{name}");
            assert!(!is_flannels(name, &InfoKind::Bridge), "{name}");
            assert!(!is_flannels(&format!("{name}x"), &kind), "{name}x");
        }
        assert!(!is_flannels("flannel", &InfoKind::Tun));
        assert!(!is_flannels("tun0", &InfoKind::Tun));
    }
}
