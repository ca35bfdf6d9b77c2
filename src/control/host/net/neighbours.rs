//! The host's neighbour table.

use std::fmt;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::netlink::failed;
use super::{KernelError, Netlink};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// Which host on a link has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the link.
    pub link: u32,
    /// The neighbour's address.
    pub addr: Ipv4Addr,
    /// Its hardware address, if that is known.
    pub mac: Option<Mac>,
    /// How it is known.
    pub kind: NeighbourKind,
}

/// How a neighbour is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourKind {
    /// It has answered ARP.
    Learned,
    /// Somebody has set it for good.
    Permanent,
    /// It does not answer ARP.
    Failed,
}

impl Mac {
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

impl Netlink {
    /// Lists the IPv4 neighbours.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, KernelError> {
        let request = self.handle().neighbours().get().set_address_family(AddressFamily::Inet);
        let messages = request.execute().try_collect::<Vec<_>>().await;
        let messages = messages.map_err(|error| failed("list neighbours".to_owned(), error))?;
        Ok(messages.iter().filter_map(Neighbour::of).collect())
    }
}

impl Neighbour {
    fn of(message: &NeighbourMessage) -> Option<Self> {
        let (mut addr, mut mac) = (None, None);
        for attribute in &message.attributes {
            if let NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) = attribute {
                addr = Some(*inet);
            } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                mac = Mac::of(bytes);
            }
        }
        let state = message.header.state;
        let kind = if state == NeighbourState::Permanent {
            NeighbourKind::Permanent
        } else if [NeighbourState::Failed, NeighbourState::Incomplete].contains(&state) {
            NeighbourKind::Failed
        } else {
            NeighbourKind::Learned
        };
        Some(Self { link: message.header.ifindex, addr: addr?, mac, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_read_with_its_kind() {
        let mut message = NeighbourMessage::default();
        (message.header.ifindex, message.header.state) = (3, NeighbourState::Permanent);
        let (addr, bytes) = (Ipv4Addr::new(192, 0, 2, 9), [2, 0, 0, 0, 0, 0x1f]);
        let inet = NeighbourAddress::Inet(addr);
        message.attributes.push(NeighbourAttribute::Destination(inet));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
        let found = Neighbour::of(&message).unwrap();
        assert_eq!((found.link, found.addr, found.kind), (3, addr, NeighbourKind::Permanent));
        assert_eq!(found.mac.unwrap().to_string(), "02:00:00:00:00:1f");
        message.attributes.pop();
        message.header.state = NeighbourState::Failed;
        let found = Neighbour::of(&message).unwrap();
        assert_eq!((found.mac, found.kind), (None, NeighbourKind::Failed));
    }
}
