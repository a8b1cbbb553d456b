//! The program `shadowmesh`: command line, configuration, daemon, control socket and demonstration.
//!
//! - [`config`]: the TOML file, checked.
//! - `cli`: one file a command.
//! - `daemon`: sockets, device and threads around the sans-IO [`node`].
//! - `control`: the control socket, both sides, and what crosses it.
//! - `demo`: two nodes on this machine, and proof that they work.
//!
//! It is a library only so that the configuration can be fuzzed and tested by itself.

mod cli;
pub mod config;
mod control;
mod daemon;
mod demo;
mod failure;
mod logging;

pub use cli::main;
