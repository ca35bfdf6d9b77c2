mod credentials;
mod moto;
mod refusals;

use super::double::AwsDouble;
use super::*;
use crate::control::util::http_client::double::Reply;
use crate::control::util::test_log::Logs;

fn wanted() -> Wanted {
    Wanted {
        subnet: "10.1.40.0/24".parse().unwrap(),
        network: "10.1.0.0/16".parse().unwrap(),
        addr: "10.0.0.1".parse().unwrap(),
    }
}

/// The variables that lead to the double, and more.
fn environment(double: &AwsDouble, more: &[(&str, &str)]) -> Environment {
    let url = double.server.url.as_str();
    let mut variables = vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", url), ("AWS_ENDPOINT_URL", url)];
    variables.extend(more);
    Environment::of(&variables)
}

fn aws(double: &AwsDouble, tables: &[&str]) -> AwsVpc {
    let route_tables = tables.iter().map(|table| (*table).to_owned()).collect();
    AwsVpc::new(AwsVpcConfig { route_tables }, environment(double, &[])).unwrap()
}

async fn error_of(aws: &mut AwsVpc) -> String {
    let error = aws.ensure_route(wanted()).await.unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

const DESCRIBE: &str = "DescribeInstances i-1";

#[tokio::test]
async fn route_is_created_with_stocks_lines_then_kept() {
    let double = AwsDouble::start().await;
    let logs = Logs::capture();
    let mut aws = aws(&double, &[]);
    assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
    let calls = [
        DESCRIBE,
        "ModifyNetworkInterfaceAttribute eni-1 false",
        "DescribeRouteTables association.subnet-id subnet-1",
        "DescribeRouteTables association.main true vpc-id vpc-1",
        "DescribeRouteTables rtb-main",
        "CreateRoute rtb-main 10.1.40.0/24 eni-1",
    ];
    assert_eq!(double.calls(), calls);
    for line in [
        "Found eni-1 that has 10.0.0.1 IP address.",
        "Route table configured: false",
        "Found route table rtb-main.",
        "Route added to table rtb-main: 10.1.40.0/24 - eni-1.",
    ] {
        assert_eq!(logs.lines_with(line).len(), 1, "{line}");
    }

    // Equal, with a table of its own this time: nothing is written, and nothing more is logged.
    double.state().has_own_table = true;
    assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
    let kept = [
        DESCRIBE,
        "DescribeRouteTables association.subnet-id subnet-1",
        "DescribeRouteTables rtb-main",
    ];
    assert_eq!(double.calls()[calls.len()..], kept);
    assert_eq!(logs.lines_with("INFO").len(), 4);
}

#[tokio::test]
async fn route_that_differs_is_replaced_and_blackholes_of_the_overlay_are_removed() {
    let double = AwsDouble::start().await;
    let route = |dst: &str, interface: &str, state| (dst.to_owned(), interface.to_owned(), state);
    let others = [
        route("10.0.0.0/16", "local", "active"),
        route("10.1.0.0/16", "eni-9", "blackhole"),
        route("10.2.7.0/24", "eni-9", "blackhole"),
        route("10.1.8.0/24", "eni-8", "active"),
    ];
    let mut routes = others.to_vec();
    routes.push(route("10.1.9.0/24", "eni-9", "blackhole"));
    routes.push(route("10.1.40.0/24", "eni-7", "blackhole"));
    for table in ["rtb-a", "rtb-b"] {
        double.state().tables.insert(table.to_owned(), routes.clone());
    }
    assert_eq!(aws(&double, &["rtb-a", "rtb-b"]).ensure_route(wanted()).await, Ok(None));
    for table in ["rtb-a", "rtb-b"] {
        let mut expected = others.to_vec();
        expected.push(route("10.1.40.0/24", "eni-1", "active"));
        assert_eq!(double.state().tables[table], expected);
    }
    let written: Vec<String> = double.calls().split_off(2);
    let written: Vec<_> = written.iter().filter(|call| !call.starts_with("Describe")).collect();
    let of = |table: &str| {
        let deleted = format!("DeleteRoute {table} 10.1.9.0/24");
        [deleted, format!("ReplaceRoute {table} 10.1.40.0/24 eni-1")]
    };
    assert_eq!(written, [of("rtb-a"), of("rtb-b")].as_flattened().iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn another_nodes_call_between_ours_is_no_error() {
    let double = AwsDouble::start().await;
    let gone = ("10.1.9.0/24".to_owned(), "eni-9".to_owned(), "blackhole");
    let stale = ("10.1.40.0/24".to_owned(), "eni-9".to_owned(), "active");
    double.state().tables.insert("rtb-main".to_owned(), vec![gone, stale]);
    double.state().refusals.extend([
        ("DeleteRoute", "400 Bad Request", "InvalidRoute.NotFound"),
        ("ReplaceRoute", "400 Bad Request", "InvalidParameterValue"),
        ("CreateRoute", "400 Bad Request", "RouteAlreadyExists"),
    ]);
    let mut aws = aws(&double, &["rtb-main"]);
    let error = error_of(&mut aws).await;
    assert!(
        error.starts_with("EC2 CreateRoute (rtb-main, eu-test-1): RouteAlreadyExists"),
        "{error}"
    );
    // The route was gone when it was to be replaced; created meanwhile when it was to be created.
    double.state().refusals.push(("CreateRoute", "400 Bad Request", "RouteAlreadyExists"));
    double.state().tables.get_mut("rtb-main").unwrap().clear();
    double.state().answers.clear();
    let again = error_of(&mut aws).await;
    assert!(again.starts_with("EC2 ReplaceRoute (rtb-main, eu-test-1)"), "{again}");
    assert_eq!(aws.ensure_route(wanted()).await, Ok(None));
}

#[tokio::test]
async fn refused_source_check_is_a_warning_and_the_route_is_made() {
    let double = AwsDouble::start().await;
    let action = "ModifyNetworkInterfaceAttribute";
    double.state().refusals.push((action, "403 Forbidden", "UnauthorizedOperation"));
    let mut aws = aws(&double, &[]);
    let problem = aws.ensure_route(wanted()).await.unwrap().unwrap();
    let line = "failed to disable SourceDestCheck on eni-1: EC2 ModifyNetworkInterfaceAttribute \
                (eni-1, eu-test-1): UnauthorizedOperation: No, not this; allow the IAM action \
                ec2:ModifyNetworkInterfaceAttribute";
    assert_eq!(problem, line);
    assert_eq!(double.state().tables["rtb-main"].len(), 1);
    assert_eq!(aws.ensure_route(wanted()).await, Ok(None), "tried again");
}

#[tokio::test]
async fn errors_name_the_call_the_table_and_what_to_do() {
    let double = AwsDouble::start().await;
    let mut one = aws(&double, &["rtb-none", "rtb-main"]);
    let error = error_of(&mut one).await;
    let line = "EC2 DescribeRouteTables (rtb-none, eu-test-1): InvalidRouteTableID.NotFound: No, \
                not this; correct Backend.RouteTableID in the network config";
    assert_eq!(error, line);
    assert_eq!(double.state().tables["rtb-main"].len(), 1, "the other table is served");

    double.state().tables.get_mut("rtb-main").unwrap().clear();
    for (action, code, what) in [
        (
            "DescribeInstances",
            "UnauthorizedOperation",
            "allow the IAM action ec2:DescribeInstances",
        ),
        ("CreateRoute", "RouteLimitExceeded", "raise the quota of routes per route table"),
        ("DescribeRouteTables", "UnauthorizedOperation", "ec2:DescribeRouteTables"),
    ] {
        double.state().refusals.push((action, "403 Forbidden", code));
        let error = error_of(&mut aws(&double, &["rtb-main"])).await;
        assert!(error.starts_with(&format!("EC2 {action} (")) && error.contains(what), "{error}");
    }
    double.state().metadata.insert("instance-id", "i-2".to_owned());
    let error = error_of(&mut aws(&double, &[])).await;
    assert!(
        error.ends_with("is the instance in eu-test-1, as the metadata server says?"),
        "{error}"
    );
    double.state().metadata.insert("instance-id", "i-1".to_owned());
    double.state().tables.clear();
    let error = error_of(&mut aws(&double, &[])).await;
    assert!(error.starts_with("neither subnet subnet-1 nor vpc-1 has a route table"), "{error}");
    double.state().interfaces =
        vec![("eni-4", vec!["10.0.0.8", "10.0.0.9"]), ("eni-5", vec!["10.0.1.9"])];
    let error = error_of(&mut aws(&double, &[])).await;
    let line = "no network interface of instance i-1 has the address 10.0.0.1 (eni-4 has 10.0.0.8 \
                and 10.0.0.9, eni-5 has 10.0.1.9): choose another interface with --iface";
    assert_eq!(error, line);
}

#[tokio::test]
async fn interface_is_the_one_with_our_address_also_a_secondary_one() {
    let double = AwsDouble::start().await;
    double.state().interfaces =
        vec![("eni-4", vec!["10.0.0.8"]), ("eni-5", vec!["10.0.1.9", "10.0.0.1"])];
    assert_eq!(aws(&double, &["rtb-main"]).ensure_route(wanted()).await, Ok(None));
    assert_eq!(double.state().tables["rtb-main"][0].1, "eni-5");
}

#[tokio::test]
async fn throttled_and_broken_calls_are_made_again() {
    let double = AwsDouble::start().await;
    double.state().refusals.extend([
        ("DescribeInstances", "503 Service Unavailable", "RequestLimitExceeded"),
        ("CreateRoute", "500 Internal Server Error", "InternalError"),
    ]);
    double.state().answers.push(("CreateRoute", Reply::text("502 Bad Gateway", "<html>")));
    assert_eq!(aws(&double, &["rtb-main"]).ensure_route(wanted()).await, Ok(None));
    for _ in 0..3 {
        let refusal = ("DescribeInstances", "500 Internal Server Error", "InternalError");
        double.state().refusals.push(refusal);
    }
    let error = error_of(&mut aws(&double, &["rtb-main"])).await;
    assert!(error.contains("EC2 DescribeInstances (i-1, eu-test-1): InternalError"), "{error}");
    assert!(double.state().refusals.is_empty(), "three attempts");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors_of_one_line() {
    let double = AwsDouble::start().await;
    let deep = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
    let lol = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>";
    for body in
        ["", "no XML", "<a", "<DescribeInstancesResponse/>", "{\"a\":1}", deep.as_str(), lol, "\0"]
    {
        double.state().answers.push(("DescribeInstances", Reply::text("200 OK", body)));
        let error = error_of(&mut aws(&double, &[])).await;
        assert!(error.starts_with("EC2 DescribeInstances (i-1, eu-test-1): "), "{error}");
        assert!(error.len() < 400, "{error}");
    }
    double.state().answers.push(("DescribeInstances", Reply::text("400 Bad Request", "no XML")));
    let error = error_of(&mut aws(&double, &[])).await;
    assert_eq!(error, "EC2 DescribeInstances (i-1, eu-test-1): 400 Bad Request");
    let long = Reply::text("200 OK", &"x".repeat(5 << 20));
    for _ in 0..3 {
        double.state().answers.push(("DescribeInstances", long.clone()));
    }
    let error = error_of(&mut aws(&double, &[])).await;
    assert!(error.contains("answers with more than 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn version_1_of_the_metadata_service_is_used_where_there_is_no_token() {
    let double = AwsDouble::start().await;
    double.state().version = Some(1);
    // An older service knows only the zone.
    double.state().metadata.remove("placement/region");
    double.state().metadata.insert("placement/availability-zone", "eu-test-1b".to_owned());
    assert_eq!(aws(&double, &[]).ensure_route(wanted()).await, Ok(None));
    // Version 1 is switched off while we run.
    let mut metadata = Metadata::new(&environment(&double, &[])).unwrap();
    metadata.instance_id().await.unwrap();
    double.state().version = Some(2);
    assert_eq!(metadata.instance_id().await.unwrap(), "i-1");

    double.state().metadata.insert("instance-id", "<html>\n".repeat(99));
    let error = metadata.instance_id().await.unwrap_err().to_string();
    assert!(error.starts_with("the metadata server says for meta-data/instance-id: \"<html>\\n"));
    assert!(error.len() < 200, "{error}");
}

#[tokio::test]
async fn place_that_is_no_instance_is_named() {
    let nowhere = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    let mut aws = AwsVpc::new(AwsVpcConfig::default(), Environment::of(&nowhere)).unwrap();
    let error = error_of(&mut aws).await;
    assert!(
        error.starts_with("the metadata server does not answer at http://127.0.0.1:1"),
        "{error}"
    );
    assert!(error.ends_with("the aws-vpc backend runs on EC2 instances only"), "{error}");
    let off = Environment::of(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let error = error_of(&mut AwsVpc::new(AwsVpcConfig::default(), off).unwrap()).await;
    assert!(error.starts_with("AWS_EC2_METADATA_DISABLED is true"), "{error}");
    let double = AwsDouble::start().await;
    let wrong = environment(&double, &[("AWS_REGION", "eu west")]);
    let error = error_of(&mut AwsVpc::new(AwsVpcConfig::default(), wrong).unwrap()).await;
    assert_eq!(error, "AWS_REGION says that the region is \"eu west\", which is no region");
}

#[test]
fn variables_that_make_no_sense_are_named_at_the_start() {
    for (variable, value) in [
        ("AWS_ENDPOINT_URL_EC2", "10.0.0.1:5000"),
        ("AWS_ENDPOINT_URL_STS", "ftp://10.0.0.1"),
        ("AWS_ENDPOINT_URL", "https://"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "169.254.169.254"),
    ] {
        let environment = Environment::of(&[(variable, value)]);
        let error = AwsVpc::new(AwsVpcConfig::default(), environment).unwrap_err().to_string();
        assert!(error.starts_with(variable) && error.contains(value), "{error}");
    }
}
