//! [`Ec2`]: the calls of EC2 that a route needs.

use serde::de::{DeserializeOwned, IgnoredAny};
use tracing::{info, warn};

use super::answers::{Instance, Instances, Route, RouteTables};
use super::credentials::Chain;
use super::interface::NetworkInterface;
use super::query::{Action, Query, Refused, is_expired};
use super::region::Region;
use super::route_table::{Step, step};
use crate::control::backend::cloud_route::{CloudError, Environment, Fault, Retries, Wanted};

/// The API's name and version.
const API: (&str, &str) = ("EC2", "2016-11-15");

/// EC2 in one region, with the credentials to call it.
#[derive(Debug)]
pub(super) struct Ec2 {
    query: Query,
    credentials: Chain,
}

impl Ec2 {
    pub(super) fn new(environment: &Environment, region: Region) -> Result<Self, CloudError> {
        let credentials = Chain::new(environment, region.clone())?;
        Ok(Self { query: Query::new(environment, API, region)?, credentials })
    }

    /// The instance of this identifier.
    pub(super) async fn instance(&mut self, id: &str) -> Result<Instance, CloudError> {
        let params = vec![("InstanceId.1", id.to_owned())];
        let name = "DescribeInstances";
        let answer: Instances = self.call(&Action { name, params, about: id.to_owned() }).await?;
        let mut all = answer.reservations.item.into_iter().flat_map(|it| it.instances.item);
        all.find(|instance| instance.id == id).ok_or_else(|| {
            let Region { name: region, source } = self.query.region();
            let place = format!("is the instance in {region}, as {source} says?");
            CloudError(format!("EC2 {name} ({id}, {region}): no such instance; {place}"))
        })
    }

    /// Lets an interface send and receive packets of other addresses than its own.
    pub(super) async fn disable_source_check(&mut self, interface: &str) -> Result<(), CloudError> {
        let params = vec![
            ("NetworkInterfaceId", interface.to_owned()),
            ("SourceDestCheck.Value", "false".to_owned()),
        ];
        let name = "ModifyNetworkInterfaceAttribute";
        let about = interface.to_owned();
        let _: IgnoredAny = self.call(&Action { name, params, about }).await?;
        Ok(())
    }

    /// The table that the interface's subnet uses: its own, or else the VPC's main one.
    pub(super) async fn table_of(
        &mut self,
        interface: &NetworkInterface,
    ) -> Result<String, CloudError> {
        let NetworkInterface { subnet, vpc, .. } = interface;
        let own = vec![
            ("Filter.1.Name", "association.subnet-id".to_owned()),
            ("Filter.1.Value.1", subnet.clone()),
        ];
        let main = vec![
            ("Filter.1.Name", "association.main".to_owned()),
            ("Filter.1.Value.1", "true".to_owned()),
            ("Filter.2.Name", "vpc-id".to_owned()),
            ("Filter.2.Value.1", vpc.clone()),
        ];
        for (params, about) in [(own, subnet), (main, vpc)] {
            let tables = self.tables(params, about).await?.tables.item;
            if let Some(table) = tables.into_iter().next() {
                return Ok(table.id);
            }
        }
        Err(CloudError(format!(
            "neither subnet {subnet} nor {vpc} has a route table: name one in \
             Backend.RouteTableID of the network config"
        )))
    }

    /// Makes `table` send packets for our subnet to `interface`; whether it did not do so before.
    /// Removes routes of the overlay to interfaces that are gone.
    pub(super) async fn ensure_route(
        &mut self,
        table: &str,
        interface: &str,
        wanted: Wanted,
    ) -> Result<bool, CloudError> {
        let params = vec![("RouteTableId.1", table.to_owned())];
        let found = self.tables(params, table).await?.tables.item;
        let routes: Vec<Route> = found.into_iter().flat_map(|table| table.routes.item).collect();
        self.remove_leftovers(table, &routes, wanted).await;
        let dst = wanted.subnet.to_string();
        let first = match step(&routes, &dst, interface) {
            Step::Keep => return Ok(false),
            Step::Create => "CreateRoute",
            Step::Replace => "ReplaceRoute",
        };
        match self.write_route(first, table, &dst, interface).await {
            // It was made, or removed, since.
            Err(refused) if first == "CreateRoute" && refused.code == "RouteAlreadyExists" => {
                self.write_route("ReplaceRoute", table, &dst, interface).await?;
            }
            Err(refused)
                if first == "ReplaceRoute"
                    && matches!(
                        refused.code.as_str(),
                        "InvalidParameterValue" | "InvalidRoute.NotFound"
                    ) =>
            {
                self.write_route("CreateRoute", table, &dst, interface).await?;
            }
            // The policy is as old as stock, which never replaces.
            Err(refused) if first == "ReplaceRoute" && refused.code == "UnauthorizedOperation" => {
                let refused = CloudError::from(refused);
                self.delete_route(table, &dst).await.map_err(|_| refused.clone())?;
                warn!("{refused}; until then the route is deleted and created");
                self.write_route("CreateRoute", table, &dst, interface).await?;
            }
            written => written?,
        }
        Ok(true)
    }

    /// Removes routes of the overlay to interfaces that are gone. Only what is sent to nodes that
    /// are gone depends on it, so a refusal is a warning, and one for all of them.
    async fn remove_leftovers(&mut self, table: &str, routes: &[Route], wanted: Wanted) {
        let mut failed = Vec::new();
        for route in routes.iter().filter(|route| route.is_leftover(wanted)) {
            info!("Removing blackhole route: {}", route.dst);
            match self.delete_route(table, &route.dst).await {
                Ok(()) => {}
                Err(error) => failed.push((error, route.dst.as_str())),
            }
        }
        if let Some((error, _)) = failed.first() {
            let left: Vec<&str> = failed.iter().map(|(_, dst)| *dst).collect();
            warn!("Error cleaning up blackhole routes: {error} (left: {})", left.join(", "));
        }
    }

    async fn write_route(
        &mut self,
        name: &'static str,
        table: &str,
        dst: &str,
        interface: &str,
    ) -> Result<(), Refused> {
        let params = vec![
            ("RouteTableId", table.to_owned()),
            ("DestinationCidrBlock", dst.to_owned()),
            ("NetworkInterfaceId", interface.to_owned()),
        ];
        let _: IgnoredAny = self.call(&Action { name, params, about: table.to_owned() }).await?;
        Ok(())
    }

    async fn delete_route(&mut self, table: &str, dst: &str) -> Result<(), CloudError> {
        let params =
            vec![("RouteTableId", table.to_owned()), ("DestinationCidrBlock", dst.to_owned())];
        let action = Action { name: "DeleteRoute", params, about: table.to_owned() };
        match self.call::<IgnoredAny>(&action).await {
            // Another node was faster.
            Err(refused) if refused.code == "InvalidRoute.NotFound" => Ok(()),
            deleted => Ok(deleted.map(drop)?),
        }
    }

    async fn tables(
        &mut self,
        params: Vec<(&'static str, String)>,
        about: &str,
    ) -> Result<RouteTables, CloudError> {
        let name = "DescribeRouteTables";
        Ok(self.call(&Action { name, params, about: about.to_owned() }).await?)
    }

    /// Makes a call until it is answered.
    async fn call<T: DeserializeOwned>(&mut self, action: &Action) -> Result<T, Refused> {
        let (mut retries, mut is_fresh) = (Retries::new(), false);
        loop {
            let credentials = self.credentials.get().await;
            let credentials =
                credentials.map_err(|error| Fault::Final(format!("EC2 {action}: {error}")))?;
            let refused = match self.query.call(action, Some(&credentials)).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            if is_expired(&refused.code) && !is_fresh {
                // They were replaced, perhaps, before their end.
                self.credentials.forget();
                is_fresh = true;
                continue;
            }
            let Refused { code, fault } = refused;
            if retries.wait(fault.clone()).await.is_err() {
                return Err(Refused { code, fault });
            }
        }
    }
}
