//! The program `shadowmesh`: command line, configuration, daemon, control socket and demonstration.
//!
//! - [`config`]: the TOML file, checked.
//! - `cli`: one file a command.
//! - `daemon`: sockets, device and threads around the sans-IO [`node`].
//! - `control`: the control socket, both sides, and what crosses it.
//! - [`proxy`]: SOCKS5, HTTP CONNECT and forwards, and the exit that serves them.
//! - `streams`: streams between nodes, on which the proxies run.
//! - [`kcptun`]: in place of kcptun.
//! - [`discovery`]: finding peers on the local network.
//! - `demo`: two nodes on this machine, and proof that they work.
//!
//! It is a library only so that the configuration, the proxies and discovery can be fuzzed and tested by themselves.

mod cli;
pub mod config;
mod control;
mod daemon;
mod demo;
pub mod discovery;
mod failure;
pub mod kcptun;
mod logging;
pub mod proxy;
mod streams;

pub use cli::main;
