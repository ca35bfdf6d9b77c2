//! All rounds of all cases.

mod leases;

use std::time::Duration;

use super::clock::Clock;
use super::machine::Machine;
use super::matrix::{Matrix, Setting, Workload};
use super::results::{self, Case, Results, Samples};
use super::sample::{self, Sample};
use super::testbed;
use super::testbed::{Contender, Participant, Testbed};
use crate::lab::LabError;
use crate::lab::network::backend::Backend;
use crate::lab::network::daemon::Daemon;
use crate::lab::progress::{step, warn};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The labs' names begin with this.
    pub name: String,
    /// Our flanneld.
    pub twill: Daemon,
    /// The backends that all daemons run in turn.
    pub backends: Vec<Backend>,
    /// The daemons that take part besides ours.
    pub others: Vec<Contender>,
    /// Whether its results are for orientation only.
    pub quick: bool,
    /// The cases.
    pub matrix: Matrix,
}

/// What a measurement takes beyond the time it measures.
const OVERHEAD: Duration = Duration::from_millis(300);

/// Measurements of one round in the case of leases, and a restart.
const LEASES_STEPS: u32 = 7;

/// Runs all cases; the labs are gone when it returns.
///
/// # Errors
/// [`LabError`] when a lab cannot be made or twill fails; another daemon's failure is noted in the
/// results and ends its part in the case.
pub fn run(plan: &Plan) -> Result<Results, LabError> {
    let mut bench = Bench {
        plan,
        participants: testbed::participants(&plan.twill, &plan.others, &plan.backends),
        clock: Clock::start(Duration::ZERO),
        cases: Vec::new(),
        failures: Vec::new(),
    };
    let others = plan.others.iter().map(|other| (other.name.as_str(), &other.daemon));
    let daemons: Vec<_> = [(testbed::TWILL, &plan.twill)].into_iter().chain(others).collect();
    let machine = Machine::read(&daemons)?;
    bench.clock = Clock::start(bench.expected());
    for (setting, workloads) in plan.matrix.by_setting() {
        if workloads == [Workload::Leases] {
            bench.leases(setting)?;
        } else {
            bench.setting(setting, &workloads)?;
        }
    }
    let (cases, failures) = (bench.cases, bench.failures);
    Ok(Results {
        machine,
        quick: plan.quick,
        rounds: plan.matrix.rounds,
        seconds: plan.matrix.time.as_secs_f64(),
        systems: testbed::describe(&bench.participants),
        cases,
        failures,
    })
}

struct Bench<'plan> {
    plan: &'plan Plan,
    participants: Vec<Participant>,
    clock: Clock,
    cases: Vec<Case>,
    failures: Vec<String>,
}

impl Bench<'_> {
    fn num_systems(&self) -> usize {
        2 + self.participants.len()
    }

    /// What the whole run should take.
    fn expected(&self) -> Duration {
        let matrix = &self.plan.matrix;
        let mut total = Duration::ZERO;
        for (_, workloads) in matrix.by_setting() {
            if workloads == [Workload::Leases] {
                total += times(self.lease_scales().len(), testbed::LAB_TIME);
                total += times(matrix.rounds * self.lease_scales().len(), self.leases_step());
            } else {
                let num = workloads.len() * matrix.rounds * self.num_systems();
                total +=
                    times(self.participants.len(), testbed::LAB_TIME) + times(num, self.step());
            }
        }
        total
    }

    fn step(&self) -> Duration {
        self.plan.matrix.time + OVERHEAD
    }

    fn leases_step(&self) -> Duration {
        self.step() * LEASES_STEPS
    }

    /// Measures all workloads of one setting, in rounds.
    fn setting(&mut self, setting: Setting, workloads: &[Workload]) -> Result<(), LabError> {
        step(&format!("{}: {}", setting, setting.title()));
        let mut testbed = Testbed::set_up(&self.plan.name, setting, &self.participants)?;
        let labs = times(self.participants.len(), testbed::LAB_TIME);
        self.clock.done(labs, &format!("{setting}: {} systems are up", testbed.systems.len()));
        let empty: Vec<Samples> = testbed.systems.iter().map(|s| Samples::new(&s.name)).collect();
        let mut cases: Vec<Vec<Samples>> = workloads.iter().map(|_| empty.clone()).collect();
        for round in 0..self.plan.matrix.rounds {
            for (workload, samples) in workloads.iter().zip(&mut cases) {
                for system in rotated(round, testbed.systems.len()) {
                    let place = format!("{setting}/{workload}");
                    self.one(
                        &mut testbed,
                        system,
                        *workload,
                        (round, &place),
                        &mut samples[system],
                    )?;
                }
            }
        }
        for (workload, samples) in workloads.iter().zip(&cases) {
            self.cases.push(case(setting, *workload, results::rows(samples)));
        }
        testbed.remove()
    }

    fn one(
        &mut self,
        testbed: &mut Testbed,
        system: usize,
        workload: Workload,
        (round, place): (usize, &str),
        samples: &mut Samples,
    ) -> Result<(), LabError> {
        let time = self.plan.matrix.time;
        let taken = match samples.rounds.len() {
            done if done < round => return Ok(()), // it failed in an earlier round
            _ => testbed.activate(system).and_then(|ends| {
                samples.pod_mtu = ends.pod_mtu;
                sample::take(&ends, workload, time)
            }),
        };
        let Some(taken) = self.unless_others(taken, &samples.system, place)? else {
            return Ok(());
        };
        self.report(round, place, &samples.system, &taken, self.step());
        samples.rounds.push(taken);
        Ok(())
    }

    /// Notes what another daemon failed with; twill's failures end the run.
    fn unless_others<T>(
        &mut self,
        result: Result<T, LabError>,
        system: &str,
        place: &str,
    ) -> Result<Option<T>, LabError> {
        let is_others = self.plan.others.iter().any(|other| {
            system.strip_prefix(&other.name).is_some_and(|rest| rest.starts_with(' '))
        });
        match result {
            Err(error) if is_others && !error.is_interrupt() => {
                let failure = format!("{system} in {place}: {error}");
                warn(&failure);
                self.failures.push(failure);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn report(
        &mut self,
        round: usize,
        place: &str,
        system: &str,
        taken: &Sample,
        planned: Duration,
    ) {
        let figures = taken.iter().filter(|(metric, _)| metric.is_headline());
        let figures: Vec<String> =
            figures.map(|(metric, figure)| format!("{figure:.2} {}", metric.unit())).collect();
        let (round, rounds) = (round + 1, self.plan.matrix.rounds);
        let what =
            format!("round {round} of {rounds} · {place} · {system}: {}", figures.join(", "));
        self.clock.done(planned, &what);
    }
}

/// `num` steps of `time` each.
fn times(num: usize, time: Duration) -> Duration {
    time * u32::try_from(num).unwrap_or(u32::MAX)
}

/// All of `num`, each in its turn first.
fn rotated(round: usize, num: usize) -> impl Iterator<Item = usize> {
    (0..num).map(move |index| (index + round) % num)
}

fn case(setting: Setting, workload: Workload, rows: Vec<results::Row>) -> Case {
    Case {
        setting: setting.to_string(),
        setting_title: setting.title(),
        workload: workload.to_string(),
        title: workload.title(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_in_turn() {
        let order = |round| rotated(round, 3).collect::<Vec<_>>();
        assert_eq!((order(0), order(1), order(5)), (vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1]));
    }
}
