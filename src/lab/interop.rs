//! Twill together with another flanneld: every way in which two nodes of a network depend on each
//! other, tried in turn.
//!
//! In every lab `n1` runs twill and `n2` the other. A case that fails does not keep the later ones
//! from running, unless the lab itself could not be brought up.

mod checks;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::network::backend::Backend;
use super::network::daemon::Daemon;
use super::progress::{step, warn};
use super::{Lab, LabError, LabSpec};

/// Who meets whom.
#[derive(Debug, Clone)]
pub struct Meeting {
    /// The labs' names start with it.
    pub name: String,
    /// Twill.
    pub twill: Daemon,
    /// The other, usually stock.
    pub other: Daemon,
    /// What the table calls it.
    pub other_name: String,
    /// The backend of both.
    pub backend: Backend,
    /// `flannel-lab`, which makes the traffic.
    pub flannel_lab: PathBuf,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Results {
    cases: Vec<(String, Verdict)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(String),
    NotRun,
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
enum CaseError {
    /// Something did not come about.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Something is not as it has to be.
    #[error("{0}")]
    Wrong(String),
}

/// A case: what is asked, and how it is tried.
type Case = (&'static str, fn(&mut Lab, &Meeting) -> Result<(), CaseError>);

/// The labs: a name, and the cases in their order.
const LABS: [(&str, &[Case]); 3] = [
    (
        "twill-first",
        &[
            ("twill is there, the other joins", checks::twill_first),
            ("the longest packet passes, both ways", checks::longest_packet),
            ("twill restarts", checks::twill_restarts),
            ("the other restarts", checks::other_restarts),
            ("twill renews a lease that is about to end", checks::twill_renews),
            ("the other renews a lease that is about to end", checks::other_renews),
            ("twill follows a peer that comes and goes", checks::twill_follows),
            ("the other follows a peer that comes and goes", checks::other_follows),
        ],
    ),
    ("other-first", &[("the other is there, twill joins", checks::other_first)]),
    (
        "reserved",
        &[
            ("both find the subnets reserved for them", checks::reserved),
            ("twill leaves its reservation one", checks::reservation_stays),
        ],
    ),
];

impl Meeting {
    /// Runs all cases.
    ///
    /// # Errors
    /// [`LabError`] of a lab that could not be made or removed; what a case finds is in the results.
    pub fn hold(&self) -> Result<Results, LabError> {
        let mut results = Results::default();
        for (part, cases) in LABS {
            let daemons = BTreeMap::from([("n2".to_owned(), self.other.clone())]);
            let name = format!("{}-{part}", self.name);
            let spec = LabSpec {
                num_nodes: 2,
                daemons,
                config: Some(self.backend.config()),
                ..LabSpec::new(name, self.twill.clone())
            };
            let mut lab = Lab::create(spec)?;
            let title = |what: &str| what.replace("the other", &self.other_name);
            for (position, (what, case)) in cases.iter().enumerate() {
                let what = title(what);
                let verdict = match case(&mut lab, self) {
                    Ok(()) => Verdict::Passed,
                    Err(CaseError::Lab(error)) if error.is_interrupt() => return Err(error),
                    Err(error) => {
                        print_logs(&lab);
                        Verdict::Failed(error.to_string())
                    }
                };
                step(&format!("{what}: {verdict}"));
                // The first case of a lab brings its nodes up.
                let is_up = position > 0 || verdict == Verdict::Passed;
                results.cases.push((what, verdict));
                if !is_up {
                    let rest = cases[1..].iter().map(|(what, _)| title(what));
                    results.cases.extend(rest.map(|what| (what, Verdict::NotRun)));
                    break;
                }
            }
            lab.remove()?;
        }
        Ok(results)
    }
}

/// The logs are about to go.
fn print_logs(lab: &Lab) {
    for node in lab.nodes() {
        warn(&format!("{} logged last:\n{}", node.name(), node.log_tail(5)));
    }
}

impl Results {
    /// How many cases did not pass, and how many there are.
    pub fn num_failed(&self) -> (usize, usize) {
        let failed = self.cases.iter().filter(|(_, verdict)| *verdict != Verdict::Passed);
        (failed.count(), self.cases.len())
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        let width = self.cases.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        let row = |(what, verdict): &(String, Verdict)| format!("{what:width$}  {verdict}\n");
        let rows: String = self.cases.iter().map(row).collect();
        format!("{:width$}  result\n{rows}", "case")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::NotRun => f.write_str("not run"),
        }
    }
}
