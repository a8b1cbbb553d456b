//! The sending side: what waits, what is in flight, and what of it is lost.
//!
//! ```text
//!  append → queue ──transmit──► ring (numbers una, una + 1, …) ──acknowledged from the front──► gone
//!                                 │  ▲
//!                       lost ◄────┘  └── transmitted again
//! ```
//!
//! Every transmission has an *order*, counted from 0. `log` holds the numbers of the segments in that order, so that
//! finding losses looks at each transmission once and not at each segment for each acknowledgement.

use std::collections::VecDeque;

use super::chunk::{Chunk, Pool};
use super::reordering::Reordering;
use super::rtt::Rtt;
use super::segment::{OVERHEAD, distance};
use crate::rate::{AckBatch, Delivery, Snapshot};

/// A segment sent this often in vain means a dead path, as in KCP.
const TRANSMISSIONS_MAX: u16 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// Taken for lost, and in the list of what to send again.
    Lost,
    Acknowledged,
}

/// A segment that has been sent at least once.
#[derive(Debug)]
struct Sent {
    chunk: Chunk,
    snapshot: Snapshot,
    left_at: u64,
    order: u64,
    timestamp: u32,
    transmissions: u16,
    state: State,
    /// Sent again because of silence, which says nothing about reordering.
    after_silence: bool,
}

impl Sent {
    fn size(&self) -> u64 {
        (self.chunk.len() + OVERHEAD) as u64
    }
}

/// What is counted of the sending side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) segments: u64,
    pub(super) retransmissions: u64,
    pub(super) spurious: u64,
    pub(super) timeouts: u64,
}

/// A segment that may leave next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Again: the one at this place of the ring.
    Again(usize),
    /// The front of the queue.
    New,
}

/// The sending side of a conversation.
#[derive(Debug)]
pub(super) struct Sender {
    queue: VecDeque<Chunk>,
    queued_bytes: usize,
    ring: VecDeque<Sent>,
    una: u32,
    log: VecDeque<u32>,
    /// The order of the front of `log`.
    log_begins_at: u64,
    lost: VecDeque<u32>,
    in_flight: u64,
    /// Of the newest transmission known to have arrived: its order and its round-trip time.
    newest: Option<(u64, u64)>,
    reordering: Reordering,
    loss_deadline: Option<u64>,
    /// Since when nothing of what is in flight has been acknowledged.
    waiting_since: u64,
    find_losses: bool,
    exhausted: bool,
    pub(super) rtt: Rtt,
    pub(super) delivery: Delivery,
    pub(super) counters: Counters,
}

impl Sender {
    pub(super) fn new(first: u32, nodelay: bool, find_losses: bool) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            ring: VecDeque::new(),
            una: first,
            log: VecDeque::new(),
            log_begins_at: 0,
            lost: VecDeque::new(),
            in_flight: 0,
            newest: None,
            reordering: Reordering::new(),
            loss_deadline: None,
            waiting_since: 0,
            find_losses,
            exhausted: false,
            rtt: Rtt::new(nodelay),
            delivery: Delivery::default(),
            counters: Counters::default(),
        }
    }

    /// Queues `bytes` in segments of up to `payload_max` bytes, the last of which may grow by what comes later.
    pub(super) fn append(&mut self, mut bytes: &[u8], payload_max: usize, pool: &mut Pool) {
        self.queued_bytes += bytes.len();
        if let Some(last) = self.queue.back_mut() {
            let taken = last.append(bytes, payload_max);
            bytes = &bytes[taken..];
        }
        while !bytes.is_empty() {
            let mut chunk = pool.take(payload_max);
            let taken = chunk.append(bytes, payload_max);
            bytes = &bytes[taken..];
            self.queue.push_back(chunk);
        }
    }

    /// Cuts what was not sent yet into segments of up to `payload_max` bytes.
    pub(super) fn cut_again(&mut self, payload_max: usize, pool: &mut Pool) {
        let queue = std::mem::take(&mut self.queue);
        self.queued_bytes = 0;
        for chunk in queue {
            self.append(chunk.bytes(), payload_max, pool);
            pool.give(chunk);
        }
    }

    /// The segment that should leave next, and its size with header; a new one only while fewer than `window` are
    /// outstanding.
    #[inline]
    pub(super) fn next(&mut self, window: u32) -> Option<(Next, usize)> {
        while let Some(&number) = self.lost.front() {
            // It may have been acknowledged after all.
            match self.index(number) {
                Some(index) if self.ring[index].state == State::Lost => {
                    return Some((Next::Again(index), self.ring[index].size() as usize));
                }
                _ => self.lost.pop_front(),
            };
        }
        let chunk = self.queue.front()?;
        (self.ring.len() < window as usize).then_some((Next::New, chunk.len() + OVERHEAD))
    }

    /// Takes that segment for sent. Gives its number, its timestamp and its payload.
    pub(super) fn transmit(&mut self, next: Next, now: u64, timestamp: u32) -> Option<(u32, &[u8])> {
        let snapshot = self.delivery.on_send(now, self.in_flight);
        if self.in_flight == 0 {
            self.waiting_since = now;
        }
        let order = self.log_begins_at + self.log.len() as u64;
        let index = match next {
            Next::Again(index) => {
                self.lost.pop_front();
                self.counters.retransmissions += 1;
                index
            }
            Next::New => {
                let chunk = self.queue.pop_front()?;
                self.queued_bytes -= chunk.len();
                self.ring.push_back(Sent {
                    chunk,
                    snapshot,
                    left_at: now,
                    order,
                    timestamp,
                    transmissions: 0,
                    state: State::InFlight,
                    after_silence: false,
                });
                self.ring.len() - 1
            }
        };
        let number = self.una.wrapping_add(index as u32);
        self.log.push_back(number);
        self.counters.segments += 1;
        let sent = &mut self.ring[index];
        sent.snapshot = snapshot;
        sent.left_at = now;
        sent.order = order;
        sent.timestamp = timestamp;
        sent.transmissions += 1;
        sent.state = State::InFlight;
        self.in_flight += sent.size();
        self.exhausted |= sent.transmissions > TRANSMISSIONS_MAX;
        Some((number, sent.chunk.bytes()))
    }

    /// The place in the ring of the segment with that number.
    fn index(&self, number: u32) -> Option<usize> {
        let index = number.wrapping_sub(self.una) as usize;
        (index < self.ring.len()).then_some(index)
    }

    /// Whether `una` is a number that the far end could rightly be waiting for.
    pub(super) fn knows(&self, una: u32) -> bool {
        distance(una, self.una) <= self.ring.len() as i32
    }

    /// Segment `number` has arrived; it carried the timestamp that was `age` nanoseconds ago.
    pub(super) fn acknowledge(
        &mut self,
        number: u32,
        timestamp: u32,
        age: u64,
        now: u64,
        batch: &mut AckBatch,
        pool: &mut Pool,
    ) {
        let Some(index) = self.index(number) else { return };
        let sent = &self.ring[index];
        if sent.state == State::Acknowledged {
            return;
        }
        let elapsed = now.saturating_sub(sent.left_at);
        if sent.timestamp == timestamp {
            batch.rtt_sample(elapsed);
            self.arrived(index, now, true, batch, pool);
        } else {
            // An earlier transmission of the same segment: it was late, not lost.
            if sent.transmissions > 1 && age > elapsed && !sent.after_silence {
                self.reordering.was_impatient(now, self.rtt.smoothed());
            }
            self.counters.spurious += 1;
            self.arrived(index, now, false, batch, pool);
        }
    }

    /// All segments before `una` have arrived.
    pub(super) fn acknowledge_before(&mut self, una: u32, now: u64, batch: &mut AckBatch, pool: &mut Pool) {
        while distance(una, self.una) > 0 && !self.ring.is_empty() {
            let sent = &self.ring[0];
            if sent.state != State::Acknowledged {
                // Of several transmissions it may have been any, but hardly one younger than a round trip.
                let elapsed = now.saturating_sub(sent.left_at);
                let certain = sent.transmissions == 1 || self.rtt.min().is_some_and(|min| elapsed >= min);
                self.arrived(0, now, certain, batch, pool);
            }
            self.ring.pop_front();
            self.una = self.una.wrapping_add(1);
        }
    }

    /// The segment at `index` has arrived, by its last transmission if that is `certain`.
    fn arrived(&mut self, index: usize, now: u64, certain: bool, batch: &mut AckBatch, pool: &mut Pool) {
        let sent = &mut self.ring[index];
        let size = sent.size();
        let state = std::mem::replace(&mut sent.state, State::Acknowledged);
        pool.give(std::mem::take(&mut sent.chunk));
        let (sent_at, order) = (sent.left_at, sent.order);
        let impatient = state == State::Lost && !sent.after_silence;
        self.delivery.on_ack(now, size, certain.then_some((sent_at, sent.snapshot)), batch);
        if state == State::InFlight {
            self.in_flight -= size;
        }
        if certain {
            let elapsed = now.saturating_sub(sent_at);
            match self.newest {
                Some((newest, rtt)) if newest > order => {
                    self.reordering.was_patient(now, elapsed.saturating_sub(rtt));
                }
                _ => self.newest = Some((order, elapsed)),
            }
        }
        if impatient {
            self.reordering.was_impatient(now, self.rtt.smoothed());
        }
    }

    /// Finishes a batch of acknowledgements: round-trip time, losses, deadlines.
    pub(super) fn finish(&mut self, now: u64, batch: &mut AckBatch) {
        if let Some(rtt) = batch.rtt {
            self.rtt.sample(rtt);
        }
        if batch.acked > 0 {
            self.waiting_since = now;
            self.rtt.recovered();
        }
        self.detect_losses(now, batch);
    }

    /// Finds what is lost because later transmissions have arrived and it has not (RFC 8985 §6.2, step 5).
    pub(super) fn detect_losses(&mut self, now: u64, batch: &mut AckBatch) {
        self.loss_deadline = None;
        let window = self.reordering.window(now, self.rtt.smoothed(), self.rtt.min());
        while let Some(&number) = self.log.front() {
            let order = self.log_begins_at;
            let index = self.index(number);
            let Some(sent) = index.map(|index| &mut self.ring[index]) else {
                self.forget_front();
                continue;
            };
            if sent.state != State::InFlight || sent.order != order {
                self.forget_front();
                continue;
            }
            let Some((newest, rtt)) = self.newest.filter(|&(newest, _)| self.find_losses && order < newest)
            else {
                break;
            };
            debug_assert!(newest > order);
            let lost_at = sent.left_at + rtt + window;
            if lost_at > now {
                self.loss_deadline = Some(lost_at);
                break;
            }
            sent.state = State::Lost;
            sent.after_silence = false;
            let size = sent.size();
            self.in_flight -= size;
            batch.lost += size;
            self.lost.push_back(number);
            self.forget_front();
        }
    }

    fn forget_front(&mut self) {
        self.log.pop_front();
        self.log_begins_at += 1;
    }

    /// When, at the latest, [`Sender::detect_losses`] or [`Sender::on_silence`] has something to do, and which.
    pub(super) fn deadline(&self) -> Option<(u64, &'static str)> {
        if let Some(at) = self.loss_deadline {
            return Some((at, "loss detection"));
        }
        self.silence_deadline().map(|at| (at, "retransmission timeout"))
    }

    fn silence_deadline(&self) -> Option<u64> {
        (self.in_flight > 0).then(|| self.waiting_since + self.rtt.timeout())
    }

    /// What to do at the deadline. Says whether the path was silent for more than one timeout.
    pub(super) fn handle_timeout(&mut self, now: u64, batch: &mut AckBatch) -> bool {
        if self.loss_deadline.is_some_and(|at| at <= now) {
            self.detect_losses(now, batch);
        }
        if self.silence_deadline().is_none_or(|at| at > now) {
            return false;
        }
        self.counters.timeouts += 1;
        let silent = self.rtt.backoff() > 0;
        self.waiting_since = now;
        self.rtt.back_off();
        if silent || !self.find_losses {
            // Nothing came back for the probe either: everything is to be sent again.
            for position in 0..self.log.len() {
                self.suspect(position, batch);
            }
        } else {
            // The oldest, since the far end waits for it, and the newest: its arrival tells what else is lost
            // (a tail-loss probe, RFC 8985 §7).
            let live = |sender: &Self, position: &usize| sender.in_flight_at(*position);
            let oldest = (0..self.log.len()).find(|position| live(self, position));
            let newest = (0..self.log.len()).rev().find(|position| live(self, position));
            for position in oldest.into_iter().chain(newest) {
                self.suspect(position, batch);
            }
        }
        silent
    }

    fn in_flight_at(&self, position: usize) -> bool {
        let order = self.log_begins_at + position as u64;
        self.index(self.log[position]).is_some_and(|index| {
            let sent = &self.ring[index];
            sent.state == State::InFlight && sent.order == order
        })
    }

    /// Takes a transmission for lost because of silence.
    fn suspect(&mut self, position: usize, batch: &mut AckBatch) {
        if !self.in_flight_at(position) {
            return;
        }
        let number = self.log[position];
        let Some(index) = self.index(number) else { return };
        let sent = &mut self.ring[index];
        sent.state = State::Lost;
        sent.after_silence = true;
        let size = sent.size();
        self.in_flight -= size;
        batch.lost += size;
        self.lost.push_back(number);
    }

    /// Bytes on their way, headers included.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Segments that have numbers and are not acknowledged by all before them being so.
    pub(super) fn outstanding(&self) -> usize {
        self.ring.len()
    }

    /// Segments that have not been sent yet.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Bytes that have not been sent yet.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The number that the far end is known to wait for.
    pub(super) fn una(&self) -> u32 {
        self.una
    }

    /// Whether a segment was sent so often that the path must be dead.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// The number and the payload of the segment that the far end waits for.
    pub(super) fn oldest(&self) -> Option<(u32, usize)> {
        self.ring.front().map(|sent| (self.una, sent.chunk.len()))
    }

    /// Bytes of the queues themselves.
    pub(super) fn memory(&self) -> usize {
        self.queue.capacity() * size_of::<Chunk>()
            + self.ring.capacity() * size_of::<Sent>()
            + (self.log.capacity() + self.lost.capacity()) * size_of::<u32>()
    }

    /// Gives back what a quiet conversation does not need.
    pub(super) fn trim(&mut self) {
        self.queue.shrink_to(16);
        self.ring.shrink_to(16);
        self.log.shrink_to(16);
        self.lost.shrink_to(16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RTT: Option<u64> = Some(40 * MS);

    /// A sender with segments of ten bytes, and what a test needs to talk to it.
    struct Harness {
        sender: Sender,
        pool: Pool,
        now: u64,
    }

    impl Harness {
        /// `count` segments sent, a millisecond apart, from 1 ms on: segment `n` carries the timestamp `n`.
        fn sent(count: u32) -> Self {
            let mut harness = Self { sender: Sender::new(0, true, true), pool: Pool::new(10), now: 0 };
            harness.sender.append(&vec![0; 10 * count as usize], 10, &mut harness.pool);
            for number in 0..count {
                harness.now += MS;
                assert_eq!(harness.send(number), Some(number));
            }
            harness
        }

        fn send(&mut self, timestamp: u32) -> Option<u32> {
            let (next, _) = self.sender.next(1_000)?;
            Some(self.sender.transmit(next, self.now, timestamp)?.0)
        }

        fn acknowledge(&mut self, number: u32, timestamp: u32) -> AckBatch {
            let mut batch = AckBatch::default();
            self.sender.acknowledge(number, timestamp, 50 * MS, self.now, &mut batch, &mut self.pool);
            self.sender.finish(self.now, &mut batch);
            batch
        }

        fn time_out(&mut self) -> Option<&'static str> {
            let (at, reason) = self.sender.deadline()?;
            self.now = at;
            self.sender.handle_timeout(at, &mut AckBatch::default());
            Some(reason)
        }
    }

    #[test]
    fn a_segment_that_later_ones_overtook_is_lost_after_the_reordering_window() {
        let mut harness = Harness::sent(3);
        harness.now = 43 * MS;
        let batch = harness.acknowledge(2, 2);
        assert_eq!((batch.rtt, batch.lost), (Some(40 * MS), 0), "it may have been overtaken only");
        assert_eq!(harness.send(9), None);
        // An eighth of 40 ms after the first of them should have been acknowledged.
        assert_eq!(harness.time_out(), Some("loss detection"));
        assert_eq!(harness.now, 46 * MS);
        assert_eq!((harness.send(9), harness.send(9)), (Some(0), None));
        assert_eq!(harness.time_out(), Some("loss detection"));
        assert_eq!((harness.now, harness.send(9)), (47 * MS, Some(1)));
    }

    #[test]
    fn a_segment_that_was_only_late_makes_the_sender_more_patient() {
        let mut harness = Harness::sent(2);
        harness.now = 42 * MS;
        harness.acknowledge(1, 1);
        harness.time_out();
        assert_eq!(harness.send(77), Some(0));
        let patience = |harness: &mut Harness| harness.sender.reordering.window(harness.now, RTT, RTT);
        let before = patience(&mut harness);
        harness.now += MS;
        // What comes back is the timestamp of its first transmission.
        harness.acknowledge(0, 0);
        assert_eq!(harness.sender.counters.spurious, 1);
        assert!(patience(&mut harness) > before);
    }

    #[test]
    fn silence_is_broken_by_the_oldest_and_the_newest_then_by_all() {
        let mut harness = Harness::sent(5);
        assert_eq!(harness.time_out(), Some("retransmission timeout"));
        assert_eq!((harness.send(10), harness.send(11), harness.send(12)), (Some(0), Some(4), None));
        harness.time_out();
        let all: Vec<u32> = std::iter::from_fn(|| harness.send(13)).collect();
        assert_eq!(all, [1, 2, 3, 0, 4]);
        assert_eq!(harness.sender.in_flight(), 5 * 34);
    }

    #[test]
    fn without_fast_retransmission_only_silence_counts() {
        let mut harness = Harness::sent(3);
        harness.sender.find_losses = false;
        harness.now = 43 * MS;
        harness.acknowledge(2, 2);
        assert_eq!(harness.time_out(), Some("retransmission timeout"));
        assert_eq!((harness.send(9), harness.send(9), harness.send(9)), (Some(0), Some(1), None));
    }

    #[test]
    fn what_is_acknowledged_twice_counts_once() {
        let mut harness = Harness::sent(4);
        harness.now = 44 * MS;
        assert_eq!(harness.acknowledge(1, 1).acked, 34);
        assert_eq!(harness.acknowledge(1, 1).acked, 0);
        let mut batch = AckBatch::default();
        harness.sender.acknowledge_before(3, harness.now, &mut batch, &mut harness.pool);
        assert_eq!((batch.acked, harness.sender.in_flight(), harness.sender.outstanding()), (68, 34, 1));
        assert_eq!(harness.sender.delivery.delivered(), 3 * 34);
    }

    #[test]
    fn small_writes_fill_segments() {
        let mut sender = Sender::new(0, true, true);
        let mut pool = Pool::new(10);
        for piece in [&b"abc"[..], b"defgh", b"ijklmno"] {
            sender.append(piece, 10, &mut pool);
        }
        assert_eq!((sender.queued(), sender.queued_bytes()), (2, 15));
        let (next, size) = sender.next(1).unwrap();
        assert_eq!((next, size), (Next::New, 34));
        assert_eq!(sender.transmit(next, 0, 0), Some((0, &b"abcdefghij"[..])));
        assert_eq!(sender.next(1), None, "the window is one segment");
    }
}
