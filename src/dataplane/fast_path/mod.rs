//! The short cut: BPF programs that carry TCP (where single frames arrive: sparse flows of it), ICMP and
//! sparse UDP between the overlay device and the underlay without leaving the kernel, and leave all else to the workers. See docs/adr/0026-fast-path.md.
//!
//! ```text
//! bpf/egress.h    overlay device → peers whose leases say that their kernels take it
//! bpf/flows.h     which flows are sparse
//! bpf/ingress.h   underlay → overlay device
//! bpf/xdp.h       before the underlay's GRO, if the operator asks for it
//! config.rs       what they must know of this node
//! programs.rs     loads them
//! hooks.rs        attaches them
//! xdp.rs          the same for XDP
//! tables.rs       what they share with user space
//! traffic.rs      counters of each peer
//! state.rs        the peers' table, and counters that outlive the programs
//! sink.rs         the routes become that table
//! path.rs         starts and stops them
//! tap.rs          what they carry, for captures
//! taken.rs        which datagrams that is
//! wire.rs         which devices they are for
//! ```

mod config;
mod counters;
mod error;
mod hooks;
mod path;
mod programs;
mod sink;
mod state;
mod tables;
mod taken;
mod tap;
pub mod test_run;
mod traffic;
mod wire;
mod xdp;

pub use config::{DeviceRef, FastConfig, Gpe};
pub use counters::{FastCounters, FastDirection, Traffic};
pub use error::FastPathError;
pub use hooks::{AttachedBy, HOOKS, Hook, remove_left_over, remove_own_left_over};
pub use path::{FastPath, MAX_SLOTS};
pub use sink::FastPathSink;
pub use wire::{VETH, Wire, driver, ethernet_addr, wire};
pub use xdp::{Xdp, program_name};
