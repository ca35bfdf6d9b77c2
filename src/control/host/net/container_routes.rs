//! The routes of the host's containers, which the kernel lists only in their network namespaces: a
//! thread enters each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::RouteDetails;
use super::scan::{ask, dump, open};

/// Most namespaces that are looked at.
const MAX_NAMESPACES: usize = 1024;

/// Most routes of one that are read.
const MAX_ROUTES: usize = 256;

/// Where `ip netns` and Docker keep namespaces that outlive their processes.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// The routes of a container's main table. The numbers of their links are those of its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerRoutes(pub Vec<RouteDetails>);

impl ContainerRoutes {
    /// The route that a packet to `addr` takes.
    pub fn to(&self, addr: Ipv4Addr) -> Option<&RouteDetails> {
        let fitting = self.0.iter().filter(|route| route.fields.dst.contains(addr));
        // Of equal routes the kernel takes the first, and `max_by_key` the last.
        fitting.rev().max_by_key(|it| (it.fields.dst.prefix(), u32::MAX - it.fields.metric))
    }
}

/// The routes in the namespaces that have the numbers `ids` here, as far as we may enter them. Blocks.
pub(super) fn container_routes(ids: &BTreeSet<i32>) -> BTreeMap<i32, ContainerRoutes> {
    let mut found = BTreeMap::new();
    for path in namespaces() {
        if found.len() == ids.len() {
            break;
        }
        let Ok(file) = File::open(path) else { continue };
        let Some(id) = id_of(&file).ok().flatten().filter(|id| ids.contains(id)) else { continue };
        let thread = thread::Builder::new().name("flannel-netns".to_owned());
        let read = thread.spawn(move || read(&file)).ok().and_then(|thread| thread.join().ok());
        found.extend(read.and_then(Result::ok).map(|routes| (id, routes)));
    }
    found
}

/// Files of all network namespaces but our own.
fn namespaces() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let processes = entries("/proc").into_iter().map(|process| process.join("ns/net"));
    let kept = DIRECTORIES.into_iter().flat_map(entries);
    let number = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let mut known = BTreeSet::from_iter(number(Path::new("/proc/self/ns/net")));
    let others =
        kept.chain(processes).filter(move |path| number(path).is_some_and(|it| known.insert(it)));
    others.take(MAX_NAMESPACES)
}

/// The number that our namespace has for that of `file`.
fn id_of(file: &File) -> io::Result<Option<i32>> {
    let mut request = NsidMessage::default();
    let descriptor = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    request.attributes.push(NsidAttribute::Fd(descriptor));
    let answer = ask(&open()?, RouteNetlinkMessage::GetNsId(request))?;
    let Some(RouteNetlinkMessage::NewNsId(message)) = answer else { return Ok(None) };
    Ok(message.attributes.iter().find_map(|attribute| {
        if let NsidAttribute::Id(id) = attribute { Some(*id).filter(|id| *id >= 0) } else { None }
    }))
}

/// Moves this thread into the namespace of `file`.
fn read(file: &File) -> io::Result<ContainerRoutes> {
    setns(file, CloneFlags::CLONE_NEWNET)?;
    let mut found = Vec::new();
    dump(|message| {
        let route = RouteDetails::of(message).filter(|route| route.fields.is_in_main_table());
        found.extend(route.filter(|_| found.len() < MAX_ROUTES));
    })?;
    Ok(ContainerRoutes(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::host::net::RouteFields;

    fn route(dst: &str, metric: u32) -> RouteDetails {
        let (dst, table) = (dst.parse().unwrap(), 254);
        let (link, gateway, has_gateway) = (Some(2), None, false);
        let fields = RouteFields { dst, table, link, gateway, has_gateway, metric };
        RouteDetails { fields, protocol: 3, is_end: false }
    }

    #[test]
    fn longest_prefix_and_then_lowest_metric_is_taken() {
        let routes = vec![
            route("0.0.0.0/0", 0),
            route("10.5.0.0/16", 100),
            route("10.5.0.0/16", 10),
            route("10.5.7.0/24", 0),
        ];
        let found = ContainerRoutes(routes);
        let to = |addr: [u8; 4]| found.to(addr.into()).map(|it| it.fields);
        assert_eq!(to([10, 5, 9, 2]), Some(route("10.5.0.0/16", 10).fields));
        assert_eq!(to([10, 5, 7, 1]), Some(route("10.5.7.0/24", 0).fields));
        assert_eq!(to([192, 0, 2, 1]), Some(route("0.0.0.0/0", 0).fields));
        assert_eq!(ContainerRoutes::default().to([10, 5, 9, 2].into()), None);
    }

    #[test]
    fn own_namespace_is_left_out() {
        let ours = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(namespaces().all(|path| fs::metadata(path).map_or(true, |it| it.ino() != ours)));
        // Whether it has a number of its own depends on who has asked for one.
        assert!(id_of(&File::open("/proc/self/ns/net").unwrap()).is_ok());
    }
}
