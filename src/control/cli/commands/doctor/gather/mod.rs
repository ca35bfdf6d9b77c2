//! Reads the [`Facts`]. Changes nothing but one short file next to subnet.env, which is gone at once.

mod containers;
mod files;
mod kernel;
mod peers;
mod pod_ways;
mod processes;

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Heard;
use super::facts::{Facts, Iface, User};
use crate::control::cli::commands::survey::{Own, RegistryFacts, Settings, Source};
use crate::control::config::daemon::Config;
use crate::control::external_interface;
use crate::control::host::firewall::trace::Rules;
use crate::control::host::iface::ExternalInterface;
use crate::control::host::net::{self, FarEnd, LinkDetails, Netlink, RouteDetails};
use crate::control::host::probe::Echo;
use crate::control::host::{overlap, preflight};
use crate::control::node::subnet_env::previous_subnet;
use crate::control::util::error_chain::error_chain;

/// Most routes that are read.
const MAX_ROUTES: usize = 4096;

/// How long a name may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Reads everything, and asks up to `max_peers` peers. `daemon` is what the running daemon says, and
/// `registry` what is known of the registry.
pub(super) async fn facts(
    settings: &Settings,
    pids: &[u32],
    daemon: Heard,
    registry: RegistryFacts,
    max_peers: usize,
) -> Result<Facts, net::KernelError> {
    let config = settings.config.as_ref();
    let (connection, netlink) = net::connect()?;
    tokio::spawn(connection);
    let links = net::all_links(&netlink).await?;
    let iface = external_interface(config, &netlink, None).await;
    let (iface, no_iface) = match iface {
        Ok(iface) => (Some(iface), None),
        Err(error) => (None, Some(error_chain(&error))),
    };
    let own = own(config, &registry, iface.as_ref(), &links);
    let routes = match &own {
        Some(own) => routes(own.network).await,
        None => Vec::new(),
    };
    let overlaps = match (&own, &iface) {
        (Some(own), Some(iface)) => overlaps(&netlink, config, own, iface).await,
        (_, _) => Vec::new(),
    };
    let user = User {
        has_net_admin: preflight::check_net_admin().is_ok(),
        may_ping: Echo::open(None).is_ok(),
    };
    let rules = Rules::read().await;
    let far_ends = far_ends(&links).await;
    let pod_ways = match &own {
        Some(own) => pod_ways::read(&netlink, own, &links, &registry, &far_ends).await,
        None => Vec::new(),
    };
    let (peers, num_unasked) = match &own {
        Some(own) if user.may_ping => {
            let known = (&registry, &daemon.path_mtus);
            peers::ask(&netlink, own, &links, known, max_peers).await
        }
        Some(_) | None => (Vec::new(), 0),
    };
    let ports: Vec<u16> = own.iter().filter_map(|own| own.wire.port()).collect();
    Ok(Facts {
        config: config.clone(),
        are_defaults: settings.source == Source::Environment,
        user,
        daemons: processes::daemons(pids),
        said: daemon.said,
        kernel: kernel::read(&links),
        managed: processes::managed(&links),
        services: processes::services(&rules),
        udp_ports: processes::udp_ports(&ports),
        policy_rules: netlink.policy_rules().await.unwrap_or_default(),
        // After the peers were asked: whom they ask has an entry now.
        neighbours: netlink.neighbours().await.unwrap_or_default(),
        traffic_control: netlink
            .traffic_control(&of_overlay(&links, own.as_ref(), iface.as_ref()))
            .await,
        own_programs: daemon.programs,
        silent_containers: match &own {
            Some(own) if user.may_ping => containers::silent(own, &links, &far_ends).await,
            Some(_) | None => Vec::new(),
        },
        far_ends,
        pod_ways,
        links,
        routes,
        rules,
        files: files::read(&config.subnet_file),
        unresolved: unresolved(&config.etcd_urls()).await,
        no_iface,
        iface: iface.map(|iface| Iface {
            name: iface.name,
            mtu: iface.mtu,
            public_ip: iface.public_ip,
        }),
        registry,
        own,
        overlaps,
        peers,
        num_unasked,
    })
}

fn own(
    config: &Config,
    registry: &RegistryFacts,
    iface: Option<&ExternalInterface>,
    links: &[LinkDetails],
) -> Option<Own> {
    let previous = previous_subnet(&config.subnet_file);
    Some(Own::find(registry.network.as_ref()?, iface?, registry, previous, links))
}

/// The links that packets of containers pass.
fn of_overlay<'a>(
    links: &'a [LinkDetails],
    own: Option<&Own>,
    iface: Option<&ExternalInterface>,
) -> Vec<&'a LinkDetails> {
    let subnet = own.and_then(|own| own.subnet);
    let is_in_it = |it: &LinkDetails| {
        subnet.is_some_and(|subnet| it.addrs.iter().any(|own| subnet.contains(own.addr)))
    };
    let is_iface = |it: &LinkDetails| iface.is_some_and(|iface| iface.name == it.link.name);
    let is_passed = |it: &&LinkDetails| is_in_it(it) || is_iface(it);
    let passed: Vec<u32> = links.iter().filter(is_passed).map(|it| it.link.index).collect();
    let is_port = |it: &&LinkDetails| it.master.is_some_and(|master| passed.contains(&master));
    links.iter().filter(|it| is_passed(it) || is_port(it)).collect()
}

async fn routes(network: Ipv4Network) -> Vec<RouteDetails> {
    let read = spawn_blocking(move || net::routes_about(network, MAX_ROUTES)).await;
    read.ok().and_then(Result::ok).unwrap_or_default()
}

async fn far_ends(links: &[LinkDetails]) -> Vec<FarEnd> {
    let links = links.to_vec();
    spawn_blocking(move || net::far_ends(&links)).await.unwrap_or_default()
}

async fn overlaps(
    netlink: &Netlink,
    config: &Config,
    own: &Own,
    iface: &ExternalInterface,
) -> Vec<String> {
    let endpoints = overlap::endpoints(&config.etcd_urls()).await;
    match overlap::check(netlink, own.network, iface, &endpoints, &[]).await {
        Ok(lines) => lines,
        Err(error) => vec![error.to_string()],
    }
}

/// A line for each name in `urls` that has no address.
async fn unresolved(urls: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for url in urls {
        let Ok(uri) = url.parse::<hyper::Uri>() else { continue };
        let Some(host) = uri.host().filter(|host| host.parse::<Ipv4Addr>().is_err()) else {
            continue;
        };
        let host = host.trim_matches(['[', ']']);
        match timeout(LOOK_UP, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => found.push(format!("etcd endpoint {host}: {error}")),
            Err(_) => found.push(format!("etcd endpoint {host}: no name server answers")),
        }
    }
    found
}
