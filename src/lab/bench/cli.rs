//! `flannel-lab bench`: its options, and where its results go.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Contender, Matrix, Plan, html, run, table};
use crate::lab::LabError;
use crate::lab::choice::Choice;
use crate::lab::network::backend::Backend;
use crate::lab::network::daemon::Daemon;
use crate::lab::progress::{print, step};

/// What to measure, and where to write what was found.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The labs' names begin with this
    #[arg(short = 'l', long, value_name = "LAB", default_value = "bench")]
    name: String,
    /// Measures only what matters most, in about two minutes: for orientation, not to quote
    #[arg(long)]
    quick: bool,
    /// Measures only these cases: a setting (w2-1500), a workload (tcp-4), both
    /// (w2-1500/tcp-4), or the front of either (w2, tcp)
    ///
    /// May be given several times. A name that no case has is refused with a list of all.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The backends that twill and the others run
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,…", default_values_t = Backend::ALL)]
    backend: Vec<Backend>,
    /// Lets another flanneld take part, with each backend; NAME is what the report calls it
    ///
    /// May be given several times. Without NAME the report uses the file's name. The word `stock-emulator` for PATH is the built-in emulator of a
    /// stock node.
    #[arg(long, value_name = "[NAME=]PATH", value_parser = named_path)]
    flanneld: Vec<Choice>,
    /// How often each system is measured in each case [default: 5, with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Also writes all figures to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also writes a report with charts to FILE; it needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Names that the report uses for something else.
const RESERVED: [&str; 5] = ["raw", "vxlan", "twill", "workers", "off"];

impl BenchArgs {
    /// Measures, prints the tables, and writes the files. Our flanneld is in the
    /// directory of `flannel_lab`, which is this program.
    ///
    /// # Errors
    /// [`LabError`]; the labs are gone even then.
    pub fn run(self, flannel_lab: &Path) -> Result<(), LabError> {
        let mut files = self.json.iter().chain(&self.html);
        // Nine minutes later would be late to learn of it.
        files.try_for_each(|path| write(path, ""))?;
        let (json, html_file) = (self.json.clone(), self.html.clone());
        let results = run(&self.plan(flannel_lab)?)?;
        print(&table::text(&results))?;
        if let Some(path) = &json {
            let text = serde_json::to_string_pretty(&results).map_err(std::io::Error::from);
            write(path, &text.map_err(LabError::io("write the figures as JSON"))?)?;
        }
        if let Some(path) = &html_file {
            write(path, &html::render(&results))?;
            step(&format!("the report is {}", path.display()));
        }
        Ok(())
    }

    fn plan(self, flannel_lab: &Path) -> Result<Plan, LabError> {
        let matrix = if self.quick { Matrix::quick() } else { Matrix::full() };
        let mut matrix = matrix.only(&self.only)?;
        if let Some(rounds) = self.rounds {
            matrix.rounds = rounds as usize;
        }
        let other = |choice: Choice| {
            Ok(Contender { daemon: choice.daemon(flannel_lab)?, name: choice.title() })
        };
        Ok(Plan {
            name: self.name,
            quick: self.quick,
            backends: unique(self.backend),
            twill: Daemon::flanneld(flannel_lab.with_file_name("flanneld")),
            others: self.flanneld.into_iter().map(other).collect::<Result<_, LabError>>()?,
            matrix,
        })
    }
}

/// Each once, in the given order.
fn unique(backends: Vec<Backend>) -> Vec<Backend> {
    let mut all = Vec::new();
    for backend in backends {
        if !all.contains(&backend) {
            all.push(backend);
        }
    }
    all
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
}

/// `[NAME=]PATH`, where the name is fit for a table.
fn named_path(text: &str) -> Result<Choice, String> {
    let choice: Choice = text.parse()?;
    let name = choice.title();
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_legal) || RESERVED.contains(&name.as_str()) {
        return Err(format!(
            "{name:?} cannot name a daemon: write NAME=PATH, with letters, digits, - _ and . in NAME, \
             which is none of {}",
            RESERVED.join(", ")
        ));
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(words: &str) -> Result<Plan, String> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        let args = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        args.bench.plan(Path::new("/opt/flannel-lab")).map_err(|error| error.to_string())
    }

    #[test]
    fn default_is_everything() {
        let plan = plan("").unwrap();
        assert_eq!(plan.matrix, Matrix::full());
        assert_eq!(plan.twill, Daemon::flanneld("/opt/flanneld"));
        assert!(plan.others.is_empty());
    }

    #[test]
    fn backends_are_chosen_once_each() {
        assert_eq!(plan("").unwrap().backends, Backend::ALL);
        let plan = plan("--backend host-gw,udp --backend udp").unwrap();
        assert_eq!(plan.backends, [Backend::HostGw, Backend::Udp]);
    }

    #[test]
    fn quick_can_be_narrowed_further() {
        let plan = plan("--quick --only w2/tcp-1 --only leases --rounds 1").unwrap();
        assert_eq!((plan.matrix.cases.len(), plan.matrix.rounds), (2, 1));
        assert_eq!(plan.matrix.time, Matrix::quick().time);
    }

    #[test]
    fn others_take_part_under_their_names() {
        let others = "--flanneld stock=stock-emulator --flanneld self=/proc/self/exe";
        let plan = plan(&format!("{others} --flanneld /bin/true")).unwrap();
        let names: Vec<&str> = plan.others.iter().map(|other| other.name.as_str()).collect();
        assert_eq!(names, ["stock", "self", "true"]);
        assert_eq!(plan.others[0].daemon, Daemon::stock_emulator("/opt/flannel-lab"));
    }

    #[test]
    fn nonsense_is_refused() {
        for (words, reason) in [
            ("--flanneld a,b", "NAME=PATH"),
            ("--flanneld raw=/bin/true", "cannot name a daemon"),
            ("--flanneld a,b=/bin/true", "cannot name a daemon"),
            ("--flanneld x=/no/such/flanneld", "find flanneld /no/such/flanneld"),
            ("--only tcp-3", "there is no case tcp-3"),
            ("--rounds 0", "0 is not in"),
            ("--backend ipip", "invalid value 'ipip'"),
        ] {
            let error = plan(words).unwrap_err();
            assert!(error.contains(reason), "{words}: {error}");
        }
    }
}
