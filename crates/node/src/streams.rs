//! The sending side of streams: seals what a stream engine produces and hands it to a link, in trains.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use handshake::{HEADER_LEN, Protocol, TAG_LEN, limits};
use packet::{Ecn, Endpoint, Link, MAX_DATAGRAM, Transmit, Via};

use crate::config::PeerId;
use crate::drops::{DropReason, Drops};
use crate::event::Event;
use crate::inner::{CONTENT_LEN, Content};
use crate::table::{PeerRow, Published, Table};

/// Bytes before what a stream engine writes.
const PREFIX_LEN: usize = HEADER_LEN + CONTENT_LEN;
/// Datagrams of one send: as many as the kernel takes (`UDP_MAX_SEGMENTS` was 64 before Linux 6.9).
const SEGMENTS_MAX: usize = 64;
/// After the kernel was out of buffers, which no event ends.
const RETRY: Duration = Duration::from_millis(1);

/// Whether a peer can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Datagrams of up to so many bytes.
    Ready(usize),
    /// There is no session: tell the node by [`Event::NeedSession`], and try again.
    NoSession,
    /// Nobody knows where the peer is, or it speaks WireGuard, which has no streams.
    Never,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// There is nothing more to send.
    All,
    /// The link is full: call [`StreamPort::flush`] when it is writable again, or by [`StreamPort::retry_at`].
    Blocked,
    /// The peer cannot be reached now; see [`StreamPort::reach`].
    Unreachable,
}

/// Sealed datagrams, and where in the buffer they are.
#[derive(Clone, Debug)]
struct Train {
    peer: PeerId,
    to: Endpoint,
    /// Which of our addresses it leaves from, if that matters.
    source: Option<IpAddr>,
    segment_size: usize,
    range: Range<usize>,
}

impl Train {
    fn segments(&self) -> usize {
        self.range.len().div_ceil(self.segment_size.max(1))
    }
}

/// Seals and sends the datagrams of streams. Owned by the thread that runs them; it shares no lane with a worker as long as
/// there are fewer workers than lanes.
#[derive(Debug)]
pub struct StreamPort {
    lane: u8,
    start: Instant,
    drops: Arc<Drops>,
    published: Arc<Published>,
    seen_generation: u64,
    table: Arc<Table>,
    train: Box<[u8]>,
    /// Sealed but not sent; at most two.
    held: VecDeque<Train>,
    retry_at: Option<Instant>,
    /// A datagram was too large for the path.
    too_small: Option<PeerId>,
}

impl StreamPort {
    pub(crate) fn new(lane: u8, start: Instant, drops: Arc<Drops>, published: Arc<Published>) -> Self {
        let mut seen_generation = 0;
        let table = published.newer(&mut seen_generation).expect("the first generation is 1");
        let train = vec![0; 2 * MAX_DATAGRAM].into_boxed_slice();
        let held = VecDeque::with_capacity(2);
        Self {
            lane,
            start,
            drops,
            published,
            seen_generation,
            table,
            train,
            held,
            retry_at: None,
            too_small: None,
        }
    }

    /// Whether, and how much at a time, can be sent to a peer now.
    pub fn reach(&mut self, now: Instant, peer: PeerId) -> Reach {
        self.refresh();
        let Some(row) = self.table.peers.get(peer.0 as usize) else { return Reach::Never };
        if row.protocol == Protocol::WireGuard {
            return Reach::Never;
        }
        let usable = row.session.as_ref().is_some_and(|session| {
            now.saturating_duration_since(session.established()) < limits::REJECT_AFTER_TIME
        });
        match (usable, row.endpoint) {
            (true, Some(_)) => Reach::Ready(row.stream_max),
            _ => Reach::NoSession,
        }
    }

    fn refresh(&mut self) {
        if let Some(table) = self.published.newer(&mut self.seen_generation) {
            self.table = table;
        }
    }

    /// Sends what `fill` writes: it is called with room for one datagram of [`Reach::Ready`] bytes, or of `room` where that is
    /// more, and returns how many it wrote, or `None` when there is nothing more. More than the path is known to pass is
    /// sent all the same: a path may be held for narrower than it is.
    pub fn send<L: Link>(
        &mut self,
        now: Instant,
        peer: PeerId,
        link: &mut L,
        room: usize,
        mut fill: impl FnMut(&mut [u8]) -> Option<usize>,
    ) -> Sent {
        if self.is_blocked() {
            return Sent::Blocked;
        }
        let Reach::Ready(datagram_max) = self.reach(now, peer) else { return Sent::Unreachable };
        let datagram_max = datagram_max.max(room).min(MAX_DATAGRAM - PREFIX_LEN - TAG_LEN);
        let table = Arc::clone(&self.table);
        let row = &table.peers[peer.0 as usize];
        let (Some(session), Some(to)) = (&row.session, row.endpoint) else { return Sent::Unreachable };
        let sealer = session.sealer(self.lane);
        let mut train = Train { peer, to, source: row.local, segment_size: 0, range: 0..0 };
        loop {
            let start = train.range.end;
            let body = start + PREFIX_LEN;
            let Some(len) = fill(&mut self.train[body..body + datagram_max]) else {
                return self.depart(now, row, train, link);
            };
            let Ok(counter) = sealer.reserve(1) else {
                row.state.drops.add(DropReason::SessionExhausted, 1);
                return Sent::Unreachable;
            };
            let sealed = PREFIX_LEN + len + TAG_LEN;
            let datagram = &mut self.train[start..start + sealed];
            datagram[HEADER_LEN] = Content::Stream as u8;
            sealer.seal(counter, datagram);
            // All segments of a train are as long as its first, but for the last, which may be shorter.
            if !train.range.is_empty() && sealed > train.segment_size {
                let last = Train { segment_size: sealed, range: start..start + sealed, ..train.clone() };
                let sent = self.depart(now, row, train, link);
                if sent != Sent::All {
                    self.count(now, row, &last);
                    self.held.push_back(last);
                    return sent;
                }
                self.train.copy_within(last.range.clone(), 0);
                train = Train { range: 0..sealed, ..last };
            } else {
                train.range.end += sealed;
                train.segment_size = train.segment_size.max(sealed);
            }
            let room = train.range.end + PREFIX_LEN + datagram_max + TAG_LEN <= MAX_DATAGRAM;
            if sealed < train.segment_size || !room || train.segments() == SEGMENTS_MAX {
                let next = Train { segment_size: 0, range: 0..0, ..train.clone() };
                let sent = self.depart(now, row, train, link);
                if sent != Sent::All {
                    return sent;
                }
                train = next;
            }
        }
    }

    /// Counts a train and sends it.
    fn depart<L: Link>(&mut self, now: Instant, row: &PeerRow, train: Train, link: &mut L) -> Sent {
        if train.range.is_empty() {
            return Sent::All;
        }
        self.count(now, row, &train);
        self.held.push_back(train);
        self.flush(now, link)
    }

    fn count(&self, now: Instant, row: &PeerRow, train: &Train) {
        let (segments, state) = (train.segments() as u64, &row.state);
        state.tx_packets.fetch_add(segments, Relaxed);
        state.tx_datagrams.fetch_add(segments, Relaxed);
        state
            .tx_bytes
            .fetch_add(train.range.len() as u64 - segments * (PREFIX_LEN + TAG_LEN) as u64, Relaxed);
        state.last_data_sent.set(self.start, now);
        state.last_sent.set(self.start, now);
    }

    /// Sends what the link did not take before.
    pub fn flush<L: Link>(&mut self, now: Instant, link: &mut L) -> Sent {
        self.retry_at = None;
        while let Some(train) = self.held.front_mut() {
            let transmit = Transmit {
                to: train.to.address,
                ecn: Ecn::NotEct,
                segment_size: train.segment_size.min(train.range.len()),
                contents: &self.train[train.range.clone()],
            };
            let via = Via { carrier: train.to.carrier, source: train.source };
            match link.send_via(via, &transmit) {
                Ok(taken) => train.range.start += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked,
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                    self.retry_at = Some(now + RETRY);
                    return Sent::Blocked;
                }
                Err(error) => {
                    let reason = if error.kind() == ErrorKind::InvalidInput {
                        self.too_small = Some(train.peer);
                        DropReason::PathMtu
                    } else {
                        DropReason::SendFailed
                    };
                    self.drops.add(reason, train.segments() as u64);
                    train.range.start = train.range.end;
                }
            }
            if train.range.is_empty() {
                self.held.pop_front();
            }
        }
        Sent::All
    }

    /// Whether something waits for the link.
    pub fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// When to [`flush`](Self::flush) even if nothing says that the link is writable.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// What the node must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.too_small.take().map(|peer| Event::PathTooSmall { peer })
    }
}
