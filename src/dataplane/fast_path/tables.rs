//! [`Tables`]: what loaded programs share with user space. They can be read and changed while a
//! network card's driver takes its time to attach or detach a program.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{Map, PerCpuArray};

use super::counters::{FastCounters, NUM_COUNTERS};
use super::error::FastPathError;
use super::traffic::{TRAFFIC_LEN, TrafficReader, num_processors};
use crate::dataplane::io::sys::mmap::MappedWords;

/// The memory of the programs.
#[derive(Debug)]
pub(super) struct Tables {
    counters: Map,
    /// The peers, by slot.
    pub(super) peers: MappedWords,
    /// Their counters.
    pub(super) traffic: TrafficReader,
}

impl Tables {
    /// Those of programs that are loaded already: what the object says of them holds the tables' numbers.
    ///
    /// # Errors
    /// [`FastPathError`].
    pub(super) fn take(
        ebpf: &mut Ebpf,
        num_slots: u32,
        num_traffic: u16,
    ) -> Result<Self, FastPathError> {
        const COUNTERS: &str = "COUNTERS";
        let counters = ebpf.take_map(COUNTERS).ok_or(FastPathError::Missing(COUNTERS))?;
        let num_processors = num_processors();
        let num_words = num_processors * usize::from(num_traffic) * TRAFFIC_LEN;
        let traffic = words(ebpf, "TRAFFIC", num_words)?;
        Ok(Self {
            counters,
            peers: words(ebpf, "PEERS", num_slots as usize)?,
            traffic: TrafficReader::new(traffic, num_traffic, num_processors),
        })
    }

    /// What the programs counted.
    pub(super) fn counters(&self) -> FastCounters {
        let Ok(map) = PerCpuArray::<_, u64>::try_from(&self.counters) else {
            return FastCounters::default();
        };
        let mut sum = [0; NUM_COUNTERS];
        for (index, sum) in (0..).zip(&mut sum) {
            *sum = map.get(&index, 0).map_or(0, |values| values.iter().sum());
        }
        FastCounters::of(&sum)
    }
}

/// An array as memory.
fn words(ebpf: &Ebpf, name: &'static str, num_words: usize) -> Result<MappedWords, FastPathError> {
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(FastPathError::Missing(name)) };
    MappedWords::new(map.fd().as_fd(), num_words).map_err(FastPathError::Memory)
}
