//! The blackhole route for our subnet: drops packets for it while no bridge has it.
//!
//! Without it they follow the route to the whole network, out again by the overlay device.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::control::host::net;
use crate::control::host::net::{KernelError, Netlink};
use crate::control::util::log_limit::LogLimit;

/// The last priority there is. At flannel's, 0, the route would come before that of a bridge made
/// later (the kernel appends those), and cut its containers off.
const METRIC: u32 = u32::MAX;

/// Keeps the route for `subnet` and removes the one for `stale`, for as long as it is polled. The
/// route stays then, like the rules.
///
/// # Errors
/// [`KernelError`] when there is no way to the kernel's routes.
pub(super) async fn keep(
    subnet: Ipv4Network,
    stale: Option<Ipv4Network>,
    period: Duration,
) -> Result<Infallible, KernelError> {
    let (connection, net) = net::connect()?;
    tokio::select! {
        never = keep_with(&net, subnet, stale, period) => match never {},
        () = connection => Err(KernelError {
            operation: "read and write the kernel's routes".to_owned(),
            source: io::ErrorKind::ConnectionReset.into(),
        }),
    }
}

async fn keep_with(
    net: &Netlink,
    subnet: Ipv4Network,
    stale: Option<Ipv4Network>,
    period: Duration,
) -> Infallible {
    let mut log = LogLimit::default();
    if let Some(stale) = stale
        && let Err(error) = remove(net, stale).await
        && log.is_due("stale")
    {
        warn!("{error}: {}; delete it by hand", error.source);
    }
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match add(net.handle(), subnet).await {
            Ok(true) => info!(%subnet, "blackhole route is in place"),
            Ok(false) => {}
            Err(error) if log.is_due("add") => {
                warn!("{error}: {}; trying again", error.source);
            }
            Err(_) => {}
        }
    }
}

/// Adds the route, unless it is there.
async fn add(handle: &Handle, subnet: Ipv4Network) -> Result<bool, KernelError> {
    let message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .destination_prefix(subnet.network(), subnet.prefix())
        .kind(RouteType::BlackHole)
        .priority(METRIC)
        .build();
    match handle.route().add(message).execute().await {
        Ok(()) => Ok(true),
        Err(error) => {
            let error = net::failed(format!("add route blackhole {subnet}"), error);
            let exists = error.source.kind() == io::ErrorKind::AlreadyExists;
            if exists { Ok(false) } else { Err(error) }
        }
    }
}

/// Removes blackhole routes for exactly `subnet`, whatever their priority, and says how many.
///
/// # Errors
/// [`KernelError`] when the kernel refuses.
pub(crate) async fn remove(net: &Netlink, subnet: Ipv4Network) -> Result<usize, KernelError> {
    let failed = |verb, error| net::failed(format!("{verb} route blackhole {subnet}"), error);
    let all = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = net
        .handle()
        .route()
        .get(all)
        .execute()
        .try_filter(|message| std::future::ready(is_blackhole(message, subnet)))
        .try_collect()
        .await
        .map_err(|error| failed("find", error))?;
    let found = routes.len();
    for route in routes {
        net.handle().route().del(route).execute().await.map_err(|error| failed("delete", error))?;
    }
    Ok(found)
}

fn is_blackhole(message: &RouteMessage, subnet: Ipv4Network) -> bool {
    let to_subnet = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet(addr)) if *addr == subnet.network());
    message.header.kind == RouteType::BlackHole
        && message.header.destination_prefix_length == subnet.prefix()
        && message.attributes.iter().any(to_subnet)
}
