//! Runs the programs on packets of a test's choice, by `BPF_PROG_TEST_RUN`.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use aya::programs::{ProgramError, TestRun, TestRunOptions, TestRunResult};

use super::config::FastConfig;
use super::counters::{FastCounters, Traffic};
use super::error::FastPathError;
use super::programs::{Constants, EGRESS, INGRESS, Programs, Switch};
use super::state::addr as addr_of;
use super::tables::Tables;
use super::taken::is_taken;
use super::xdp::{FRAGS, PLAIN};
use crate::routes::NO_ROUTE;

/// Bytes of an Ethernet header, which the kernel wants before each packet.
pub const ETHERNET_LEN: usize = 14;

/// What a program returns to have what comes next look at the packet (`TC_ACT_UNSPEC`), and for one
/// that it sends elsewhere (`TC_ACT_REDIRECT`).
const PASSED: u32 = u32::MAX;
const REDIRECTED: u32 = 7;

/// What XDP returns for a frame that goes on to the host (`XDP_PASS`).
const XDP_PASS: u32 = 2;

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was left to the workers.
    Passed,
    /// It goes to the other device, as these bytes.
    Redirected(Vec<u8>),
    /// XDP made these bytes of it, and marked them for tc.
    Marked(Vec<u8>),
    /// It ended here, by this return value.
    Other(u32),
}

/// The programs, attached to nothing.
#[derive(Debug)]
pub struct Bench {
    programs: Programs,
    tables: Tables,
}

/// Counters of peers that each processor has.
const NUM_TRAFFIC: u16 = 32;

/// A slow machine makes so many packets within a window.
const CONSTANTS_OF_TEST: Constants =
    Constants { link_len: 14, max_in_window: 64, settle: Duration::ZERO };

impl Bench {
    /// Loads them with these peers: a slot, and its word, each.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub fn new(config: FastConfig, peers: &[(usize, u64)]) -> Result<Self, FastPathError> {
        let (mut programs, tables) = Programs::load(config, NUM_TRAFFIC, CONSTANTS_OF_TEST)?;
        peers.iter().for_each(|(slot, word)| tables.peers.store(*slot, *word));
        if programs.config().xdp.is_some() {
            // The kernel that tests run on has both; `load` loaded the other.
            let plain = programs.xdp_program(PLAIN)?;
            plain.load().map_err(|source| FastPathError::Program { name: PLAIN, source })?;
            programs.turn(Switch::OuterByXdp, true)?;
        }
        Ok(Self { programs, tables })
    }

    /// Gives a slot another word.
    pub fn set_peer(&self, slot: usize, word: u64) {
        self.tables.peers.store(slot, word);
    }

    /// What becomes of a packet that leaves by the overlay device: with a `gso_size` a superpacket.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn egress(&mut self, packet: &[u8], gso_size: u32) -> io::Result<Fate> {
        self.run(EGRESS, packet, gso_size)
    }

    /// The same for one that arrives at the underlay.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn ingress(&mut self, packet: &[u8], gso_size: u32) -> io::Result<Fate> {
        self.run(INGRESS, packet, gso_size)
    }

    /// Whether a capture has this datagram as one that the program at the underlay takes.
    pub fn is_captured(&self, datagram: &[u8]) -> bool {
        let config = self.programs.config();
        let peer_of = |addr: Ipv4Addr| {
            let slot = addr.to_bits().wrapping_sub(config.network.to_bits()) >> config.slot_shift;
            let word = self.tables.peers.load(slot as usize);
            (word != NO_ROUTE).then(|| addr_of(word))
        };
        is_taken(config, peer_of, datagram, datagram.len())
    }

    /// What they counted.
    pub fn counters(&self) -> FastCounters {
        self.tables.counters()
    }

    /// What they counted of the peer whose word has this number.
    pub fn traffic(&self, number: u16) -> Traffic {
        self.tables.traffic.read(number)
    }

    /// What XDP makes of a frame that arrives at the underlay, in each of its programs.
    ///
    /// # Errors
    /// The kernel does not run the program, or the programs differ.
    pub fn xdp(&mut self, frame: &[u8]) -> io::Result<Fate> {
        let fate = self.run_xdp(PLAIN, frame)?;
        let other = self.run_xdp(FRAGS, frame)?;
        if fate == other { Ok(fate) } else { Err(io::Error::other("the programs differ")) }
    }

    fn run(&mut self, name: &'static str, packet: &[u8], gso_size: u32) -> io::Result<Fate> {
        let mut frame = vec![0; ETHERNET_LEN];
        frame[12] = 8; // IPv4
        frame.extend_from_slice(packet);
        let program = self.programs.program(name).map_err(io::Error::other)?;
        let context = context(gso_size);
        let (result, mut out) = run(&frame, |options| {
            program.test_run(TestRunOptions { ctx_in: Some(&context), ..options })
        })?;
        Ok(match result {
            PASSED if out == frame => Fate::Passed,
            REDIRECTED => Fate::Redirected(out.split_off(ETHERNET_LEN)),
            other => Fate::Other(other),
        })
    }

    fn run_xdp(&mut self, name: &'static str, frame: &[u8]) -> io::Result<Fate> {
        let mark = self.programs.config().xdp.as_ref().map_or(0, |xdp| xdp.mark).to_ne_bytes();
        let program = self.programs.xdp_program(name).map_err(io::Error::other)?;
        let (result, mut out) = run(frame, |options| program.test_run(options))?;
        Ok(match result {
            XDP_PASS if out == frame => Fate::Passed,
            XDP_PASS if out.starts_with(&mark) => Fate::Marked(out.split_off(mark.len())),
            other => Fate::Other(other),
        })
    }
}

/// `struct __sk_buff` of `include/uapi/linux/bpf.h` for a packet in segments of this size.
fn context(gso_size: u32) -> [u8; 192] {
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    context[GSO_SIZE..][..4].copy_from_slice(&gso_size.to_ne_bytes());
    context
}

/// Runs a program on `data`; what it returned, and what it made of it.
fn run(
    data: &[u8],
    run: impl FnOnce(TestRunOptions<'_>) -> Result<TestRunResult, ProgramError>,
) -> io::Result<(u32, Vec<u8>)> {
    let mut out = vec![0; data.len() + 64];
    let options = TestRunOptions {
        data_in: Some(data),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    let result = run(options).map_err(io::Error::other)?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}
