//! The node: everything ShadowMesh decides, without a socket, a thread or a clock.
//!
//! Two halves share one immutable table:
//!
//! - [`Node`] is the slow path: peers, handshakes, timers, probes, roaming. One instance.
//! - [`Worker`] is the fast path: TUN → seal → UDP and UDP → open → TUN. One instance a data-plane thread; each owns a
//!   *lane* of every session, so workers share nothing that they write.
//!
//! # Calling contract
//!
//! Both are driven the same way: call a `handle_*` or [`Worker::step`] with the present time, then drain every `poll_*`
//! until it returns `None`, then sleep until the deadline of `poll_timeout`, or until something arrives.
//!
//! ```text
//!               Worker::poll_event ──► Node::handle_event
//!   TUN ⇄ Worker::step ⇄ UDP           Node::handle_timeout
//!               ▲                            │
//!               └── Table (published) ◄──────┤──► Node::poll_transmit ──► UDP
//!                                            └──► Node::poll_action ────► the program
//! ```

mod config;
mod drops;
mod event;
mod framing;
mod inner;
mod node;
mod peer;
mod places;
mod routes;
mod status;
mod streams;
mod table;
mod unconfirmed;
mod worker;

pub use config::{Config, ConfigError, PeerConfig, PeerId};
pub use drops::{DropReason, Drops};
pub use event::{Action, Datagram, Event, Notice, Pong, ProbeReply};
pub use framing::packet_max;
pub use node::{Node, NotFound};
pub use places::Way;
pub use status::{ClassStatus, NodeStatus, PeerStatus, PoolStatus};
pub use streams::{Reach, Sent, StreamPort};
pub use worker::{Ready, StreamBatch, Worker};
