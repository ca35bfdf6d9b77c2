//! Which kernel offloads the data plane may use.

use std::fmt;
use std::str::FromStr;

/// The offloads that may be used; what the kernel refuses is turned off on top of that.
///
/// Parses from `auto` (all), `off` (none), or a comma list of names such as `tso,gso,gro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Superpackets of TCP at the TUN, in both directions (`IFF_VNET_HDR`, `TUN_F_TSO4`).
    pub tso: bool,
    /// Superpackets of UDP at the TUN, in both directions (`TUN_F_USO4`, Linux 6.2).
    pub uso: bool,
    /// Many datagrams in one send (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// Many datagrams in one receive (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
}

/// A name that is no offload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no offload: use auto, off, or a comma list of tso, uso, gso, gro")]
pub struct OffloadsError(String);

impl Offloads {
    /// Everything the kernel offers.
    pub const AUTO: Self = Self { tso: true, uso: true, gso: true, gro: true };
    /// One packet per system call, as stock flannel.
    pub const OFF: Self = Self { tso: false, uso: false, gso: false, gro: false };
}

impl FromStr for Offloads {
    type Err = OffloadsError;

    fn from_str(text: &str) -> Result<Self, OffloadsError> {
        match text {
            "auto" => return Ok(Self::AUTO),
            "off" => return Ok(Self::OFF),
            _ => {}
        }
        let mut offloads = Self::OFF;
        for name in text.split(',') {
            match name.trim() {
                "tso" => offloads.tso = true,
                "uso" => offloads.uso = true,
                "gso" => offloads.gso = true,
                "gro" => offloads.gro = true,
                _ => return Err(OffloadsError(name.to_owned())),
            }
        }
        Ok(offloads)
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.tso, "tso"), (self.uso, "uso"), (self.gso, "gso"), (self.gro, "gro")];
        let on: Vec<&str> = names.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        f.write_str(if on.is_empty() { "off".to_owned() } else { on.join(",") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_offloads_that_are_on() {
        assert_eq!("auto".parse(), Ok(Offloads::AUTO));
        assert_eq!("off".parse(), Ok(Offloads::OFF));
        let some = Offloads { tso: true, uso: false, gso: false, gro: true };
        assert_eq!("gro, tso".parse(), Ok(some));
        assert_eq!(some.to_string(), "tso,gro");
        assert!("".parse::<Offloads>().is_err());
        assert!("tso,fast".parse::<Offloads>().is_err());
    }
}
