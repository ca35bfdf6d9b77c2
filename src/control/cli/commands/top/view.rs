//! [`View`]: what `flanneld top` shows, while daemons stop and start below it.

use super::frame::{Size, away, frame};
use super::rates::{Reading, TopRates};
use crate::control::cli::client::ToolError;
use crate::control::cli::term::paint::Paint;
use crate::control::observe::api::Status;

/// The last reading and the rates since the one before it.
pub(super) struct View {
    status: Status,
    /// Whether it may be of another run.
    is_status_old: bool,
    last: Reading,
    rates: TopRates,
    /// Why there is no reading.
    problem: Option<String>,
}

impl View {
    pub(super) fn new(status: Status, before: &Reading, now: Reading) -> Self {
        let rates = TopRates::new(before, &now);
        Self { status, is_status_old: false, last: now, rates, problem: None }
    }

    /// Whether the status that it has may be old: it is not asked for every second, since the daemon
    /// asks its registry for it.
    pub(super) fn wants_status(&self) -> bool {
        self.is_status_old || self.status.lease.is_none()
    }

    /// Takes the next reading, or why there is none.
    pub(super) fn update(&mut self, news: Result<(Reading, Option<Status>), ToolError>) {
        match news {
            Ok((reading, status)) => {
                let is_other_run =
                    self.problem.is_some() || reading.peers.at_millis < self.last.peers.at_millis;
                // Counters of another run have grown since its start, at an unknown time.
                let before = if is_other_run { &reading } else { &self.last };
                self.rates = TopRates::new(before, &reading);
                self.last = reading;
                match status {
                    Some(status) => (self.status, self.is_status_old) = (status, false),
                    // It was away so shortly that no reading failed.
                    None => self.is_status_old |= is_other_run,
                }
                self.problem = None;
            }
            Err(error) => {
                self.problem = Some(error.to_string());
                self.is_status_old = true;
            }
        }
    }

    pub(super) fn text(&self, size: Size, paint: Paint) -> String {
        match &self.problem {
            Some(problem) => away(problem, size, paint),
            None => frame(&self.status, &self.rates, size, paint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::reading;
    use super::*;
    use crate::control::observe::api::{Device, Lease};

    fn ready() -> Status {
        let lease = Lease {
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.7.0/24".parse().unwrap(),
            ipv6_subnet: None,
            public_ip: "192.0.2.7".parse().unwrap(),
            expires: None,
        };
        let device = Device { name: "flannel0".to_owned(), mtu: 1472 };
        Status { lease: Some(lease), device: Some(device), ..Status::default() }
    }

    fn text(view: &View) -> String {
        view.text(Size::default(), Paint::off())
    }

    #[test]
    fn daemon_that_is_away_is_waited_for_and_its_next_run_counts_from_zero() {
        let mut view = View::new(ready(), &reading(90_000, 0), reading(91_000, 1_000_000));
        assert!(text(&view).contains("8.00 G"), "{}", text(&view));
        assert!(!view.wants_status());
        view.update(Err(ToolError::NotRunning("nobody listens at /x".to_owned())));
        let shown = text(&view);
        assert!(shown.contains("nobody listens at /x") && !shown.contains("PEER"), "{shown}");
        assert!(view.wants_status());
        view.update(Ok((reading(1000, 5_000_000), Some(ready()))));
        let shown = text(&view);
        assert!(shown.contains("10.244.7.0/24 on flannel0"), "{shown}");
        assert!(!shown.contains(" G"), "no rate of millions in a millisecond: {shown}");
        view.update(Ok((reading(2000, 6_000_000), None)));
        assert!(text(&view).contains("8.00 G"), "{}", text(&view));
    }

    #[test]
    fn status_is_asked_for_until_there_is_a_lease_and_after_a_short_absence() {
        let phase = Some("waiting for the network config".to_owned());
        let starting = Status { phase, ..Status::default() };
        let mut view = View::new(starting, &reading(0, 0), reading(500, 0));
        assert!(view.wants_status());
        view.update(Ok((reading(1500, 0), Some(ready()))));
        assert!(!view.wants_status());
        view.update(Ok((reading(900, 0), None)));
        assert!(view.wants_status());
    }
}
