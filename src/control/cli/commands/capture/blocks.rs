//! [`Blocks`]: the whole blocks of pcapng that arrives in pieces.

use pcap_file::PcapError;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgParser};

use crate::control::cli::client::ToolError;

/// What has arrived of a file, and how many packets were in it.
#[derive(Default)]
pub(super) struct Blocks {
    /// The beginning of a block.
    rest: Vec<u8>,
    parser: Option<PcapNgParser>,
    num_packets: u64,
    num_lost: u64,
}

impl Blocks {
    /// Adds a piece; returns the blocks that are whole now. So the file is one at any time, also if
    /// the capture is interrupted.
    ///
    /// # Errors
    /// [`ToolError`] if it is no pcapng.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Vec<u8>, ToolError> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let len = match self.len_of_whole(&bytes) {
            Ok(len) => len,
            Err(error) => {
                return Err(ToolError::Local(format!("flanneld sends no capture: {error}")));
            }
        };
        self.rest = bytes.split_off(len);
        Ok(bytes)
    }

    fn len_of_whole(&mut self, bytes: &[u8]) -> Result<usize, PcapError> {
        let mut rest = bytes;
        let mut parser = match self.parser.take() {
            Some(parser) => parser,
            None => match PcapNgParser::new(rest) {
                Ok((after, parser)) => {
                    rest = after;
                    parser
                }
                Err(PcapError::IncompleteBuffer) => return Ok(0),
                Err(error) => return Err(error),
            },
        };
        loop {
            match parser.next_block(rest) {
                Ok((after, block)) => {
                    self.count(&block);
                    rest = after;
                }
                Err(PcapError::IncompleteBuffer) => break,
                Err(error) => return Err(error),
            }
        }
        self.parser = Some(parser);
        Ok(bytes.len() - rest.len())
    }

    fn count(&mut self, block: &Block<'_>) {
        if let Block::EnhancedPacket(_) = block {
            self.num_packets += 1;
        }
        if let Block::InterfaceStatistics(statistics) = block {
            for option in &statistics.options {
                if let InterfaceStatisticsOption::IsbIfDrop(num) = option {
                    self.num_lost = *num;
                }
            }
        }
    }

    /// Packets so far.
    pub(super) const fn num_packets(&self) -> u64 {
        self.num_packets
    }

    /// Packets that the daemon lost, as far as it has said so.
    pub(super) const fn num_lost(&self) -> u64 {
        self.num_lost
    }
}
