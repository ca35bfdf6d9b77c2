//! The pages that users read name only what there is: files, flags, commands, keys, metrics.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;
use twill::control::cli as flanneld_cli;
use twill::control::config::network;
use twill::lab::cli as lab_cli;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A page for users: its path, and its text.
struct Page {
    path: PathBuf,
    text: String,
}

/// The README, SECURITY.md and everything in docs/, without the decisions.
fn pages() -> Vec<Page> {
    let root = Path::new(REPOSITORY);
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let top = ["README.md", "SECURITY.md"].map(|name| root.join(name));
    let read = |path: PathBuf| Page { text: fs::read_to_string(&path).unwrap(), path };
    let pages: Vec<Page> = docs.chain(top).map(read).collect();
    assert!(pages.len() > 8, "the pages are not where they were");
    pages
}

impl Page {
    fn name(&self) -> String {
        self.path.strip_prefix(REPOSITORY).unwrap().display().to_string()
    }

    /// The fenced blocks of this language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let fence = Regex::new(&format!(r"(?ms)^ *```{language}\n(.*?)^ *```$")).unwrap();
        fence.captures_iter(&self.text).map(|block| block[1].to_owned()).collect()
    }

    /// The commands of its console blocks, each as its words, without comments and `sudo`.
    fn commands(&self) -> Vec<Vec<String>> {
        let blocks = self.blocks("console").join("\n").replace("\\\n", " ");
        let lines = blocks.lines().flat_map(|line| line.split("&&"));
        let commands = lines.map(|line| {
            let words = words(line.trim_start_matches("$ "));
            words.into_iter().skip_while(|word| word == "sudo").collect::<Vec<String>>()
        });
        commands.filter(|words| !words.is_empty()).collect()
    }
}

/// The words of a shell's line up to a comment or a pipe; single and double quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let word = Regex::new(r#"'([^']*)'|"([^"]*)"|([^\s'"]+)"#).unwrap();
    let mut words: Vec<String> = Vec::new();
    let mut end = None;
    for found in word.captures_iter(line) {
        let whole = found.get(0).unwrap();
        let text = (1..=3).find_map(|group| found.get(group)).unwrap().as_str();
        if whole.as_str().starts_with('#') || whole.as_str() == "|" {
            break;
        }
        match words.last_mut().filter(|_| end == Some(whole.start())) {
            Some(last) => last.push_str(text),
            None => words.push(text.to_owned()),
        }
        end = Some(whole.end());
    }
    words
}

/// The anchors that a page's headings get.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    for page in pages() {
        for found in link.captures_iter(&page.text) {
            let target = &found[1];
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.path.clone(),
                file => page.path.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target}", page.name());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&path).unwrap());
                assert!(anchors.contains(anchor), "{}: {target} not in {anchors:?}", page.name());
            }
        }
    }
}

#[test]
fn commands_are_taken_by_the_programs() {
    let mut num = 0;
    for page in pages() {
        for words in page.commands() {
            let args = words[1..].iter().map(Into::into);
            match words[0].as_str() {
                "flanneld" => {
                    let parsed = flanneld_cli::parse(args, []);
                    assert!(parsed.is_ok(), "{}: {words:?}: {parsed:?}", page.name());
                }
                "flannel-lab" => {
                    let parsed = lab_cli::command().try_get_matches_from(&words);
                    assert!(parsed.is_ok(), "{}: {words:?}: {parsed:?}", page.name());
                }
                _ => continue,
            }
            num += 1;
        }
    }
    assert!(num > 20, "only {num} commands were found");
}

/// Flags of other programs that stand alone in the text.
const OTHERS: [&str; 4] = ["allocate-node-cidrs", "can-ip-forward", "cluster-cidr", "enable-v2"];

#[test]
fn flags_are_those_of_the_programs() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut pending = vec![flanneld_cli::command(), lab_cli::command()];
    while let Some(command) = pending.pop() {
        known.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
        pending.extend(command.get_subcommands().cloned());
    }
    let help = flanneld_cli::command().render_long_help().to_string();
    let code = Regex::new("`([^`\n]+)`").unwrap();
    let flag = Regex::new(r"(?:^|\s)--([a-z][a-z0-9-]+)").unwrap();
    for page in pages() {
        let spans = code.captures_iter(&page.text).map(|span| span.get(1).unwrap().as_str());
        let ours = spans.filter(|span| span.starts_with("--") || span.starts_with("flannel"));
        for found in ours.flat_map(|span| flag.captures_iter(span)) {
            let name = &found[1];
            let is_known = known.contains(name)
                || OTHERS.contains(&name)
                || ["help", "version"].contains(&name)
                || help.contains(&format!("--{name}"));
            assert!(is_known, "{}: --{name}, which neither program has", page.name());
        }
    }
}

#[test]
fn network_configs_are_taken_and_every_key_is_described() {
    let page = pages().into_iter().find(|page| page.name() == "docs/network-config.md").unwrap();
    let configs = page.blocks("json");
    assert!(configs.len() > 3);
    for config in configs {
        let parsed = network::parse(&config, None).unwrap();
        for (key, _) in parsed.backend.settings() {
            assert!(page.text.contains(&format!("| `{key}` |")), "{key} is not in the tables");
        }
        let value: Value = serde_json::from_str(&config).unwrap();
        for key in value.as_object().unwrap().keys() {
            assert!(page.text.contains(&format!("| `{key}` |")), "{key} is not in the tables");
        }
    }
}

#[test]
fn metrics_are_those_of_the_list() {
    let metric = Regex::new(r"\bflannel_[a-z0-9_]+").unwrap();
    let list = fs::read_to_string(Path::new(REPOSITORY).join("docs/metrics.md")).unwrap();
    let listed = Regex::new(r"(?m)^\| `(flannel_[a-z0-9_]+)`").unwrap();
    let listed: BTreeSet<&str> =
        listed.captures_iter(&list).map(|found| found.get(1).unwrap().as_str()).collect();
    for page in pages() {
        for found in metric.find_iter(&page.text) {
            assert!(listed.contains(found.as_str()), "{}: {}", page.name(), found.as_str());
        }
    }
}
