//! Streams between nodes, and the proxies on them: one thread, `sm-streams`, with a tokio runtime of its own.
//!
//! ```text
//!  sm-worker-N ── batches ──► inbox ──► hub ◄──► PeerStream ◄──► proxies ◄──► clients, targets
//!                                        │
//!                                        └──► StreamPort: seal, train ──► UDP
//! ```
//!
//! The workers open what arrives and hand over the datagrams of streams, all of one receive call in one buffer. What leaves is
//! sealed here, on a lane of its own, so sending takes no detour through a worker.

mod hub;
mod inbox;
mod peer_stream;
mod thread;

pub(crate) use hub::{Hub, Setup};
pub(crate) use inbox::Inbox;
pub(crate) use peer_stream::PeerStream;
pub(crate) use thread::{CannotListen, StreamQueries, StreamsThread};
