//! Packets that network devices drop, from `/proc/net/dev`.

use procfs::FromBufRead as _;
use procfs::net::InterfaceDeviceStatus;

use crate::lab::LabError;
use crate::lab::host::netns::Netns;

const PATH: &str = "/proc/thread-self/net/dev";

/// How many packets the devices of all `netns` have dropped so far, in either direction: those for
/// which the ring of a veth or the queue of a TUN device had no room, before all.
///
/// # Errors
/// [`LabError::Unreadable`].
pub(super) fn by_devices(netns: &[Netns]) -> Result<u64, LabError> {
    let mut sum = 0;
    for netns in netns {
        let text = netns.enter(|| std::fs::read_to_string(PATH)).map_err(LabError::io(PATH))?;
        sum += count(&text)
            .ok_or_else(|| LabError::Unreadable { what: PATH.to_owned(), text: text.clone() })?;
    }
    Ok(sum)
}

fn count(text: &str) -> Option<u64> {
    let devices = InterfaceDeviceStatus::from_buf_read(text.as_bytes()).ok()?;
    Some(devices.0.values().map(|device| device.recv_drop + device.sent_drop).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_both_directions_and_all_devices_count() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0: 1400000    1000    9    3    9     9          9         9  1400000    1000    9   40    9     9       9          9
    n1:       0       0    0    0    0     0          0         0        0       0    0  500    0     0       0          0
";
        assert_eq!(count(text), Some(543));
        assert_eq!(count("Inter-|\n face |\n eth0: 1 2\n"), None);
    }
}
