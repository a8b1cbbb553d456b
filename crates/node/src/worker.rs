//! The fast path. (Interface first; the body is being written.)

use std::time::Instant;

use packet::{Link, Tun};

use crate::event::Event;

/// The answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReply {}

/// What the operating system has said is ready. Edge-triggered: the driver sets a flag when it is told, and
/// [`Worker::step`] clears it when it meets `WouldBlock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The TUN queue may have packets.
    pub tun: bool,
    /// The link may have datagrams.
    pub link: bool,
    /// The link may take datagrams again.
    pub writable: bool,
}

/// One data-plane thread's work.
#[derive(Debug)]
pub struct Worker {}

#[allow(clippy::todo, clippy::unused_self)]
impl Worker {
    /// Does a bounded round of work on whatever is ready. Returns whether there is more to do at once: if not, sleep
    /// until a descriptor is ready or [`poll_timeout`](Self::poll_timeout) is due. A worker must also be woken
    /// (and stepped) when the node has published a new table: the driver wakes all workers after each
    /// `Node` call for which [`Node::take_published`](crate::Node::take_published) says so.
    pub fn step<T: Tun, L: Link>(
        &mut self,
        _now: Instant,
        _tun: &mut T,
        _link: &mut L,
        _ready: &mut Ready,
    ) -> bool {
        todo!()
    }
    /// The next thing the node must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }
    /// When `step` must be called next even if nothing is ready.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        todo!()
    }
}
