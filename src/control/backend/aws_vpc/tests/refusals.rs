//! A VPC, an account or a host in which something is missing: what is said, and what is done all the
//! same.

use super::*;

const DENIED: (&str, &str) = ("403 Forbidden", "UnauthorizedOperation");

fn deny(double: &AwsDouble, action: &'static str) {
    let (status, code) = DENIED;
    double.state().refusals.push((action, status, code));
}

fn route(dst: &str, interface: &str, state: &'static str) -> (String, String, &'static str) {
    (dst.to_owned(), interface.to_owned(), state)
}

#[tokio::test]
async fn each_missing_permission_names_call_table_and_action() {
    let double = AwsDouble::start().await;
    let elsewhere = vec![route("10.1.40.0/24", "eni-9", "active")];
    for (action, about, routes) in [
        ("DescribeInstances", "i-1", Vec::new()),
        ("DescribeRouteTables", "rtb-main", Vec::new()),
        ("CreateRoute", "rtb-main", Vec::new()),
        ("ReplaceRoute", "rtb-main", elsewhere),
    ] {
        double.state().tables.insert("rtb-main".to_owned(), routes);
        deny(&double, action);
        // Without the right to delete there is no other way to move a route.
        deny(&double, "DeleteRoute");
        let error = error_of(&mut aws(&double, &["rtb-main"])).await;
        let line = format!(
            "EC2 {action} ({about}, eu-test-1): UnauthorizedOperation: No, not this; allow the IAM \
             action ec2:{action}"
        );
        assert_eq!(error, line);
        double.state().refusals.clear();
    }
}

#[tokio::test]
async fn policy_of_stock_without_replace_route_is_enough() {
    let double = AwsDouble::start().await;
    let logs = Logs::capture();
    let elsewhere = route("10.1.40.0/24", "eni-9", "blackhole");
    double.state().tables.insert("rtb-main".to_owned(), vec![elsewhere]);
    deny(&double, "ReplaceRoute");
    assert_eq!(aws(&double, &["rtb-main"]).ensure_route(wanted()).await, Ok(None));
    let written = double.calls().split_off(4);
    let calls = ["DeleteRoute rtb-main 10.1.40.0/24", "CreateRoute rtb-main 10.1.40.0/24 eni-1"];
    assert_eq!(written, calls);
    let line = "allow the IAM action ec2:ReplaceRoute; until then the route is deleted and created";
    assert_eq!(logs.lines_with(line).len(), 1);
}

#[tokio::test]
async fn blackholes_that_may_not_be_removed_are_one_warning() {
    let double = AwsDouble::start().await;
    let logs = Logs::capture();
    let left = ["10.1.8.0/24", "10.1.9.0/24"].map(|dst| route(dst, "eni-9", "blackhole"));
    double.state().tables.insert("rtb-main".to_owned(), left.to_vec());
    for _ in left {
        deny(&double, "DeleteRoute");
    }
    assert_eq!(aws(&double, &["rtb-main"]).ensure_route(wanted()).await, Ok(None));
    let warned = logs.lines_with("Error cleaning up blackhole routes: EC2 DeleteRoute (rtb-main");
    assert_eq!(warned.len(), 1);
    let end = "allow the IAM action ec2:DeleteRoute (left: 10.1.8.0/24, 10.1.9.0/24)";
    assert!(warned[0].ends_with(end), "{warned:?}");
}

#[tokio::test]
async fn full_table_fails_and_the_others_are_served() {
    let double = AwsDouble::start().await;
    double.state().tables.insert("rtb-a".to_owned(), Vec::new());
    double.state().tables.insert("rtb-b".to_owned(), Vec::new());
    double.state().refusals.push(("CreateRoute", "400 Bad Request", "RouteLimitExceeded"));
    let error = error_of(&mut aws(&double, &["rtb-a", "rtb-b"])).await;
    let line = "EC2 CreateRoute (rtb-a, eu-test-1): RouteLimitExceeded: No, not this; raise the \
                quota of routes per route table, or remove routes";
    assert_eq!(error, line);
    assert_eq!(double.state().tables["rtb-b"].len(), 1);
}

#[tokio::test]
async fn clock_that_is_wrong_is_a_warning_and_the_calls_are_made() {
    for (ahead, words) in [(3630, "behind that of EC2"), (-630, "ahead of that of EC2")] {
        let double = AwsDouble::start().await;
        let logs = Logs::capture();
        double.state().clock_ahead = ahead;
        let mut aws = aws(&double, &["rtb-main"]);
        assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
        assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
        let warned = logs.lines_with("the clock of this host is ");
        assert!(warned.len() == 1 && warned[0].contains(words), "{warned:?}");
        // It is set.
        double.state().clock_ahead = 0;
        assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
        assert_eq!(logs.lines_with("agrees with that of EC2 again").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn token_that_is_lost_on_its_way_leads_to_version_1_or_to_the_hop_limit() {
    let double = AwsDouble::start().await;
    double.state().loses_tokens = true;
    let error = error_of(&mut aws(&double, &[])).await;
    let end = ": it requires IMDSv2, but gave no token (";
    assert!(error.contains("/latest/meta-data/placement/region") && error.contains(end), "{error}");
    assert!(error.ends_with("in a container the instance needs --http-put-response-hop-limit 2"));
    // Version 1 is allowed.
    double.state().version = Some(1);
    assert_eq!(aws(&double, &[]).ensure_route(wanted()).await, Ok(None));
    double.state().is_disabled = true;
    let error = error_of(&mut aws(&double, &[])).await;
    assert!(error.ends_with("it needs --http-endpoint enabled"), "{error}");
}

#[tokio::test]
async fn region_that_has_no_servers_is_named_with_its_source() {
    let double = AwsDouble::start().await;
    let url = double.server.url.clone();
    let metadata = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str());
    let variables = [
        metadata,
        ("AWS_REGION", "mars-1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1"),
    ];
    let environment = Environment::of(&variables);
    let mut aws = AwsVpc::new(AwsVpcConfig::default(), environment).unwrap();
    let error = error_of(&mut aws).await;
    assert!(
        error.starts_with("EC2 DescribeInstances (i-1, mars-1): EC2 does not answer"),
        "{error}"
    );
    assert!(error.ends_with("; is the region mars-1, as AWS_REGION says?"), "{error}");
}
