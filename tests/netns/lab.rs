//! `flannel-lab` itself: labs that stay, and labs that must leave nothing behind.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{self, Child, Command, Output, Stdio};

use serde_json::Value;
use twill::lab::host::process::{ProcessId, Signal};
use twill::lab::network::registry::{Registry, RegistryFile};
use twill::lab::network::topology::Names;

use crate::harness::{FLANNEL_LAB, FLANNELD, eventually};

/// The program's command line for a lab of this test's own.
fn command(task: &str, name: &str, args: &str) -> Command {
    let mut command = Command::new(FLANNEL_LAB);
    command.arg(task).args(["--name", name]).args(args.split_whitespace());
    command
}

fn run(task: &str, name: &str, args: &str) -> Output {
    command(task, name, args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn name(topic: &str) -> String {
    format!("t{}-{topic}", process::id())
}

/// Starts a lab and waits until its flannelds run.
fn start(name: &str) -> Child {
    let mut child = command("demo", name, "--rounds 99")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("round 1 of")), "it never got to measure");
    child
}

/// Nothing of the lab is left: no namespace, no process in one, no file.
fn assert_gone(name: &str) {
    let names = Names::new(name).unwrap();
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|netns| names.owns(netns))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!names.dir().exists());
    let dir = names.dir().display().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!command.contains(&dir), "{command:?} still runs");
    }
}

#[test]
fn lab_that_stays_can_be_looked_at_used_and_removed() {
    let name = name("stays");
    let up = run("up", &name, "--nodes 2 --pods 2");
    assert!(up.status.success(), "{}", stderr(&up));
    let again = run("up", &name, "");
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));

    let status: Value = serde_json::from_slice(&run("status", &name, "--json").stdout).unwrap();
    let node = &status["nodes"][1];
    assert_eq!((&node["alive"], &node["peers_reachable"]), (&Value::Bool(true), &Value::from(1)));
    let addr = node["pods"][1][1].as_str().unwrap();
    let ping = run("exec", &name, &format!("n1-p1 -- ping -c 1 -W 2 {addr}"));
    assert!(ping.status.success(), "{ping:?}");
    assert_eq!(run("exec", &name, "n2 -- false").status.code(), Some(1));
    let env = run("exec", &name, "n1 ip -4 route show default");
    assert!(String::from_utf8_lossy(&env.stdout).contains("192.168.64.1"), "{env:?}");
    let unknown = run("exec", &name, "n3 -- true");
    assert!(stderr(&unknown).contains("n1, n2, n1-p1"), "{}", stderr(&unknown));

    for _ in 0..2 {
        assert!(run("down", &name, "").status.success());
        assert_gone(&name);
    }
    assert!(stderr(&run("status", &name, "")).contains("there is no lab"));
}

#[test]
fn lab_with_a_registry_in_a_file_needs_no_etcd() {
    let name = name("file");
    let tools = tempfile::tempdir().unwrap();
    link_all_tools_but_etcd(tools.path());
    let run = |task: &str, args: &str| {
        command(task, &name, args).env("PATH", tools.path()).output().unwrap()
    };
    let refused = run("up", "--nodes 2");
    assert!(stderr(&refused).contains("missing: etcd:"), "{}", stderr(&refused));
    let refused = run("up", "--registry=file --flanneld n2=stock-emulator");
    assert!(stderr(&refused).contains("use --registry=etcd"), "{}", stderr(&refused));
    let refused = run("up", "--registry=file --backend=vxlan --flanneld n2=stock-emulator");
    assert!(stderr(&refused).contains("udp backend only, not vxlan"), "{}", stderr(&refused));
    assert_gone(&name);

    let up = run("up", "--registry=file --nodes 3");
    assert!(up.status.success(), "{}", stderr(&up));
    assert!(!Path::new("/run/netns").join(Names::new(&name).unwrap().etcd()).exists());
    let status: Value = serde_json::from_slice(&run("status", "--json").stdout).unwrap();
    assert_eq!((&status["registry"], &status["etcd_alive"]), (&Value::from("file"), &Value::Null));
    let nodes = status["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["peers_reachable"] == 2), "{nodes:?}");
    let file = RegistryFile::new(Names::new(&name).unwrap().registry_file());
    let leases = Registry::File(file).leases().unwrap();
    let subnet = |node: &Value| node["subnet"].as_str().unwrap().replace('/', "-");
    for node in nodes {
        assert!(leases.iter().any(|(key, _)| *key == subnet(node)), "{node} not in {leases:?}");
    }
    let addr = nodes[2]["pods"][0][1].as_str().unwrap();
    let ping = run("exec", &format!("n1-p1 -- ping -c 1 -W 2 {addr}"));
    assert!(ping.status.success(), "{ping:?}");
    let table = String::from_utf8(run("status", "").stdout).unwrap();
    assert!(table.contains("leases in a file"), "{table}");
    assert!(run("down", "").status.success());
    assert_gone(&name);
}

/// What a node's row of `status` says of its link, and how many peers it reaches.
fn link_and_reached(name: &str, node: usize) -> (bool, u64) {
    let status: Value = serde_json::from_slice(&run("status", name, "--json").stdout).unwrap();
    let node = &status["nodes"][node];
    (node["link"]["cut"].as_bool().unwrap(), node["peers_reachable"].as_u64().unwrap())
}

#[test]
fn lab_that_stays_can_be_broken_and_repaired() {
    let name = name("broken");
    let up = run("up", &name, "--nodes 2 --registry=file");
    assert!(up.status.success(), "{}", stderr(&up));

    assert!(run("cut", &name, "n2").status.success());
    assert_eq!(link_and_reached(&name, 1), (true, 0));
    assert!(run("mend", &name, "n2").status.success());
    eventually("the peer to be reached again", || link_and_reached(&name, 0) == (false, 1));
    let wrong = run("cut", &name, "N2");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("no link N2; did you mean n2?"), "{}", stderr(&wrong));

    let logs = |args: &str| String::from_utf8(run("logs", &name, args).stdout).unwrap();
    let starts = |log: &str| log.matches("Starting flanneld").count();
    let before = logs("n1");
    let restart = run("restart", &name, "n1");
    assert!(restart.status.success(), "{}", stderr(&restart));
    eventually("the peer to be reached", || link_and_reached(&name, 0) == (false, 1));
    let after = logs("n1");
    assert!(after.len() > before.len() && after.starts_with(&before), "{after}");
    assert!(starts(&after) <= 2, "{after}");
    let both = logs("");
    assert!(both.contains("n1 | ") && both.contains("n2 | "), "{both}");

    let list = run("list", &name, "");
    assert_eq!(list.status.code(), Some(1), "it is about all labs");
    let list = Command::new(FLANNEL_LAB).arg("list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let row = list.lines().find(|line| line.starts_with(&name)).unwrap();
    assert!(row.contains("2 of 2") && row.ends_with(" down"), "{list}");

    assert!(run("down", &name, "").status.success());
    assert_gone(&name);
}

/// The lines of the first console block after `heading` in a page of docs/.
fn console_block<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = page.split_once(heading).unwrap();
    let (_, block) = section.split_once("```console\n").unwrap();
    block.split_once("```").unwrap().0.lines().collect()
}

#[test]
fn labs_of_the_docs_run_as_written() {
    let name = name("docs");
    for (page, heading) in [
        (include_str!("../../docs/migrating.md"), "## Try it in a lab first"),
        (include_str!("../../docs/troubleshooting.md"), "## Try a fault yourself"),
    ] {
        let lines = console_block(page, heading);
        assert!(lines.len() > 3, "{lines:?}");
        for line in lines {
            // A shell reads it as a user's does; only the lab has a name of its own.
            let words = line.strip_prefix("flannel-lab ").unwrap();
            let (task, args) = words.split_once(' ').unwrap_or((words, ""));
            let line = format!("{FLANNEL_LAB} {task} --name {name} {args}");
            let shell = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output();
            let output = shell.unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        }
        assert_gone(&name);
    }
}

#[test]
fn links_are_slow_and_lossy_if_the_kernel_can() {
    let name = name("slow");
    let up = run("up", &name, "--nodes 2 --registry=file");
    assert!(up.status.success(), "{}", stderr(&up));
    let underlay = Names::new(&name).unwrap().underlay();
    let has_netem = Command::new("tc")
        .args(["-n", &underlay, "qdisc", "replace", "dev", "lo", "root", "netem"])
        .output()
        .unwrap();
    let [delay, loss] = [run("delay", &name, "n2 40ms"), run("loss", &name, "n1 100")];
    if has_netem.status.success() {
        assert!(delay.status.success() && loss.status.success(), "{delay:?} {loss:?}");
        let status = run("status", &name, "");
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains("+40ms") && status.contains("100% lost"), "{status}");
        assert_eq!(link_and_reached(&name, 1), (false, 0));
        assert!(run("loss", &name, "n1 0").status.success());
        let ping = run("exec", &name, "n1 ping -c 1 192.168.64.12");
        let ping = String::from_utf8_lossy(&ping.stdout).into_owned();
        assert!(ping.contains("time=8"), "{ping}");
    } else {
        for refused in [delay, loss] {
            assert_eq!(refused.status.code(), Some(1));
            let said = stderr(&refused);
            assert!(said.contains("it has no netem") && said.lines().count() == 1, "{said}");
        }
        assert_eq!(link_and_reached(&name, 1), (false, 1));
    }
    assert!(run("down", &name, "").status.success());
    assert_gone(&name);
}

#[test]
fn mistakes_are_one_line_and_make_nothing() {
    let name = name("mistakes");
    let flanneld = run("up", &name, "--flanneld /no/such/flanneld");
    for (output, line) in [
        (run("up", &name, "--config {}"), "flannel-lab: --config: Network: missing\n"),
        (
            run("up", &name, "--nodes 0"),
            "flannel-lab: invalid value '0' for '--nodes <N>': a lab has 1 to 200 nodes \
             (flannel-lab --help)\n",
        ),
        (
            run("ups", &name, ""),
            "flannel-lab: unrecognized subcommand 'ups'; tip: a similar subcommand exists: 'up' \
             (flannel-lab --help)\n",
        ),
        (
            run("exec", &name, ""),
            "flannel-lab: the following required arguments were not provided: <NODE> \
             (flannel-lab --help)\n",
        ),
        (
            flanneld,
            "flannel-lab: find flanneld /no/such/flanneld: No such file or directory (os error 2)\n",
        ),
    ] {
        assert_eq!((stderr(&output).as_str(), output.status.code()), (line, Some(1)));
    }
    assert_gone(&name);
    let unprivileged = command("down", &name, "");
    let nobody = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups"])
        .arg(unprivileged.get_program())
        .args(unprivileged.get_args())
        .output()
        .unwrap();
    assert_eq!(stderr(&nobody), "flannel-lab: a lab needs root: run it with sudo\n");
}

/// Fills `dir` with all programs in `PATH` except etcd.
fn link_all_tools_but_etcd(dir: &Path) {
    let path = env::var_os("PATH").unwrap();
    let found = env::split_paths(&path).filter_map(|dir| fs::read_dir(dir).ok());
    for tool in found.flatten().flatten() {
        let name = tool.file_name();
        if name != "etcd" {
            // The first of two with one name is the one that PATH means.
            drop(symlink(tool.path(), dir.join(name)));
        }
    }
}

#[test]
fn interrupted_lab_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let name = name("signal");
        let mut child = start(&name);
        ProcessId::of(child.id()).unwrap().signal(signal);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_gone(&name);
    }
}

#[test]
fn crashed_lab_is_removed_by_name_and_by_the_next_lab() {
    let (first, second) = (name("crash1"), name("crash2"));
    for name in [&first, &second] {
        let mut child = start(name);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Names::new(name).unwrap().dir().exists());
        if *name == first {
            fs::remove_file(Names::new(name).unwrap().dir().join("lab.json")).unwrap();
            assert!(run("down", name, "").status.success(), "the names suffice");
            assert_gone(name);
        }
    }
    let next = name("next");
    assert!(run("up", &next, "--nodes 1").status.success());
    assert_gone(&second);
    assert!(run("down", &next, "").status.success());
}

#[test]
fn failure_says_what_failed_and_leaves_nothing_behind() {
    let name = name("failure");
    let failed = run("up", &name, "--flanneld n2=/bin/false");
    assert_eq!(failed.status.code(), Some(1));
    let said = stderr(&failed);
    assert!(
        said.lines().last().unwrap().contains("false of n2 ended with exit status: 1"),
        "{said}"
    );
    assert_gone(&name);
    let said = stderr(&run("up", &name, &format!("--flanneld n4={FLANNELD}")));
    assert!(said.contains("nodes are n1 to n3"), "{said}");
    let said = stderr(&run("up", "No_Name", ""));
    assert!(said.contains("is no name for a lab"), "{said}");
}

#[test]
fn demo_measures_every_carrier() {
    let name = name("demo");
    let dir = tempfile::tempdir().unwrap();
    let json: &Path = &dir.path().join("figures.json");
    let args = format!("--rounds 2 --seconds 1 --json {}", json.display());
    let demo = run("demo", &name, &args);
    assert!(demo.status.success(), "{}", stderr(&demo));
    assert_gone(&name);
    let figures: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let systems = figures["systems"].as_array().unwrap();
    let names: Vec<&str> = systems.iter().map(|row| row["system"].as_str().unwrap()).collect();
    assert_eq!(names, ["raw", "vxlan", "twill udp", "twill udp --offload=off --workers=1"]);
    let mtus: Vec<u64> = systems.iter().map(|row| row["pod_mtu"].as_u64().unwrap()).collect();
    assert_eq!(mtus, [1500, 1450, 1472, 1472]);
    for row in systems {
        assert_eq!(row["gbps"]["rounds"].as_array().unwrap().len(), 2);
        assert!(row["gbps"]["min"].as_f64().unwrap() > 0.01, "{row}");
        assert!(row["rtt_us"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    let table = String::from_utf8_lossy(&demo.stdout).into_owned();
    assert!(names.iter().all(|name| table.contains(name)), "{table}");
}

#[test]
fn demo_and_mixed_labs_work_with_every_backend() {
    for (backend, own_mtu) in [("vxlan", 1450), ("host-gw", 1500)] {
        let name = name(backend);
        let mixed = format!("--flanneld n2={FLANNELD} --backend {backend} --nodes 2");
        let demo = run("demo", &name, &format!("{mixed} --rounds 1 --seconds 1"));
        assert!(demo.status.success(), "{}", stderr(&demo));
        assert_gone(&name);
        let table = String::from_utf8_lossy(&demo.stdout).into_owned();
        let own = format!("twill {backend} ");
        let row = table.lines().find(|line| line.starts_with(&own)).unwrap_or_default();
        assert_eq!(row.split_whitespace().nth(2), Some(own_mtu.to_string().as_str()), "{table}");
        assert!(!table.contains("--offload=off"), "{table}");
    }
}

#[test]
fn reader_that_goes_away_does_not_keep_the_lab() {
    let name = name("reader");
    let mut child = command("demo", &name, "--rounds 1 --seconds 1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_gone(&name);
}

#[test]
fn status_sees_a_daemon_that_died() {
    let name = name("died");
    assert!(run("up", &name, "--nodes 2").status.success());
    let status =
        || -> Value { serde_json::from_slice(&run("status", &name, "--json").stdout).unwrap() };
    let pid = u32::try_from(status()["nodes"][0]["pid"].as_u64().unwrap()).unwrap();
    ProcessId::of(pid).unwrap().signal(Signal::SIGKILL);
    eventually("the death to be seen", || status()["nodes"][0]["alive"] == Value::Bool(false));
    let table = run("status", &name, "");
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains(&format!("pid {pid} died")), "{table}");
    assert!(run("down", &name, "").status.success());
    assert_gone(&name);
}

/// The labs of a bench: one for each daemon.
fn assert_bench_gone(name: &str) {
    (0..6).for_each(|number| assert_gone(&format!("{name}-s{number}")));
}

#[test]
fn bench_measures_writes_its_files_and_leaves_nothing_behind() {
    let name = name("bench");
    let dir = tempfile::tempdir().unwrap();
    let [json, html] = ["b.json", "b.html"].map(|file| dir.path().join(file));
    let only = "--only w2/tcp-1 --only w2/udp-64 --only w2/latency-loaded --rounds 1";
    let files = format!("--json {} --html {}", json.display(), html.display());
    let bench =
        run("bench", &name, &format!("--quick {only} --flanneld other=stock-emulator {files}"));
    assert!(bench.status.success(), "{}", stderr(&bench));
    assert_bench_gone(&name);
    assert!(stderr(&bench).contains(" left · round 1 of 1"), "{}", stderr(&bench));
    let results: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let cases = results["cases"].as_array().unwrap();
    let metrics = ["gbps", "kpps", "rtt_p50_us"];
    assert_eq!(cases.len(), metrics.len());
    for (case, metric) in cases.iter().zip(metrics) {
        let rows = case["rows"].as_array().unwrap();
        let systems: Vec<&str> = rows.iter().map(|row| row["system"].as_str().unwrap()).collect();
        let own = ["raw", "vxlan", "twill udp", "twill vxlan", "twill host-gw", "workers", "off"];
        assert_eq!(systems, [&own[..], &["other udp"]].concat());
        let mtus: Vec<u64> = rows.iter().map(|row| row["pod_mtu"].as_u64().unwrap()).collect();
        assert_eq!(mtus, [1500, 1450, 1472, 1450, 1500, 1472, 1472, 1472]);
        for row in rows {
            let figures = row["figures"].as_array().unwrap();
            let figure = figures.iter().find(|figure| figure["metric"] == metric).unwrap();
            assert!(figure["median"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    assert!(fs::read_to_string(html).unwrap().contains("UDP, 64 B packets"));
    assert!(String::from_utf8_lossy(&bench.stdout).contains("W2, MTU 1500"));
}

#[test]
fn bench_of_leases_tells_what_they_cost() {
    let name = name("scale");
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("b.json");
    let args = format!("--quick --only leases --rounds 1 --json {}", json.display());
    let bench = run("bench", &name, &args);
    assert!(bench.status.success(), "{}", stderr(&bench));
    assert_bench_gone(&name);
    let results: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let rows = results["cases"][0]["rows"].as_array().unwrap();
    let metrics =
        ["churn_gbps", "changes_per_second", "change_ms", "daemon_us_per_change", "start_ms"];
    for (row, backend) in rows[1..].iter().zip(["udp", "vxlan", "host-gw"]) {
        assert_eq!(row["system"], format!("twill {backend}, 10000 leases"));
        for metric in metrics {
            let figures = row["figures"].as_array().unwrap();
            let figure = figures.iter().find(|figure| figure["metric"] == metric).unwrap();
            assert!(figure["median"].as_f64().unwrap() > 0.0, "{metric}: {figure}");
        }
    }
    assert_eq!(rows.len(), 4);
}

#[test]
fn interrupted_bench_leaves_nothing_behind() {
    let name = name("stopped");
    let mut child = command("bench", &name, "--quick --only tcp-1 --rounds 99")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("round 1 of")), "it never got to measure");
    ProcessId::of(child.id()).unwrap().signal(Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_bench_gone(&name);
}
