//! [`RouteReconciler`]: keeps the cloud's route to this node.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::{Cloud, Wanted};
use crate::control::backend::peer_routes::{Underlay, underlay_condition};
use crate::control::conditions::{Condition, Conditions};
use crate::control::host::net::Netlink;
use crate::control::util::backoff::Backoff;
use crate::control::util::log_limit::LogLimit;
use crate::control::util::rng::rng;

/// Name of the route's condition.
pub(super) const ROUTE: &str = "cloud_route";

/// How often the route is checked, give or take a quarter. All nodes share one limit of calls, and
/// a thousand nodes make less than ten calls a second this way.
const CHECK: Duration = Duration::from_secs(600);

/// The delays between attempts at a route that is not in place.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// How often the external interface is checked: this asks only the kernel.
const UNDERLAY: Duration = Duration::from_secs(10);

/// Keeps the route in place, and follows the external interface.
pub(super) struct RouteReconciler<C> {
    cloud: C,
    wanted: Wanted,
    net: Netlink,
    underlay: Underlay,
    asked: Arc<Notify>,
    conditions: watch::Sender<Conditions>,
    log: LogLimit,
}

/// The conditions before the first attempt.
pub(super) fn pending() -> Conditions {
    let mut conditions = Conditions::ok(&["underlay", ROUTE]);
    conditions.set(ROUTE, Condition::Failed("the route is not in place yet".to_owned()));
    conditions
}

impl<C: Cloud> RouteReconciler<C> {
    pub(super) fn new(
        cloud: C,
        wanted: Wanted,
        (net, underlay): (Netlink, Underlay),
        asked: Arc<Notify>,
        conditions: watch::Sender<Conditions>,
    ) -> Self {
        Self { cloud, wanted, net, underlay, asked, conditions, log: LogLimit::default() }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut is_first = true;
        loop {
            let (condition, delay) = match self.cloud.ensure_route(self.wanted).await {
                Ok(problem) => {
                    backoff.reset();
                    let condition = problem.map_or(Condition::Ok, Condition::Degraded);
                    (condition, CHECK.mul_f64(rng().random_range(0.75..=1.25)))
                }
                Err(error) => (Condition::Failed(error.to_string()), backoff.delay()),
            };
            if is_first && condition.is_ok() {
                // Not a recovery: nothing was wrong before.
                self.conditions.send_modify(|now| now.set(ROUTE, Condition::Ok));
            }
            is_first = false;
            self.publish(ROUTE, condition);
            self.wait(Instant::now() + delay).await;
        }
    }

    /// Waits until the route is to be checked again: at `due`, when asked, or because we have
    /// another address.
    async fn wait(&mut self, due: Instant) {
        loop {
            let now = Instant::now();
            if now >= due {
                return;
            }
            tokio::select! {
                () = self.asked.notified() => return,
                () = sleep_until(due.min(now + UNDERLAY)) => {}
            }
            if self.has_moved().await {
                return;
            }
        }
    }

    /// Whether the external interface has another address now.
    async fn has_moved(&mut self) -> bool {
        let condition = match self.underlay.link(&self.net, None).await {
            Ok(link) => underlay_condition(self.underlay.iface(), link.as_ref()),
            Err(error) => Condition::Failed(error.to_string()),
        };
        self.publish("underlay", condition);
        let addr = self.underlay.iface().addr;
        std::mem::replace(&mut self.wanted.addr, addr) != addr
    }

    fn publish(&mut self, name: &'static str, condition: Condition) {
        let before = self.conditions.borrow().clone();
        let mut now = before.clone();
        now.set(name, condition);
        now.log_changes(&before, &[], &mut self.log);
        // Also unchanged: the start waits for the first attempt.
        self.conditions.send_replace(now);
    }
}
