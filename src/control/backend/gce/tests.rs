use std::fs;
use std::time::Duration;

use serde_json::json;

use super::double::{API, GceDouble, NETWORK, ROUTE, instance, refuse};
use super::*;
use crate::control::util::http_client::double::{Double, Reply};
use crate::control::util::test_log::Logs;

fn wanted() -> Wanted {
    Wanted {
        subnet: "10.40.7.0/24".parse().unwrap(),
        network: "10.40.0.0/16".parse().unwrap(),
        addr: "10.240.0.1".parse().unwrap(),
    }
}

fn gce(double: &GceDouble, more: &[(&str, &str)]) -> Gce {
    let api = double.api();
    let mut variables = vec![
        ("GCE_METADATA_HOST", double.host()),
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", api.as_str()),
    ];
    variables.extend(more);
    let mut gce = Gce::new(&Environment::of(&variables)).unwrap();
    gce.compute = gce.compute.with_poll(Duration::from_millis(1));
    gce
}

#[tokio::test]
async fn route_is_inserted_with_stocks_calls_and_kept_while_it_is_equal() {
    let double = GceDouble::start().await;
    double.state().is_old = true;
    let mut gce = gce(&double, &[]);
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    let inserted = format!(
        r#"{{"destRange":"10.40.7.0/24","name":"flannel-10-40-7-0-24","network":"{API}/{NETWORK}","nextHopInstance":"{}","priority":1000}}"#,
        instance("nodea")
    );
    let calls = [
        format!("GET {NETWORK}"),
        "GET projects/lab-project/zones/europe-west1-b/instances/nodea".to_owned(),
        format!("GET {ROUTE}"),
        format!("POST projects/lab-project/global/routes {inserted}"),
        "GET projects/lab-project/global/operations/operation-0".to_owned(),
        "GET projects/lab-project/global/operations/operation-0".to_owned(),
    ];
    assert_eq!(double.calls(), calls);
    assert_eq!(double.state().routes.len(), 1);

    let num_asked = double.num_metadata_requests();
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.calls()[calls.len()..], [format!("GET {ROUTE}")], "equal: kept");
    assert_eq!(double.num_metadata_requests(), num_asked, "place and token are known");
}

#[tokio::test]
async fn route_to_another_instance_is_replaced_and_one_of_another_network_is_not() {
    let double = GceDouble::start().await;
    let route = |network: &str, hop: &str| {
        let network = format!("{API}/projects/lab-project/global/networks/{network}");
        json!({
            "name": "flannel-10-40-7-0-24", "destRange": "10.40.7.0/24", "network": network,
            "nextHopInstance": hop,
        })
    };
    let name = "flannel-10-40-7-0-24".to_owned();
    double.state().routes.insert(name.clone(), route("other", &instance("nodeb")));
    let mut gce = gce(&double, &[]);
    let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to another network") && error.contains("/other"), "{error}");

    double.state().routes.insert(name.clone(), route("default", &instance("nodeb")));
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    assert!(double.calls().contains(&format!("DELETE {ROUTE}")));
    assert_eq!(double.state().routes[&name]["nextHopInstance"], instance("nodea"));
    // The same resource by the API's other host.
    let other_host = instance("nodea").replace("www.googleapis.com", "compute.googleapis.com");
    double.state().routes.insert(name, route("default", &other_host));
    let num_calls = double.calls().len();
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.calls().len(), num_calls + 1);
}

#[tokio::test]
async fn refusals_name_call_permission_and_reason() {
    let double = GceDouble::start().await;
    let mut gce = gce(&double, &[]);
    let forbidden = || refuse(403, "Required 'compute.routes.create'\npermission", "forbidden");
    let post = "POST projects/lab-project/global/routes";
    double.state().answers.push((post, forbidden()));
    let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
    let line = "compute API, POST projects/lab-project/global/routes: 403 Forbidden: Required \
                'compute.routes.create' permission; grant the service account \
                compute.routes.create, compute.networks.updatePolicy and compute.instances.use, \
                and give the instance the access scope compute-rw";
    assert_eq!(error, line);

    let full = json!({ "code": "QUOTA_EXCEEDED", "message": "Quota 'ROUTES' exceeded." });
    double.state().fails_with = Some(full);
    let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
    let line = "compute API, insert operation operation-0: QUOTA_EXCEEDED: Quota 'ROUTES' \
                exceeded; raise the project's quota of routes, or remove routes";
    assert_eq!(error, line);

    for (reason, advice) in [
        ("quotaExceeded", "; raise the project's quota of routes, or remove routes"),
        ("accessNotConfigured", "; enable the Compute Engine API for the project"),
    ] {
        double.state().answers.push((post, refuse(403, "No", reason)));
        let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
        assert!(error.ends_with(advice), "{error}");
    }

    // Not JSON, and not the JSON of a route.
    for body in ["<html>busy</html>", "[]", "{}"] {
        double
            .state()
            .answers
            .push(("GET projects/lab-project/global/routes", Reply::text("200 OK", body)));
        let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
        assert!(error.contains("global/routes/flannel-10-40-7-0-24 is no such JSON"), "{error}");
    }
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None), "nothing of it lasts");
}

#[tokio::test]
async fn operation_that_never_ends_is_given_up() {
    let double = GceDouble::start().await;
    double.state().is_stuck = true;
    let error = gce(&double, &[]).ensure_route(wanted()).await.unwrap_err().to_string();
    assert_eq!(error, "compute API, insert operation operation-0: not done within 100ms");
    let polls = double.calls().into_iter().filter(|call| call.contains("/operations/"));
    assert_eq!(polls.count(), 100);
}

#[tokio::test]
async fn network_or_instance_that_the_project_does_not_have_is_named() {
    let double = GceDouble::start().await;
    let absent = || refuse(404, "The resource was not found", "notFound");
    for (call, start) in [
        (
            "GET projects/lab-project/global/networks",
            "compute API: network default does not exist in project lab-project; ",
        ),
        (
            "GET projects/lab-project/zones",
            "compute API: instance nodea, as the metadata server calls this host, does not exist ",
        ),
    ] {
        double.state().answers.push((call, absent()));
        let error = gce(&double, &[]).ensure_route(wanted()).await.unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[tokio::test]
async fn busy_api_is_asked_again_and_a_revoked_token_is_replaced() {
    let double = GceDouble::start().await;
    let mut gce = gce(&double, &[]);
    let get = "GET projects/lab-project/global/routes";
    let busy = refuse(403, "Rate Limit Exceeded", "rateLimitExceeded");
    for reply in [busy, Reply::text("503 Service Unavailable", "")] {
        double.state().answers.push((get, reply));
    }
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.state().num_tokens, 1);
    // The first token is taken no more.
    double.state().num_tokens = 6;
    assert_eq!(gce.ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.state().num_tokens, 7);

    for _ in 0..8 {
        double.state().answers.push((get, refuse(503, "Backend Error", "backendError")));
    }
    let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
    assert!(error.ends_with("503 Service Unavailable: Backend Error"), "{error}");
    assert_eq!(double.state().answers.len(), 5, "three attempts");
}

#[tokio::test]
async fn instance_without_ip_forwarding_is_a_problem_that_is_named() {
    let double = GceDouble::start().await;
    double.state().can_ip_forward = Some(false);
    let problem = gce(&double, &[]).ensure_route(wanted()).await.unwrap().unwrap();
    assert!(problem.contains("create it with --can-ip-forward"), "{problem}");
    assert_eq!(double.state().routes.len(), 1, "the route is there all the same");
}

#[tokio::test]
async fn place_that_is_no_instance_is_named() {
    let double = GceDouble::start().await;
    double.state().is_foreign = true;
    let error = gce(&double, &[]).ensure_route(wanted()).await.unwrap_err().to_string();
    assert!(error.contains("is not the metadata server of Google Compute Engine"), "{error}");
    // Nobody listens there.
    let nowhere = Environment::of(&[("GCE_METADATA_HOST", "127.0.0.1:1")]);
    let error = Gce::new(&nowhere).unwrap().ensure_route(wanted()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the metadata server does not answer at http://127.0.0.1:1"),
        "{error}"
    );
    assert!(error.ends_with("the gce backend runs on instances of Google Compute Engine only"));
    let url = Environment::of(&[("GCE_METADATA_HOST", "http://127.0.0.1:1/")]);
    let error_of_url = Gce::new(&url).unwrap().ensure_route(wanted()).await.unwrap_err();
    assert_eq!(error_of_url.to_string(), error, "a URL is taken for its host");
    let wrong = Environment::of(&[("GCE_METADATA_HOST", "a b")]);
    let error = Gce::new(&wrong).unwrap_err().to_string();
    assert!(error.starts_with("GCE_METADATA_HOST: \"http://a b\" is not the URL of"), "{error}");
}

/// A key of a service account, made for this test, and its claims on the wire.
#[tokio::test]
async fn credentials_of_a_file_are_exchanged_for_a_token() {
    let double = GceDouble::start().await;
    double.state().num_tokens = 1;
    let token = r#"{"access_token":"token-1","expires_in":3600}"#;
    let endpoint = Double::start(|_| Reply::text("200 OK", token)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    let key = String::from_utf8(
        std::process::Command::new("openssl").args(["genrsa", "2048"]).output().unwrap().stdout,
    )
    .unwrap();
    let account = json!({
        "type": "service_account", "client_email": "flannel@lab-project.iam.gserviceaccount.com",
        "private_key": key, "private_key_id": "abc", "token_uri": format!("{}/token", endpoint.url),
    });
    fs::write(&file, account.to_string()).unwrap();
    let named = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
    assert_eq!(gce(&double, &named).ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.state().num_tokens, 1, "the metadata server is not asked for one");
    let asked = endpoint.requests();
    let [asked] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(asked.starts_with("POST /token grant_type=urn%3Aietf"), "{asked}");
    let claims = asked.split("%2E").nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims);
    let claims = claims.map(|text| String::from_utf8(text).unwrap()).unwrap_or_default();
    assert!(claims.contains("\"scope\":\"https://www.googleapis.com/auth/compute\""), "{asked}");

    // What `gcloud auth application-default login` writes, at its usual place.
    fs::create_dir_all(dir.path().join(".config/gcloud")).unwrap();
    let user = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r/1",
        "token_uri": format!("{}/user", endpoint.url),
    });
    let usual = dir.path().join(".config/gcloud/application_default_credentials.json");
    fs::write(usual, user.to_string()).unwrap();
    let home = [("HOME", dir.path().to_str().unwrap())];
    assert_eq!(gce(&double, &home).ensure_route(wanted()).await, Ok(None));
    assert!(endpoint.requests()[1].ends_with("refresh_token=r%2F1"), "{:?}", endpoint.requests());
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_named() {
    let double = GceDouble::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    let named = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
    let mut gce = gce(&double, &named);
    let account = json!({ "type": "service_account", "client_email": "a", "private_key": "x" });
    for (text, what) in [
        (None, "No such file"),
        (Some("{}".to_owned()), "missing field `type`"),
        (Some(r#"{"type":"external_account"}"#.to_owned()), "unknown variant `external_account`"),
        (Some(account.to_string()), "private_key: "),
    ] {
        text.into_iter().for_each(|text| fs::write(&file, text).unwrap());
        let error = gce.ensure_route(wanted()).await.unwrap_err().to_string();
        assert!(error.starts_with("credentials ") && error.contains(what), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn stocks_lines_are_logged() {
    let double = GceDouble::start().await;
    let logs = Logs::capture();
    // The second one is after a restart.
    for _ in 0..2 {
        gce(&double, &[]).ensure_route(wanted()).await.unwrap();
    }
    for line in [
        "Inserting route for subnet: 10.40.7.0/24",
        "insert operation status: PENDING waiting for completion...",
        "Exact pre-existing route found",
    ] {
        assert_eq!(logs.lines_with(line).len(), 1, "{line}");
    }
}
