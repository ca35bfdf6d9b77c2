//! What is counted, in which unit, and which way is better.

use serde::Serialize;

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "title() says it")]
pub enum Metric {
    Gbps,
    Retransmits,
    Kpps,
    LossPercent,
    DeviceDrops,
    RttP50Us,
    RttP99Us,
    MachineNsPerPacket,
    DaemonNsPerPacket,
    MachineMsPerGbit,
    DaemonMsPerGbit,
    ChurnGbps,
    ChurnKept,
    ChangesPerSecond,
    ChangeMs,
    DaemonUsPerChange,
    StartMs,
    RssMib,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Better {
    Higher,
    Lower,
}

impl Metric {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 18] = [
        Self::Gbps,
        Self::Retransmits,
        Self::Kpps,
        Self::LossPercent,
        Self::DeviceDrops,
        Self::RttP50Us,
        Self::RttP99Us,
        Self::MachineNsPerPacket,
        Self::DaemonNsPerPacket,
        Self::MachineMsPerGbit,
        Self::DaemonMsPerGbit,
        Self::ChurnGbps,
        Self::ChurnKept,
        Self::ChangesPerSecond,
        Self::ChangeMs,
        Self::DaemonUsPerChange,
        Self::StartMs,
        Self::RssMib,
    ];

    /// Its unit.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Gbps | Self::ChurnGbps => "Gb/s",
            Self::Retransmits => "segments",
            Self::Kpps => "kpps",
            Self::LossPercent => "%",
            Self::RttP50Us | Self::RttP99Us => "µs",
            Self::MachineNsPerPacket | Self::DaemonNsPerPacket => "ns/packet",
            Self::MachineMsPerGbit | Self::DaemonMsPerGbit => "ms/Gbit",
            Self::ChurnKept => "×",
            Self::DeviceDrops => "packets/s",
            Self::ChangesPerSecond => "1/s",
            Self::ChangeMs | Self::StartMs => "ms",
            Self::DaemonUsPerChange => "µs",
            Self::RssMib => "MiB",
        }
    }

    /// What it is, in a few words.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Gbps => "throughput",
            Self::Retransmits => "retransmits",
            Self::Kpps => "delivered",
            Self::LossPercent => "loss",
            Self::DeviceDrops => "dropped by devices",
            Self::RttP50Us => "round trip p50",
            Self::RttP99Us => "round trip p99",
            Self::MachineNsPerPacket | Self::MachineMsPerGbit => "CPU, machine",
            Self::DaemonNsPerPacket | Self::DaemonMsPerGbit => "CPU, daemons",
            Self::ChurnGbps => "throughput under churn",
            Self::ChurnKept => "kept under churn",
            Self::ChangesPerSecond => "lease changes",
            Self::ChangeMs => "lease to route",
            Self::DaemonUsPerChange => "CPU per lease change",
            Self::StartMs => "start to last lease",
            Self::RssMib => "resident memory",
        }
    }

    /// What it means, in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Gbps => "Payload that reached the receiving program.",
            Self::Retransmits => "TCP segments the sending pod had to send again, a second.",
            Self::Kpps => {
                "Thousands of packets a second that reached the receiving program while a sender \
                 floods without regard to loss."
            }
            Self::LossPercent => "Share of the flood that did not arrive.",
            Self::DeviceDrops => {
                "Packets a second that network devices between the pods dropped (/proc/net/dev): the \
                 ring of a veth, of 256 packets or superpackets, was full, or the queue of a TUN."
            }
            Self::RttP50Us => "Half of all requests were answered in this time.",
            Self::RttP99Us => {
                "99 in 100 requests were answered in this time; one that is lost counts as 200 ms."
            }
            Self::MachineNsPerPacket | Self::MachineMsPerGbit => {
                "Time all cores were busy, interrupts and both test programs included \
                 (/proc/stat), for each packet or gigabit delivered."
            }
            Self::DaemonNsPerPacket | Self::DaemonMsPerGbit => {
                "The share of the two daemons (/proc/PID/stat): system calls and what the kernel \
                 does within them, but not interrupts."
            }
            Self::ChurnGbps => "Throughput while leases of other nodes come and go.",
            Self::ChurnKept => {
                "That throughput divided by the one during the same writes to keys that no daemon \
                 watches, so that etcd's own work cancels out."
            }
            Self::ChangesPerSecond => "Leases that were added or removed, a second.",
            Self::ChangeMs => {
                "From the write of one lease to the first packet that reaches its node; with \
                 vxlan and host-gw, to its route in the kernel."
            }
            Self::DaemonUsPerChange => {
                "CPU time of one daemon for a lease that is added or removed, without traffic."
            }
            Self::StartMs => {
                "From the start of a daemon to the first packet it forwards to the lease that \
                 comes last: start-up, and the whole snapshot applied. With vxlan and host-gw, \
                 to the last of all peers' entries in the kernel's tables, which were empty."
            }
            Self::RssMib => "Resident memory of the sending node's daemon after that.",
        }
    }

    /// Whether a ratio of two such figures says anything: not where none at all is the rule.
    pub const fn is_comparable(self) -> bool {
        !matches!(
            self,
            Self::Retransmits | Self::LossPercent | Self::DeviceDrops | Self::ChangesPerSecond
        )
    }

    /// What the daemons have in the machine's CPU time.
    pub(super) fn daemons(self) -> Option<Self> {
        let shares = [
            (Self::MachineMsPerGbit, Self::DaemonMsPerGbit),
            (Self::MachineNsPerPacket, Self::DaemonNsPerPacket),
        ];
        shares.into_iter().find(|(whole, _)| *whole == self).map(|(_, share)| share)
    }

    /// Whether it is printed during the run.
    pub(super) const fn is_headline(self) -> bool {
        matches!(self, Self::Gbps | Self::Kpps | Self::RttP50Us | Self::RttP99Us | Self::StartMs)
    }

    /// Which way is better.
    pub const fn better(self) -> Better {
        match self {
            Self::Gbps | Self::Kpps | Self::ChurnGbps | Self::ChurnKept => Better::Higher,
            Self::ChangesPerSecond => Better::Higher,
            Self::Retransmits
            | Self::LossPercent
            | Self::DeviceDrops
            | Self::RttP50Us
            | Self::RttP99Us
            | Self::MachineNsPerPacket
            | Self::DaemonNsPerPacket
            | Self::MachineMsPerGbit
            | Self::DaemonMsPerGbit
            | Self::ChangeMs
            | Self::DaemonUsPerChange
            | Self::StartMs
            | Self::RssMib => Better::Lower,
        }
    }
}
