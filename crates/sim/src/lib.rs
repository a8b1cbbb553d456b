//! A deterministic world for the nodes of a mesh: a clock, links with faults, and checkers that never sleep.
//!
//! A [`World`] runs the same [`Node`](node::Node) and [`Worker::step`](node::Worker::step) as the daemon, with a
//! simulated TUN device and UDP socket behind the traits [`packet::Tun`] and [`packet::Link`]. Time is a number that
//! jumps from event to event, and all chance comes from one seed: minutes of rekeying pass in milliseconds, and a seed
//! that failed once fails again.
//!
//! # A scenario in five lines
//!
//! ```
//! # use std::time::Duration;
//! # use sim::{LinkConfig, World};
//! let (mut world, left, right) = World::pair(7);
//! world.set_link(left, right, LinkConfig { loss: 0.05, ..LinkConfig::default() });
//! let flow = world.udp(left, right);
//! for _ in 0..100 { world.send(flow, 1_000, None); world.run_for(Duration::from_millis(10)); }
//! assert!(world.flow(flow).received >= 80);
//! ```
//!
//! End it with [`World::settle`], which waits for silence and checks that nothing was left behind.
//!
//! # What is checked all the time
//!
//! | always | at rest ([`World::check_at_rest`]) |
//! |---|---|
//! | no inner payload in an outer datagram | all pool buffers are home |
//! | no (session, lane, counter) seals twice | packets in = packets out + counted drops |
//! | a packet comes out once, unchanged, where it was sent to, by a peer that owns its source address | TUN queues are empty |
//! | a flow keeps its order unless the network reordered | |
//! | all checksums, lengths and offload headers written to a TUN device are right | |
//! | no reply to an unproven address is larger than what came from there | |
//! | no machine spins at one instant, sleeps on a full inbox, or leaves a deadline in the past | |
//!
//! A failure panics with the seed, and the last events of the world are printed, whatever it was that failed.
//!
//! # Code map
//!
//! `world.rs` has the event loop, `world/wire.rs` what happens to datagrams in it, `scenario.rs` all that a test calls.
//! `machine.rs` drives one node as the daemon does, `tun.rs` and `link.rs` stand in for the kernel, `network.rs` and
//! `nat.rs` for everything between, `traffic.rs` and `inner.rs` for applications, `streams.rs` for the program's hub of
//! streams. `check.rs` and `rest.rs` are the checkers.

mod check;
mod dice;
pub mod inner;
mod link;
mod machine;
mod nat;
mod network;
mod rest;
mod scenario;
mod streams;
mod trace;
mod traffic;
mod tun;
mod world;

pub use check::Kind;
pub use dice::Dice;
pub use link::Uplink;
pub use machine::{NodeSpec, PeerOptions};
pub use nat::{NatId, NatMapping};
pub use network::LinkConfig;
pub use traffic::{FlowId, FlowReport, Load, UDP_PAYLOAD_MIN};
pub use world::{Captured, NetworkCounts, NodeId, Passing, Received, World};
