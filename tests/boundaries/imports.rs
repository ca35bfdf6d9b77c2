//! Reads which module imports which, from `use` items and from paths in code. What is compiled for
//! tests alone does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// One path from one module to another. Both are paths of names below the directory that was read.
pub(crate) struct Import {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} imports {}", self.from.join("::"), self.to.join("::"))
    }
}

/// Every import between the modules of `dir`, such as `src/control`.
pub(crate) fn of(dir: &str) -> Vec<Import> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let prefix: Vec<String> = dir.split('/').skip(1).map(str::to_owned).collect();
    let mut modules = BTreeMap::new();
    read(&root, &root, &mut modules);
    assert!(!modules.is_empty(), "{dir} holds no source");
    let mut tests = BTreeSet::new();
    for (path, text) in &modules {
        for name in declared_for_tests(text) {
            tests.insert([path.as_slice(), &[name]].concat());
        }
    }
    let is_test = |path: &[String]| (1..=path.len()).any(|len| tests.contains(&path[..len]));
    let mut imports = Vec::new();
    for (from, text) in modules.iter().filter(|(path, _)| !is_test(path)) {
        for path in paths(&without_tests(text)) {
            if let Some(to) = resolve(&prefix, from, &path) {
                imports.push(Import { from: from.clone(), to });
            }
        }
    }
    imports
}

/// Circles between sibling directories, at any depth. A file with a directory of its
/// name is one with it. A parent and its children may know each other.
pub(crate) fn circles(imports: &[Import]) -> Vec<String> {
    let is_dir = |path: &[String]| {
        imports.iter().any(|it| it.from.len() > path.len() && it.from.starts_with(path))
    };
    let mut graph: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for Import { from, to } in imports {
        let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        if shared < from.len() && shared < to.len() {
            let (from, to) = (&from[..=shared], &to[..=shared]);
            if is_dir(from) && is_dir(to) {
                graph.entry(from).or_default().insert(to);
            }
        }
    }
    let mut circles = Vec::new();
    for start in graph.keys() {
        let (mut pending, mut seen) = (vec![*start], BTreeSet::new());
        while let Some(node) = pending.pop() {
            for next in graph.get(node).into_iter().flatten() {
                if next == start {
                    circles.push(format!("{} and {}", start.join("::"), node.join("::")));
                } else if seen.insert(*next) {
                    pending.push(next);
                }
            }
        }
    }
    circles
}

fn read(root: &Path, path: &Path, modules: &mut BTreeMap<Vec<String>, String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read(root, &entry.unwrap().path(), modules);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let name = path.strip_prefix(root).unwrap().with_extension("");
        let parts = name.iter().map(|part| part.to_str().unwrap().to_owned());
        let parts = parts.filter(|part| part != "mod").collect();
        modules.insert(parts, fs::read_to_string(path).unwrap());
    }
}

/// Names of the modules that `text` declares behind `#[cfg(test)]`, in files of their own.
fn declared_for_tests(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(any(test") {
            let declared = lines.find(|line| !line.starts_with("#["));
            let words = declared.unwrap_or_default().trim_end_matches(';').split(' ');
            let mut words = words.skip_while(|word| *word != "mod");
            names.extend(words.nth(1).map(str::to_owned));
        }
    }
    names
}

/// The code of `text`: no comments, and nothing behind `#[cfg(test)]`. rustfmt's indentation tells
/// where an item ends.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with("#[cfg(test)]") {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let item = lines.find(|line| !line.trim_start().starts_with("#["));
        if item.is_some_and(|item| item.ends_with(['{', '('])) {
            let ends = ["}", "};", ");", "},"].map(|end| format!("{indent}{end}"));
            let _end = lines.find(|line| ends.iter().any(|end| line == end));
        }
    }
    code
}

/// Every path that begins with `crate`, `self` or `super`, with the leaves of `use` trees written
/// out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = code;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    while let Some((at, start)) = ["crate::", "self::", "super::"]
        .iter()
        .filter_map(|start| rest.find(start).map(|at| (at, start)))
        .min()
    {
        let is_word = !rest[..at].ends_with(|c: char| is_name(c) || c == ':');
        if is_word {
            tree(&rest[at..], &mut Vec::new(), &mut paths);
        }
        rest = &rest[at + start.len()..];
    }
    paths
}

/// Reads the path or tree at the start of `text` and returns what follows it.
fn tree<'a>(text: &'a str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let len = before.len();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(mut inside) = rest.strip_prefix('{') {
            loop {
                inside = inside.trim_start().trim_start_matches(',').trim_start();
                if let Some(after) = inside.strip_prefix('}') {
                    before.truncate(len);
                    return after;
                }
                let after = tree(inside, before, paths);
                assert!(after.len() < inside.len(), "no path: {inside}");
                inside = after;
            }
        }
        let end =
            rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
        before.push(rest[..end].to_owned());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    paths.push(before.clone());
    before.truncate(len);
    // `as NAME`
    rest.strip_prefix(" as ")
        .map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The module of `prefix` that `path` in the module `from` leads to.
fn resolve(prefix: &[String], from: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut absolute = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => [prefix, from].concat(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(absolute.pop()),
            name => absolute.push(name.to_owned()),
        }
    }
    // `pub(in crate::control)` is no import.
    let inside = absolute.strip_prefix(prefix).filter(|inside| !inside.is_empty());
    inside.map(<[String]>::to_vec)
}
