//! Where credentials come from, and in which order.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::environment;
use crate::control::backend::aws_vpc::credentials::Chain;
use crate::control::backend::aws_vpc::double::AwsDouble;
use crate::control::backend::aws_vpc::metadata::Metadata;
use crate::control::backend::aws_vpc::region::{self, Region};
use crate::control::backend::cloud_route::Cloud;
use crate::control::util::http_client::double::{Double, Reply};

/// A home directory with the shared files.
struct Home(TempDir);

impl Home {
    fn new(config: &str, credentials: &str) -> Self {
        let home = Self(TempDir::new().unwrap());
        fs::create_dir(home.path(".aws")).unwrap();
        fs::write(home.path(".aws/config"), config).unwrap();
        fs::write(home.path(".aws/credentials"), credentials).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The key that the chain finds, or its error.
async fn key(double: &AwsDouble, variables: &[(&str, &str)]) -> String {
    let region = Region { name: "eu-test-1".to_owned(), source: "a test" };
    let mut chain = Chain::new(&environment(double, variables), region).unwrap();
    match chain.get().await {
        Ok(found) => found.access_key_id().to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn first_place_that_has_credentials_wins() {
    let double = AwsDouble::start().await;
    let service = Double::start(|_| {
        Reply::text("200 OK", r#"{"AccessKeyId":"BOX","SecretAccessKey":"s","Token":"t"}"#)
    });
    let service = format!("{}/creds", service.await.url);
    let home = Home::new("", "[default]\naws_access_key_id = FILE\naws_secret_access_key = s\n");
    let token = home.path("token");
    fs::write(&token, "jwt\n").unwrap();
    let (directory, token) = (home.path(""), token);
    let mut variables = vec![
        ("AWS_ACCESS_KEY_ID", "ENV"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("HOME", directory.to_str().unwrap()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/node"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.as_str()),
    ];
    for (expected, num_gone) in [("ENV", 2), ("FILE", 1), ("STS", 2)] {
        assert_eq!(key(&double, &variables).await, expected);
        variables.drain(..num_gone);
    }
    // The double of the service is gone by now.
    let error = key(&double, &variables).await;
    assert!(error.starts_with("the container's credential service does not answer"), "{error}");
    assert_eq!(key(&double, &[]).await, "ROLE");
    let assumed = "AssumeRoleWithWebIdentity arn:aws:iam::1:role/node flanneld jwt";
    assert_eq!(double.calls(), [assumed]);
}

#[tokio::test]
async fn container_shows_its_token_and_what_it_answers_is_read() {
    let double = AwsDouble::start().await;
    let service = Double::start_with_heads(|head, request| {
        match (
            head.contains("authorization: secret\r") || head.ends_with("authorization: secret"),
            request,
        ) {
            (true, "GET /v1/x?a=b") => {
                Reply::text("200 OK", r#"{"AccessKeyId":"BOX","SecretAccessKey":"s","Token":"t"}"#)
            }
            _ => Reply::text("403 Forbidden", ""),
        }
    });
    let service = service.await;
    let url = format!("{}/v1/x?a=b", service.url);
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret");
    assert_eq!(key(&double, &[full, token]).await, "BOX");
    let error = key(&double, &[full]).await;
    assert_eq!(error, format!("{url} gives no credentials: 403 Forbidden"));
    let far = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/");
    let error = key(&double, &[far, token]).await;
    assert!(error.contains("http://192.0.2.1/ is neither https nor an address of"), "{error}");
}

#[tokio::test]
async fn profiles_assume_roles_with_each_others_keys() {
    let double = AwsDouble::start().await;
    let config = "[default]\nregion = eu-north-1\n[profile node]\n# comment\nrole_arn = arn:node\n\
                  source_profile = hop\n[profile hop]\nrole_arn=arn:hop\nsource_profile=base\n\
                  external_id = x y\n[profile own]\nrole_arn = arn:own\nsource_profile = own\n\
                  aws_access_key_id = OWN\naws_secret_access_key = s\n[profile role]\n\
                  role_arn = arn:role\ncredential_source = Ec2InstanceMetadata\n[profile sso]\n\
                  sso_session = corp\n[profile loop]\nrole_arn=a\nsource_profile=pool\n\
                  [profile pool]\nrole_arn=b\nsource_profile=loop\n[profile odd]\nrole_arn=a\n\
                  [profile s3]\ns3 =\n  aws_access_key_id = NESTED\n";
    let home = Home::new(config, "[base]\naws_access_key_id=BASE\naws_secret_access_key=s ; x\n");
    let directory = home.path("");
    let home = ("HOME", directory.to_str().unwrap());
    for profile in ["node", "own", "role"] {
        assert_eq!(key(&double, &[home, ("AWS_PROFILE", profile)]).await, "STS", "{profile}");
    }
    let calls = [
        "AssumeRole arn:hop flanneld x y",
        "AssumeRole arn:node flanneld",
        "AssumeRole arn:own flanneld",
        "AssumeRole arn:role flanneld",
    ];
    assert_eq!(double.calls(), calls);
    assert_eq!(key(&double, &[home, ("AWS_PROFILE", "base")]).await, "BASE");
    assert_eq!(key(&double, &[home]).await, "ROLE", "the default profile has no keys");
    for (profile, error) in [
        ("sso", "profile sso: this flanneld does not read sso_session"),
        ("loop", "source_profile leads round in a circle"),
        ("odd", "profile odd: role_arn needs source_profile or credential_source"),
        ("none", "profile none: the shared files have no credentials for it"),
        ("s3", "profile s3: the shared files have no credentials for it"),
    ] {
        let found = key(&double, &[home, ("AWS_PROFILE", profile)]).await;
        assert!(found.contains(error), "{found}");
    }
    let missing = ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials");
    let error = key(&double, &[home, missing]).await;
    assert!(error.starts_with("AWS_SHARED_CREDENTIALS_FILE /nowhere/credentials: "), "{error}");

    let environment = environment(&double, &[home]);
    let mut metadata = Metadata::new(&environment).unwrap();
    let found = region::find(&environment, &mut metadata).await.unwrap();
    assert_eq!((found.name.as_str(), found.source), ("eu-north-1", "the profile"));
}

#[tokio::test]
async fn instance_without_a_role_and_half_a_pair_of_keys_are_named() {
    let double = AwsDouble::start().await;
    let error = key(&double, &[("AWS_ACCESS_KEY_ID", "A")]).await;
    assert!(error.ends_with("only one of them is set"), "{error}");
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token");
    assert!(key(&double, &[file]).await.ends_with("AWS_ROLE_ARN is not"));
    let error = key(&double, &[file, ("AWS_ROLE_ARN", "a")]).await;
    assert!(error.starts_with("web identity token /nowhere/token: "), "{error}");

    let path = "iam/security-credentials/node";
    double.state().metadata.insert(path, r#"{"Code":"AssumeRoleUnauthorizedAccess"}"#.to_owned());
    let error = key(&double, &[]).await;
    assert_eq!(error, "credentials of the instance's role node: AssumeRoleUnauthorizedAccess");
    double.state().metadata.insert("iam/security-credentials/", String::new());
    assert!(key(&double, &[]).await.contains("the instance has no IAM role; attach one"));
    double.state().metadata.remove("iam/security-credentials/");
    assert!(key(&double, &[]).await.contains("the instance has no IAM role; attach one"));
}

#[tokio::test]
async fn credentials_are_kept_until_shortly_before_their_end() {
    let double = AwsDouble::start().await;
    let role = |key: &str, minutes: i64| {
        let end = jiff::Timestamp::now().as_second() + minutes * 60;
        let end = jiff::Timestamp::from_second(end).unwrap();
        format!(
            r#"{{"AccessKeyId":"{key}","SecretAccessKey":"s","Token":"t","Expiration":"{end}"}}"#
        )
    };
    let path = "iam/security-credentials/node";
    double.state().metadata.insert(path, role("OLD", 60));
    let region = Region { name: "eu-test-1".to_owned(), source: "a test" };
    let mut chain = Chain::new(&environment(&double, &[]), region).unwrap();
    assert_eq!(chain.get().await.unwrap().access_key_id(), "OLD");
    double.state().metadata.insert(path, role("SHORT", 3));
    assert_eq!(chain.get().await.unwrap().access_key_id(), "OLD", "good for long");
    chain.forget();
    assert_eq!(chain.get().await.unwrap().access_key_id(), "SHORT");
    // They end soon, but there are no others.
    double.state().metadata.remove(path);
    assert_eq!(chain.get().await.unwrap().access_key_id(), "SHORT");
    double.state().metadata.insert(path, role("NEW", 60));
    assert_eq!(chain.get().await.unwrap().access_key_id(), "NEW");
}

#[tokio::test]
async fn credentials_that_the_api_takes_no_more_are_replaced() {
    let double = AwsDouble::start().await;
    let mut aws = super::aws(&double, &["rtb-main"]);
    assert_eq!(aws.ensure_route(super::wanted()).await, Ok(None));
    let path = "iam/security-credentials/node";
    let next = double.state().metadata[path].replace("ROLE", "NEXT");
    double.state().metadata.insert(path, next);
    double.state().key = Some("NEXT".to_owned());
    assert_eq!(aws.ensure_route(super::wanted()).await, Ok(None));
    double.state().key = Some("OTHER".to_owned());
    let error = super::error_of(&mut aws).await;
    assert!(error.contains("AuthFailure") && error.contains("the clock of this host"), "{error}");
}
