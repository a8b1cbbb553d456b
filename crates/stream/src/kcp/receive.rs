//! The receiving side: segments in, bytes in order out, acknowledgements to send.

use std::collections::VecDeque;

use super::KcpConfig;
use super::chunk::{Chunk, Pool};
use super::segment::distance;

/// In-order payload up to this size joins the chunk before it, so that small segments do not hold large chunks.
const JOIN_MAX: usize = 512;
/// Acknowledgements that wait at most; more are not needed, since what is not acknowledged is sent again.
const ACKS_MAX: usize = 8_192;

/// What other implementations take our window for until they are told, at most: 128 segments in C, 32 in Go.
const WINDOW_ASSUMED: u32 = 128;

/// What a segment turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// New, within the window.
    New,
    /// Had arrived before.
    Duplicate,
    /// Beyond the window.
    Beyond,
}

/// An acknowledgement to send.
#[derive(Clone, Copy, Debug)]
struct Ack {
    number: u32,
    timestamp: u32,
    /// It came after others that were sent later: its sender wants to know whether it was lost or only overtaken.
    late: bool,
}

/// The receiving side of a conversation.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The number of the first segment that has not arrived.
    next: u32,
    /// Segments from `next` on that have arrived or are missing.
    ring: VecDeque<Option<Chunk>>,
    /// In order, for the reader.
    ready: VecDeque<Chunk>,
    ready_bytes: usize,
    /// The window, in segments, and its bound.
    window: u32,
    window_max: u32,
    /// Segments since the window was last adapted.
    arrived: u32,
    /// The least that was unread lately, in bytes.
    unread_least: usize,
    /// Segments at or beyond this number are refused. Never taken back.
    limit: u32,
    /// What the last datagram said.
    advertised: u32,
    /// What has arrived and is not acknowledged yet.
    acks: VecDeque<Ack>,
    /// Acknowledgements of segments beyond `next` that were sent once, to be repeated once.
    repeats: Vec<Ack>,
    acks_since: Option<u64>,
    /// What `acks` holds was chosen, and is being sent.
    flushing: bool,
    /// Counts down from the last duplicate: acknowledgements are being lost.
    acks_get_lost: u16,
    payload_max: usize,
}

impl Receiver {
    pub(super) fn new(first: u32, config: &KcpConfig) -> Self {
        let window = config.receive_window.min(KcpConfig::RECEIVE_WINDOW_START);
        Self {
            next: first,
            ring: VecDeque::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            window,
            window_max: config.receive_window,
            arrived: 0,
            unread_least: usize::MAX,
            limit: first.wrapping_add(window.max(WINDOW_ASSUMED)),
            advertised: window,
            acks: VecDeque::new(),
            flushing: false,
            repeats: Vec::new(),
            acks_since: None,
            acks_get_lost: 0,
            payload_max: config.segment_payload_max(),
        }
    }

    /// A segment has arrived.
    #[inline]
    pub(super) fn push(
        &mut self,
        number: u32,
        timestamp: u32,
        payload: &[u8],
        now: u64,
        pool: &mut Pool,
    ) -> Arrival {
        let ahead = distance(number, self.next);
        if distance(number, self.limit) >= 0 {
            return Arrival::Beyond;
        }
        // Even a duplicate is acknowledged: the first acknowledgement may have been lost.
        if self.acks.len() < ACKS_MAX {
            self.acks.push_back(Ack { number, timestamp, late: ahead == 0 && !self.ring.is_empty() });
            self.acks_since.get_or_insert(now);
        }
        if ahead < 0 {
            self.acks_get_lost = u16::MAX;
            return Arrival::Duplicate;
        }
        self.adapt_window();
        if ahead == 0 && self.ring.is_empty() {
            self.next = self.next.wrapping_add(1);
            self.deliver(payload, pool);
            return Arrival::New;
        }
        let index = ahead as usize;
        if index >= self.ring.len() {
            self.ring.resize_with(index + 1, || None);
        }
        if self.ring[index].is_some() {
            self.acks_get_lost = u16::MAX;
            return Arrival::Duplicate;
        }
        let mut chunk = pool.take(payload.len());
        chunk.append(payload, payload.len());
        self.ring[index] = Some(chunk);
        while let Some(Some(_)) = self.ring.front() {
            let Some(Some(chunk)) = self.ring.pop_front() else { break };
            self.next = self.next.wrapping_add(1);
            if chunk.len() <= JOIN_MAX {
                self.deliver(chunk.bytes(), pool);
                pool.give(chunk);
            } else {
                self.ready_bytes += chunk.len();
                self.ready.push_back(chunk);
            }
        }
        Arrival::New
    }

    /// Payload that is next in order.
    #[inline]
    fn deliver(&mut self, payload: &[u8], pool: &mut Pool) {
        self.ready_bytes += payload.len();
        let mut rest = payload;
        if rest.len() <= JOIN_MAX
            && let Some(last) = self.ready.back_mut()
        {
            let taken = last.append(rest, usize::MAX);
            rest = &rest[taken..];
        }
        if !rest.is_empty() {
            let mut chunk = pool.take(rest.len());
            chunk.append(rest, rest.len());
            self.ready.push_back(chunk);
        }
    }

    /// Once for each window that has arrived: twice the window for a reader that kept up, half of it for one that did
    /// not. What counts is the least that was unread in the second half of that time: when a gap closes, much becomes
    /// readable at once, and that is no fault of the reader.
    #[inline]
    fn adapt_window(&mut self) {
        self.arrived += 1;
        if self.arrived > self.window / 2 {
            self.unread_least = self.unread_least.min(self.ready_bytes);
        }
        if self.arrived < self.window {
            return;
        }
        let unread = self.segments(self.unread_least);
        if unread < self.window / 4 {
            self.window = (self.window * 2).min(self.window_max);
        } else if unread >= self.window / 2 {
            self.window = (self.window / 2).max(KcpConfig::RECEIVE_WINDOW_START.min(self.window_max));
        }
        self.arrived = 0;
        self.unread_least = usize::MAX;
    }

    /// How many segments of full size that many bytes are.
    fn segments(&self, bytes: usize) -> u32 {
        bytes.div_ceil(self.payload_max) as u32
    }

    /// The window to say in a datagram that leaves now, in segments.
    #[inline]
    pub(super) fn window(&self) -> u32 {
        self.window.saturating_sub(self.segments(self.ready_bytes))
    }

    /// A datagram has left that said so.
    #[inline]
    pub(super) fn told(&mut self, window: u32) {
        self.advertised = window;
        let limit = self.next.wrapping_add(window);
        if distance(limit, self.limit) > 0 {
            self.limit = limit;
        }
    }

    /// Whether the far end may stand still because of the last window it was told, and a larger one is true now.
    pub(super) fn window_opened(&self) -> bool {
        self.advertised < self.window / 4 && self.window() >= self.advertised + (self.window / 4).max(1)
    }

    /// From now on at most this many segments.
    pub(super) fn set_window_max(&mut self, segments: u32) {
        self.window_max = segments.clamp(1, KcpConfig::WINDOW_MAX);
        self.window =
            self.window.clamp(KcpConfig::RECEIVE_WINDOW_START.min(self.window_max), self.window_max);
    }

    /// The number of the first segment that has not arrived.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Bytes that can be read.
    pub(super) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// The first of them that lie together.
    pub(super) fn peek(&self) -> &[u8] {
        self.ready.front().map_or(&[], Chunk::bytes)
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize, pool: &mut Pool) {
        let mut left = count.min(self.ready_bytes);
        self.ready_bytes -= left;
        while left > 0 {
            let Some(front) = self.ready.front_mut() else { break };
            let taken = left.min(front.len());
            front.consume(taken);
            left -= taken;
            if front.len() == 0
                && let Some(chunk) = self.ready.pop_front()
            {
                pool.give(chunk);
            }
        }
    }

    /// How many acknowledgements wait, and since when.
    #[inline]
    pub(super) fn acks_waiting(&self) -> (usize, Option<u64>) {
        (self.acks.len(), self.acks_since)
    }

    /// Chooses the acknowledgements worth sending: `una` says the rest. Of what is in order, the last is kept for its
    /// timestamp, and what closed a gap.
    pub(super) fn choose_acks(&mut self) {
        if std::mem::replace(&mut self.flushing, true) {
            return;
        }
        let next = self.next;
        let beyond = |ack: &Ack| distance(ack.number, next) >= 0;
        let last = self.acks.back().copied();
        self.acks.retain(|ack| ack.late || beyond(ack));
        if let Some(last) = last.filter(|ack| !ack.late && !beyond(ack)) {
            self.acks.push_back(last);
        }
        let fresh = self.acks.len();
        self.acks.extend(self.repeats.iter().copied().filter(beyond));
        self.repeats.clear();
        if self.acks_get_lost > 0 {
            self.acks_get_lost -= 1;
            self.repeats.extend(self.acks.iter().take(fresh).copied().filter(beyond));
        }
    }

    /// Takes an acknowledgement to send.
    #[inline]
    pub(super) fn pop_ack(&mut self) -> Option<(u32, u32)> {
        let ack = self.acks.pop_front();
        if self.acks.is_empty() {
            self.acks_since = None;
            self.flushing = false;
        }
        ack.map(|ack| (ack.number, ack.timestamp))
    }

    /// Bytes of the queues themselves.
    pub(super) fn memory(&self) -> usize {
        self.ring.capacity() * size_of::<Option<Chunk>>()
            + self.ready.capacity() * size_of::<Chunk>()
            + (self.acks.capacity() + self.repeats.capacity()) * size_of::<Ack>()
    }

    /// Gives back what a quiet conversation does not need.
    pub(super) fn trim(&mut self) {
        self.ring.shrink_to(16);
        self.ready.shrink_to(16);
        self.acks.shrink_to(16);
        self.repeats = Vec::new();
        self.window = self.window.min(KcpConfig::RECEIVE_WINDOW_START);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Harness {
        receiver: Receiver,
        pool: Pool,
    }

    impl Harness {
        fn new(receive_window: u32) -> Self {
            let config = KcpConfig { receive_window, mtu: 124, ..KcpConfig::default() };
            Self { receiver: Receiver::new(0, &config), pool: Pool::new(100) }
        }

        fn push(&mut self, number: u32) -> Arrival {
            self.receiver.push(number, 1_000 + number, &[number as u8; 100], 0, &mut self.pool)
        }

        fn acks(&mut self) -> Vec<u32> {
            self.receiver.choose_acks();
            std::iter::from_fn(|| self.receiver.pop_ack()).map(|(number, _)| number).collect()
        }

        fn read(&mut self) -> usize {
            let bytes = self.receiver.ready_bytes();
            self.receiver.consume(bytes, &mut self.pool);
            bytes
        }
    }

    #[test]
    fn of_what_is_in_order_only_the_last_is_acknowledged() {
        let mut harness = Harness::new(64);
        for number in [0, 1, 2, 4, 6] {
            assert_eq!(harness.push(number), Arrival::New);
        }
        assert_eq!(harness.acks(), [4, 6]);
        assert_eq!((harness.push(3), harness.receiver.next()), (Arrival::New, 5));
        assert_eq!(harness.acks(), [3], "its timestamp is worth sending, though `una` says more");
    }

    #[test]
    fn acknowledgements_are_repeated_once_while_they_get_lost() {
        let mut harness = Harness::new(64);
        assert_eq!((harness.push(2), harness.acks()), (Arrival::New, vec![2]));
        assert_eq!(
            (harness.push(4), harness.acks()),
            (Arrival::New, vec![4]),
            "nothing says that they get lost"
        );
        assert_eq!((harness.push(2), harness.acks()), (Arrival::Duplicate, vec![2]));
        assert_eq!((harness.push(6), harness.acks()), (Arrival::New, vec![6, 2]));
        assert_eq!((harness.push(8), harness.acks()), (Arrival::New, vec![8, 6]));
    }

    #[test]
    fn what_was_promised_is_taken_and_nothing_beyond() {
        let mut harness = Harness::new(128);
        assert_eq!((harness.push(127), harness.push(128)), (Arrival::New, Arrival::Beyond));
        harness.receiver.set_window_max(4);
        assert_eq!(harness.receiver.window(), 4);
        assert_eq!(harness.push(126), Arrival::New, "a promise is kept");
    }

    #[test]
    fn the_window_follows_the_reader() {
        let mut harness = Harness::new(2_048);
        let mut number = 0;
        let mut arrive = |harness: &mut Harness, count: u32, reads: bool| {
            for _ in 0..count {
                let window = harness.receiver.window();
                harness.receiver.told(window);
                harness.push(number);
                number += 1;
                if reads {
                    harness.read();
                }
            }
        };
        arrive(&mut harness, 3_584, true);
        assert_eq!(harness.receiver.window(), 2_048);
        arrive(&mut harness, 2_048, false);
        assert_eq!(harness.receiver.window(), 0);
        assert!(!harness.receiver.window_opened());
        assert_eq!(harness.read(), 204_800);
        assert!(harness.receiver.window_opened());
        assert_eq!(harness.receiver.window(), 1_024, "who did not keep up gets less");
    }
}
