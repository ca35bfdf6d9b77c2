//! Nodes against a double of the API server.

mod cluster;
mod faults;
mod lease;
mod start;
