//! The gce backend: one route of the Google Compute Engine network to each node's subnet.
//!
//! Behaves as flannel's `pkg/backend/gce` up to 0.19: the same calls, the same name and fields of
//! the route. Unlike stock it repeats calls that fail, checks the route for as long as it runs, and
//! leaves a route of another network alone.

mod compute;
mod credentials;
mod jwt;
mod metadata;
#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;

use tracing::{debug, info};

use self::compute::{Compute, NewRoute, Resource, Route, same_resource};
use self::credentials::Credentials;
use self::metadata::Metadata;
use super::cloud_route::{Cloud, CloudError, Environment, Wanted};

/// Priority of our routes: the default of `gcloud compute routes create`, and stock's.
const PRIORITY: u32 = 1000;

/// The gce backend's side of the cloud.
#[derive(Debug)]
pub(super) struct Gce {
    metadata: Metadata,
    compute: Compute,
    place: Option<Place>,
    /// Whether the route has been reported as it is.
    is_reported: bool,
}

/// Where this node is, by the URLs that the API has for its network and itself.
#[derive(Debug, Clone)]
struct Place {
    project: String,
    network: String,
    instance: String,
    /// Why packets for pods do not arrive here, whatever the route says.
    problem: Option<String>,
}

impl Gce {
    /// As the variables of this process say.
    ///
    /// # Errors
    /// [`CloudError`] when one of them makes no sense.
    pub(super) fn from_env() -> Result<Self, CloudError> {
        Self::new(&Environment::of_process())
    }

    fn new(environment: &Environment) -> Result<Self, CloudError> {
        let metadata = Metadata::new(environment)?;
        let compute = Compute::new(environment, Credentials::new(environment))?;
        Ok(Self { metadata, compute, place: None, is_reported: false })
    }

    /// Where this node is. That does not change while it runs.
    async fn place(&mut self) -> Result<Place, CloudError> {
        if let Some(place) = &self.place {
            return Ok(place.clone());
        }
        let found = self.metadata.identity().await?;
        let (project, zone, name) = (&found.project, &found.zone, &found.instance);
        let path = format!("projects/{project}/global/networks/{}", found.network);
        let network = self.compute.find(&self.metadata, &path, "compute.networks.get").await?;
        let network: Resource = network.ok_or_else(|| {
            CloudError(format!(
                "compute API: network {} does not exist in project {project}; routes of a network \
                 that another project shares (Shared VPC) cannot be made from here",
                found.network
            ))
        })?;
        let path = format!("projects/{project}/zones/{zone}/instances/{name}");
        let instance = self.compute.find(&self.metadata, &path, "compute.instances.get").await?;
        let instance: Resource = instance.ok_or_else(|| {
            let place = format!("zone {zone} of project {project}");
            CloudError(format!(
                "compute API: instance {name}, as the metadata server calls this host, does not \
                 exist in {place}"
            ))
        })?;
        let problem = (instance.can_ip_forward == Some(false)).then(|| {
            format!(
                "instance {name} was created without IP forwarding (canIpForward), so the network \
                 drops packets of pods: create it with --can-ip-forward"
            )
        });
        let (network, instance) = (network.self_link, instance.self_link);
        let place = Place { project: found.project, network, instance, problem };
        self.place = Some(place.clone());
        Ok(place)
    }

    /// Makes room for our route, if another one has its name.
    async fn remove_conflicting(&mut self, place: &Place, found: &Route) -> Result<(), CloudError> {
        let Place { project, network, .. } = place;
        if !same_resource(&found.network, network) {
            return Err(CloudError(format!(
                "route {} of project {project} belongs to another network ({}): two flannel \
                 networks of one project must not overlap",
                found.name, found.network
            )));
        }
        info!("Deleting conflicting route: {} to {}", found.name, found.next_hop_instance);
        self.compute.delete_route(&self.metadata, project, &found.name).await
    }
}

impl Cloud for Gce {
    const ROUTES: &'static str = "a route of the Compute Engine network";

    async fn ensure_route(&mut self, wanted: Wanted) -> Result<Option<String>, CloudError> {
        let place = self.place().await?;
        let (project, subnet) = (&place.project, wanted.subnet);
        let name = route_name(&subnet.to_string());
        let found = self.compute.route(&self.metadata, project, &name).await?;
        if let Some(found) = &found {
            let is_ours = same_resource(&found.next_hop_instance, &place.instance)
                && found.dest_range == subnet.to_string()
                && same_resource(&found.network, &place.network);
            if is_ours {
                match self.is_reported {
                    false => info!("Exact pre-existing route found"),
                    true => debug!("route {name} is as it should be"),
                }
                self.is_reported = true;
                return Ok(place.problem);
            }
            self.remove_conflicting(&place, found).await?;
        }
        info!("Inserting route for subnet: {subnet}");
        let route = NewRoute {
            dest_range: subnet.to_string(),
            name,
            network: &place.network,
            next_hop_instance: &place.instance,
            priority: PRIORITY,
        };
        self.compute.insert_route(&self.metadata, project, &route).await?;
        self.is_reported = true;
        Ok(place.problem)
    }
}

/// `flannel-10-40-7-0-24` of `10.40.7.0/24`, as stock has it.
fn route_name(subnet: &str) -> String {
    format!("flannel-{}", subnet.replace(['.', '/'], "-"))
}
