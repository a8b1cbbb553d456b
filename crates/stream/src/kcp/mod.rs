//! One reliable, ordered byte stream over datagrams: KCP, byte-compatible with kcp-go, without I/O.
//!
//! # How to use it
//!
//! After anything that changes it ([`Kcp::write`], [`Kcp::handle_datagram`], [`Kcp::read`] or [`Kcp::consume`],
//! [`Kcp::handle_timeout`]), call [`Kcp::poll_transmit`] until it gives nothing more and send what it gave; then wait for
//! the time that [`Kcp::poll_timeout`] says and call [`Kcp::handle_timeout`] then. Several datagrams that came
//! together are best all handled first: they are then acknowledged together.
//!
//! ```
//! use std::time::Instant;
//! use stream::kcp::{Kcp, KcpConfig};
//!
//! # #[allow(clippy::disallowed_methods)]
//! let now = Instant::now();
//! let mut left = Kcp::new(7, KcpConfig::default(), now);
//! let mut right = Kcp::new(7, KcpConfig::default(), now);
//!
//! assert_eq!(left.write(b"hello"), 5);
//! let mut datagram = [0; 1_500];
//! while let Some(size) = left.poll_transmit(now, &mut datagram) {
//!     right.handle_datagram(&datagram[..size], now)?;
//! }
//! assert_eq!(right.peek(), b"hello");
//! right.consume(5);
//! # Ok::<(), stream::kcp::Reason>(())
//! ```
//!
//! # What differs from kcp-go, within the same bytes
//!
//! - A segment's `ts` counts steps of 1,024 ns and not milliseconds: only its sender reads it, when it comes back. It names
//!   the transmission that arrived, so that a retransmission is never mistaken for the original.
//! - Losses are found by time (RFC 8985), the end of a burst included, instead of by counting acknowledgements.
//! - With [`Congestion::Bbr`] the data in flight follows a model of the path, and datagrams are spaced.
//! - Acknowledgements of segments behind a gap are sent twice while acknowledgements get lost.
//! - The window advertised begins small and grows while the reader keeps up.
//!
//! There is no checksum in KCP: what carries the datagrams must discard damaged ones.

mod chunk;
mod config;
mod receive;
mod reordering;
mod rtt;
pub mod segment;
mod send;
mod statistics;
mod timers;
mod transmit;

use std::time::{Duration, Instant};

use chunk::Pool;
pub use config::{Congestion, KcpConfig, Mode};
use receive::{Arrival, Receiver};
use segment::{Command, Header, distance};
use send::Sender;
pub use statistics::Statistics;

use crate::rate::{AckBatch, Bbr, Classic, MILLISECOND, Pacer, SECOND};

/// Why a datagram, or the rest of it, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It ends within a header.
    #[error("the datagram ends within a segment's header")]
    Short,
    /// It belongs to another conversation.
    #[error("the segment belongs to another conversation")]
    Conversation,
    /// The command is none of the four.
    #[error("the segment has an unknown command")]
    Command,
    /// The payload is longer than the datagram.
    #[error("the segment's length exceeds the datagram")]
    Length,
    /// It acknowledges what was never sent.
    #[error("the segment acknowledges what was never sent")]
    Unsent,
}

/// What is queued beyond the data in flight, in time at the rate of sending: so little that a stream which
/// has something urgent need not wait behind the others.
const QUEUE_TIME: u64 = 8 * MILLISECOND;
/// But never less than this, in segments.
const QUEUE_MIN: usize = 64;
/// The window that the far end is assumed to have before it says so: that of kcp-go.
const REMOTE_WINDOW_START: u32 = 32;
/// The first interval between questions for a closed window.
const WINDOW_ASK_FIRST: u64 = 200 * MILLISECOND;

/// What bounds the sender, beside windows.
#[derive(Debug)]
enum Control {
    Unlimited { silent: bool },
    Classic(Classic),
    Bbr(Box<Bbr>, Pacer),
}

/// One conversation.
#[derive(Debug)]
pub struct Kcp {
    conversation: u32,
    config: KcpConfig,
    payload_max: usize,
    began: Instant,
    first_timestamp: u32,
    pool: Pool,
    sender: Sender,
    receiver: Receiver,
    control: Control,
    remote_window: u32,
    /// When to ask for a closed window, and how long to wait then.
    ask_at: Option<u64>,
    ask_interval: u64,
    ask: bool,
    tell: bool,
    /// Something could have left but for the pacing.
    paced: bool,
    heard_at: u64,
    /// Since when there is something that the far end should answer.
    expecting_since: Option<u64>,
    trim_at: Option<u64>,
    /// The segment that the far end waits for is larger than the MTU is now: its number, and since when.
    too_wide_since: Option<(u32, u64)>,
    /// Payload was sent or received since memory was last looked at.
    active: bool,
    dead: bool,
    counted: Statistics,
}

impl Kcp {
    /// A conversation, numbered `conversation` at both ends, that has sent and received nothing.
    pub fn new(conversation: u32, config: KcpConfig, now: Instant) -> Self {
        Self::starting_at(conversation, config, 0, 0, now)
    }

    /// The same, but with another first sequence number, which both ends must agree on, and another first timestamp: to see
    /// what happens when 2³² is reached without waiting for it.
    pub fn starting_at(
        conversation: u32,
        config: KcpConfig,
        sequence: u32,
        timestamp: u32,
        now: Instant,
    ) -> Self {
        let config = config.clamped();
        let segment = config.mtu as u64;
        let control = match config.congestion {
            Congestion::Bbr => {
                let model = Bbr::new(segment, conversation);
                let pacer = Pacer::new(model.pacing_rate(), config.mtu);
                Control::Bbr(Box::new(model), pacer)
            }
            Congestion::None if config.mode.no_congestion_window => Control::Unlimited { silent: false },
            Congestion::None => {
                Control::Classic(Classic::new(segment, u64::from(config.send_window) * segment))
            }
        };
        Self {
            conversation,
            payload_max: config.segment_payload_max(),
            began: now,
            first_timestamp: timestamp,
            pool: Pool::new(config.segment_payload_max()),
            sender: Sender::new(sequence, config.mode.nodelay, config.mode.resend > 0),
            receiver: Receiver::new(sequence, &config),
            control,
            remote_window: REMOTE_WINDOW_START,
            ask_at: None,
            ask_interval: WINDOW_ASK_FIRST,
            ask: false,
            tell: false,
            paced: false,
            heard_at: 0,
            expecting_since: None,
            trim_at: None,
            too_wide_since: None,
            active: false,
            dead: false,
            counted: Statistics::default(),
            config,
        }
    }

    /// The number of the conversation.
    pub fn conversation(&self) -> u32 {
        self.conversation
    }

    fn elapsed(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_nanos() as u64
    }

    /// A time on the wire: steps of 1,024 ns.
    fn timestamp(&self, now: u64) -> u32 {
        self.first_timestamp.wrapping_add((now >> 10) as u32)
    }

    /// From now on, the largest datagram to produce, in bytes: the path passes less, or more again. What was sent already goes
    /// out again as it was cut then.
    pub fn set_mtu(&mut self, mtu: usize) {
        let mtu = mtu.clamp(KcpConfig::MTU_MIN, KcpConfig::MTU_MAX);
        if mtu != self.config.mtu {
            self.config.mtu = mtu;
            self.payload_max = self.config.segment_payload_max();
            self.sender.cut_again(self.payload_max, &mut self.pool);
        }
    }

    // Writing and reading.

    /// Takes as many of `bytes` as [`Kcp::writable`] says; gives how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.writable());
        if taken > 0 {
            if self.sender.queued() == 0
                && self.sender.in_flight() == 0
                && let Control::Bbr(model, _) = &mut self.control
            {
                model.on_restart();
            }
            self.sender.append(&bytes[..taken], self.payload_max, &mut self.pool);
        }
        taken
    }

    /// Bytes that [`Kcp::write`] would take.
    pub fn writable(&self) -> usize {
        if self.dead {
            return 0;
        }
        let limit = match &self.control {
            Control::Bbr(_, pacer) => {
                let queue = (pacer.rate() / (SECOND / QUEUE_TIME)) as usize / self.payload_max;
                queue.clamp(QUEUE_MIN, self.config.send_window.max(QUEUE_MIN as u32) as usize)
            }
            _ => self.config.send_window as usize,
        };
        (limit * self.payload_max).saturating_sub(self.sender.queued_bytes())
    }

    /// No fewer than the bytes written that have not been acknowledged: 0 when all has arrived.
    pub fn unacknowledged(&self) -> usize {
        self.sender.queued_bytes() + self.sender.outstanding() * self.payload_max
    }

    /// Bytes written that have not been sent yet.
    pub fn queued(&self) -> usize {
        self.sender.queued_bytes()
    }

    /// Copies what has arrived, in order, to `buf`; gives how much.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buf.len() {
            let bytes = self.peek();
            let taken = bytes.len().min(buf.len() - filled);
            if taken == 0 {
                break;
            }
            buf[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
            self.consume(taken);
        }
        filled
    }

    /// Bytes that [`Kcp::read`] could give.
    pub fn readable(&self) -> usize {
        self.receiver.ready_bytes()
    }

    /// The first of the bytes to read that lie together in memory: empty when there are none.
    pub fn peek(&self) -> &[u8] {
        self.receiver.peek()
    }

    /// Forgets the first `count` bytes to read.
    pub fn consume(&mut self, count: usize) {
        self.receiver.consume(count, &mut self.pool);
        if self.receiver.window_opened() {
            self.tell = true;
        }
    }

    // Datagrams in.

    /// Handles the segments of one datagram.
    ///
    /// # Errors
    ///
    /// Why the datagram was dropped, from the offending segment on. Those before it have been handled.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), Reason> {
        let now = self.elapsed(now);
        let mut batch = AckBatch::default();
        let mut una = self.sender.una();
        let mut rest = datagram;
        let outcome = loop {
            match self.handle_segment(rest, now, &mut una, &mut batch) {
                Ok([]) => break Ok(()),
                Ok(tail) => rest = tail,
                Err(reason) => break Err(reason),
            }
        };
        self.sender.acknowledge_before(una, now, &mut batch, &mut self.pool);
        if batch.acked > 0 {
            self.sender.finish(now, &mut batch);
            self.steer(now, &batch);
        }
        if self.sender.outstanding() == 0 {
            self.expecting_since = None;
        }
        outcome
    }

    fn handle_segment<'a>(
        &mut self,
        segment: &'a [u8],
        now: u64,
        una: &mut u32,
        batch: &mut AckBatch,
    ) -> Result<&'a [u8], Reason> {
        let (header, payload, rest) = Header::parse(segment)?;
        if header.conversation != self.conversation {
            return Err(Reason::Conversation);
        }
        if !self.sender.knows(header.unacknowledged) {
            return Err(Reason::Unsent);
        }
        self.heard_at = now;
        // An older segment knows an older window.
        if distance(header.unacknowledged, *una) >= 0 {
            *una = header.unacknowledged;
            self.remote_window = u32::from(header.window);
            if self.remote_window > 0 {
                self.ask_at = None;
                self.ask_interval = WINDOW_ASK_FIRST;
            }
        }
        match header.command {
            Command::Push => {
                self.active = true;
                self.counted.segments_received += 1;
                let (sequence, timestamp) = (header.sequence, header.timestamp);
                match self.receiver.push(sequence, timestamp, payload, now, &mut self.pool) {
                    Arrival::New => {}
                    Arrival::Duplicate => self.counted.duplicates_received += 1,
                    Arrival::Beyond => self.counted.beyond_window += 1,
                }
            }
            // Before what `una` says, since only this tells which transmission arrived.
            Command::Ack => {
                let steps = self.timestamp(now).wrapping_sub(header.timestamp);
                let (sequence, age) = (header.sequence, u64::from(steps) << 10);
                self.sender.acknowledge(sequence, header.timestamp, age, now, batch, &mut self.pool);
            }
            Command::WindowAsk => self.tell = true,
            Command::WindowTell => {}
        }
        Ok(rest)
    }

    /// Tells the model, and what follows from it, about acknowledgements and losses.
    fn steer(&mut self, now: u64, batch: &AckBatch) {
        let sample = self.sender.delivery.sample(batch);
        let (delivered, in_flight) = (self.sender.delivery.delivered(), self.sender.in_flight());
        match &mut self.control {
            Control::Unlimited { silent } => *silent = false,
            Control::Classic(classic) => classic.on_ack(batch.acked, batch.lost, delivered, in_flight),
            Control::Bbr(model, pacer) => {
                model.on_ack(now, batch, sample, delivered, in_flight);
                pacer.set_rate(now, model.pacing_rate());
                if model.probes_rtt() {
                    self.sender.delivery.mark_app_limited(in_flight);
                }
            }
        }
    }

    // What is true of it.

    /// Whether the path is dead: a segment was sent 20 times in vain, or nothing was heard for
    /// [`KcpConfig::dead_after`] while something was expected. A dead conversation stays dead.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether it is dead because of a segment that was cut when the path passed more than now, and that never arrived.
    pub fn is_too_wide(&self) -> bool {
        self.dead && self.too_wide_since.is_some()
    }

    /// Bytes of memory held, all buffers included.
    pub fn memory(&self) -> usize {
        self.pool.memory() + self.sender.memory() + self.receiver.memory()
    }

    /// Bytes of payload in a segment of full size.
    pub fn segment_payload(&self) -> usize {
        self.payload_max
    }

    /// From now on, hold at most so many segments for the reader: for whoever shares out memory among conversations.
    /// What the far end was already told it may send is still taken.
    pub fn set_receive_window(&mut self, segments: u32) {
        self.receiver.set_window_max(segments);
    }

    /// From now on, have at most so many segments outstanding: the other half of that. What is outstanding stays.
    pub fn set_send_window(&mut self, segments: u32) {
        self.config.send_window = segments.clamp(1, KcpConfig::WINDOW_MAX);
    }

    /// Figures.
    pub fn statistics(&self) -> Statistics {
        let (rtt, counters) = (&self.sender.rtt, &self.sender.counters);
        let (pacing_rate, bandwidth) = match &self.control {
            Control::Bbr(model, pacer) => (Some(pacer.rate()), Some(model.bandwidth())),
            _ => (None, None),
        };
        Statistics {
            rtt: rtt.smoothed().map(Duration::from_nanos),
            rtt_variation: Duration::from_nanos(rtt.variation()),
            rtt_min: rtt.min().map(Duration::from_nanos),
            segments_sent: counters.segments,
            retransmissions: counters.retransmissions,
            spurious_retransmissions: counters.spurious,
            timeouts: counters.timeouts,
            bytes_delivered: self.sender.delivery.delivered(),
            in_flight: self.sender.in_flight(),
            congestion_window: self.congestion_window(),
            pacing_rate,
            bandwidth,
            remote_window: self.remote_window,
            ..self.counted
        }
    }
}
