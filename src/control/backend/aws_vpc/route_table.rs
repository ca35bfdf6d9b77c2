//! What is to be done in a route table. No I/O.

use ipnetwork::Ipv4Network;

use super::answers::Route;
use crate::control::backend::cloud_route::Wanted;

/// State of a route whose interface or instance is gone.
const BLACKHOLE: &str = "blackhole";

/// What is to be done about our own route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    Create,
    Replace,
}

/// What makes the packets for `dst` arrive at `interface`.
pub(super) fn step(routes: &[Route], dst: &str, interface: &str) -> Step {
    // A route that a VPN gateway announces gives way to one that is made.
    let ours = routes.iter().find(|route| route.dst == dst && route.is_made());
    match ours {
        None => Step::Create,
        Some(route) if route.interface == interface && route.state != BLACKHOLE => Step::Keep,
        Some(_) => Step::Replace,
    }
}

impl Route {
    /// Whether somebody made it, as opposed to the VPC itself.
    fn is_made(&self) -> bool {
        self.origin.is_empty() || self.origin == "CreateRoute"
    }

    /// Whether it leads to a node of the overlay that is gone. Our own is not one.
    pub(super) fn is_leftover(&self, wanted: Wanted) -> bool {
        let Ok(dst) = self.dst.parse::<Ipv4Network>() else { return false };
        let Wanted { subnet, network, .. } = wanted;
        let is_inside = dst.prefix() > network.prefix() && network.contains(dst.ip());
        self.state == BLACKHOLE && self.is_made() && is_inside && dst != subnet
    }
}
