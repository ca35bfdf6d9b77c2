//! The rounds of the case of many leases.

use super::{Bench, case, rotated};
use crate::lab::LabError;
use crate::lab::bench::leases::LeaseScale;
use crate::lab::bench::matrix::{Setting, Workload};
use crate::lab::bench::results::{self, Samples};
use crate::lab::bench::testbed::{self, OFF, Participant, WORKERS};
use crate::lab::network::backend::Backend;

impl Bench<'_> {
    /// Measures the case of leases.
    pub(super) fn leases(&mut self, setting: Setting) -> Result<(), LabError> {
        let mut lease_scales = Vec::new();
        for (number, (participant, num_leases)) in self.lease_scales().into_iter().enumerate() {
            let name = &participant.name;
            let lab = format!("{}-s{number}", self.plan.name);
            let made = LeaseScale::set_up(&lab, &participant, num_leases);
            let place = format!("{num_leases} leases");
            lease_scales.extend(self.unless_others(made, name, &place)?);
            self.clock.done(testbed::LAB_TIME, &format!("{name} is up with {num_leases} leases"));
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
                if let Some(taken) = self.unless_others(taken, &samples.system, "leases")? {
                    self.report(round, "leases", &samples.system, &taken, self.leases_step());
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

    /// Who is measured with how many leases: all but twill with other flags, which has twill's
    /// control plane. Fewer numbers are enough where the kernel has entries for each peer.
    pub(super) fn lease_scales(&self) -> Vec<(Participant, usize)> {
        let matrix = &self.plan.matrix;
        let mut all = Vec::new();
        for participant in
            self.participants.iter().filter(|one| ![OFF, WORKERS].contains(&&*one.name))
        {
            let sizes = match participant.backend {
                Backend::Udp => &matrix.num_leases,
                Backend::Vxlan | Backend::HostGw => &matrix.num_kernel_leases,
            };
            all.extend(sizes.iter().map(|num| (participant.clone(), *num)));
        }
        all
    }
}
