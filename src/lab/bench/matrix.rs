//! Which cases are measured: every setting with the workloads that say something there.

use std::fmt;
use std::time::Duration;

/// How fast links are and how long packets may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// Whether the underlay carries real frames only: [`Wire W2`](Setting::title).
    pub(super) frames_only: bool,
    /// MTU of the underlay, in bytes.
    pub(super) mtu: u16,
}

/// What is asked of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// So many TCP flows in one direction.
    Tcp(usize),
    /// UDP packets of so many bytes, headers included.
    Udp(u16),
    /// Request and response by UDP.
    Latency {
        /// While TCP flows fill the same direction.
        loaded: bool,
    },
    /// Request and response in a TCP connection, while TCP flows fill the same direction.
    TcpLatency,
    /// One TCP flow in a network of so many leases.
    Leases,
}

/// The cases of a run, in order, and how often and how long each is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    pub(super) cases: Vec<(Setting, Workload)>,
    /// Numbers of leases in the case of leases.
    pub(super) num_leases: Vec<usize>,
    /// The same for backends whose routes are the kernel's.
    pub(super) num_kernel_leases: Vec<usize>,
    /// How often every system is measured in every case.
    pub rounds: usize,
    /// How long each measurement is.
    pub time: Duration,
}

/// No case has the name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no case {name}: there are {}", .known.join(", "))]
pub struct UnknownCase {
    name: String,
    known: Vec<String>,
}

const W1: Setting = Setting { frames_only: false, mtu: 1500 };
const W2: Setting = Setting { frames_only: true, mtu: 1500 };
const W1_JUMBO: Setting = Setting { frames_only: false, mtu: 9000 };
const W2_JUMBO: Setting = Setting { frames_only: true, mtu: 9000 };

const IDLE: Workload = Workload::Latency { loaded: false };
const LOADED: Workload = Workload::Latency { loaded: true };

const EVERYTHING: [Workload; 9] = [
    Workload::Tcp(1),
    Workload::Tcp(4),
    Workload::Tcp(16),
    Workload::Udp(64),
    Workload::Udp(512),
    Workload::Udp(1400),
    IDLE,
    LOADED,
    Workload::TcpLatency,
];
/// What the length of packets has most to do with.
const BULK: [Workload; 2] = [Workload::Tcp(1), Workload::Tcp(4)];
/// A quick look measures the packet rate and flows of both wires, and more on the faster one.
const QUICK: [Workload; 5] = [Workload::Tcp(1), Workload::Tcp(4), Workload::Udp(64), IDLE, LOADED];
const QUICK_W2: [Workload; 3] = [Workload::Tcp(1), Workload::Udp(64), LOADED];

impl Matrix {
    /// Everything, in a quarter of an hour with all backends.
    pub fn full() -> Self {
        let settings =
            [(W1, &EVERYTHING[..]), (W2, &EVERYTHING), (W1_JUMBO, &BULK), (W2_JUMBO, &BULK)];
        Self {
            cases: cases(&settings),
            num_leases: vec![10, 1_000, 10_000, 100_000],
            num_kernel_leases: vec![10, 10_000],
            rounds: 5,
            time: Duration::from_millis(600),
        }
    }

    /// What matters most, in about two minutes.
    pub fn quick() -> Self {
        Self {
            cases: cases(&[(W1, &QUICK[..]), (W2, &QUICK_W2)]),
            num_leases: vec![10, 10_000],
            num_kernel_leases: vec![10_000],
            rounds: 2,
            time: Duration::from_millis(300),
        }
    }

    /// Keeps the cases that `names` name: a setting (`w2-1500`), a workload (`tcp-4`), the front
    /// of either up to a hyphen (`w2`, `tcp`), or setting and workload (`w2-1500/tcp-4`). No name
    /// keeps all.
    ///
    /// # Errors
    /// [`UnknownCase`] for a name that no case has.
    pub fn only(mut self, names: &[String]) -> Result<Self, UnknownCase> {
        for name in names {
            if !self.cases.iter().any(|case| is_called(*case, name)) {
                return Err(UnknownCase { name: name.clone(), known: self.names() });
            }
        }
        if !names.is_empty() {
            self.cases.retain(|case| names.iter().any(|name| is_called(*case, name)));
        }
        Ok(self)
    }

    /// Settings and workloads by their names, each once.
    fn names(&self) -> Vec<String> {
        let settings = self.cases.iter().map(|(setting, _)| setting.to_string());
        let workloads = self.cases.iter().map(|(_, workload)| workload.to_string());
        let mut names: Vec<String> = Vec::new();
        for name in settings.chain(workloads) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The settings, in order, each with its workloads.
    pub(super) fn by_setting(&self) -> Vec<(Setting, Vec<Workload>)> {
        let mut settings: Vec<(Setting, Vec<Workload>)> = Vec::new();
        for (setting, workload) in &self.cases {
            match settings.last_mut().filter(|(last, _)| last == setting) {
                Some((_, workloads)) => workloads.push(*workload),
                None => settings.push((*setting, vec![*workload])),
            }
        }
        settings
    }
}

fn cases(settings: &[(Setting, &[Workload])]) -> Vec<(Setting, Workload)> {
    let cases = settings.iter().flat_map(|(setting, workloads)| {
        workloads.iter().map(move |workload| (*setting, *workload))
    });
    cases.chain([(W1, Workload::Leases)]).collect()
}

fn is_called((setting, workload): (Setting, Workload), name: &str) -> bool {
    let is_front = |whole: &str, name: &str| {
        whole.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let (setting, workload) = (setting.to_string(), workload.to_string());
    match name.split_once('/') {
        Some((first, second)) => is_front(&setting, first) && is_front(&workload, second),
        None => is_front(&setting, name) || is_front(&workload, name),
    }
}

impl Setting {
    /// What it is, for people.
    pub(super) fn title(self) -> String {
        let (wire, what) = match self.frames_only {
            false => ("W1", "superpackets cross the wire, as with an ideal NIC"),
            true => ("W2", "real frames on the wire, as with a plain NIC"),
        };
        format!("{wire}, MTU {}: {what}", self.mtu)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}-{}", 1 + u8::from(self.frames_only), self.mtu)
    }
}

impl Workload {
    /// What it is, for people.
    pub(super) fn title(self) -> String {
        match self {
            Self::Tcp(1) => "TCP, 1 flow".to_owned(),
            Self::Tcp(flows) => format!("TCP, {flows} flows"),
            Self::Udp(len) => format!("UDP, {len} B packets"),
            Self::Latency { loaded: false } => "UDP round trip, idle".to_owned(),
            Self::Latency { loaded: true } => "UDP round trip under load".to_owned(),
            Self::TcpLatency => "TCP round trip under load".to_owned(),
            Self::Leases => "many leases".to_owned(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(flows) => write!(f, "tcp-{flows}"),
            Self::Udp(len) => write!(f, "udp-{len}"),
            Self::Latency { loaded: false } => f.write_str("latency-idle"),
            Self::Latency { loaded: true } => f.write_str("latency-loaded"),
            Self::TcpLatency => f.write_str("latency-loaded-tcp"),
            Self::Leases => f.write_str("leases"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let matrix = Matrix::full().only(&names).unwrap();
        matrix.cases.iter().map(|(setting, workload)| format!("{setting}/{workload}")).collect()
    }

    #[test]
    fn names_pick_cases() {
        assert_eq!(only(&["w1-1500/tcp-1"]), ["w1-1500/tcp-1"]);
        assert_eq!(only(&["w2-9000"]), ["w2-9000/tcp-1", "w2-9000/tcp-4"]);
        assert_eq!(only(&["leases", "w2/udp-64"]), ["w2-1500/udp-64", "w1-1500/leases"]);
        assert_eq!(only(&["latency"]).len(), 6);
        let loaded = ["w2-1500/latency-loaded", "w2-1500/latency-loaded-tcp"];
        assert_eq!(only(&loaded[..1]), loaded);
        assert_eq!(only(&[]).len(), Matrix::full().cases.len());
    }

    #[test]
    fn unknown_name_lists_the_known() {
        let error = Matrix::quick().only(&["tcp-16".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("there is no case tcp-16: there are w1-1500, w2-1500, tcp-1"));
        assert!(Matrix::full().only(&["tcp-".to_owned()]).is_err());
    }

    #[test]
    fn settings_come_once_with_their_workloads() {
        let matrix = Matrix::full().only(&["tcp-4".to_owned()]).unwrap();
        let settings = matrix.by_setting();
        assert_eq!(settings.len(), 4);
        assert!(settings.iter().all(|(_, workloads)| workloads == &[Workload::Tcp(4)]));
    }
}
