//! [`HostNet`] on a host that exists only in a test.

use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ipnetwork::Ipv4Network;

use super::{HostNet, KernelError, KernelRoute, Link, LinkAddr, RouteAdded};

/// The output of a future that never waits, as none of [`MemoryNet`]'s does.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a future on memory waits"),
    }
}

/// A host with links, numbered from 1.
#[derive(Debug, Default)]
pub struct MemoryNet {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<MemoryLink>,
    routes: Vec<KernelRoute>,
    refuses_addrs: bool,
    num_dumps: usize,
}

/// What a link was made to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryLink {
    /// Its name.
    pub name: String,
    /// Its addresses, each a /32.
    pub addrs: Vec<Ipv4Addr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its transmit queue's length in packets.
    pub txqueuelen: u32,
    /// Whether it gets no IPv6 address by itself.
    pub has_no_ipv6_addr: bool,
    /// Whether it is up.
    pub up: bool,
}

impl MemoryNet {
    /// A host with these links, all down.
    pub fn with_links<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let link = |name: &str| MemoryLink { name: name.to_owned(), ..MemoryLink::default() };
        let links = names.into_iter().map(link).collect();
        Self { state: Mutex::new(State { links, ..State::default() }) }
    }

    /// What the link `name` has become.
    pub fn state(&self, name: &str) -> MemoryLink {
        self.lock().links.iter().find(|link| link.name == name).cloned().unwrap()
    }

    /// Changes the link `name` as another program might.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut MemoryLink)) {
        edit(self.lock().links.iter_mut().find(|link| link.name == name).unwrap());
    }

    /// Has the kernel refuse addresses, or take them again.
    pub fn refuse_addrs(&self, refuses: bool) {
        self.lock().refuses_addrs = refuses;
    }

    /// Times that a caller went through all addresses or all routes.
    pub fn num_dumps(&self) -> usize {
        self.lock().num_dumps
    }

    /// The routes, in order.
    pub fn all_routes(&self) -> Vec<KernelRoute> {
        self.lock().routes.clone()
    }

    /// Removes all routes, as another program might.
    pub fn remove_routes(&self) {
        self.lock().routes.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, link: &Link, change: impl FnOnce(&mut MemoryLink)) {
        change(&mut self.lock().links[link.index as usize - 1]);
    }
}

impl HostNet for MemoryNet {
    async fn link(&self, name: &str) -> Result<Link, KernelError> {
        let position = self.lock().links.iter().position(|link| link.name == name);
        let position = position.ok_or_else(|| {
            KernelError::new(format!("find link {name}"), io::ErrorKind::NotFound)
        })?;
        Ok(self.link_at(u32::try_from(position + 1).unwrap()).await?.unwrap())
    }

    async fn link_at(&self, index: u32) -> Result<Option<Link>, KernelError> {
        let state = self.lock();
        let found = state.links.get(index as usize - 1);
        Ok(found.map(|MemoryLink { name, mtu, up, .. }| {
            let (name, mtu, is_up) = (name.clone(), *mtu, *up);
            Link { index, name, mtu, is_up, has_carrier: is_up }
        }))
    }

    async fn addrs_of(&self, index: u32) -> Result<Vec<LinkAddr>, KernelError> {
        let state = self.lock();
        let addrs = state.links.get(index as usize - 1).map(|link| link.addrs.as_slice());
        let own = |addr: &Ipv4Addr| LinkAddr { addr: *addr, prefix_len: 32 };
        Ok(addrs.unwrap_or_default().iter().map(own).collect())
    }

    async fn owner_of(&self, addr: Ipv4Addr) -> Result<Option<u32>, KernelError> {
        let mut state = self.lock();
        state.num_dumps += 1;
        let mut links = (1..).zip(&state.links);
        Ok(links.find(|(_, link)| link.addrs.contains(&addr)).map(|(index, _)| index))
    }

    async fn add_addr(&self, link: &Link, addr: Ipv4Addr) -> Result<(), KernelError> {
        if self.lock().refuses_addrs {
            let operation = format!("add address {addr}/32 to {}", link.name);
            return Err(KernelError::new(operation, io::ErrorKind::PermissionDenied));
        }
        self.change(link, |link| link.addrs.push(addr));
        Ok(())
    }

    async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), KernelError> {
        self.change(link, |link| link.mtu = mtu);
        Ok(())
    }

    async fn set_txqueuelen(&self, link: &Link, txqueuelen: u32) -> Result<(), KernelError> {
        self.change(link, |link| link.txqueuelen = txqueuelen);
        Ok(())
    }

    async fn set_no_ipv6_addr(&self, link: &Link) -> Result<(), KernelError> {
        self.change(link, |link| link.has_no_ipv6_addr = true);
        Ok(())
    }

    async fn set_up(&self, link: &Link) -> Result<(), KernelError> {
        self.change(link, |link| link.up = true);
        Ok(())
    }

    async fn add_route(&self, dst: Ipv4Network, link: &Link) -> Result<RouteAdded, KernelError> {
        if !self.state(&link.name).up {
            let operation = format!("add route {dst} dev {}", link.name);
            return Err(KernelError::new(operation, io::ErrorKind::NetworkDown));
        }
        let routes = &mut self.lock().routes;
        if routes.iter().any(|route| route.dst == dst && route.metric == 0) {
            return Ok(RouteAdded::Exists);
        }
        routes.push(KernelRoute { dst, link: Some(link.index), metric: 0 });
        Ok(RouteAdded::Added)
    }

    async fn replace_route(&self, dst: Ipv4Network, link: &Link) -> Result<(), KernelError> {
        self.lock().routes.retain(|route| route.dst != dst || route.metric != 0);
        self.add_route(dst, link).await.map(drop)
    }

    async fn has_route(&self, dst: Ipv4Network, link: &Link) -> Result<bool, KernelError> {
        let own = KernelRoute { dst, link: Some(link.index), metric: 0 };
        Ok(self.lock().routes.contains(&own))
    }
}
