//! By which route the kernel would forward a packet that comes in by a link, as it does with those of
//! containers and peers, or send one of this host.

use std::net::Ipv4Addr;
use std::pin::pin;

use futures_util::TryStreamExt;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::netlink::failed;
use super::one_route::request_for;
use super::{KernelError, Netlink, RouteFields};

/// What the kernel does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// It takes this route.
    By(RouteFields),
    /// It is for an address of this host.
    Here,
    /// It has been refused, with this error number.
    Refused(i32),
}

/// A rule of the operator's about which table is asked: ip-rule(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its place among the rules: the lowest is asked first.
    pub priority: u32,
    /// The table that it leads to; 0 if it refuses packets itself.
    pub table: u32,
}

impl Netlink {
    /// What the kernel does with a packet from `src` to `dst` that comes in by the link `in_link`.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn forwarded(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        in_link: u32,
    ) -> Result<Forwarded, KernelError> {
        let mut request = request_from(src, dst);
        request.attributes.push(RouteAttribute::Iif(in_link));
        self.way_of(request, src, dst).await
    }

    /// What the kernel does with a packet that this host sends from its address `src` to `dst`.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn sent(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Result<Forwarded, KernelError> {
        self.way_of(request_from(src, dst), src, dst).await
    }

    async fn way_of(
        &self,
        request: RouteMessage,
        src: Ipv4Addr,
        dst: Ipv4Addr,
    ) -> Result<Forwarded, KernelError> {
        let mut found = pin!(self.handle().route().get(request).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(of_route).unwrap_or(Forwarded::Refused(0))),
            Err(error) => {
                let error = failed(format!("find the route from {src} to {dst}"), error);
                match error.source.raw_os_error() {
                    Some(number) => Ok(Forwarded::Refused(number)),
                    None => Err(error),
                }
            }
        }
    }

    /// Lists the rules that are not the kernel's own.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn policy_rules(&self) -> Result<Vec<PolicyRule>, KernelError> {
        let messages = self.handle().rule().get(IpVersion::V4).execute().try_collect::<Vec<_>>();
        let messages = messages.await;
        let messages = messages.map_err(|error| failed("list rules".to_owned(), error))?;
        Ok(messages.iter().filter_map(PolicyRule::of).collect())
    }
}

fn request_from(src: Ipv4Addr, dst: Ipv4Addr) -> RouteMessage {
    let mut request = request_for(dst);
    request.header.source_prefix_length = 32;
    request.attributes.push(RouteAttribute::Source(RouteAddress::Inet(src)));
    // As in `matched_route`.
    request.header.flags |= RouteFlags::FibMatch | RouteFlags::LookupTable;
    request
}

fn of_route(message: &RouteMessage) -> Option<Forwarded> {
    if message.header.kind == RouteType::Local {
        return Some(Forwarded::Here);
    }
    RouteFields::of(message).map(Forwarded::By)
}

impl PolicyRule {
    fn of(message: &RuleMessage) -> Option<Self> {
        // Those that the kernel makes: `fib_default_rules_init` in net/ipv4/fib_rules.c.
        const OWN: [(u32, u32); 3] = [(0, 255), (32766, 254), (32767, 253)];
        let refuses = [RuleAction::Blackhole, RuleAction::Unreachable, RuleAction::Prohibit];
        let (mut priority, mut table) = (0, u32::from(message.header.table));
        for attribute in &message.attributes {
            if let RuleAttribute::Priority(number) = attribute {
                priority = *number;
            } else if let RuleAttribute::Table(number) = attribute {
                table = *number;
            }
        }
        if refuses.contains(&message.header.action) {
            table = 0;
        }
        (!OWN.contains(&(priority, table))).then_some(Self { priority, table })
    }
}
