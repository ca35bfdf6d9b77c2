//! The aws-vpc backend: in each route table, one route to this node's subnet by its network
//! interface.
//!
//! Behaves as flannel's `pkg/backend/awsvpc` up to 0.19, with the same log lines. Unlike stock it
//! replaces a route only if it differs, checks the route for as long as it runs, speaks IMDSv2, and
//! retries what fails. docs/adr/0033 says what comes from AWS's crates, and what does not.
//!
//! ```text
//! metadata   region, instance          credentials  who we are    query  one signed call
//! ec2        the calls of EC2          answers      their XML
//! ```

mod answers;
mod credentials;
mod ec2;
mod interface;
mod metadata;
mod query;
mod region;
mod route_table;
mod server_clock;
#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use tracing::{debug, info, warn};

use self::ec2::Ec2;
use self::interface::{NetworkInterface, find_interface};
use self::metadata::Metadata;
use super::cloud_route::{Cloud, CloudError, Environment, Wanted};
use crate::control::config::backend::AwsVpcConfig;

/// The aws-vpc backend's side of the cloud.
#[derive(Debug)]
pub(super) struct AwsVpc {
    config: AwsVpcConfig,
    environment: Environment,
    metadata: Metadata,
    /// The API, and our instance in it, once the metadata server has answered.
    place: Option<(Ec2, String)>,
    /// What was logged before, to log only what is new.
    reported: Reported,
}

/// What was logged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reported {
    interface: Option<(String, Ipv4Addr)>,
    tables: Vec<String>,
}

impl AwsVpc {
    /// As the network config and the variables of this process say.
    ///
    /// # Errors
    /// [`CloudError`] when one of the variables makes no sense.
    pub(super) fn from_env(config: AwsVpcConfig) -> Result<Self, CloudError> {
        Self::new(config, Environment::of_process())
    }

    fn new(config: AwsVpcConfig, environment: Environment) -> Result<Self, CloudError> {
        let metadata = Metadata::new(&environment)?;
        region::check_urls(&environment)?;
        if let Some(read_ca) = query::ca_bundle(&environment) {
            read_ca().map_err(CloudError)?;
        }
        let reported = Reported::default();
        Ok(Self { config, environment, metadata, place: None, reported })
    }

    /// The API, and our instance. Neither changes while the daemon runs.
    async fn place(&mut self) -> Result<(&mut Ec2, &str), CloudError> {
        if self.place.is_none() {
            let region = region::find(&self.environment, &mut self.metadata).await?;
            let instance = self.metadata.instance_id().await?;
            self.place = Some((Ec2::new(&self.environment, region)?, instance));
        }
        match &mut self.place {
            Some((ec2, instance)) => Ok((ec2, instance.as_str())),
            None => Err(CloudError("this instance is not known yet".to_owned())),
        }
    }

    /// Our network interface, which must forward packets of pods. With it comes why it does not.
    async fn interface(
        &mut self,
        addr: Ipv4Addr,
    ) -> Result<(NetworkInterface, Option<String>), CloudError> {
        let (ec2, id) = self.place().await?;
        let instance = ec2.instance(id).await?;
        let interface = find_interface(&instance, addr)?;
        let problem = match interface.checks_source {
            true => ec2.disable_source_check(&interface.id).await.err(),
            false => None,
        };
        let found = Some((interface.id.clone(), addr));
        if self.reported.interface != found {
            info!("Found {} that has {addr} IP address.", interface.id);
            self.reported.interface = found;
        }
        let problem = problem.map(|error| {
            let id = &interface.id;
            format!("failed to disable SourceDestCheck on {id}: {error}")
        });
        Ok((interface, problem))
    }

    /// The tables that are to have our route.
    async fn tables(&mut self, interface: &NetworkInterface) -> Result<Vec<String>, CloudError> {
        let configured = self.config.route_tables.clone();
        let is_configured = !configured.is_empty();
        let tables = match is_configured {
            true => configured,
            false => vec![self.place().await?.0.table_of(interface).await?],
        };
        if self.reported.tables != tables {
            info!("Route table configured: {is_configured}");
            if !is_configured {
                info!("Found route table {}.", tables.join(", "));
            }
            self.reported.tables.clone_from(&tables);
        }
        Ok(tables)
    }
}

impl Cloud for AwsVpc {
    const ROUTES: &'static str = "a route of the VPC's route tables";

    async fn ensure_route(&mut self, wanted: Wanted) -> Result<Option<String>, CloudError> {
        let (interface, problem) = self.interface(wanted.addr).await?;
        let tables = self.tables(&interface).await?;
        let (ec2, _) = self.place().await?;
        let mut failed = Vec::new();
        for table in &tables {
            match ec2.ensure_route(table, &interface.id, wanted).await {
                Ok(true) => {
                    let subnet = wanted.subnet;
                    info!("Route added to table {table}: {subnet} - {}.", interface.id);
                }
                Ok(false) => debug!("route table {table} has our route"),
                // The other tables are served all the same.
                Err(error) => failed.push(error.to_string()),
            }
        }
        match failed.is_empty() {
            true => Ok(problem),
            false => {
                problem.iter().for_each(|problem| warn!("{problem}"));
                Err(CloudError(failed.join("; ")))
            }
        }
    }
}
