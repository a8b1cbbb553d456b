//! Reliable, multiplexed streams over datagrams that may be lost, reordered, duplicated or damaged.
//!
//! - [`kcp`]: one ordered byte stream over datagrams, byte-compatible with kcp-go.
//!   How fast that may send follows a model of the path, and datagrams are paced.
//! - [`smux`]: many streams in that one.
//! - [`fec`]: datagrams that can be computed from others instead of being sent again.
//! - [`snappy`]: the stream compressed, as kcptun does.
//! - [`session`]: all of these put together: streams in, datagrams out.
//! - [`association`]: sessions between two nodes, one after the other.
//!
//! The crate does no I/O, reads no clock and holds no `unsafe` code: datagrams and time come in, datagrams and
//! deadlines go out.

pub mod association;
pub mod fec;
pub mod kcp;
mod rate;
pub mod session;
pub mod smux;
pub mod snappy;
