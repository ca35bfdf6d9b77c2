//! Runs the programs on packets of a test's choice, by `BPF_PROG_TEST_RUN`.

use std::io;

use aya::programs::{ProgramError, TestRun, TestRunOptions};

use super::counters::{FastCounters, Traffic};
use super::programs::{EGRESS, FastConfig, FastPathError, INGRESS, Programs};

/// Bytes of an Ethernet header, which the kernel wants before each packet.
pub const ETHERNET_LEN: usize = 14;

/// What a program returns to have what comes next look at the packet (`TC_ACT_UNSPEC`), and for one
/// that it sends elsewhere (`TC_ACT_REDIRECT`).
const PASSED: u32 = u32::MAX;
const REDIRECTED: u32 = 7;

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was left to the workers.
    Passed,
    /// It goes to the other device, as these bytes.
    Redirected(Vec<u8>),
    /// It ended here, by this return value.
    Other(u32),
}

/// The programs, attached to nothing.
#[derive(Debug)]
pub struct Bench {
    programs: Programs,
}

impl Bench {
    /// Loads them with these peers: a slot, and its word, each.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub fn new(config: FastConfig, peers: &[(usize, u64)]) -> Result<Self, FastPathError> {
        let link_len = u32::try_from(ETHERNET_LEN).unwrap_or_default();
        let programs = Programs::load_behind(config, link_len)?;
        let table = programs.peers()?;
        peers.iter().for_each(|(slot, word)| table.store(*slot, *word));
        Ok(Self { programs })
    }

    /// What becomes of a packet that leaves by the overlay device.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn egress(&mut self, packet: &[u8]) -> io::Result<Fate> {
        self.run(EGRESS, packet)
    }

    /// What becomes of a packet that arrives at the underlay.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn ingress(&mut self, packet: &[u8]) -> io::Result<Fate> {
        self.run(INGRESS, packet)
    }

    /// What they counted.
    pub fn counters(&self) -> FastCounters {
        self.programs.counters()
    }

    /// What they counted of the peer in `slot`.
    pub fn traffic(&self, slot: u32) -> Traffic {
        self.programs.traffic(slot)
    }

    fn run(&mut self, name: &'static str, packet: &[u8]) -> io::Result<Fate> {
        let mut frame = vec![0; ETHERNET_LEN];
        frame[12] = 8; // IPv4
        frame.extend_from_slice(packet);
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let program = self.programs.program(name).map_err(io::Error::other)?;
        let result =
            program.test_run(options).map_err(|error: ProgramError| io::Error::other(error))?;
        out.truncate(result.data_size_out as usize);
        Ok(match result.return_value {
            PASSED if out == frame => Fate::Passed,
            REDIRECTED => Fate::Redirected(out.split_off(ETHERNET_LEN)),
            other => Fate::Other(other),
        })
    }
}
