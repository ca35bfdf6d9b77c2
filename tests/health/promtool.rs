//! Prometheus' own tool checks our metrics, the dashboard's queries and the alert rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::host::text;

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names, types and help texts.
pub fn check_metrics(metrics: &str) {
    use std::io::Write;
    let mut command = promtool();
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else {
        panic!("promtool is missing: `make target/prometheus` fetches it");
    };
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let said = said(&child.wait_with_output().unwrap());
    assert!(said.is_empty(), "{said}");
}

/// No query of the dashboard is without an answer if this is what a node serves that is well.
pub fn check_dashboard(metrics: &str) {
    let series: String = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = match name.strip_suffix('}') {
                Some(name) => format!("{name},instance=\"a\"}}"),
                None => format!("{name}{{instance=\"a\"}}"),
            };
            let value: f64 = value.parse().unwrap();
            format!("      - {{series: '{name}', values: '{value}x20'}}\n")
        })
        .collect();
    let tests: String = queries()
        .iter()
        .map(|query| {
            let query = query.replace("$instance", ".*").replace("$__rate_interval", "1m");
            // Numbers that a panel can show: NaN is none of them.
            let counted = format!("count(({query}) > -Inf) > bool 0");
            let expected = "exp_samples: [{labels: '{}', value: 1}]";
            format!("      - {{expr: '{counted}', eval_time: 5m, {expected}}}\n")
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dashboard.yml");
    let text = format!(
        "evaluation_interval: 15s\ntests:\n  - interval: 15s\n    input_series:\n{series}    \
         promql_expr_test:\n{tests}"
    );
    fs::write(&file, text).unwrap();
    let output = promtool().args(["test", "rules"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// Every query of every panel.
pub fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(repository("dist/grafana/flannel.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn alert_rules_raise_what_they_should_and_nothing_else() {
    let rules = repository("dist/prometheus/flannel.rules.yml");
    let checked = promtool().args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    let tests = repository("tests/health/alerts.yml");
    let tested = promtool().args(["test", "rules"]).arg(&tests).output().unwrap();
    assert!(tested.status.success(), "{}", said(&tested));
    // Each rule has a case in which it is raised.
    let (rules, tests) = (fs::read_to_string(rules).unwrap(), fs::read_to_string(tests).unwrap());
    let names: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is never raised");
    }
}

#[test]
fn dashboard_asks_the_data_source_that_the_reader_chooses() {
    let text = fs::read_to_string(repository("dist/grafana/flannel.json")).unwrap();
    assert!(!text.contains("__inputs") && !text.contains("DS_"), "those need an import by hand");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&variable["name"], &variable["type"]),
        (&"datasource".into(), &"datasource".into())
    );
    let uids: Vec<&str> = text.lines().filter(|line| line.contains("\"uid\"")).collect();
    let own = uids.iter().filter(|line| !line.contains("\"${datasource}\"")).count();
    assert_eq!(own, 1, "the dashboard's own: {uids:?}");
}

fn promtool() -> Command {
    let fetched = repository("target/prometheus/usr/bin/promtool");
    Command::new(if fetched.exists() { fetched.as_path() } else { Path::new("promtool") })
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}
