//! All rounds of all cases.

use std::env;
use std::fs;
use std::thread;
use std::time::Duration;

use super::clock::Clock;
use super::leases::LeaseScale;
use super::matrix::{Matrix, Setting, Workload};
use super::results::{self, Case, Machine, Results, Samples};
use super::sample::{self, Sample};
use super::testbed;
use super::testbed::{Contender, OFF, RAW, TWILL, Testbed, VXLAN};
use crate::lab::LabError;
use crate::lab::host::command::Tool;
use crate::lab::network::daemon::Daemon;
use crate::lab::network::datapath::OFFLOAD_OFF;
use crate::lab::progress::{complain, step};

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The labs' names begin with this.
    pub name: String,
    /// Our flanneld.
    pub twill: Daemon,
    /// Those that take part beside it.
    pub others: Vec<Contender>,
    /// The cases.
    pub matrix: Matrix,
}

/// What a measurement takes beyond the time it measures.
const OVERHEAD: Duration = Duration::from_millis(300);

/// Measurements of one round in the case of leases, and a restart.
const LEASES_STEPS: u32 = 5;

/// Runs all cases; the labs are gone when it returns.
///
/// # Errors
/// [`LabError`] when a lab cannot be made or twill fails; another daemon's failure is noted in the
/// results and ends its part in the case.
pub fn run(plan: &Plan) -> Result<Results, LabError> {
    let mut bench = Bench {
        plan,
        daemons: testbed::daemons(&plan.twill, &plan.others),
        clock: Clock::start(Duration::ZERO),
        cases: Vec::new(),
        failures: Vec::new(),
    };
    let machine = machine()?;
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
        rounds: plan.matrix.rounds,
        seconds: plan.matrix.time.as_secs_f64(),
        systems: describe(&plan.others),
        cases,
        failures,
    })
}

struct Bench<'plan> {
    plan: &'plan Plan,
    daemons: Vec<(String, Daemon)>,
    clock: Clock,
    cases: Vec<Case>,
    failures: Vec<String>,
}

impl Bench<'_> {
    fn num_systems(&self) -> usize {
        2 + self.daemons.len()
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
                total += times(self.daemons.len(), testbed::LAB_TIME) + times(num, self.step());
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
        let mut testbed = Testbed::set_up(&self.plan.name, setting, &self.daemons)?;
        let labs = times(self.daemons.len(), testbed::LAB_TIME);
        self.clock.done(labs, &format!("{setting}: {} systems stand", testbed.systems.len()));
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
        let Some(taken) = self.unless_foreign(taken, &samples.system, place)? else {
            return Ok(());
        };
        self.tell(round, place, &samples.system, &taken, self.step());
        samples.rounds.push(taken);
        Ok(())
    }

    /// Measures the case of leases.
    fn leases(&mut self, setting: Setting) -> Result<(), LabError> {
        let mut lease_scales = Vec::new();
        for (number, (name, daemon, num_leases)) in self.lease_scales().into_iter().enumerate() {
            let lab = format!("{}-s{number}", self.plan.name);
            let made = LeaseScale::set_up(&lab, &name, &daemon, num_leases);
            let place = format!("{num_leases} leases");
            lease_scales.extend(self.unless_foreign(made, &name, &place)?);
            self.clock
                .done(testbed::LAB_TIME, &format!("{name} stands beside {num_leases} leases"));
        }
        let mut all: Vec<Samples> = lease_scales.iter().map(|c| Samples::new(&c.name)).collect();
        for round in 0..self.plan.matrix.rounds {
            for index in rotated(round, lease_scales.len()) {
                let (scale, samples) = (&mut lease_scales[index], &mut all[index]);
                if samples.rounds.len() < round {
                    continue; // it failed in an earlier round
                }
                samples.pod_mtu = scale.pod_mtu();
                let taken = scale.take(self.plan.matrix.time);
                if let Some(taken) = self.unless_foreign(taken, &samples.system, "leases")? {
                    self.tell(round, "leases", &samples.system, &taken, self.leases_step());
                    samples.rounds.push(taken);
                }
            }
        }
        let rows = all.iter().map(|samples| {
            let own = samples.system.split(',').next();
            let fewest = all.iter().find(|other| other.system.split(',').next() == own);
            results::row(samples, fewest.as_slice())
        });
        self.cases.push(case(setting, Workload::Leases, rows.collect()));
        lease_scales.into_iter().try_for_each(LeaseScale::remove)
    }

    /// Who is measured beside how many leases: everybody but twill as stock moves packets, whose
    /// control plane is twill's.
    fn lease_scales(&self) -> Vec<(String, Daemon, usize)> {
        let daemons = self.daemons.iter().filter(|(name, _)| name != OFF);
        daemons
            .flat_map(|(name, daemon)| {
                let sizes = self.plan.matrix.num_leases.iter();
                sizes.map(move |num| (name.clone(), daemon.clone(), *num))
            })
            .collect()
    }

    /// Notes what another daemon failed with; twill's failures end the run.
    fn unless_foreign<T>(
        &mut self,
        result: Result<T, LabError>,
        system: &str,
        place: &str,
    ) -> Result<Option<T>, LabError> {
        let is_foreign = self.plan.others.iter().any(|other| {
            system
                .strip_prefix(other.name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        });
        match result {
            Err(error) if is_foreign && !error.is_interrupt() => {
                let failure = format!("{system} in {place}: {error}");
                complain(&failure);
                self.failures.push(failure);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn tell(&mut self, round: usize, place: &str, system: &str, taken: &Sample, planned: Duration) {
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

/// What each system is.
fn describe(others: &[Contender]) -> Vec<(String, String)> {
    let own = [
        (RAW, "no overlay: the nodes route the pods' subnets to each other".to_owned()),
        (VXLAN, "the kernel's vxlan device, as flannel's vxlan backend sets it up".to_owned()),
        (TWILL, "twill's flanneld as it runs by default".to_owned()),
        (OFF, format!("twill {OFFLOAD_OFF}: one packet per system call on one thread, like stock")),
    ];
    let own = own.map(|(name, what)| (name.to_owned(), what));
    let other = |other: &Contender| {
        let program = other.daemon.program.display();
        (other.name.clone(), format!("{program} {}", other.daemon.before.join(" ")))
    };
    own.into_iter().chain(others.iter().map(other)).collect()
}

fn machine() -> Result<Machine, LabError> {
    let read = |path: &str| fs::read_to_string(path).map_err(LabError::io(format!("read {path}")));
    let (cpus, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = value(&memory, "MemTotal").unwrap_or_default();
    let args: Vec<String> = env::args().skip(1).collect();
    Ok(Machine {
        cpu: value(&cpus, "model name").unwrap_or_else(|| env::consts::ARCH.to_owned()),
        num_cpus: thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory.trim_end_matches(" kB").parse().map_or(0, |kib: u64| kib / 1024),
        kernel: Tool::new("uname").arg("-r").run()?.trim().to_owned(),
        date: Tool::new("date").words("-u +%Y-%m-%dT%H:%M:%SZ").run()?.trim().to_owned(),
        command: format!("flannel-lab {}", args.join(" ")),
    })
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
