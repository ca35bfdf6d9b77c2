//! What the lab needs of the machine it runs on: namespaces, tools, processes.

pub mod netns_agent;
pub mod command;
pub mod process;
pub mod netns;
pub mod tools;
pub mod wait;
pub mod signals;
