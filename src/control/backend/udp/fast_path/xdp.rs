//! Why there is no XDP on an underlay, and what would help.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};

use super::advice;
use crate::control::host::net::{HostNet, Netlink};
use crate::dataplane::fast_path::{self, DeviceRef, FastPathError};

/// Up to this MTU a frame and what drivers add fit into a page, which all drivers take.
const PAGE_MTU: u32 = 3498;

/// What is to be known of an underlay to explain an error.
#[derive(Debug)]
struct Underlay {
    name: String,
    /// Empty if nobody says.
    driver: String,
    mtu: u32,
    /// The XDP program that it has.
    holder: Option<String>,
}

/// One line about `error`, which XDP on `underlay` met.
pub(super) async fn refusal(net: &Netlink, underlay: &DeviceRef, error: &FastPathError) -> String {
    let mtu = net.link_at(underlay.index).await.ok().flatten().map_or(0, |link| link.mtu);
    let underlay = Underlay {
        name: underlay.name.clone(),
        driver: fast_path::driver(&underlay.name).unwrap_or_default(),
        mtu,
        holder: holder(net, underlay.index).await,
    };
    underlay.explain(error)
}

/// The XDP program on a device: its number, and its name if we may know it.
async fn holder(net: &Netlink, index: u32) -> Option<String> {
    let mut found = std::pin::pin!(net.handle().link().get().match_index(index).execute());
    let link = found.try_next().await.ok().flatten()?;
    let mut id = None;
    for attribute in link.attributes {
        let LinkAttribute::Xdp(xdp) = attribute else { continue };
        for of_xdp in xdp {
            if let LinkXdp::ProgId(of_program) = of_xdp {
                id = Some(of_program);
            }
        }
    }
    let id = id?;
    Some(match fast_path::program_name(id) {
        Some(name) => format!("{id} ({name})"),
        None => id.to_string(),
    })
}

impl Underlay {
    fn explain(&self, error: &FastPathError) -> String {
        let Self { name, driver, mtu, holder } = self;
        let driver = if driver.is_empty() { "unknown" } else { driver };
        match (error.errno(), holder) {
            (Some(libc::EBUSY | libc::EEXIST), Some(holder)) => format!(
                "{name} has XDP program {holder} of somebody else: to use XDP, detach that \
                 (`bpftool net` shows by what it is held) and restart flanneld"
            ),
            (Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG), _)
                if *mtu > PAGE_MTU =>
            {
                format!(
                    "{name}'s driver, {driver}, takes no XDP program with an MTU of {mtu}: to use \
                     XDP, try {PAGE_MTU} or less and restart flanneld"
                )
            }
            (Some(libc::EOPNOTSUPP), _) => format!(
                "{name}'s driver, {driver}, has no native XDP, and XDP behind the driver would not \
                 be faster: leave out --fast-path=xdp"
            ),
            (Some(errno @ (libc::ENOSPC | libc::ENOMEM | libc::EINVAL | libc::ERANGE)), _) => {
                let said = io::Error::from_raw_os_error(errno);
                format!(
                    "{name}'s driver, {driver}, refuses XDP: {said}; `dmesg` may say why, and \
                     `ethtool -L {name} combined 1` often helps"
                )
            }
            _ => advice(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::programs::ProgramError;
    use aya::sys::SyscallError;

    use super::*;

    fn explained(errno: i32, mtu: u32, holder: Option<&str>) -> String {
        let underlay = Underlay {
            name: "eth0".to_owned(),
            driver: "nic".to_owned(),
            mtu,
            holder: holder.map(str::to_owned),
        };
        let io_error = io::Error::from_raw_os_error(errno);
        let source = ProgramError::SyscallError(SyscallError { call: "bpf", io_error });
        underlay.explain(&FastPathError::NoXdp { device: "eth0".to_owned(), source })
    }

    #[test]
    fn each_refusal_says_what_would_help() {
        for (errno, mtu, holder, expected) in [
            (libc::EBUSY, 1500, Some("7 (lb)"), "eth0 has XDP program 7 (lb) of somebody else"),
            (libc::EOPNOTSUPP, 1500, None, "eth0's driver, nic, has no native XDP"),
            (libc::ERANGE, 9000, None, "no XDP program with an MTU of 9000: to use XDP, try 3498"),
            (libc::EINVAL, 1500, None, "refuses XDP: Invalid argument"),
            (libc::EPERM, 1500, None, "attach XDP to eth0: Operation not permitted"),
        ] {
            let said = explained(errno, mtu, holder);
            assert!(said.contains(expected), "{said}");
        }
    }
}
