//! Parsers of flag values. An error says what would be right.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::control::config::network::{MAX_OVERLAY_MTU, MIN_OVERLAY_MTU};
use crate::control::host::iface::{IfaceSpec, SpecError};
use crate::routes::unusable;

/// A setting whose empty text means "not set", as with every text flag of flannel.
/// An alias, because clap's derive gives the name `Option` a meaning of its own.
pub(super) type Maybe<T> = Option<T>;

/// A comma list as one value. An alias, because clap's derive takes a `Vec` for many.
pub(super) type List = Vec<String>;

/// `sun_path` in `include/uapi/linux/un.h` has 108 bytes, one of them the end.
const MAX_SOCKET_PATH: usize = 107;

/// One TUN queue and one thread a worker; the kernel gives a TUN device at most 256 queues.
/// `MAX_TAP_QUEUES` in `drivers/net/tun.c`.
const MAX_WORKERS: u16 = 256;

/// Most workers by default. Eight outrun the links of most hosts, the other cores are for the pods,
/// and each further worker needs buffers and makes the batches shorter: docs/datapath.md.
const DEFAULT_WORKERS: usize = 8;

/// The default number of workers on a host with `num_cores` cores.
pub(super) fn default_workers(num_cores: usize) -> usize {
    num_cores.clamp(1, DEFAULT_WORKERS)
}

pub(super) fn workers(text: &str) -> Result<u16, String> {
    go_int(text, 1, MAX_WORKERS.into())
}

pub(super) fn mtu(text: &str) -> Result<u16, String> {
    go_int(text, MIN_OVERLAY_MTU.into(), MAX_OVERLAY_MTU.into())
}

/// A worker that polls for longer than a second practically never sleeps.
pub(super) fn busy_poll(text: &str) -> Result<Duration, String> {
    go_int(text, 0, 1_000_000).map(Duration::from_micros)
}

/// A lease lives for 1440 minutes; `main.go` has the same bounds.
pub(super) fn margin(text: &str) -> Result<u16, String> {
    go_int(text, 1, 1439)
}

/// With a period that is not positive, flannel's loop spins.
pub(super) fn resync(text: &str) -> Result<u32, String> {
    go_int(text, 1, u32::MAX.into())
}

/// Flannel disables the endpoint for any port that is not positive.
pub(super) fn healthz_port(text: &str) -> Result<u16, String> {
    let port: i64 = go_int(text, i64::MIN, u16::MAX.into())
        .map_err(|_| format!("{text:?} is not a port from 0 to 65535"))?;
    Ok(u16::try_from(port).unwrap_or(0))
}

pub(super) fn verbosity(text: &str) -> Result<u8, String> {
    go_int(text, 0, u8::MAX.into())
}

/// A number as Go's `strconv` reads it with base 0: decimal, `0x…`, `0b…`, `0o…` or `0…`.
fn go_int<T: TryFrom<i64>>(text: &str, min: i64, max: i64) -> Result<T, String> {
    let bad = || format!("{text:?} is not a whole number from {min} to {max}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['-', '+']) {
        return Err(bad());
    }
    let number = sign * i64::from_str_radix(digits, radix).map_err(|_| bad())?;
    if !(min..=max).contains(&number) {
        return Err(bad());
    }
    T::try_from(number).map_err(|_| bad())
}

pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

pub(super) fn maybe<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<Maybe<T>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: T::Err| error.to_string())
}

pub(super) fn maybe_ipv4(text: &str) -> Result<Maybe<Ipv4Addr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("{text:?} is not an IPv4 address"))
}

/// What peers send to.
pub(super) fn public_ip(text: &str) -> Result<Maybe<Ipv4Addr>, String> {
    let addr = maybe_ipv4(text)?;
    match addr.and_then(unusable) {
        Some(what) => Err(format!("{text} is {what}: give an address that peers can send to")),
        None => Ok(addr),
    }
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

pub(super) fn spec(text: &str) -> Result<IfaceSpec, String> {
    text.parse().map_err(|error: SpecError| error.to_string())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a file name is needed".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Where the daemon's socket is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    None,
    At(PathBuf),
}

pub(super) fn socket(text: &str) -> Result<Maybe<Socket>, String> {
    match text {
        "" => Ok(None),
        "none" => Ok(Some(Socket::None)),
        // The daemon may be started in any directory, and the tools in another.
        _ if !text.starts_with('/') => Err(format!("{text:?} is not a path that begins with /")),
        _ if text.len() > MAX_SOCKET_PATH => {
            Err(format!("{text:?} is longer than {MAX_SOCKET_PATH} bytes"))
        }
        _ => Ok(Some(Socket::At(PathBuf::from(text)))),
    }
}

pub(super) fn list(text: &str) -> Result<List, String> {
    Ok(text.split(',').map(str::to_owned).collect())
}
