//! What EC2 and STS answer: XML of which we read a few members.

use std::net::Ipv4Addr;

use serde::Deserialize;

/// A list, as EC2 writes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct List<T> {
    #[serde(default = "Vec::new")]
    pub(super) item: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

/// Of `DescribeInstances`.
#[derive(Debug, Deserialize)]
pub(super) struct Instances {
    #[serde(rename = "reservationSet", default)]
    pub(super) reservations: List<Reservation>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reservation {
    #[serde(rename = "instancesSet", default)]
    pub(super) instances: List<Instance>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Instance {
    #[serde(rename = "instanceId")]
    pub(super) id: String,
    #[serde(rename = "networkInterfaceSet", default)]
    pub(super) interfaces: List<InstanceInterface>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct InstanceInterface {
    #[serde(rename = "networkInterfaceId")]
    pub(super) id: String,
    #[serde(rename = "subnetId", default)]
    pub(super) subnet: String,
    #[serde(rename = "vpcId", default)]
    pub(super) vpc: String,
    #[serde(rename = "sourceDestCheck")]
    pub(super) checks_source: Option<bool>,
    #[serde(rename = "privateIpAddress", default)]
    primary: String,
    #[serde(rename = "privateIpAddressesSet", default)]
    private: List<PrivateAddr>,
}

#[derive(Debug, Clone, Deserialize)]
struct PrivateAddr {
    #[serde(rename = "privateIpAddress", default)]
    addr: String,
}

impl InstanceInterface {
    /// Its private addresses. The first may be there twice.
    pub(super) fn addrs(&self) -> impl Iterator<Item = Ipv4Addr> {
        let private = self.private.item.iter().map(|private| &private.addr);
        let mut addrs: Vec<Ipv4Addr> =
            private.chain([&self.primary]).filter_map(|addr| addr.parse().ok()).collect();
        addrs.sort_unstable();
        addrs.dedup();
        addrs.into_iter()
    }
}

/// Of `DescribeRouteTables`.
#[derive(Debug, Deserialize)]
pub(super) struct RouteTables {
    #[serde(rename = "routeTableSet", default)]
    pub(super) tables: List<RouteTable>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RouteTable {
    #[serde(rename = "routeTableId")]
    pub(super) id: String,
    #[serde(rename = "routeSet", default)]
    pub(super) routes: List<Route>,
}

/// A route. Its destination may be IPv6, or a list of prefixes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    #[serde(rename = "destinationCidrBlock", default)]
    pub(super) dst: String,
    #[serde(rename = "networkInterfaceId", default)]
    pub(super) interface: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) origin: String,
}

/// A refusal of EC2, or of STS, which leaves out the list.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    #[serde(rename = "Errors", default)]
    errors: Errors,
    #[serde(rename = "Error")]
    error: Option<RefusalError>,
}

#[derive(Debug, Default, Deserialize)]
struct Errors {
    #[serde(rename = "Error", default)]
    errors: Vec<RefusalError>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefusalError {
    #[serde(rename = "Code", default)]
    pub(super) code: String,
    #[serde(rename = "Message", default)]
    pub(super) message: String,
}

impl Refusal {
    /// The first reason.
    pub(super) fn first(self) -> Option<RefusalError> {
        self.errors.errors.into_iter().chain(self.error).next()
    }
}

/// Of `AssumeRole` and `AssumeRoleWithWebIdentity`.
#[derive(Debug, Deserialize)]
pub(super) struct AssumedRole {
    #[serde(rename = "AssumeRoleResult", alias = "AssumeRoleWithWebIdentityResult")]
    pub(super) result: AssumedRoleResult,
}

#[derive(Debug, Deserialize)]
pub(super) struct AssumedRoleResult {
    #[serde(rename = "Credentials")]
    pub(super) credentials: AssumedCredentials,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AssumedCredentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
    pub(super) session_token: String,
    pub(super) expiration: String,
}
