//! The calls as moto takes them, which many use as EC2 and STS in tests.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_credential_types::Credentials;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::control::backend::aws_vpc::answers::{Instance, List, Route, RouteTables};
use crate::control::backend::aws_vpc::credentials::Chain;
use crate::control::backend::aws_vpc::query::{Action, Query};
use crate::control::backend::aws_vpc::region::Region;
use crate::control::util::test_port::free_addr;

/// A running server. Ends with the value.
struct Moto {
    server: Child,
    environment: Environment,
    double: AwsDouble,
    ec2: Query,
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Of `RunInstances`.
#[derive(Debug, Deserialize)]
struct Started {
    #[serde(rename = "instancesSet")]
    instances: List<Instance>,
}

fn region() -> Region {
    Region { name: "eu-west-1".to_owned(), source: "a test" }
}

impl Moto {
    async fn start() -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin/python");
        assert!(python.exists(), "moto is missing: `make target/moto` fetches it");
        let port = free_addr().port().to_string();
        let mut moto = Command::new(python);
        moto.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port]);
        moto.env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        let server = moto.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let double = AwsDouble::start().await;
        let url = format!("http://127.0.0.1:{port}");
        let more = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL_EC2", url.as_str()),
            ("AWS_ENDPOINT_URL_STS", url.as_str()),
        ];
        let environment = environment(&double, &more);
        let ec2 = Query::new(&environment, ("EC2", "2016-11-15"), region()).unwrap();
        let moto = Self { server, environment, double, ec2 };
        let deadline = Instant::now() + Duration::from_secs(180);
        while tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        moto
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
        params: &[(&'static str, &str)],
    ) -> T {
        let params = params.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let credentials = Credentials::new("a", "s", None, None, "test");
        let action = Action { name, params, about: "test".to_owned() };
        self.ec2.call(&action, Some(&credentials)).await.unwrap()
    }

    fn url(&self) -> String {
        self.environment.get(&["AWS_ENDPOINT_URL_EC2"]).unwrap()
    }

    async fn run_instance(&self) -> Instance {
        let params = [("ImageId", "ami-1"), ("MinCount", "1"), ("MaxCount", "1")];
        let started: Started = self.call("RunInstances", &params).await;
        started.instances.item.into_iter().next().unwrap()
    }

    /// Routes of the overlay in all tables.
    async fn routes(&self) -> Vec<Route> {
        let tables: RouteTables = self.call("DescribeRouteTables", &[]).await;
        let routes = tables.tables.item.into_iter().flat_map(|table| table.routes.item);
        routes.filter(|route| route.dst.starts_with("10.1.")).collect()
    }
}

#[tokio::test]
async fn moto_takes_every_call() {
    let moto = Moto::start().await;
    let (instance, other) = (moto.run_instance().await, moto.run_instance().await);
    moto.double.state().metadata.insert("instance-id", instance.id.clone());
    let interface = &instance.interfaces.item[0];
    let wanted = Wanted { addr: interface.addrs().next().unwrap(), ..wanted() };
    let mut aws = AwsVpc::new(AwsVpcConfig::default(), moto.environment.clone()).unwrap();
    assert_eq!(aws.ensure_route(wanted).await, Ok(None));
    let ours = |routes: Vec<Route>| routes.into_iter().map(|it| it.interface).collect::<Vec<_>>();
    assert_eq!(ours(moto.routes().await), [interface.id.as_str()]);

    // Somebody points it elsewhere.
    let tables: RouteTables = moto.call("DescribeRouteTables", &[]).await;
    let table = &tables.tables.item[0].id;
    let elsewhere = other.interfaces.item[0].id.as_str();
    let params = [
        ("RouteTableId", table.as_str()),
        ("DestinationCidrBlock", "10.1.40.0/24"),
        ("NetworkInterfaceId", elsewhere),
    ];
    let _: serde::de::IgnoredAny = moto.call("ReplaceRoute", &params).await;
    assert_eq!(ours(moto.routes().await), [elsewhere]);
    assert_eq!(aws.ensure_route(wanted).await, Ok(None));
    assert_eq!(ours(moto.routes().await), [interface.id.as_str()]);
    let before = moto.routes().await.len();
    assert_eq!(aws.ensure_route(wanted).await, Ok(None));
    assert_eq!(moto.routes().await.len(), before);

    // It refuses as EC2 does.
    let config = AwsVpcConfig { route_tables: vec!["rtb-none".to_owned()] };
    let mut wrong = AwsVpc::new(config, moto.environment.clone()).unwrap();
    let error = wrong.ensure_route(wanted).await.unwrap_err().to_string();
    assert!(error.starts_with(
        "EC2 DescribeRouteTables (rtb-none, eu-west-1): InvalidRouteTableID.NotFound: "
    ));
    moto.double.state().metadata.insert("instance-id", "i-0123".to_owned());
    let mut wrong = AwsVpc::new(AwsVpcConfig::default(), moto.environment.clone()).unwrap();
    let error = wrong.ensure_route(wanted).await.unwrap_err().to_string();
    assert!(error.contains("is the instance in eu-west-1, as AWS_REGION says?"), "{error}");

    // A role by web identity, and by the keys that this gives.
    let dir = TempDir::new().unwrap();
    let (token, config) = (dir.path().join("token"), dir.path().join("config"));
    std::fs::write(&token, "jwt").unwrap();
    let profiles = format!(
        "[profile pod]\nrole_arn=arn:aws:iam::123456789012:role/pod\nweb_identity_token_file={}\n\
         [profile node]\nrole_arn=arn:aws:iam::123456789012:role/node\nsource_profile=pod\n",
        token.display()
    );
    std::fs::write(&config, profiles).unwrap();
    let url = moto.url();
    let variables = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_PROFILE", "node"),
        ("AWS_ENDPOINT_URL_STS", url.as_str()),
    ];
    let mut chain = Chain::new(&environment(&moto.double, &variables), region()).unwrap();
    let found = chain.get().await.unwrap();
    assert!(found.session_token().is_some() && found.expiry().is_some(), "{found:?}");
}
