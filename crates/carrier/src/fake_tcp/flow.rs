//! One flow: numbers that several lanes advance together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};

use packet::Ecn;

use super::{
    Config, Ends, Flags, Header, LANE_BITS, Role, SEQUENCE_WINDOW, Segment, SynOptions, WINDOW_FIELD,
    WINDOW_SCALE,
};
use crate::guard::GuardKey;

/// What the keys of a guard are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuardOf {
    /// The time: a listener that has forgotten the flow still knows its guard.
    Clock,
    /// The sequence number of the SYN-ACK, for ends whose clocks are apart.
    Flow(u32),
}

/// A flow. Times are milliseconds since the engine's start, plus one, so that 0 is never.
///
/// All accesses are relaxed: each number stands for itself, and a segment with an acknowledgment or an echo that is a
/// moment old is what any network delivers.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) role: Role,
    pub(super) key: Arc<GuardKey>,
    pub(super) guard_of: GuardOf,
    /// A valid segment has come.
    heard: AtomicBool,
    /// Segments have timestamps: the first one of the other end had, which a box on the way may have taken out (RFC 7323 §3.2).
    timestamps: bool,
    /// What our timestamps are ahead of the engine's clock; its lane bits are zero.
    timestamp_offset: u32,
    /// The number of the next byte that we send.
    next: AtomicU32,
    /// The number behind the highest byte that we have received.
    expected: AtomicU32,
    /// The other end's newest timestamp.
    echo: AtomicU32,
    identification: AtomicU16,
    /// Trains sent, for the turns of flags.
    trains: AtomicU32,
    /// Bytes received since we last sent anything.
    pub(super) unacknowledged: AtomicU32,
    /// When a valid segment was last received.
    pub(super) heard_ms: AtomicU64,
    /// When anything was last sent.
    pub(super) sent_ms: AtomicU64,
    /// When data was first sent after something was last heard; 0 when all is answered.
    pub(super) unanswered_ms: AtomicU64,
    /// When a keepalive was last answered.
    answered_ms: AtomicU64,
}

/// The numbers that a flow begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) guard_of: GuardOf,
    pub(super) next: u32,
    pub(super) expected: u32,
    /// The other end's newest timestamp, if it has timestamps.
    pub(super) echo: Option<u32>,
    pub(super) timestamp_offset: u32,
}

/// The timestamp of a lane at a time: 16,000 a second, the lane in the low bits.
pub(super) fn timestamp(offset: u32, now_ms: u64, lane: u8) -> u32 {
    ((now_ms as u32) << LANE_BITS).wrapping_add(offset) | u32::from(lane) & ((1 << LANE_BITS) - 1)
}

/// The headers of a segment that is not part of a flow yet.
pub(super) fn opening_header(
    (local, remote): Ends,
    flags: Flags,
    (sequence, acknowledgment): (u32, u32),
    timestamps: Option<(u32, u32)>,
    mss: u16,
) -> Header {
    Header {
        from: local,
        to: remote,
        sequence,
        acknowledgment,
        flags,
        window: WINDOW_FIELD,
        timestamps,
        syn: Some(SynOptions { mss, window_scale: WINDOW_SCALE }),
        ecn: Ecn::NotEct,
        identification: sequence as u16,
    }
}

/// Whether `a` comes before `b` (RFC 9293 §3.4: in a ring).
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether two numbers can be of one window.
fn near(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_add(SEQUENCE_WINDOW) <= 2 * SEQUENCE_WINDOW
}

impl Flow {
    pub(super) fn new(
        (local, remote): Ends,
        role: Role,
        key: Arc<GuardKey>,
        numbers: Numbers,
        now_ms: u64,
    ) -> Self {
        Self {
            remote,
            local,
            role,
            key,
            guard_of: numbers.guard_of,
            heard: AtomicBool::new(false),
            timestamps: numbers.echo.is_some(),
            timestamp_offset: numbers.timestamp_offset,
            next: AtomicU32::new(numbers.next),
            expected: AtomicU32::new(numbers.expected),
            echo: AtomicU32::new(numbers.echo.unwrap_or(0)),
            identification: AtomicU16::new(numbers.next as u16),
            trains: AtomicU32::new(0),
            unacknowledged: AtomicU32::new(0),
            heard_ms: AtomicU64::new(now_ms),
            sent_ms: AtomicU64::new(now_ms),
            unanswered_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
        }
    }

    fn header(&self, flags: Flags, sequence: u32, now_ms: u64, lane: u8) -> Header {
        Header {
            from: self.local,
            to: self.remote,
            sequence,
            acknowledgment: self.expected.load(Relaxed),
            flags,
            window: WINDOW_FIELD,
            timestamps: self
                .timestamps
                .then(|| (timestamp(self.timestamp_offset, now_ms, lane), self.echo.load(Relaxed))),
            syn: None,
            ecn: Ecn::NotEct,
            identification: 0,
        }
    }

    /// The headers of a train of `len` bytes in `segments`; takes their numbers.
    #[inline]
    pub(super) fn train(
        &self,
        config: &Config,
        len: usize,
        segments: usize,
        ecn: Ecn,
        now_ms: u64,
        lane: u8,
    ) -> Header {
        let cycle = match self.role {
            Role::Dialled => &config.local_flags,
            Role::Accepted => &config.remote_flags,
        };
        let flags = cycle.at(self.trains.fetch_add(1, Relaxed));
        let sequence = self.next.fetch_add(len as u32, Relaxed);
        self.unacknowledged.store(0, Relaxed);
        if self.unanswered_ms.load(Relaxed) == 0 {
            self.unanswered_ms.store(now_ms, Relaxed);
        }
        self.note_sent(now_ms);
        let identification = self.identification.fetch_add(segments as u16, Relaxed);
        Header { ecn, identification, ..self.header(flags, sequence, now_ms, lane) }
    }

    /// Gives back the numbers of a train from `sequence` on, of which only the first `taken` bytes were sent. Where another
    /// lane has taken numbers since, a gap stays, which looks like loss.
    pub(super) fn give_back(&self, sequence: u32, len: usize, taken: usize) {
        let end = sequence.wrapping_add(len as u32);
        let _ = self.next.compare_exchange(end, sequence.wrapping_add(taken as u32), Relaxed, Relaxed);
    }

    /// An acknowledgment without data.
    pub(super) fn acknowledgment(&self, now_ms: u64, lane: u8) -> Header {
        self.unacknowledged.store(0, Relaxed);
        self.note_sent(now_ms);
        self.header(Flags::ACK, self.next.load(Relaxed), now_ms, lane)
    }

    /// A keepalive: the byte before the next one, without the byte (RFC 9293 §3.8.4).
    pub(super) fn keepalive(&self, now_ms: u64) -> Header {
        self.note_sent(now_ms);
        self.header(Flags::ACK, self.next.load(Relaxed).wrapping_sub(1), now_ms, 0)
    }

    /// The end of the flow.
    pub(super) fn fin(&self, now_ms: u64) -> Header {
        self.header(Flags::FIN | Flags::ACK, self.next.load(Relaxed), now_ms, 0)
    }

    fn note_sent(&self, now_ms: u64) {
        if self.sent_ms.load(Relaxed) != now_ms {
            self.sent_ms.store(now_ms, Relaxed);
        }
    }

    /// A valid segment has come. Numbers only go forward: GRO may deliver the end of a train before the train. Returns the
    /// bytes that are not acknowledged now.
    #[inline]
    pub(super) fn handle_data(&self, segment: &Segment, now_ms: u64) -> u32 {
        let end = segment.end();
        // Lanes may race here; whichever number stays is one of a segment that was received.
        if before(self.expected.load(Relaxed), end) {
            self.expected.store(end, Relaxed);
        }
        if let Some((value, _)) = segment.timestamps
            && before(self.echo.load(Relaxed), value)
        {
            self.echo.store(value, Relaxed);
        }
        if !self.heard.load(Relaxed) {
            self.heard.store(true, Relaxed);
        }
        if self.heard_ms.load(Relaxed) != now_ms {
            self.heard_ms.store(now_ms, Relaxed);
        }
        if self.unanswered_ms.load(Relaxed) != 0 {
            self.unanswered_ms.store(0, Relaxed);
        }
        let len = segment.payload_len as u32;
        self.unacknowledged.fetch_add(len, Relaxed).saturating_add(len)
    }

    /// Whether a valid segment has ever come.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// Whether a valid segment has numbers of another life of the flow.
    #[inline]
    pub(super) fn is_renewed_by(&self, segment: &Segment) -> bool {
        !near(segment.sequence, self.expected.load(Relaxed))
            || !near(segment.acknowledgment, self.next.load(Relaxed))
    }

    /// Takes up the numbers of a valid segment.
    pub(super) fn renew(&self, segment: &Segment) {
        self.next.store(segment.acknowledgment, Relaxed);
        self.expected.store(segment.sequence, Relaxed);
        if let Some((value, _)) = segment.timestamps {
            self.echo.store(value, Relaxed);
        }
    }

    /// A segment without payload acknowledges what we have sent: somebody is there. Nobody else knows the numbers but those
    /// who see the flow.
    pub(super) fn handle_acknowledgment(&self, segment: &Segment) {
        if near(segment.acknowledgment, self.next.load(Relaxed))
            && near(segment.sequence, self.expected.load(Relaxed))
        {
            self.unanswered_ms.store(0, Relaxed);
        }
    }

    /// A segment without payload is a keepalive that deserves an answer now.
    pub(super) fn is_keepalive(&self, segment: &Segment, now_ms: u64) -> bool {
        const ANSWER_AGAIN_MS: u64 = 500;
        let probe = segment.sequence.wrapping_add(1) == self.expected.load(Relaxed);
        let due = now_ms >= self.answered_ms.load(Relaxed) + ANSWER_AGAIN_MS;
        if probe && due {
            self.answered_ms.store(now_ms, Relaxed);
        }
        probe && due
    }
}
