//! The host's routes inside a range, read one by one: a host may have a full Internet table, and only
//! the requested routes are kept.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netlink::route;
use super::route_message::RT_TABLE_LOCAL;
use super::{KernelError, KernelRoute, RouteFields};

/// Most routes that are kept of one scan.
const MAX_ROUTES: usize = 4096;

/// The kernel dumps no more at once: `NLMSG_GOODSIZE` and `max_recvmsg_len` in
/// `net/netlink/af_netlink.c`.
const BUFFER_LEN: usize = 32 << 10;

/// Routes to parts of a range, each with its link if it is one.
pub type RoutesInside = BTreeMap<Ipv4Network, Option<u32>>;

/// Reads the routes to parts of `network`, but not to all of it, in the tables `main` and `local`:
/// local addresses are routes, too. Blocks while the kernel answers.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub fn routes_inside(network: Ipv4Network) -> Result<RoutesInside, KernelError> {
    let mut found = RoutesInside::new();
    dump(|message| {
        if found.len() < MAX_ROUTES
            && let Some((dst, link)) = inside(message, network)
        {
            found.entry(dst).or_insert(link);
        }
    })
    .map_err(|error| KernelError::new("list routes", error))?;
    Ok(found)
}

/// Reads the default routes of the table `main`, in the kernel's order. Blocks while the kernel
/// answers.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub fn default_routes() -> Result<Vec<KernelRoute>, KernelError> {
    let mut found = Vec::new();
    dump(|message| {
        if message.header.destination_prefix_length == 0 && found.len() < MAX_ROUTES {
            found.extend(route(message));
        }
    })
    .map_err(|error| KernelError::new("list routes", error))?;
    Ok(found)
}

/// Calls `each` for every IPv4 route.
pub(super) fn dump(mut each: impl FnMut(&RouteMessage)) -> io::Result<()> {
    let socket = open()?;
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    list(&socket, RouteNetlinkMessage::GetRoute(all), |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            each(route);
        }
    })
}

/// A socket for [`list`].
pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The answer to a request that is not for a list.
pub(super) fn ask(
    socket: &Socket,
    request: RouteNetlinkMessage,
) -> io::Result<Option<RouteNetlinkMessage>> {
    send(socket, request, NLM_F_REQUEST)?;
    let mut buffer = Vec::with_capacity(BUFFER_LEN);
    socket.recv(&mut buffer, 0)?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer);
    let payload = message.map_err(io::Error::other)?.payload;
    if let NetlinkPayload::Error(error) = &payload {
        return Err(error.to_io());
    }
    Ok(if let NetlinkPayload::InnerMessage(message) = payload { Some(message) } else { None })
}

fn send(socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut request = NetlinkMessage::from(request);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(())
}

/// Calls `each` for every message of the list that `request` asks for.
pub(super) fn list(
    socket: &Socket,
    request: RouteNetlinkMessage,
    mut each: impl FnMut(&RouteNetlinkMessage),
) -> io::Result<()> {
    send(socket, request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut buffer = Vec::with_capacity(BUFFER_LEN);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
            let message = message.map_err(io::Error::other)?;
            if let NetlinkPayload::InnerMessage(message) = &message.payload {
                each(message);
            } else if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            } else if let NetlinkPayload::Done(_) = &message.payload {
                return Ok(());
            }
            // Messages start at multiples of four bytes: `NLMSG_ALIGN`.
            let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Range and link of a route that takes packets for a part of `network`.
fn inside(message: &RouteMessage, network: Ipv4Network) -> Option<(Ipv4Network, Option<u32>)> {
    let header = &message.header;
    if header.destination_prefix_length <= network.prefix() {
        return None;
    }
    let is_address = header.kind == RouteType::Local;
    if !is_address && matches!(header.kind, RouteType::Broadcast | RouteType::Multicast) {
        return None;
    }
    let route = RouteFields::of(message)?;
    let takes_part = route.is_in_main_table() || route.table == RT_TABLE_LOCAL;
    (takes_part && network.contains(route.dst.network())).then_some((route.dst, route.link))
}
