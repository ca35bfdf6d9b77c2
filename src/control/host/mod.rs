//! The host as the kernel shows it: links, addresses, routes, firewall, capabilities.

pub mod findings;
pub mod preflight;
pub mod probe;
pub mod iface;
pub mod overlap;
pub mod firewall;
pub mod net;
