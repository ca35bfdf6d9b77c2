//! Asks the containers of this host whether they are there.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::control::cli::commands::survey::Own;
use crate::control::host::net::{FarEnd, LinkDetails};
use crate::control::host::probe::{Echo, Question};

/// Most containers that are asked, each by a thread of its own.
const MOST: usize = 32;

/// Echo requests to each, and how long each waits.
const TRIES: usize = 2;
const WAIT: Duration = Duration::from_millis(500);

/// The containers on a bridge of this host that do not answer an echo request.
pub(super) async fn silent(own: &Own, links: &[LinkDetails], far_ends: &[FarEnd]) -> Vec<Ipv4Addr> {
    let is_port = |end: &&FarEnd| {
        links
            .iter()
            .any(|it| it.link.index == end.near && it.master.is_some() && it.link.has_carrier)
    };
    let addrs = far_ends.iter().filter(is_port).flat_map(|end| end.addrs.iter().map(|it| it.addr));
    let is_ours = |addr: &Ipv4Addr| own.subnet.is_some_and(|subnet| subnet.contains(*addr));
    let addrs: Vec<Ipv4Addr> = addrs.filter(is_ours).take(MOST).collect();
    let asked = spawn_blocking(move || {
        thread::scope(|scope| {
            let ask = |addr: &Ipv4Addr| {
                let addr = *addr;
                scope.spawn(move || (!answers(addr)).then_some(addr))
            };
            let asked: Vec<_> = addrs.iter().map(ask).collect();
            asked.into_iter().filter_map(|it| it.join().ok().flatten()).collect()
        })
    });
    asked.await.unwrap_or_default()
}

/// Whether `addr` answers; yes if that cannot be found out.
fn answers(addr: Ipv4Addr) -> bool {
    Echo::open(None)
        .map_or(true, |mut echo| (0..TRIES).any(|_| echo.ask(Question::new(addr, WAIT)).is_reply()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_address_answers() {
        assert!(answers(Ipv4Addr::LOCALHOST));
    }
}
