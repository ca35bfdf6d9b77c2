//! A daemon on an instance of Google Compute Engine, which `gce.py` is.

use std::path::Path;
use std::process::{Child, Command};

use crate::host::{Daemon, Host, eventually, text};

const NAME: &str = "flannel-10-40-7-0-24";
const API: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE=http://169.254.169.254:8443/compute/v1";

/// An instance whose subnet is 10.40.7.0/24, with the servers of its cloud.
struct Instance {
    host: Host,
    cloud: Child,
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.cloud.kill());
        drop(self.cloud.wait());
    }
}

impl Instance {
    fn new() -> Self {
        let host = Host::new();
        host.output(&["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"]);
        host.output(&["ip", "link", "set", "lo", "mtu", "1460"]);
        let double = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/gce.py");
        let cloud = host.command(&["python3", double.to_str().unwrap()]).spawn().unwrap();
        let registry = r#"{"config": {"Network": "10.40.0.0/16", "SubnetMin": "10.40.7.0",
            "SubnetMax": "10.40.7.0", "Backend": {"Type": "gce"}}}"#;
        std::fs::write(host.dir.path().join("registry.json"), registry).unwrap();
        let instance = Self { host, cloud };
        eventually("the cloud", || {
            instance.double(&[]).output().unwrap().status.success().then_some(())
        });
        instance
    }

    fn start(&self, name: &str) -> Daemon {
        let registry = format!("file:{}/registry.json", self.host.dir.path().display());
        self.host.start_with(&[API], name, &["-iface", "10.0.0.7", "-registry", &registry])
    }

    fn double(&self, args: &[&str]) -> Command {
        let url = "http://169.254.169.254:8443/double";
        self.host.command(&[&["curl", "-sf", url], args].concat())
    }

    /// Changes the cloud.
    fn set(&self, json: &str) {
        assert!(self.double(&["-X", "PUT", "-d", json]).output().unwrap().status.success());
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_str(&text(&self.double(&[]).output().unwrap().stdout)).unwrap()
    }

    /// The instance that our route leads to, without the API's URL.
    fn next_hop(&self) -> Option<String> {
        let state = self.state();
        let hop = state["routes"][NAME]["nextHopInstance"].as_str()?;
        hop.rsplit_once('/').map(|(_, name)| name.to_owned())
    }

    fn is_routed(&self) {
        eventually("the route", || self.next_hop().filter(|hop| hop == "nodea"));
    }

    /// How many calls of the API changed something.
    fn num_changes(&self) -> usize {
        let state = self.state();
        let calls = state["calls"].as_array().unwrap().iter().filter_map(|call| call.as_str());
        calls.filter(|call| !call.starts_with("GET ")).count()
    }
}

#[test]
fn route_is_made_kept_replaced_and_put_right() {
    let instance = Instance::new();
    instance.set(r#"{"polls": 3}"#);
    let daemon = instance.start("a");
    let log = daemon.wait_for("flannel is ready");
    for line in [
        "Inserting route for subnet: 10.40.7.0/24",
        "insert operation status: PENDING waiting for completion...",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{log}");
    }
    instance.is_routed();
    assert_eq!(instance.num_changes(), 1);

    // A restart finds it as it should be.
    daemon.stop();
    let daemon = instance.start("b");
    daemon.wait_for("Exact pre-existing route found");
    daemon.wait_for("flannel is ready");
    assert_eq!(instance.num_changes(), 1);

    // Somebody deletes it; then somebody points it to another node.
    instance.set(r#"{"routes": {}}"#);
    daemon.signal("HUP");
    instance.is_routed();
    let elsewhere = serde_json::to_string(&instance.state()["routes"]).unwrap();
    let elsewhere = elsewhere.replace("instances/nodea", "instances/nodeb");
    instance.set(&format!(r#"{{"routes": {elsewhere}}}"#));
    daemon.signal("HUP");
    daemon.wait_for("Deleting conflicting route: flannel-10-40-7-0-24 to https://");
    instance.is_routed();
    let log = daemon.log();
    assert!(!log.contains("WARN cloud_route"), "{log}");
    daemon.stop();
    assert_eq!(instance.next_hop().as_deref(), Some("nodea"), "it stays");
}

#[test]
fn what_the_cloud_refuses_is_one_line_and_tried_again() {
    let instance = Instance::new();
    instance.set(r#"{"is_away": true}"#);
    let daemon = instance.start("a");
    let away =
        "cloud_route degraded: the metadata server does not answer at http://169.254.169.254";
    daemon.wait_for(away);
    // The node has its lease all the same, and tries again by itself.
    daemon.wait_for("flannel is ready");
    instance.set(r#"{"is_away": false, "denied": ["POST"]}"#);
    daemon.wait_for(
        "cloud_route degraded: compute API, POST projects/lab-project/global/routes: 403 Forbidden: \
         Required permission is missing; grant the service account compute.routes.create, \
         compute.networks.updatePolicy and compute.instances.use, and give the instance the access \
         scope compute-rw",
    );
    for (ends, line) in [
        (
            "quota",
            "insert operation operation-0: QUOTA_EXCEEDED: Quota 'ROUTES' exceeded.  Limit: 250.0; \
             raise the project's quota of routes, or remove routes",
        ),
        ("gone", "GET projects/lab-project/global/operations/operation-1: 404 Not Found: "),
    ] {
        instance.set(&format!(r#"{{"ends": "{ends}", "denied": []}}"#));
        daemon.signal("HUP");
        daemon.wait_for(&format!("cloud_route degraded: compute API, {line}"));
    }
    assert_eq!(instance.next_hop(), None);
    instance.set(r#"{"ends": "well"}"#);
    daemon.signal("HUP");
    let log = daemon.wait_for("cloud_route: ok again");
    instance.is_routed();
    assert_eq!(log.matches(away).count(), 1, "{log}");
    daemon.stop();
}
