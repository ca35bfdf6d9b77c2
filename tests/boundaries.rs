//! Who may import whom, and where `unsafe` may stand. See the crate's documentation.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

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
fn unsafe_stands_in_sys_alone() {
    for (path, text) in sources("src") {
        if path.components().any(|part| part.as_os_str() == "sys") {
            continue;
        }
        let is_unsafe = |line: &str| line.contains("unsafe {") || line.contains("unsafe fn");
        assert!(!code(&text).any(is_unsafe), "{}", path.display());
    }
}

#[test]
fn one_backend_never_imports_another_and_one_file_knows_them_all() {
    const BACKENDS: [&str; 3] = ["udp", "vxlan", "host_gw"];
    for (path, text) in sources("src/control") {
        let path = path.to_str().unwrap();
        if path.ends_with("control/backend/mod.rs") {
            continue;
        }
        let is_own = |name: &str| {
            path.contains(&format!("/backend/{name}/"))
                || path.ends_with(&format!("/backend/{name}.rs"))
        };
        for name in BACKENDS.iter().filter(|name| !is_own(name)) {
            let imports = [format!("backend::{name}"), format!("super::{name}::")];
            let is_import = |line: &str| imports.iter().any(|import| line.contains(import));
            // The data plane and the lab have modules of these names, too.
            let line = code(&text).find(|line| is_import(line) && !line.contains("dataplane"));
            assert_eq!(line, None, "{path}");
        }
    }
}

/// Which parts of the data plane each of its parts imports; everything not listed here is an error.
/// No row names a row above it, so there is no circle.
const DATA_PLANE: [(&str, &[&str]); 11] = [
    ("engine", &["worker", "ingress", "pmtu", "io", "stats"]),
    ("worker", &["egress", "ingress", "icmp", "pmtu", "io", "packet", "stats", "offload"]),
    ("egress", &["pmtu", "io", "packet", "stats", "offload"]),
    ("ingress", &["io", "packet", "stats", "offload"]),
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
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources(&format!("src/{parent}")) {
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let mut module: Vec<String> = path
            .strip_prefix(&root)
            .unwrap()
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        let part = module[0].clone();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        for name in paths_in(without_tests(&text), parent, &module) {
            if root.join(&name).is_dir() || root.join(format!("{name}.rs")).is_file() {
                imports.entry(part.clone()).or_default().extend((name != part).then_some(name));
            }
        }
        imports.entry(part).or_default();
    }
    imports
}

/// The first name below `parent` of every path in `text`, the text of `module`.
fn paths_in(text: &str, parent: &str, module: &[String]) -> Vec<String> {
    let text: String = code(text).flat_map(|line| [line, "\n"]).collect();
    let mut names = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            if text[..at].ends_with("::") {
                continue;
            }
            let path: Vec<&str> = text[at..]
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .next()
                .unwrap()
                .split("::")
                .collect();
            let num_supers = path.iter().take_while(|name| **name == "super").count();
            let below = match path[0] {
                "crate" if path.get(1) == Some(&parent) => path.get(2).copied(),
                "super" if num_supers == module.len() => path.get(num_supers).copied(),
                "self" if module.is_empty() => path.get(1).copied(),
                _ => None,
            };
            names.extend(below.map(str::to_owned));
        }
    }
    names
}

/// `text` up to its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}
