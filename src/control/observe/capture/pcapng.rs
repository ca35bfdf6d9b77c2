//! [`Encoder`]: captured packets as pcapng.
//!
//! Big-endian, because the library writes the time of interface statistics as one 64-bit word, where
//! the format has its high half first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

use crate::dataplane::capture::{Captured, Direction};

/// Times are in nanoseconds: 10⁻⁹ s.
const NANOSECONDS: u8 = 9;

/// `epb_flags`: inbound, outbound.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes blocks into memory, which never fails.
pub(super) struct Encoder(Option<PcapNgWriter<Vec<u8>>>);

impl Encoder {
    /// A file of one interface, `device`, with at most `snap_len` bytes of each packet.
    pub(super) fn new(device: &str, snap_len: u32) -> Self {
        let application = format!("twill flanneld {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Big,
            options: vec![SectionHeaderOption::UserApplication(application.into())],
            ..SectionHeaderBlock::default()
        };
        let mut encoder = Self(PcapNgWriter::with_section_header(Vec::new(), section).ok());
        encoder.write(InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: snap_len,
            options: vec![
                InterfaceDescriptionOption::IfName(device.to_owned().into()),
                InterfaceDescriptionOption::IfDescription(
                    "packets of the overlay, without outer headers".into(),
                ),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        });
        encoder
    }

    /// Adds a packet; one that was dropped has its reason as a comment, and one that no worker saw the
    /// words `fast path`.
    pub(super) fn packet(&mut self, packet: &Captured) {
        let direction = match packet.direction {
            Direction::Ingress => INBOUND,
            Direction::Egress => OUTBOUND,
        };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        let comment = match packet.reason {
            Some(reason) => Some(format!("dropped: {}", reason.name())),
            None => packet.by_kernel.then(|| "fast path".to_owned()),
        };
        options.extend(comment.map(|text| EnhancedPacketOption::Comment(text.into())));
        self.write(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: since_epoch(packet.at),
            original_len: u32::try_from(packet.len).unwrap_or(u32::MAX),
            data: packet.bytes.as_slice().into(),
            options,
        });
    }

    /// Adds how many packets have matched so far, and how many of them were lost.
    pub(super) fn statistics(&mut self, num_matched: u64, num_lost: u64) {
        let timestamp = since_epoch(SystemTime::now()).as_nanos();
        self.write(InterfaceStatisticsBlock {
            interface_id: 0,
            timestamp: u64::try_from(timestamp).unwrap_or(u64::MAX),
            options: vec![
                InterfaceStatisticsOption::IsbIfRecv(num_matched),
                InterfaceStatisticsOption::IsbIfDrop(num_lost),
            ],
        });
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |writer| writer.get_ref().len())
    }

    /// Takes the bytes that wait: whole blocks.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.as_mut().map(|writer| std::mem::take(writer.get_mut())).unwrap_or_default()
    }

    fn write<'a>(&mut self, block: impl PcapNgBlock<'a>) {
        if let Some(writer) = &mut self.0 {
            // Memory takes everything, and there is an interface 0.
            drop(writer.write_pcapng_block(block));
        }
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
