//! Which kernel offloads the data plane may use.

pub mod backoff;
pub mod refusals;

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

/// One of the offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// [`Offloads::tso`].
    Tso,
    /// [`Offloads::uso`].
    Uso,
    /// [`Offloads::gso`].
    Gso,
    /// [`Offloads::gro`].
    Gro,
}

impl Offload {
    /// Every offload, in the order in which they are named.
    pub const ALL: [Self; 4] = [Self::Tso, Self::Uso, Self::Gso, Self::Gro];

    /// Its name in `--offload` and in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tso => "tso",
            Self::Uso => "uso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }
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

    /// Whether `offload` may be used.
    #[inline]
    pub const fn has(&self, offload: Offload) -> bool {
        match offload {
            Offload::Tso => self.tso,
            Offload::Uso => self.uso,
            Offload::Gso => self.gso,
            Offload::Gro => self.gro,
        }
    }

    /// Allows `offload`, or forbids it.
    pub const fn set(&mut self, offload: Offload, on: bool) {
        *match offload {
            Offload::Tso => &mut self.tso,
            Offload::Uso => &mut self.uso,
            Offload::Gso => &mut self.gso,
            Offload::Gro => &mut self.gro,
        } = on;
    }

    /// Every combination there is, from none to all.
    pub fn combinations() -> impl Iterator<Item = Self> {
        (0_u8..16).map(|bits| {
            let on = |offload: Offload| bits & 1 << offload as u8 != 0;
            let [tso, uso, gso, gro] = Offload::ALL.map(on);
            Self { tso, uso, gso, gro }
        })
    }
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
            let named = Offload::ALL.into_iter().find(|offload| offload.name() == name.trim());
            offloads.set(named.ok_or_else(|| OffloadsError(name.to_owned()))?, true);
        }
        Ok(offloads)
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = Offload::ALL.into_iter().filter(|offload| self.has(*offload));
        let on: Vec<&str> = on.map(Offload::name).collect();
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
