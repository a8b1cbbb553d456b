//! How fast a conversation may send.
//!
//! [`Delivery`] measures how fast data arrives at the far end. [`Bbr`] makes a model of the path from that: its
//! bandwidth, and its round-trip time without a queue. [`Pacer`] spreads the datagrams over time at the rate that the
//! model asks for. [`Classic`] is what KCP does without a model.
//!
//! Times are nanoseconds since the conversation began, sizes are bytes on the wire (KCP headers included), rates are
//! bytes a second.

mod bbr;
mod classic;
mod delivery;
mod pacer;

pub(crate) use bbr::Bbr;
pub(crate) use classic::Classic;
pub(crate) use delivery::{AckBatch, Delivery, RateSample, Snapshot};
pub(crate) use pacer::Pacer;

/// One second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// One millisecond in nanoseconds.
pub(crate) const MILLISECOND: u64 = 1_000_000;
