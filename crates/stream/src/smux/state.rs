//! One stream.

use std::time::Instant;

use super::buffer::ByteQueue;
use super::{Changes, StreamId};

/// How far a stream's own end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendState {
    /// The application may write.
    Open,
    /// The application has finished: a FIN follows what waits.
    Finishing,
    /// The FIN is out.
    Finished,
}

/// Which queue of the scheduler a stream is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    New,
    Old,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) send: ByteQueue,
    pub(super) receive: ByteQueue,
    pub(super) send_state: SendState,
    /// The other end sends no more.
    pub(super) received_fin: bool,
    /// It has cut the stream off, or we have: no payload is taken any more.
    pub(super) cut_off: bool,
    /// We have: the FIN says so.
    pub(super) aborted: bool,
    /// The other end reads no more: writing is pointless.
    pub(super) stopped: bool,
    /// The application has let go of it: what arrives is discarded.
    pub(super) closed: bool,
    pub(super) syn_pending: bool,
    pub(super) update_pending: bool,
    /// The FIN has waited long enough for an answer.
    pub(super) lingered: bool,
    /// A second FIN is to be sent: we read no more.
    pub(super) stop_pending: bool,
    /// A write was refused or cut short.
    pub(super) write_blocked: bool,
    pub(super) turn: Turn,
    pub(super) changes: Changes,
    /// When something last moved; watched only while a FIN waits for an answer.
    pub(super) last_moved: Instant,

    /// Payload bytes sent in all, modulo 2^32.
    pub(super) sent: u32,
    /// Of those, consumed by the other end's application.
    pub(super) peer_consumed: u32,
    pub(super) peer_window: u32,
    /// Payload bytes received in all, modulo 2^32.
    pub(super) received: u32,
    /// Of those, consumed by our application.
    pub(super) consumed: u32,
    /// `consumed` in the last UPD.
    pub(super) consumed_told: u32,
    /// The window in the last UPD.
    pub(super) window_told: u32,
    /// The highest `received` ever granted: an honest sender stays at or below it.
    pub(super) granted: u32,
    /// Of the last window, what is more than the first one: that much of the memory is set aside.
    pub(super) reserved: usize,
    /// Which reading of the session was the last one of this stream.
    pub(super) last_read: u64,
}

impl Stream {
    pub(super) fn new(id: StreamId, first_window: u32, now: Instant) -> Self {
        Self {
            id,
            send: ByteQueue::default(),
            receive: ByteQueue::default(),
            send_state: SendState::Open,
            received_fin: false,
            cut_off: false,
            aborted: false,
            stopped: false,
            closed: false,
            syn_pending: false,
            update_pending: false,
            lingered: false,
            stop_pending: false,
            write_blocked: false,
            turn: Turn::None,
            changes: Changes::default(),
            last_moved: now,
            sent: 0,
            peer_consumed: 0,
            peer_window: first_window,
            received: 0,
            consumed: 0,
            consumed_told: 0,
            window_told: first_window,
            granted: first_window,
            reserved: 0,
            last_read: 0,
        }
    }

    /// Bytes that version 2 lets us send now.
    pub(super) fn send_window(&self) -> usize {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_consumed)) as usize
    }

    /// Whether what arrives is for the application.
    pub(super) fn takes_payload(&self) -> bool {
        !self.closed && !self.received_fin && !self.cut_off
    }

    /// Nothing is left to do for it on this end.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.send_state == SendState::Finished && !self.stop_pending
    }
}
