//! `flanneld doctor`: looks for every fault that keeps packets from the overlay, and says what to do.

mod checks;
mod facts;
mod finding;
