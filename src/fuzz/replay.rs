//! Runs every target over its corpus and over mutations of it, without libFuzzer.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::TARGETS;
use super::mutate::Mutator;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

/// How many mutations each target is given, over its whole corpus.
const NUM_MUTATIONS: u64 = 2000;

/// Any will do. What fails comes again with the same one.
const SEED: u64 = 0x0074_7769_6c6c;

#[test]
fn every_target_keeps_its_promises_on_its_corpus_and_near_it() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        for (path, input) in &corpus {
            assert_kept(name, target, input, &path.display().to_string());
        }
        let mut mutator = Mutator::new(SEED);
        for (number, (_, input)) in (0..NUM_MUTATIONS).zip(corpus.iter().cycle()) {
            let (_, other) = &corpus[usize::try_from(number).unwrap() * 7 % corpus.len()];
            let input = mutator.mutate(input, other);
            assert_kept(name, target, &input, &format!("mutation {number} of seed {SEED:#x}"));
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_there_are_no_others() {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(Path::new(FUZZ).join(dir)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), expected);
    assert_eq!(names("corpus"), expected);
    let manifest = fs::read_to_string(Path::new(FUZZ).join("Cargo.toml")).unwrap();
    for name in expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let program = fs::read_to_string(format!("{FUZZ}/fuzz_targets/{name}.rs")).unwrap();
        assert!(program.contains(&format!("fuzz::{name}(")), "{name}");
    }
}

/// The target's inputs in the order of their names.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(Path::new(FUZZ).join("corpus").join(name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no corpus");
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Runs the target; if it panics, says on what, in a form that makes a file of a corpus.
fn assert_kept(name: &str, target: fn(&[u8]), input: &[u8], what: &str) {
    let broken = panic::catch_unwind(AssertUnwindSafe(|| target(input)));
    if let Err(broken) = broken {
        let input = input.escape_ascii();
        panic!("{name} on {what}: {}\n$'{input}'", message(&*broken));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}
