//! What waits while the link is full.
//!
//! Each peer has its own queue of sealed trains; the link is shared by deficit round robin (Shreedhar and Varghese,
//! 1995), and each queue is kept short by CoDel (RFC 8289). A queue may hold as many packets as the path has in flight
//! (rate × RTT); when one is full, or the buffers run low, the worker stops reading the TUN. The kernel's own queue then
//! fills, and what it drops, it counts: the TUN driver has no other way to tell a sender.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use packet::{Buf, Class, Ecn, Link, Transmit, Via};

use super::Context;
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::Event;

/// How long a train may wait without CoDel minding (RFC 8289 §4.3).
const TARGET: Duration = Duration::from_millis(5);
/// How long it may wait longer than that before one is dropped (RFC 8289 §4.3).
const INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait when the kernel is out of buffers: it sends no event when it has some again.
const NO_BUFFERS_RETRY: Duration = Duration::from_millis(1);
/// Bytes a peer may send before it is another's turn: about one full train.
const QUANTUM: usize = 65_536;
/// A queue takes this much more than its limit before it drops: the worker stops reading only after a whole train.
const SLACK_PACKETS: usize = 128;
/// Most datagrams one send may have (`UDP_MAX_SEGMENTS` of kernels before 6.9).
pub(super) const TRAIN_SEGMENTS_MAX: usize = 64;
/// Most bytes one send may have.
pub(super) const TRAIN_BYTES_MAX: usize = packet::MAX_DATAGRAM;

/// A sealed train.
#[derive(Clone, Copy)]
pub(super) struct Train<'a> {
    pub(super) peer: PeerId,
    pub(super) ecn: Ecn,
    pub(super) segment_size: usize,
    pub(super) contents: &'a [u8],
    /// Bytes of header, content type and tag in each segment.
    pub(super) overhead: usize,
    /// Its datagrams are the parts of one packet.
    pub(super) in_parts: bool,
}

impl Train<'_> {
    fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.segment_size.max(1))
    }

    /// What it counts for.
    fn packets(&self) -> u64 {
        if self.in_parts { 1 } else { self.datagrams() as u64 }
    }
}

#[derive(Debug)]
struct Queued {
    buf: Buf,
    /// Bytes from the front that the link has taken.
    sent: usize,
    segment_size: usize,
    overhead: usize,
    in_parts: bool,
    ecn: Ecn,
    since: Instant,
}

impl Queued {
    /// What the link has not taken yet.
    fn rest(&self, peer: PeerId) -> Train<'_> {
        Train {
            peer,
            ecn: self.ecn,
            segment_size: self.segment_size,
            contents: &self.buf[self.sent..],
            overhead: self.overhead,
            in_parts: self.in_parts,
        }
    }

    fn datagrams(&self) -> usize {
        (self.buf.len() - self.sent).div_ceil(self.segment_size)
    }

    /// Appends `train` if the kernel can send it in the same call.
    fn absorb(&mut self, train: &Train<'_>) -> bool {
        let len = self.buf.len();
        let fits = self.segment_size == train.segment_size
            && self.overhead == train.overhead
            && !self.in_parts
            && !train.in_parts
            && self.ecn == train.ecn
            && len.is_multiple_of(self.segment_size)
            && len + train.contents.len() <= TRAIN_BYTES_MAX.min(self.buf.capacity())
            && self.datagrams() + train.datagrams() <= TRAIN_SEGMENTS_MAX;
        if fits {
            let end = len + train.contents.len();
            self.buf.storage_mut()[len..end].copy_from_slice(train.contents);
            self.buf.commit(0..end);
        }
        fits
    }
}

#[derive(Debug, Default)]
struct Queue {
    trains: VecDeque<Queued>,
    datagrams: usize,
    deficit: usize,
    codel: Codel,
}

/// The egress queues of one worker.
#[derive(Debug)]
pub(super) struct Egress {
    /// Indexed by peer.
    queues: Vec<Queue>,
    /// Peers whose queue is not empty, in the order of their turns.
    turns: VecDeque<PeerId>,
    /// Trains in all queues.
    trains: usize,
    trains_max: usize,
    /// Some queue has reached its limit.
    full: bool,
    /// When to try again although no event says that the link is writable.
    pub(super) retry_at: Option<Instant>,
}

impl Egress {
    pub(super) fn new(peers: usize, trains_max: usize) -> Self {
        Self {
            queues: (0..peers).map(|_| Queue::default()).collect(),
            turns: VecDeque::new(),
            trains: 0,
            trains_max,
            full: false,
            retry_at: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The worker shall not read the TUN now.
    pub(super) fn pushes_back(&self) -> bool {
        self.full || self.trains >= self.trains_max
    }

    /// Sends a train, or queues what the link does not take.
    pub(super) fn send<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut L,
        writable: &mut bool,
        train: &Train<'_>,
    ) {
        if !*writable || !self.is_empty() || self.retry_at.is_some() {
            self.queue(cx, train);
            return;
        }
        let taken = self.hand_over(cx, link, writable, train);
        if taken < train.contents.len() {
            self.queue(cx, &Train { contents: &train.contents[taken..], ..*train });
        }
    }

    /// Gives a train to the link; returns the bytes dealt with: sent, or dropped and counted.
    fn hand_over<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut L,
        writable: &mut bool,
        train: &Train<'_>,
    ) -> usize {
        let mut rest = *train;
        while !rest.contents.is_empty() {
            let taken = self.hand_over_once(cx, link, writable, &rest);
            if taken == 0 {
                break;
            }
            // Why the link took no more it says when it is asked again: an event tells only that it is not full any more.
            rest.contents = &rest.contents[taken..];
        }
        train.contents.len() - rest.contents.len()
    }

    fn hand_over_once<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut L,
        writable: &mut bool,
        train: &Train<'_>,
    ) -> usize {
        let row = &cx.table.peers[train.peer.0 as usize];
        let packets = train.packets();
        let Some(to) = row.endpoint else {
            row.state.drops.add(DropReason::NoEndpoint, packets);
            return train.contents.len();
        };
        let transmit = Transmit {
            to: to.address,
            ecn: train.ecn,
            segment_size: train.segment_size.min(train.contents.len()),
            contents: train.contents,
        };
        match link.send_via(Via { carrier: to.carrier, source: row.local }, &transmit) {
            Ok(taken) => {
                let datagrams = taken.div_ceil(train.segment_size.max(1)) as u64;
                let whole = taken == train.contents.len();
                // A packet in parts is sent with the last of them.
                let packets = if train.in_parts { u64::from(whole) } else { datagrams };
                cx.count_sent(
                    train.peer,
                    packets,
                    datagrams,
                    taken as u64 - datagrams * train.overhead as u64,
                );
                taken
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {
                    *writable = false;
                    0
                }
                ErrorKind::OutOfMemory => {
                    self.retry_at = Some(cx.now + NO_BUFFERS_RETRY);
                    0
                }
                ErrorKind::InvalidInput => {
                    row.state.drops.add(DropReason::PathMtu, packets);
                    cx.events.push(cx.drops, Event::PathTooSmall { peer: train.peer });
                    train.contents.len()
                }
                _ => {
                    row.state.drops.add(DropReason::SendFailed, packets);
                    train.contents.len()
                }
            },
        }
    }

    fn queue(&mut self, cx: &mut Context<'_>, train: &Train<'_>) {
        let row = &cx.table.peers[train.peer.0 as usize];
        let limit = row.queue_packets_max as usize;
        let queue = &mut self.queues[train.peer.0 as usize];
        let datagrams = train.datagrams();
        if !queue.trains.back_mut().is_some_and(|last| last.absorb(train)) {
            let Some(mut buf) = cx.pool.take(Class::Large) else {
                row.state.drops.add(DropReason::PoolExhausted, train.packets());
                return;
            };
            buf.storage_mut()[..train.contents.len()].copy_from_slice(train.contents);
            buf.commit(0..train.contents.len());
            if queue.trains.is_empty() {
                self.turns.push_back(train.peer);
            }
            queue.trains.push_back(Queued {
                buf,
                sent: 0,
                segment_size: train.segment_size,
                overhead: train.overhead,
                in_parts: train.in_parts,
                ecn: train.ecn,
                since: cx.now,
            });
            self.trains += 1;
        }
        queue.datagrams += datagrams;
        while queue.datagrams > limit + SLACK_PACKETS && queue.trains.len() > 1 {
            let Some(oldest) = queue.trains.pop_front() else { break };
            self.trains -= 1;
            queue.datagrams -= oldest.datagrams();
            row.state.drops.add(DropReason::EgressQueueFull, oldest.rest(train.peer).packets());
        }
        self.full |= queue.datagrams >= limit;
    }

    /// Sends what waits, as far as the link takes it.
    pub(super) fn drain<L: Link>(&mut self, cx: &mut Context<'_>, link: &mut L, writable: &mut bool) {
        if self.retry_at.is_some_and(|at| cx.now >= at) {
            self.retry_at = None;
        }
        while *writable && self.retry_at.is_none() {
            let Some(&peer) = self.turns.front() else { break };
            let queue = &mut self.queues[peer.0 as usize];
            if queue.deficit == 0 {
                queue.deficit = QUANTUM;
            }
            let state = &cx.table.peers[peer.0 as usize].state;
            let late =
                queue.codel.late(cx.now, queue.trains.front().map(|t| t.since), queue.trains.len() > 1);
            let Some(mut head) = queue.trains.pop_front() else {
                self.turns.pop_front();
                continue;
            };
            let waiting = head.datagrams();
            if late {
                queue.datagrams -= waiting;
                self.trains -= 1;
                state.drops.add(DropReason::EgressSojourn, head.rest(peer).packets());
                continue;
            }
            let done = self.hand_over(cx, link, writable, &head.rest(peer));
            let queue = &mut self.queues[peer.0 as usize];
            head.sent += done;
            queue.deficit = queue.deficit.saturating_sub(done);
            if head.sent < head.buf.len() {
                queue.datagrams -= waiting - head.datagrams();
                queue.trains.push_front(head);
            } else {
                queue.datagrams -= waiting;
                self.trains -= 1;
            }
            if queue.trains.is_empty() {
                queue.deficit = 0;
                queue.codel = Codel::default();
                self.turns.pop_front();
            } else if queue.deficit == 0 {
                self.turns.rotate_left(1);
            }
        }
        self.full = self.turns.iter().any(|peer| {
            let limit = cx.table.peers[peer.0 as usize].queue_packets_max as usize;
            self.queues[peer.0 as usize].datagrams >= limit
        });
    }

    /// Datagrams that wait.
    pub(super) fn datagrams(&self) -> usize {
        self.turns.iter().map(|peer| self.queues[peer.0 as usize].datagrams).sum()
    }
}

/// The control law of CoDel (RFC 8289 §5), for one queue.
#[derive(Debug, Default)]
struct Codel {
    /// When the sojourn time will have been too long for a whole interval.
    above_until: Option<Instant>,
    /// Dropping, and when next.
    drop_next: Option<Instant>,
    count: u32,
}

impl Codel {
    /// Whether the head of the queue, waiting since then, is to be dropped. Never the only train.
    fn late(&mut self, now: Instant, since: Option<Instant>, more: bool) -> bool {
        let Some(since) = since else { return false };
        if !more || now.saturating_duration_since(since) < TARGET {
            self.above_until = None;
            self.drop_next = None;
            return false;
        }
        let above_until = *self.above_until.get_or_insert(now + INTERVAL);
        if now < above_until {
            return false;
        }
        match self.drop_next {
            None => {
                // Resume near the old rate if the last episode was recent enough to have left a count.
                self.count = if self.count > 2 { self.count - 2 } else { 1 };
                self.drop_next = Some(now + self.spacing());
                true
            }
            Some(at) if now >= at => {
                self.count = self.count.saturating_add(1);
                self.drop_next = Some(at + self.spacing());
                true
            }
            Some(_) => false,
        }
    }

    fn spacing(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[allow(clippy::disallowed_methods)] // an origin for the clock that the test moves by hand
    fn codel_drops_only_what_waits_too_long_for_a_whole_interval() {
        let start = Instant::now();
        let mut codel = Codel::default();
        assert!(!codel.late(start + 4 * MS, Some(start), true), "below the target");
        assert!(!codel.late(start + 10 * MS, Some(start), true), "above, but only now");
        assert!(!codel.late(start + 100 * MS, Some(start + 50 * MS), true));
        assert!(codel.late(start + 111 * MS, Some(start + 50 * MS), true), "a whole interval above");
        assert!(!codel.late(start + 112 * MS, Some(start + 50 * MS), true), "one at a time");
        assert!(codel.late(start + 212 * MS, Some(start + 150 * MS), true));
        assert!(
            codel.late(start + 283 * MS, Some(start + 250 * MS), true),
            "and faster each time: 100 ms / √2"
        );
        assert!(!codel.late(start + 300 * MS, Some(start + 298 * MS), true), "short again");
        assert!(!codel.late(start + 310 * MS, Some(start + 300 * MS), true), "starts over");
        assert!(
            !codel.late(start + 900 * MS, Some(start + 300 * MS), false),
            "the only train is never dropped"
        );
    }
}
