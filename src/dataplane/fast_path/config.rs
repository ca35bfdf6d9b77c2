//! [`FastConfig`]: for which devices, addresses and ports the programs are loaded.

use std::net::Ipv4Addr;

use super::hooks::AttachedBy;
use super::xdp::Xdp;

/// What the programs must know of this node. Addresses in host order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastConfig {
    /// First address of the overlay.
    pub network: Ipv4Addr,
    /// Bits of an address behind its slot: 32 - SubnetLen.
    pub slot_shift: u8,
    /// Slots in the overlay.
    pub num_slots: u32,
    /// First address of our lease, and the mask that its length makes.
    pub own_subnet: (Ipv4Addr, u32),
    /// What the sockets are bound to.
    pub underlay_addr: Ipv4Addr,
    /// The interface with that address.
    pub underlay: DeviceRef,
    /// The TUN device.
    pub overlay: DeviceRef,
    /// Its MTU, in bytes.
    pub overlay_mtu: u16,
    /// Where we and all peers listen.
    pub port: u16,
    /// Ports of further sockets of ours.
    pub source_ports: [u16; 8],
    /// The device that decapsulates superpackets, if there is one.
    pub gpe: Option<Gpe>,
    /// Whether XDP removes the outer headers, and whose.
    pub xdp: Option<Xdp>,
    /// Whether they carry all of TCP; else that of sparse flows, as of UDP.
    pub bulk_tcp: bool,
    /// How they are to be attached.
    pub attach_by: AttachedBy,
}

impl FastConfig {
    /// Whether an address is in our lease.
    pub(super) fn is_own(&self, addr: Ipv4Addr) -> bool {
        let (own, mask) = self.own_subnet;
        addr.to_bits() & mask == own.to_bits()
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRef {
    /// Its number.
    pub index: u32,
    /// Its name, now.
    pub name: String,
}

/// A VXLAN-GPE device for what arrives from peers in superpackets, or is to become such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpe {
    /// The device.
    pub device: DeviceRef,
    /// Its UDP port.
    pub port: u16,
    /// 24 bits by which we know our own packets.
    pub vni: u32,
    /// Whether TCP arrives in single frames, all of which its GRO is to merge.
    pub merges: bool,
}
