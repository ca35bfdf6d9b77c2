//! Who may import whom, and where `unsafe` may stand. See the crate's documentation.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

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
