//! `flanneld status`: what the daemon does, what is wrong, and its peers.

use clap::Args;

use super::peer_table::{PAUSE, PeerTable};
use crate::control::cli::client::{Client, ToolError};
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{WIDTH, print, print_json, units, wrap};
use crate::control::cli::tools::{AskArgs, Exit};
use crate::control::observe::api::{FastPath, FastPathHook, Status, Underlay, paths};

/// Flags of `flanneld status`.
#[derive(Debug, Args)]
pub(in crate::control::cli) struct StatusArgs {
    #[command(flatten)]
    pub(in crate::control::cli) ask: AskArgs,
}

impl StatusArgs {
    pub(in crate::control::cli) async fn run(&self, client: &Client) -> Result<Exit, ToolError> {
        let before: Status = client.get(paths::STATUS).await?;
        if self.ask.json {
            print_json(&before)?;
            return Ok(exit(&before));
        }
        let now = if before.peers.is_empty() {
            before.clone()
        } else {
            tokio::time::sleep(PAUSE).await;
            client.get(paths::STATUS).await?
        };
        let paint = Paint::stdout();
        let mut text = describe(&now, paint);
        if now.phase.is_none() {
            let (before, now) = ((before.at_millis, &*before.peers), (now.at_millis, &*now.peers));
            text += "\n";
            text += &PeerTable::new(before, now).render(paint);
        }
        print(&text)?;
        Ok(exit(&now))
    }
}

fn exit(status: &Status) -> Exit {
    let peers_are_well = status.peers.iter().all(|peer| peer.problem.is_none());
    let is_quiet = status.problems().is_empty() && status.warnings.is_empty();
    let is_well = status.ready && peers_are_well && is_quiet;
    if is_well { Exit::Well } else { Exit::Degraded }
}

/// Columns of the names on the left.
const INDENT: usize = 11;

/// All but the peers.
fn describe(status: &Status, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str, colour: fn(Paint, &str) -> String| {
        for (index, part) in wrap(value, WIDTH - INDENT).into_iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            text += &format!("{name:<INDENT$}{}\n", colour(paint, &part));
        }
    };
    let plain: fn(Paint, &str) -> String = |_, text| text.to_owned();
    let commit = status.commit.as_ref().map(|commit| format!(" ({commit})")).unwrap_or_default();
    let uptime = units::duration(status.uptime_seconds);
    let Status { product, version, pid, .. } = status;
    line("flanneld", &format!("{product} {version}{commit}, pid {pid}, up {uptime}"), plain);
    match (&status.phase, status.ready) {
        (Some(phase), _) => line("state", &format!("not ready: {phase}"), Paint::red),
        (None, true) => line("state", "ready", Paint::green),
        (None, false) => line("state", "not ready", Paint::red),
    }
    for (name, value) in rows(status) {
        line(name, &value, plain);
    }
    for problem in status.problems() {
        line("problem", &problem, Paint::red);
    }
    for warning in status.warnings.values() {
        line("warning", warning, Paint::yellow);
    }
    text
}

/// What the node has, by name.
fn rows(status: &Status) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(registry) = &status.registry {
        let answer = match (registry.answers, registry.latency_micros) {
            (_, Some(micros)) => format!("answers in {}", units::latency(micros)),
            (true, None) => "does not answer just now".to_owned(),
            (false, None) => "does not answer; packets go on".to_owned(),
        };
        rows.push(("registry", format!("{}, {answer}", registry.name)));
    }
    if let Some(lease) = &status.lease {
        let end = lease.expires.as_ref().map(|time| format!("until {time}"));
        let end = end.unwrap_or_else(|| "which never expires".to_owned());
        let v6 = lease.ipv6_subnet.map(|subnet| format!(" and {subnet}")).unwrap_or_default();
        rows.push(("lease", format!("{}{v6} of {}, {end}", lease.subnet, lease.network)));
        rows.push(("public IP", lease.public_ip.to_string()));
    }
    if let Some(Underlay { interface, mtu, address }) = &status.underlay {
        rows.push(("interface", format!("{interface}, {address}, MTU {mtu}")));
    }
    if let Some(device) = &status.device {
        rows.push(("device", format!("{}, MTU {}", device.name, device.mtu)));
    }
    if let Some(path) = &status.data_path {
        let by = match path.workers {
            0 => format!("by the {}", path.carried_by),
            1 => "by 1 worker".to_owned(),
            number => format!("by {number} {}", path.carried_by),
        };
        let offloads = match (path.workers, path.offloads.as_slice()) {
            (0, _) => String::new(),
            (_, []) => ", offloads off".to_owned(),
            (_, names) => format!(", offloads {}", names.join(", ")),
        };
        rows.push(("packets", format!("{}, carried {by}{offloads}", path.backend)));
        if let Some(fast_path) = &path.fast_path {
            rows.push(("fast path", fast_path_text(fast_path)));
        }
    }
    if let Some(rules) = &status.rules {
        let text = match (rules.wanted.as_slice(), rules.in_place) {
            ([], _) => "none are asked for".to_owned(),
            (wanted, is_in_place) => {
                let state = if is_in_place { "in place" } else { "not in place" };
                format!("{} by {}, {state}", wanted.join(" and "), rules.tool)
            }
        };
        rows.push(("rules", text));
    }
    for bridge in &status.bridges {
        let addresses: Vec<String> = bridge.addresses.iter().map(ToString::to_string).collect();
        let fits = if bridge.problem.is_none() { "fits" } else { "does not fit" };
        let addresses = match addresses.as_slice() {
            [] => "no address".to_owned(),
            some => some.join(", "),
        };
        let text = format!("{}, {addresses}, MTU {}: {fits}", bridge.name, bridge.mtu);
        rows.push(("bridge", text));
    }
    rows
}

/// What the kernel carries, by which programs, and why not all that it could.
fn fast_path_text(fast_path: &FastPath) -> String {
    let reason = fast_path.reason.as_deref();
    if !fast_path.active {
        return reason.unwrap_or("it is not in use").to_owned();
    }
    let carried = match fast_path.carries.as_slice() {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        few => few.concat(),
    };
    let but =
        reason.map(|reason| format!("; workers carry bulk TCP: {reason}")).unwrap_or_default();
    format!("the kernel carries {carried}: {}{but}", hooks(&fast_path.hooks))
}

/// Which programs are where.
fn hooks(hooks: &[FastPathHook]) -> String {
    let place = |hook: &FastPathHook| {
        let FastPathHook { name, device, program_id, attached_by, .. } = hook;
        format!("{name} at {device} ({attached_by}, program {program_id})")
    };
    hooks.iter().map(place).collect::<Vec<_>>().join(", ")
}

impl Status {
    /// What keeps packets from arriving, one line each.
    fn problems(&self) -> Vec<String> {
        let failed = self.checks.iter().filter(|(name, check)| {
            // The phase says it.
            let is_phase = self.phase.is_some() && ["startup", "loop"].contains(&name.as_str());
            !check.ok && check.required && !is_phase
        });
        let failed = failed.map(|(name, check)| {
            format!("{name}: {}", check.reason.as_deref().unwrap_or("it does not hold"))
        });
        let bridges = self.bridges.iter().filter_map(|bridge| bridge.problem.clone());
        failed.chain(bridges).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::observe::api::{
        Bridge, CheckResult, DataPath, Device, FastPath, FastPathHook, Lease, Registry, Rules,
    };

    fn node() -> Status {
        Status {
            product: "twill".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 42,
            uptime_seconds: 3900,
            ready: true,
            registry: Some(Registry {
                name: "etcd key /coreos.com/network/config at 192.0.2.9:2379".to_owned(),
                answers: true,
                latency_micros: Some(1234),
            }),
            lease: Some(Lease {
                network: "10.244.0.0/16".parse().unwrap(),
                subnet: "10.244.7.0/24".parse().unwrap(),
                ipv6_subnet: None,
                public_ip: "192.0.2.7".parse().unwrap(),
                expires: Some("2026-08-14T09:30:00Z".to_owned()),
            }),
            device: Some(Device { name: "flannel0".to_owned(), mtu: 1472 }),
            data_path: Some(DataPath {
                backend: "udp".to_owned(),
                carried_by: "workers".to_owned(),
                workers: 2,
                offloads: ["tso", "uso", "gso", "gro"].map(str::to_owned).to_vec(),
                fast_path: Some(FastPath {
                    active: true,
                    carries: ["TCP", "ICMP", "sparse UDP"].map(str::to_owned).to_vec(),
                    reason: None,
                    hooks: [("egress", "flannel0", 7), ("ingress", "eth0", 2)]
                        .map(|(name, device, ifindex)| FastPathHook {
                            name: name.to_owned(),
                            device: device.to_owned(),
                            ifindex,
                            program_id: 40 + ifindex,
                            attached_by: "tcx".to_owned(),
                        })
                        .to_vec(),
                }),
            }),
            rules: Some(Rules {
                tool: "iptables".to_owned(),
                wanted: vec!["forward".to_owned()],
                in_place: true,
                problem: None,
            }),
            ..Status::default()
        }
    }

    #[test]
    fn healthy_node_is_told_in_a_few_lines() {
        let text = describe(&node(), Paint::off());
        let expected = "\
flanneld   twill 0.1.0, pid 42, up 1 h 05 min
state      ready
registry   etcd key /coreos.com/network/config at 192.0.2.9:2379, answers in
           1.23 ms
lease      10.244.7.0/24 of 10.244.0.0/16, until 2026-08-14T09:30:00Z
public IP  192.0.2.7
device     flannel0, MTU 1472
packets    udp, carried by 2 workers, offloads tso, uso, gso, gro
fast path  the kernel carries TCP, ICMP and sparse UDP: egress at flannel0 (tcx,
           program 47), ingress at eth0 (tcx, program 42)
rules      forward by iptables, in place
";
        assert_eq!(text, expected);
        assert_eq!(exit(&node()), Exit::Well);
    }

    #[test]
    fn problems_and_warnings_are_named_and_wrapped() {
        let mut status = node();
        let reason = "it does not answer; ".repeat(8);
        let check =
            CheckResult { ok: false, required: true, reason: Some(reason), valid_until: None };
        status.checks.insert("registry".to_owned(), check);
        let warning = "the network config is another one by now".to_owned();
        status.warnings.insert("config".to_owned(), warning);
        let text = describe(&status, Paint::off());
        assert!(text.contains("\nproblem    registry: it does not answer"), "{text}");
        assert!(text.contains("\nwarning    the network config"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(exit(&status), Exit::Degraded);
        status.checks.clear();
        assert_eq!(exit(&status), Exit::Degraded, "for the warning");
        status.warnings.clear();
        assert_eq!(exit(&status), Exit::Well);
    }

    #[test]
    fn bridge_is_shown_and_said_to_fit_or_not() {
        let mut status = node();
        let addresses = vec!["172.17.0.1/16".parse().unwrap()];
        let problem = Some("docker0 has 172.17.0.1/16, outside of 10.244.7.0/24".to_owned());
        status.bridges.push(Bridge { name: "docker0".to_owned(), mtu: 1500, addresses, problem });
        let text = describe(&status, Paint::off());
        let bridge = "\nbridge     docker0, 172.17.0.1/16, MTU 1500: does not fit\n";
        assert!(text.contains(bridge), "{text}");
        assert!(text.contains("\nproblem    docker0 has 172.17.0.1/16, outside"), "{text}");
        assert_eq!(exit(&status), Exit::Degraded);
    }

    #[test]
    fn daemon_that_starts_says_what_it_waits_for() {
        let phase = Some("waiting for the network config".to_owned());
        let check =
            CheckResult { ok: false, required: true, reason: phase.clone(), valid_until: None };
        let checks = [("startup".to_owned(), check)].into();
        let status = Status { phase, checks, ..Status::default() };
        let text = describe(&status, Paint::off());
        assert!(text.ends_with("state      not ready: waiting for the network config\n"), "{text}");
        assert_eq!(exit(&status), Exit::Degraded);
    }
}
