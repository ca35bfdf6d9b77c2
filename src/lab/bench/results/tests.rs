use serde_json::{Value, json};

use super::*;

/// A run of two cases: what a report has to show.
pub(in crate::lab::bench) fn example() -> Results {
    let samples = |system: &str, rounds: [f64; 3], metric| Samples {
        system: system.to_owned(),
        pod_mtu: 1472,
        rounds: rounds.map(|figure| vec![(metric, figure)]).to_vec(),
    };
    let case = |workload: &str, rows| Case {
        setting: "w1-1500".to_owned(),
        setting_title: "W1, MTU 1500".to_owned(),
        workload: workload.to_owned(),
        title: workload.to_owned(),
        rows,
    };
    let tcp = [
        samples("raw", [20.0, 10.0, 21.0], Metric::Gbps),
        samples("vxlan", [16.0, 8.0, 16.5], Metric::Gbps),
        samples("twill udp", [12.0, 6.0, 12.5], Metric::Gbps),
        samples("off", [1.0, 0.5, 1.1], Metric::Gbps),
    ];
    let few = samples("twill udp, 10 leases", [12.0, 11.0, 12.5], Metric::Gbps);
    let many = samples("twill udp, 1000 leases", [6.0, 11.0, 12.5], Metric::Gbps);
    Results {
        machine: Machine {
            cpu: "A <fast> & cheap CPU".to_owned(),
            num_cpus: 2,
            memory_mib: 4096,
            kernel: "6.18.5".to_owned(),
            governor: Some("schedutil".to_owned()),
            load: 0.25,
            versions: vec![("twill".to_owned(), "v1.2.3 (abcdef0)".to_owned())],
            date: "2026-11-21T02:11:56Z".to_owned(),
            command: "flannel-lab bench --flanneld \"a<b>\"=x".to_owned(),
        },
        quick: true,
        rounds: 3,
        seconds: 0.5,
        systems: vec![("raw".to_owned(), "no overlay".to_owned())],
        cases: vec![
            case("tcp-1", rows(&tcp)),
            case("leases", vec![row(&few, &[&few]), row(&many, &[&few])]),
        ],
        failures: vec!["other in w1-1500/tcp-1: <gone>".to_owned()],
    }
}

#[test]
fn ratios_are_taken_within_rounds() {
    let results = example();
    let twill = results.case("w1-1500", "tcp-1").unwrap().row("twill udp").unwrap();
    let gbps = twill.figure(Metric::Gbps).unwrap();
    assert_eq!(gbps.spread.median, 12.0);
    let [off, vxlan] = ["off", "vxlan"].map(|base| &gbps.ratios[base]);
    assert_eq!((off.median, vxlan.median), (12.0, 0.75));
    assert_eq!(off.rounds, [12.0, 12.0, 12.5 / 1.1], "their range is known too");
    assert_eq!(twill.figure(Metric::Kpps).map(|figure| figure.unit), None);
    let many = &results.case("w1-1500", "leases").unwrap().rows[1];
    assert_eq!(many.figures[0].ratios["10 leases"].median, 1.0);
}

#[test]
fn json_says_what_it_is() {
    let json: Value = serde_json::to_value(example()).unwrap();
    assert_eq!(json["machine"]["kernel"], "6.18.5");
    let row = &json["cases"][0]["rows"][3];
    assert_eq!((&row["system"], &row["pod_mtu"]), (&json!("off"), &json!(1472)));
    let figure = &row["figures"][0];
    assert_eq!(
        (&figure["metric"], &figure["unit"], &figure["better"]),
        (&json!("gbps"), &json!("Gb/s"), &json!("higher"))
    );
    assert_eq!(figure["rounds"], json!([1.0, 0.5, 1.1]));
    assert_eq!(figure["median"], 1.0);
    assert!(figure["ratios"]["off"].is_null());
}
