//! smux: many streams over one ordered, reliable byte stream; byte-compatible with `xtaci/smux` versions 1 and 2.
//!
//! ```text
//!  SYN                 opens a stream           PSH  length · payload   carries its bytes
//!  FIN                 ends it                  NOP                     says that the session lives
//!  UPD  consumed 4 · window 4                   version 2: grants room for more
//! ```
//!
//! [`Smux`] does no I/O. Bytes from the transport go into [`handle_bytes`](Smux::handle_bytes), which may take fewer
//! than it is given (its buffers are full: give it the rest later, and let the transport push back meanwhile); bytes
//! for the transport come out of [`poll_output`](Smux::poll_output). After any call, drain
//! [`poll_event`](Smux::poll_event); call [`handle_timeout`](Smux::handle_timeout) when
//! [`poll_timeout`](Smux::poll_timeout) has passed.
//!
//! # The end of a stream
//!
//! In `xtaci/smux` a FIN says that the sender has *closed* the stream: what arrives for it later is thrown away. So
//! half of a stream cannot end there, and a proxy that answers after it has read to the end is cut off. Two of our
//! ends do better on the same wire. A NOP carries a stream id that nobody reads: ours is [`CAPABILITIES_ID`], which
//! the client sends before its first SYN and the server sends back. When both have said so, a first FIN ends one
//! direction only, and a second FIN says that the sender does not read any more either (what a TCP reset would say).
//! The first also tells whether it is an end at all: with a length of [`CUT_OFF`], behind which there is no payload, the stream
//! was cut off, and whoever reads it gets an error behind its last byte, so that a part is never taken for the whole.
//! With [`HalfClose::Always`] all this holds unasked. Towards an end that has not said so, a FIN of ours waits until the
//! other direction has ended, or until nothing has moved on the stream for [`SmuxConfig::linger`]: as long as an
//! answer is flowing it is not cut off.

mod buffer;
mod frame;
mod mux;
mod outgoing;
mod state;

use std::time::Duration;

use thiserror::Error;

pub use frame::{Command, HEADER_LEN, Header};
pub use mux::Smux;

/// The window that a sender of version 2 assumes before the first UPD, in `xtaci/smux`: 256 KiB.
pub const INITIAL_WINDOW: u32 = 262_144;

/// The stream id of the NOP that announces what this implementation can do beyond `xtaci/smux`.
pub const CAPABILITIES_ID: u32 = 0x3168_6d73; // "smh1" on the wire

/// The length of a FIN that says that the stream was cut off.
pub const CUT_OFF: u16 = 1;

/// Which end of the session this is: it decides which stream ids it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens odd ids, from 3.
    Client,
    /// Opens even ids, from 2.
    Server,
}

/// What a first FIN means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// The end of one direction: both ends are known to be ours.
    Always,
    /// The end of one direction if both ends turn out to be ours, of the stream otherwise.
    Negotiated,
}

/// What becomes of bytes that arrive when [`SmuxConfig::receive_bytes_max`] are held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They wait in the transport, and all streams with them, until something is read: as in `xtaci/smux`.
    Wait,
    /// The stream that was read the longest ago is cut off, so that the others need not wait for its reader. Windows beyond the
    /// first are granted out of half the memory, so it comes to that with very many such readers only.
    CutOff,
}

/// How to make a [`Smux`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmuxConfig {
    /// 1 or 2. Both ends must have the same.
    pub version: u8,
    /// Most payload bytes of a frame that is sent, 1 to 65,535. Small frames keep streams from waiting for each
    /// other.
    pub frame_bytes_max: usize,
    /// Memory for received bytes that the application has not taken yet, of all streams together.
    pub receive_bytes_max: usize,
    /// What becomes of more.
    pub when_full: WhenFull,
    /// Version 2: the window of one stream.
    pub stream_receive_bytes_max: u32,
    /// Version 2: what a sender may send on a new stream before it is told more. Both ends must have the same:
    /// [`INITIAL_WINDOW`] where the other one is `xtaci/smux`.
    pub stream_first_window: u32,
    /// Bytes of one stream that wait to be sent.
    pub stream_send_bytes_max: usize,
    /// The same of all streams together: the less of it is left, the less each stream may have, down to 16 KiB.
    pub send_bytes_max: usize,
    /// Streams open at once, of both ends together.
    pub streams_max: usize,
    /// How often a NOP is sent; zero is never.
    pub keepalive_interval: Duration,
    /// How long nothing may arrive before the session counts as dead; zero is forever.
    pub keepalive_timeout: Duration,
    /// What a first FIN means.
    pub half_close: HalfClose,
    /// How long a FIN waits for an answer on an idle stream when it would cut that answer off.
    pub linger: Duration,
}

impl Default for SmuxConfig {
    fn default() -> Self {
        Self {
            version: 2,
            frame_bytes_max: 8192,
            receive_bytes_max: 4 << 20,
            when_full: WhenFull::Wait,
            stream_receive_bytes_max: 2 << 20,
            stream_first_window: INITIAL_WINDOW,
            stream_send_bytes_max: 256 << 10,
            send_bytes_max: usize::MAX,
            streams_max: 16_384,
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            half_close: HalfClose::Always,
            linger: Duration::from_secs(5),
        }
    }
}

/// A stream of a session. Ids are not used again within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u32);

impl StreamId {
    /// The id as it is on the wire.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// What has happened to a stream since it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The other end has opened it.
    pub opened: bool,
    /// There is something to read, or the end of what there was to read.
    pub readable: bool,
    /// There is room to write after a refused or short write, or writing has become pointless.
    pub writable: bool,
}

impl Changes {
    fn any(self) -> bool {
        self.opened || self.readable || self.writable
    }
}

/// What [`Smux::poll_event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The stream.
    pub stream: StreamId,
    /// What happened to it.
    pub changes: Changes,
}

/// The other end does not speak smux, or not this version of it, or not by its rules. The session cannot go on.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SmuxError {
    /// Another version.
    #[error("the other end speaks smux version {got}, this end {expected}")]
    Version {
        /// The version in the frame.
        got: u8,
        /// The version of this session.
        expected: u8,
    },
    /// No such command in this version.
    #[error("unknown smux command {command}")]
    UnknownCommand {
        /// The command in the frame.
        command: u8,
    },
    /// More was sent on a stream than was granted.
    #[error("stream {stream} was sent more than its window")]
    WindowExceeded {
        /// The stream's id.
        stream: u32,
    },
    /// More was consumed of a stream than was ever sent on it.
    #[error("more of stream {stream} was consumed than was sent")]
    ConsumedTooMuch {
        /// The stream's id.
        stream: u32,
    },
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// [`SmuxConfig::streams_max`] are open.
    #[error("{limit} streams are open already")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// All ids are used up: a new session is needed.
    #[error("all stream ids of the session are used up")]
    IdsExhausted,
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// Nothing has arrived: wait for [`Changes::readable`].
    #[error("nothing has arrived")]
    Blocked,
    /// The other end has cut the stream off: what was read is not all that was to come.
    #[error("the other end has cut the stream off")]
    CutOff,
    /// No such stream: it was closed.
    #[error("no such stream")]
    UnknownStream,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteError {
    /// The send buffer is full: wait for [`Changes::writable`].
    #[error("the stream's send buffer is full")]
    Blocked,
    /// The other end reads no more.
    #[error("the other end has closed the stream")]
    Closed,
    /// [`Smux::finish`] was called before.
    #[error("the stream was finished")]
    Finished,
    /// No such stream: it was closed.
    #[error("no such stream")]
    UnknownStream,
}

/// What has passed through a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmuxStats {
    /// Streams opened by either end.
    pub streams_opened: u64,
    /// Streams that the other end wanted and [`SmuxConfig::streams_max`] forbade.
    pub streams_refused: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Payload bytes received for streams that were closed here, or cut off.
    pub bytes_discarded: u64,
    /// Streams that were cut off because memory was full and nobody read them ([`WhenFull::CutOff`]).
    pub streams_cut_off: u64,
}
