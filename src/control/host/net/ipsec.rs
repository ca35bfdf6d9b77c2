//! Whether the host has IPsec policies, which decide what leaves it encrypted and what it takes otherwise.

use std::io;

use rtnetlink::sys::protocols::NETLINK_XFRM;
use rtnetlink::sys::{Socket, SocketAddr};

use super::KernelError;

// Numbers of `include/uapi/linux/xfrm.h` and `include/uapi/linux/netlink.h`.
const GET_POLICY_NUMBERS: u16 = 0x25; // XFRM_MSG_GETSPDINFO
const POLICY_NUMBERS: u16 = 0x24; // XFRM_MSG_NEWSPDINFO
const ERROR: u16 = 2;
const REQUEST: u16 = 1;

/// Bytes of `nlmsghdr`, and those of the flags that stand behind it in both messages.
const HEADER_LEN: usize = 16;
const FLAGS_LEN: usize = 4;

/// Bytes from the answer's flags to its numbers: the attribute `XFRMA_SPD_INFO` has a header of 4, and is
/// the first one (`build_spdinfo` of `net/xfrm/xfrm_user.c`).
const NUMBERS_AT: usize = HEADER_LEN + FLAGS_LEN + 4;

/// How many IPsec policies of this network namespace are about packets that arrive or leave; 0 where the
/// kernel has no IPsec. Blocks while the kernel answers. Needs CAP_NET_ADMIN.
///
/// # Errors
/// [`KernelError`] when the kernel does not answer.
pub fn num_ipsec_policies() -> Result<u32, KernelError> {
    match ask() {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(0),
        answer => answer.map_err(|error| KernelError::new("count IPsec policies", error)),
    }
}

fn ask() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut answer = Vec::with_capacity(256);
    socket.recv(&mut answer, 0)?;
    read(&answer)
}

/// A message without attributes: header and flags.
fn request() -> [u8; HEADER_LEN + FLAGS_LEN] {
    let mut message = [0; HEADER_LEN + FLAGS_LEN];
    message[..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&GET_POLICY_NUMBERS.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    message
}

/// The sum of `incnt` and `outcnt` of `xfrmu_spdinfo`.
fn read(answer: &[u8]) -> io::Result<u32> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "an answer of another kind");
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(unreadable)
    };
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(POLICY_NUMBERS) => Ok(word(NUMBERS_AT)?.saturating_add(word(NUMBERS_AT + 4)?)),
        Some(ERROR) => {
            let errno = word(HEADER_LEN)?.cast_signed();
            Err(io::Error::from_raw_os_error(errno.saturating_neg()))
        }
        _ => Err(unreadable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of this kind with `words` behind its header.
    fn answer(kind: u16, words: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn policies_of_both_directions_count_and_errors_are_the_kernels() {
        let attribute = u32::from_ne_bytes([28, 0, 1, 0]);
        let numbers = [0, attribute, 2, 3, 100, 100, 100, 100];
        assert_eq!(read(&answer(POLICY_NUMBERS, &numbers)).unwrap(), 5);
        let refused = read(&answer(ERROR, &[(-libc::EPERM).cast_unsigned()])).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        for odd in [answer(3, &numbers), answer(POLICY_NUMBERS, &numbers[..3]), vec![7; 5], vec![]]
        {
            assert_eq!(read(&odd).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
