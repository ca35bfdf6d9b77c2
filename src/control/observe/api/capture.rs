//! [`CaptureQuery`]: which packets a capture is to have, as the query of its path.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use ipnetwork::Ipv4Network;

/// Bytes kept of a packet without other wishes: all.
pub const DEFAULT_SNAP_LEN: u32 = 65_535;

/// Packets without other wishes.
pub const DEFAULT_COUNT: u64 = 100_000;

/// How long a capture takes without other wishes, and at most.
pub const DEFAULT_DURATION: Duration = Duration::from_secs(60);
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// The question at [`paths::CAPTURE`](super::paths::CAPTURE). The answer is pcapng.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureQuery {
    /// To and from these peers: public IPs, or addresses of their subnets.
    pub peers: Vec<Ipv4Addr>,
    /// With source or destination in one of these.
    pub subnets: Vec<Ipv4Network>,
    /// Only these.
    pub direction: Option<CaptureDirection>,
    /// Only those that are dropped.
    pub dropped: bool,
    /// At most so many.
    pub count: u64,
    /// Not longer than this.
    pub duration: Duration,
    /// Most bytes kept of each.
    pub snap_len: u32,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureDirection {
    /// Towards the peers.
    Egress,
    /// From them.
    Ingress,
}

impl Default for CaptureQuery {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            subnets: Vec::new(),
            direction: None,
            dropped: false,
            count: DEFAULT_COUNT,
            duration: DEFAULT_DURATION,
            snap_len: DEFAULT_SNAP_LEN,
        }
    }
}

impl fmt::Display for CaptureDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

impl FromStr for CaptureDirection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "egress" => Ok(Self::Egress),
            "ingress" => Ok(Self::Ingress),
            _ => Err(format!("{text} is no direction: egress or ingress")),
        }
    }
}

/// As the query of a URL: `peer=192.0.2.7&count=10`. No value needs an escape.
impl fmt::Display for CaptureQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, duration, snap_len, .. } = self;
        write!(f, "count={count}&millis={}&snaplen={snap_len}", duration.as_millis())?;
        self.peers.iter().try_for_each(|peer| write!(f, "&peer={peer}"))?;
        self.subnets.iter().try_for_each(|subnet| write!(f, "&subnet={subnet}"))?;
        self.direction.iter().try_for_each(|direction| write!(f, "&direction={direction}"))?;
        if self.dropped { f.write_str("&dropped=true") } else { Ok(()) }
    }
}

impl FromStr for CaptureQuery {
    type Err = String;

    fn from_str(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "peer" => wanted.peers.push(parsed(name, value)?),
                "subnet" => wanted.subnets.push(parsed(name, value)?),
                "direction" => wanted.direction = Some(value.parse()?),
                "dropped" => wanted.dropped = parsed(name, value)?,
                "count" => wanted.count = parsed(name, value)?,
                "millis" => {
                    let duration = Duration::from_millis(parsed(name, value)?);
                    wanted.duration = duration.min(MAX_DURATION);
                }
                "snaplen" => wanted.snap_len = parsed(name, value)?,
                _ => return Err(format!("a capture knows no {name}")),
            }
        }
        Ok(wanted)
    }
}

fn parsed<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}={value} does not read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_reads_back_as_written() {
        let plain = CaptureQuery::default();
        assert_eq!(plain.to_string().parse(), Ok(plain));
        assert_eq!("".parse(), Ok(CaptureQuery::default()));
        let full = CaptureQuery {
            peers: vec![[192, 0, 2, 7].into(), [192, 0, 2, 8].into()],
            subnets: vec!["10.5.7.0/24".parse().unwrap()],
            direction: Some(CaptureDirection::Ingress),
            dropped: true,
            count: 7,
            duration: Duration::from_millis(1500),
            snap_len: 96,
        };
        assert_eq!(full.to_string().parse(), Ok(full));
    }

    #[test]
    fn nonsense_is_named_and_no_capture_lasts_for_ever() {
        for query in ["peer=x", "count=-1", "direction=up", "colour=red", "dropped", "snaplen=1e9"]
        {
            let error = query.parse::<CaptureQuery>().unwrap_err();
            let name = query.rsplit('=').next().unwrap();
            assert!(error.contains(name) || error.contains("colour"), "{query}: {error}");
        }
        let endless: CaptureQuery = format!("millis={}", u64::MAX).parse().unwrap();
        assert_eq!(endless.duration, MAX_DURATION);
    }
}
