//! `SIOCETHTOOL`: who drives a device, and what it does by itself (`include/uapi/linux/ethtool.h`).

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;

/// `SIOCETHTOOL` of `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `ETH_SS_FEATURES`: the names of features.
const SET_OF_FEATURES: u32 = 4;

/// Bytes of a name: `ETH_GSTRING_LEN`, and the driver's in `struct ethtool_drvinfo`.
const NAME_LEN: usize = 32;

/// Words of `struct ethtool_drvinfo`.
const DRVINFO_WORDS: usize = 49;

/// Most features that are looked at; Linux 6.18 has 62.
const MAX_FEATURES: u32 = 1024;

/// The name of the device's driver, such as `veth`.
///
/// # Errors
/// What the kernel says: the device is gone, or has no driver with a name.
pub(crate) fn driver(device: &str) -> io::Result<String> {
    let mut words = vec![0; DRVINFO_WORDS];
    words[0] = GDRVINFO;
    call(device, &mut words)?;
    Ok(name(&words[1..]))
}

/// Whether the device has the feature, as `ethtool -k` names it, and does it now.
///
/// # Errors
/// What the kernel says.
pub(crate) fn has_feature(device: &str, feature: &str) -> io::Result<bool> {
    // Command, reserved, 64 bits of which sets, and the length of the one set.
    let mut words = vec![GSSET_INFO, 0, 1 << SET_OF_FEATURES, 0, 0];
    call(device, &mut words)?;
    let num = words[4].min(MAX_FEATURES);
    let words_of_a_name = NAME_LEN / size_of::<u32>();
    let mut words = vec![0; 3 + num as usize * words_of_a_name];
    words[..3].copy_from_slice(&[GSTRINGS, SET_OF_FEATURES, num]);
    call(device, &mut words)?;
    let mut names = words[3..].chunks(words_of_a_name);
    let Some(index) = names.position(|words| name(words) == feature) else { return Ok(false) };

    // Of 32 features each: available, requested, active, never changed.
    let num_blocks = num.div_ceil(u32::BITS);
    let mut words = vec![0; 2 + 4 * num_blocks as usize];
    words[..2].copy_from_slice(&[GFEATURES, num_blocks]);
    call(device, &mut words)?;
    let active = words[2 + 4 * (index / 32) + 2];
    Ok(active & (1 << (index % 32)) != 0)
}

/// The text that ends with a zero byte in the first words.
fn name(words: &[u32]) -> String {
    let bytes = words.iter().take(NAME_LEN / size_of::<u32>()).flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks the kernel. The command is the first word, and says how much memory follows: each command
/// here has what the kernel writes at most.
fn call(device: &str, words: &mut [u32]) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: zeros are a valid `ifreq`: an empty name, and a null pointer.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the kernel reads the request, whose name ends with a zero, and reads and writes the
    // words behind its pointer, which are borrowed for as long as the call takes. Their number is
    // what the command says: a fixed struct, or the length in it.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_segments_by_itself_and_has_no_driver() {
        assert!(has_feature("lo", "tx-tcp-segmentation").unwrap());
        assert!(!has_feature("lo", "no-such-feature").unwrap());
        assert_eq!(driver("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(has_feature("no-such-device", "rx-gro").is_err());
    }
}
