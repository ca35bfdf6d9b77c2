//! [`AwsDouble`]: the metadata service, EC2 and STS of one instance, with what moto has not: a check
//! of tokens and credentials, blackholes, refusals, answers that make no sense.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use percent_encoding::percent_decode_str;

use crate::control::util::http_client::double::{Double, Reply};

/// What it holds, and how it misbehaves.
#[derive(Debug)]
pub(super) struct State {
    /// Interface and private addresses of the instance.
    pub(super) interfaces: Vec<(&'static str, Vec<&'static str>)>,
    pub(super) checks_source: bool,
    /// Destination, interface and state of each table's routes.
    pub(super) tables: BTreeMap<String, Vec<(String, String, &'static str)>>,
    /// Whether the VPC subnet has a table of its own.
    pub(super) has_own_table: bool,
    /// What calls are refused with, once each: action, status, code.
    pub(super) refusals: Vec<(&'static str, &'static str, &'static str)>,
    /// What calls are answered with instead, once each.
    pub(super) answers: Vec<(&'static str, Reply)>,
    /// The version of the metadata service: `Some(1)` has no token, `Some(2)` wants one.
    pub(super) version: Option<u32>,
    /// Whether answers with a token are lost on their way, as where the hop limit is too low.
    pub(super) loses_tokens: bool,
    /// Whether the metadata service is switched off.
    pub(super) is_disabled: bool,
    /// How many seconds the API's clock is ahead of this host's.
    pub(super) clock_ahead: i64,
    /// What the metadata service has, by path.
    pub(super) metadata: BTreeMap<&'static str, String>,
    /// The only key that is taken, if it matters.
    pub(super) key: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        let role = r#"{"Code":"Success","AccessKeyId":"ROLE","SecretAccessKey":"s","Token":"t","Expiration":"2999-01-01T00:00:00Z"}"#;
        Self {
            interfaces: vec![("eni-1", vec!["10.0.0.1"])],
            checks_source: true,
            tables: BTreeMap::from([("rtb-main".to_owned(), Vec::new())]),
            has_own_table: false,
            refusals: Vec::new(),
            answers: Vec::new(),
            version: Some(2),
            loses_tokens: false,
            is_disabled: false,
            clock_ahead: 0,
            metadata: BTreeMap::from([
                ("instance-id", "i-1".to_owned()),
                ("placement/region", "eu-test-1".to_owned()),
                ("iam/security-credentials/", "node".to_owned()),
                ("iam/security-credentials/node", role.to_owned()),
            ]),
            key: None,
        }
    }
}

/// The servers, which are one.
pub(super) struct AwsDouble {
    pub(super) server: Double,
    state: Arc<Mutex<State>>,
}

impl AwsDouble {
    pub(super) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = Double::start_with_heads(move |head, request| {
            shared.lock().unwrap().reply(&head.to_lowercase(), head, request)
        });
        Self { server: server.await, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The calls of EC2 and STS so far: the name of the action, and values of its parameters.
    pub(super) fn calls(&self) -> Vec<String> {
        let requests = self.server.requests();
        let forms = requests.iter().filter_map(|request| request.strip_prefix("POST / "));
        let call = |form: &str| {
            let values = form.split('&').filter(|pair| !pair.starts_with("Version="));
            let values: Vec<_> =
                values.filter_map(|pair| pair.split_once('=')).map(|(_, it)| decoded(it)).collect();
            values.join(" ")
        };
        forms.map(call).collect()
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl State {
    fn reply(&mut self, lower: &str, head: &str, request: &str) -> Reply {
        if self.is_disabled && request.contains(" /latest/") {
            return Reply::text("403 Forbidden", "");
        }
        if let Some(path) = request.strip_prefix("GET /latest/meta-data/") {
            if self.version == Some(2) && !lower.contains("x-aws-ec2-metadata-token: token-2") {
                return Reply::text("401 Unauthorized", "");
            }
            return match self.metadata.get(path) {
                Some(text) => Reply::text("200 OK", text),
                None => Reply::text("404 Not Found", "<html>"),
            };
        }
        if request.starts_with("PUT /latest/api/token") {
            let has_ttl = lower.contains("x-aws-ec2-metadata-token-ttl-seconds: 21600");
            return match self.version {
                Some(2) if self.loses_tokens => Reply::Silence,
                Some(2) if has_ttl => Reply::text("200 OK", "token-2"),
                _ => Reply::text("403 Forbidden", ""),
            };
        }
        let form = request.strip_prefix("POST / ").unwrap_or_default();
        let params: BTreeMap<String, String> = form
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let action = params.get("Action").cloned().unwrap_or_default();
        if let Some(at) = self.answers.iter().position(|(name, _)| *name == action) {
            return self.answers.remove(at).1;
        }
        if let Some(at) = self.refusals.iter().position(|(name, ..)| *name == action) {
            let (_, status, code) = self.refusals.remove(at);
            return refuse(status, code);
        }
        if self.key.as_ref().is_some_and(|key| !head.contains(&format!("Credential={key}/"))) {
            return refuse("401 Unauthorized", "AuthFailure");
        }
        if action.starts_with("AssumeRoleWith") {
            return self.api(&action, &params);
        }
        let now = jiff::Timestamp::now().as_second() + self.clock_ahead;
        if signed_at(lower).abs_diff(now) > 300 {
            let date = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
            let date = ("Date", httpdate::fmt_http_date(date));
            return Reply::Answer("400 Bad Request", vec![date], refusal("RequestExpired"));
        }
        if action != "AssumeRole" && !lower.contains("eu-test-1/ec2/aws4_request") {
            return refuse("401 Unauthorized", "SignatureDoesNotMatch");
        }
        self.api(&action, &params)
    }

    fn api(&mut self, action: &str, params: &BTreeMap<String, String>) -> Reply {
        let of = |name: &str| params.get(name).cloned().unwrap_or_default();
        match action {
            "DescribeInstances" if of("InstanceId.1") == "i-1" => answer(action, &self.instance()),
            "DescribeInstances" => refuse("400 Bad Request", "InvalidInstanceID.NotFound"),
            "ModifyNetworkInterfaceAttribute" => {
                self.checks_source = false;
                answer(action, "<return>true</return>")
            }
            "DescribeRouteTables" => self.route_tables(&of("RouteTableId.1"), &of("Filter.1.Name")),
            "CreateRoute" | "ReplaceRoute" | "DeleteRoute" => {
                let (table, dst) = (of("RouteTableId"), of("DestinationCidrBlock"));
                self.change(action, &table, dst, of("NetworkInterfaceId"))
            }
            "AssumeRole" | "AssumeRoleWithWebIdentity" => {
                let keys = "<AccessKeyId>STS</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                            <SessionToken>t</SessionToken>\
                            <Expiration>2999-01-01T00:00:00Z</Expiration>";
                let result =
                    format!("<{action}Result><Credentials>{keys}</Credentials></{action}Result>");
                answer(action, &result)
            }
            _ => refuse("400 Bad Request", "InvalidAction"),
        }
    }

    fn instance(&self) -> String {
        let interfaces = self.interfaces.iter().map(|(id, addrs)| {
            let private = addrs.iter().map(|it| {
                format!(
                    "<item><privateIpAddress>{it}</privateIpAddress><primary>x</primary></item>"
                )
            });
            let private: String = private.collect();
            format!(
                "<item><networkInterfaceId>{id}</networkInterfaceId><subnetId>subnet-1</subnetId>\
                 <vpcId>vpc-1</vpcId><sourceDestCheck>{}</sourceDestCheck>\
                 <privateIpAddress>{}</privateIpAddress>\
                 <privateIpAddressesSet>{private}</privateIpAddressesSet></item>",
                self.checks_source, addrs[0]
            )
        });
        let interfaces: String = interfaces.collect();
        format!(
            "<requestId>r</requestId><reservationSet><item><groupSet/><instancesSet><item>\
             <instanceId>i-1</instanceId><networkInterfaceSet>{interfaces}</networkInterfaceSet>\
             </item></instancesSet></item></reservationSet>"
        )
    }

    fn route_tables(&self, id: &str, filter: &str) -> Reply {
        let wanted: Vec<_> = match (id, filter) {
            ("", "association.subnet-id") if !self.has_own_table => Vec::new(),
            ("", _) => self.tables.iter().collect(),
            (id, _) => match self.tables.get_key_value(id) {
                Some(found) => vec![found],
                None => return refuse("400 Bad Request", "InvalidRouteTableID.NotFound"),
            },
        };
        let table = |(id, routes): (&String, &Vec<(String, String, &str)>)| {
            let route = |(dst, interface, state): &(String, String, &str)| {
                let origin = if interface == "local" { "CreateRouteTable" } else { "CreateRoute" };
                format!(
                    "<item><destinationCidrBlock>{dst}</destinationCidrBlock>\
                     <networkInterfaceId>{interface}</networkInterfaceId><state>{state}</state>\
                     <origin>{origin}</origin></item>"
                )
            };
            let routes: String = routes.iter().map(route).collect();
            // An IPv6 route, as every table of a dual-stack VPC has one.
            let v6 = "<item><destinationIpv6CidrBlock>::/0</destinationIpv6CidrBlock>\
                      <state>blackhole</state><origin>CreateRoute</origin></item>";
            format!(
                "<item><routeTableId>{id}</routeTableId><routeSet>{v6}{routes}</routeSet></item>"
            )
        };
        let tables: String = wanted.into_iter().map(table).collect();
        answer("DescribeRouteTables", &format!("<routeTableSet>{tables}</routeTableSet>"))
    }

    fn change(&mut self, action: &str, table: &str, dst: String, interface: String) -> Reply {
        let Some(routes) = self.tables.get_mut(table) else {
            return refuse("400 Bad Request", "InvalidRouteTableID.NotFound");
        };
        let at = routes.iter().position(|route| route.0 == dst);
        match (action, at) {
            ("CreateRoute", None) => routes.push((dst, interface, "active")),
            ("CreateRoute", Some(_)) => return refuse("400 Bad Request", "RouteAlreadyExists"),
            ("ReplaceRoute", Some(at)) => routes[at] = (dst, interface, "active"),
            ("ReplaceRoute", None) => return refuse("400 Bad Request", "InvalidParameterValue"),
            (_, Some(at)) => drop(routes.remove(at)),
            (_, None) => return refuse("400 Bad Request", "InvalidRoute.NotFound"),
        }
        answer(action, "<return>true</return>")
    }
}

fn answer(action: &str, body: &str) -> Reply {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
         xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{body}</{action}Response>"
    );
    Reply::text("200 OK", &text)
}

/// The time of a signature, in seconds.
fn signed_at(head: &str) -> i64 {
    let line = head.lines().find_map(|line| line.strip_prefix("x-amz-date: ")).unwrap();
    let time = format!("{} +0000", line.trim().to_uppercase());
    jiff::Timestamp::strptime("%Y%m%dT%H%M%SZ %z", time).unwrap().as_second()
}

fn refuse(status: &'static str, code: &str) -> Reply {
    Reply::text(status, &refusal(code))
}

fn refusal(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>No, not \
         this.\nEncoded authorization failure message: abcdef</Message></Error></Errors>\
         <RequestID>r</RequestID></Response>"
    )
}
