//! The throughput benchmark: overlays side by side, interleaved in one run.
//!
//! ```text
//! matrix   which cases there are: setting (wire, MTU) × workload
//! testbed    who takes part: the systems, and the labs they are in
//! sample   one figure of one system in one round          cpu  what that cost
//! leases   the case of many leases and their changes      peers  who holds them
//! run      all rounds of all cases  →  results  →  table, html
//! ```
//!
//! Every overlay has a lab of its own, all run at once, and only the one that is measured moves
//! packets. So the systems can take turns within each round, and a ratio compares what happened
//! within a second or two of each other.

mod cli;
mod matrix;
mod testbed;
mod sample;
mod cpu;
mod drops;
mod leases;
mod peers;
mod machine;
mod run;
mod clock;
mod metric;
mod results;
mod table;
mod html;

pub use cli::BenchArgs;
pub use html::render;
pub use machine::Machine;
pub use matrix::{Matrix, UnknownCase};
pub use metric::{Better, Metric};
pub use results::{Case, Figure, Results, Row};
pub use run::{Plan, run};
pub use table::text;
pub use testbed::Contender;
