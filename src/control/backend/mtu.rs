//! MTU of an overlay whose packets the kernel forwards.

use super::BackendError;
use crate::control::host::iface::ExternalInterface;

/// The least MTU of an IPv4 link, in bytes: RFC 791, section 3.2.
pub(super) const MIN_MTU: u32 = crate::dataplane::pmtu::MIN_IPV4_MTU as u32;

/// MTU of an overlay that the kernel carries, in bytes: `chosen` by flag, or else `underlay`, the
/// interface's if the config has none, less `overhead`; never more than the interface takes.
///
/// # Errors
/// [`BackendError::SmallMtu`].
pub(super) fn kernel_mtu(
    iface: &ExternalInterface,
    underlay: Option<u16>,
    overhead: u32,
    chosen: Option<u16>,
) -> Result<u16, BackendError> {
    let underlay = underlay.map_or(iface.mtu, u32::from).min(u16::MAX.into());
    let min = MIN_MTU + overhead;
    if underlay < min {
        return Err(BackendError::SmallMtu { name: iface.name.clone(), mtu: underlay, min });
    }
    let mtu = chosen.map_or(underlay - overhead, u32::from);
    // A device of the kernel's cannot have more than the link below leaves room for.
    let room = iface.mtu.saturating_sub(overhead).max(MIN_MTU);
    Ok(u16::try_from(mtu.min(room)).unwrap_or(u16::MAX))
}
