//! Who may import whom, and where `unsafe` may be. See the crate's documentation.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

#[path = "boundaries/imports.rs"]
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below `dir`, with its text.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    let mut sources = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path, text));
        }
    }
    assert!(!sources.is_empty(), "{dir} holds no source");
    sources
}

/// The lines of `text` that are code, not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn assert_absent(dir: &str, forbidden: &[&str]) {
    for (path, text) in sources(dir) {
        for line in code(&text) {
            for word in forbidden {
                assert!(!line.contains(word), "{} names {word}: {line}", path.display());
            }
        }
    }
}

#[test]
fn routes_know_neither_data_plane_nor_control_nor_a_runtime() {
    assert_absent("src/routes", &["dataplane", "control", "tokio", "etcd_client", "mio::"]);
}

#[test]
fn data_plane_knows_neither_control_nor_its_runtime() {
    assert_absent("src/dataplane", &["crate::control", "tokio", "etcd_client"]);
}

#[test]
fn control_leaves_polling_to_the_data_plane() {
    assert_absent("src/control", &["mio::"]);
}

#[test]
fn unsafe_is_only_in_sys() {
    for (path, text) in sources("src") {
        if path.components().any(|part| part.as_os_str() == "sys") {
            continue;
        }
        let is_unsafe = |line: &str| line.contains("unsafe {") || line.contains("unsafe fn");
        assert!(!code(&text).any(is_unsafe), "{}", path.display());
    }
}

/// Every import in `src/control` that `is_allowed` refuses.
fn control_imports(is_allowed: impl Fn(&[String], &[String]) -> bool) -> Vec<String> {
    let imports = imports::of("src/control").into_iter();
    let refused = imports.filter(|import| !is_allowed(&import.from, &import.to));
    refused.map(|import| import.to_string()).collect()
}

/// What `path` starts with, as text: `["subnet", "kv"]` of `subnet::kv::renew`.
fn is_in(path: &[String], module: &[&str]) -> bool {
    path.len() >= module.len() && path.iter().zip(module).all(|(part, name)| part == name)
}

/// The floors of `src/control` from the lowest to the highest. A module imports from its own floor and
/// from those below. The empty name is `src/control/mod.rs`: start and stop as a list.
const FLOORS: [&[&str]; 10] = [
    &["util", "conditions"],
    &["host"],
    &["config"],
    &["subnet"],
    &["backend"],
    &["node"],
    &["observe"],
    &["error"],
    &[""],
    &["cli"],
];

fn floor(path: &[String]) -> usize {
    let name = path.first().map_or("", String::as_str);
    let floor = FLOORS.iter().position(|names| names.contains(&name));
    // `run` and what else `src/control/mod.rs` itself declares.
    floor.unwrap_or(FLOORS.len() - 2)
}

#[test]
fn imports_of_control_go_down_only() {
    let refused = control_imports(|from, to| floor(to) <= floor(from));
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn one_backend_never_imports_another_and_one_file_knows_them_all() {
    const BACKENDS: [&str; 5] = ["udp", "vxlan", "host_gw", "gce", "aws_vpc"];
    let refused = control_imports(|from, to| {
        BACKENDS.iter().all(|name| {
            let backend = &["backend", name];
            let is_parent = from.len() == 1 && from[0] == "backend";
            !is_in(to, backend) || is_in(from, backend) || is_parent
        })
    });
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn lease_sources_do_not_know_each_other() {
    const SOURCES: [&str; 2] = ["kv", "kube"];
    let refused = control_imports(|from, to| {
        SOURCES.iter().all(|name| {
            let source = &["subnet", name];
            let is_other = SOURCES.iter().any(|other| is_in(from, &["subnet", other]));
            !is_in(to, source) || is_in(from, source) || !is_other
        })
    });
    assert!(refused.is_empty(), "{refused:#?}");
}

/// How a registry stores a lease is the registry's affair: it adds that as `Stored<Lease>`.
#[test]
fn leases_do_not_know_where_they_are_stored() {
    let is_lease = |from: &[String]| is_in(from, &["subnet", "lease"]);
    let refused = control_imports(|from, to| !(is_lease(from) && is_in(to, &["subnet", "kv"])));
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn backends_get_leases_without_their_source() {
    let refused = control_imports(|from, to| {
        let is_source = is_in(to, &["subnet", "kv"]) || is_in(to, &["subnet", "kube"]);
        !(is_in(from, &["backend"]) && is_source)
    });
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn directories_of_control_import_each_other_in_no_circle() {
    let circles = imports::circles(&imports::of("src/control"));
    assert!(circles.is_empty(), "{circles:#?}");
}

/// Which parts of the data plane each of its parts imports; everything not listed here is an error.
/// No row names a row above it, so there is no circle.
const DATA_PLANE: [(&str, &[&str]); 13] = [
    ("fast_path", &["io", "capture", "packet", "stats"]),
    ("engine", &["worker", "ingress", "pmtu", "io", "capture", "stats"]),
    (
        "worker",
        &["egress", "ingress", "icmp", "pmtu", "io", "capture", "packet", "stats", "offload"],
    ),
    ("egress", &["pmtu", "io", "capture", "packet", "stats", "offload"]),
    ("ingress", &["io", "capture", "packet", "stats", "offload"]),
    ("capture", &["packet", "stats"]),
    ("icmp", &["packet", "stats"]),
    ("pmtu", &["io", "packet", "stats"]),
    ("io", &["packet", "offload"]),
    // Only the drop reasons and the state of offloads: see the tests below.
    ("packet", &["stats"]),
    ("stats", &["offload"]),
    ("offload", &[]),
    // The module itself names its parts for others.
    ("mod", &["engine", "stats", "offload"]),
];

#[test]
fn parts_of_the_data_plane_import_only_parts_below_them() {
    for (part, imports) in imports_within("dataplane") {
        let row = DATA_PLANE.iter().find(|(name, _)| *name == part);
        let (_, allowed) = row.unwrap_or_else(|| panic!("src/dataplane/{part} has no row"));
        for import in imports {
            assert!(allowed.contains(&import.as_str()), "dataplane::{part} imports {import}");
        }
    }
    for (index, (part, allowed)) in DATA_PLANE.iter().enumerate() {
        let above = &DATA_PLANE[..index];
        let circle = above.iter().find(|(name, _)| *part != "mod" && allowed.contains(name));
        assert!(circle.is_none(), "{part} may import {circle:?}, which is above it");
    }
}

#[test]
fn packets_and_stats_know_only_words_of_others() {
    for (path, text) in sources("src/dataplane/packet") {
        for line in code(without_tests(&text)).filter(|line| line.contains("dataplane::stats")) {
            assert!(line.contains("stats::drop_reason::DropReason"), "{}: {line}", path.display());
        }
    }
    for (path, text) in sources("src/dataplane/stats") {
        for line in code(without_tests(&text)).filter(|line| line.contains("dataplane::offload")) {
            let is_word = line.contains("offload::{Offload, Offloads}")
                || line.contains("offload::Offloads;")
                || line.contains("offload::refusals::Refused");
            assert!(is_word, "{}: {line}", path.display());
        }
    }
}

#[test]
fn stages_of_the_data_plane_do_no_io() {
    let io = ["sys::", "KernelTun", "KernelUdp", "std::fs", "socket2", "mio::", "nix::", "tun_rs"];
    for dir in ["egress", "ingress", "packet", "pmtu", "offload", "stats"] {
        for (path, text) in sources(&format!("src/dataplane/{dir}")) {
            // The vector unit is no device.
            for line in code(without_tests(&text)).filter(|line| !line.contains("sys::checksum")) {
                let word = io.iter().find(|word| line.contains(**word));
                assert!(word.is_none(), "{} does I/O: {line}", path.display());
            }
        }
    }
}

/// Module by module of `src/{parent}`, which others of them it imports outside of its tests.
fn imports_within(parent: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(parent);
    let is_module =
        |name: &String| root.join(name).is_dir() || root.join(format!("{name}.rs")).is_file();
    let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for imports::Import { from, to } in imports::of(&format!("src/{parent}")) {
        let part = from.into_iter().next().unwrap_or_else(|| "mod".to_owned());
        let name = to.into_iter().next().filter(|name| *name != part && is_module(name));
        parts.entry(part).or_default().extend(name);
    }
    parts
}

/// `text` up to its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}
