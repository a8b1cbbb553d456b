//! The fast path: one data-plane thread's work, without the thread.
//!
//! ```text
//! out: TUN read (super-packet) ─► route ─► segments in place ─► seal each ─► one GSO send
//!                                   │                              └─ link full ─► egress queue ─ full ─► TUN not read
//!                                   └─ no session ─► waits for the handshake
//! in : GRO receive ─► session and lane by header ─► open each ─► replay, source check ─► coalesce ─► TUN write
//!                        └─ not data ─► event for the node
//! ```
//!
//! A worker owns one lane of every session in each direction, so all it writes to besides its own memory are counters,
//! once a train.

mod egress;
mod inbound;
mod narrow;
mod outbound;
mod parts;
mod streams;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use packet::coalesce::CoalesceLimits;
use packet::{Endpoint, Link, Pool, Tun};

use self::egress::Egress;
use self::inbound::Inbound;
use self::outbound::{Exit, Outbound};
pub use self::streams::StreamBatch;
use crate::config::PeerId;
use crate::drops::{DropReason, Drops};
use crate::event::Event;
use crate::table::{Published, Table};

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

/// What a worker is made with.
pub(crate) struct Setup {
    pub(crate) lane: u8,
    pub(crate) workers: usize,
    pub(crate) peers: usize,
    pub(crate) start: Instant,
    pub(crate) pool: Pool,
    pub(crate) pool_large: usize,
    pub(crate) drops: Arc<Drops>,
    pub(crate) published: Arc<Published>,
    pub(crate) coalesce: CoalesceLimits,
    pub(crate) streams: bool,
}

/// One data-plane thread's work.
#[derive(Debug)]
pub struct Worker {
    lane: u8,
    start: Instant,
    pool: Pool,
    drops: Arc<Drops>,
    published: Arc<Published>,
    seen_generation: u64,
    table: Arc<Table>,
    events: Events,
    egress: Egress,
    outbound: Outbound,
    inbound: Inbound,
}

/// Bounded: what is lost is counted, or asked for again.
#[derive(Debug)]
struct Events(VecDeque<Event>);

const EVENTS_MAX: usize = 256;
/// Of these, so many are for what authentic packets have told: anybody can fill the rest.
const EVENTS_AUTHENTIC: usize = 64;

impl Events {
    fn push(&mut self, drops: &Drops, event: Event) {
        let handshake = matches!(event, Event::Handshake { .. });
        let room = if handshake { EVENTS_MAX - EVENTS_AUTHENTIC } else { EVENTS_MAX };
        if self.0.len() < room {
            self.0.push_back(event);
        } else if handshake {
            drops.add(DropReason::HandshakeBacklog, 1);
        }
    }
}

/// What every part of a step needs.
struct Context<'a> {
    now: Instant,
    start: Instant,
    lane: u8,
    table: &'a Table,
    pool: &'a Pool,
    drops: &'a Drops,
    events: &'a mut Events,
}

impl Context<'_> {
    fn count_sent(&self, peer: PeerId, packets: u64, datagrams: u64, bytes: u64) {
        let state = &self.table.peers[peer.0 as usize].state;
        state.tx_packets.fetch_add(packets, Relaxed);
        state.tx_datagrams.fetch_add(datagrams, Relaxed);
        state.tx_bytes.fetch_add(bytes, Relaxed);
        state.last_data_sent.set(self.start, self.now);
        state.last_sent.set(self.start, self.now);
    }
}

impl Worker {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut seen_generation = 0;
        let table = setup.published.newer(&mut seen_generation).expect("the first generation is 1");
        Self {
            lane: setup.lane,
            start: setup.start,
            egress: Egress::new(setup.peers, (setup.pool_large / 2 / setup.workers).max(1)),
            outbound: Outbound::new(setup.peers),
            inbound: Inbound::new(setup.peers, setup.coalesce, setup.streams),
            pool: setup.pool,
            drops: setup.drops,
            published: setup.published,
            seen_generation,
            table,
            events: Events(VecDeque::with_capacity(EVENTS_MAX)),
        }
    }

    /// The lane, and so the place among the node's workers: 0 for the first.
    pub fn lane(&self) -> u8 {
        self.lane
    }

    /// Does a bounded round of work on whatever is ready. Returns whether there is more to do at once: if not, sleep
    /// until a descriptor is ready or [`poll_timeout`](Self::poll_timeout) is due.
    ///
    /// A worker must also be stepped when the node has published a new table
    /// ([`Node::take_published`](crate::Node::take_published)).
    pub fn step<T: Tun, L: Link>(
        &mut self,
        now: Instant,
        tun: &mut T,
        link: &mut L,
        ready: &mut Ready,
    ) -> bool {
        if ready.link {
            ready.link = self.receive(now, tun, link);
        }
        let (mut cx, egress, outbound, inbound) = self.parts(now);
        inbound.parts.expire(&cx);
        if !egress.is_empty() {
            egress.drain(&mut cx, link, &mut ready.writable);
        }
        let exit = &mut Exit { link, egress, writable: &mut ready.writable };
        if outbound.has_waiting() {
            outbound.release(&mut cx, tun, exit);
        }
        if ready.tun && !exit.egress.pushes_back() {
            ready.tun = outbound.forward(&mut cx, tun, exit);
        }
        ready.link || (ready.tun && !self.egress.pushes_back())
    }

    /// Receives and delivers until the link is empty or it is others' turn. Returns whether it may have more.
    fn receive<T: Tun, L: Link>(&mut self, now: Instant, tun: &mut T, link: &mut L) -> bool {
        let mut bytes = 0;
        while bytes < inbound::RECEIVE_BYTES_MAX {
            let Some((filled, received)) = self.inbound.receive(link) else { return false };
            // Only now: a session is published before the peer can know of it, so whatever has arrived by now has its
            // session in the table of now.
            let (mut cx, _, _, inbound) = self.parts(now);
            inbound.forward(&mut cx, tun, link, filled);
            // Empty datagrams count too, or a flood of them would hold us here.
            bytes += received + filled;
        }
        true
    }

    /// The worker taken apart: the context of one piece of work, with the newest table, and those who do it.
    fn parts(&mut self, now: Instant) -> (Context<'_>, &mut Egress, &mut Outbound, &mut Inbound) {
        if let Some(table) = self.published.newer(&mut self.seen_generation) {
            self.table = table;
        }
        let Self { lane, start, pool, drops, table, events, egress, outbound, inbound, .. } = self;
        (Context { now, start: *start, lane: *lane, table, pool, drops, events }, egress, outbound, inbound)
    }

    /// The next thing the node must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.0.pop_front()
    }

    /// The next datagrams for whoever runs the streams. What is not fetched after each step is dropped when it becomes too
    /// much.
    pub fn poll_streams(&mut self) -> Option<StreamBatch> {
        self.inbound.streams.poll()
    }

    /// When [`step`](Self::step) must be called next even if nothing is ready.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let retry = self.egress.retry_at.map(|at| (at, "kernel out of buffers"));
        let waiting = self.outbound.expires_at().map(|at| (at, "packet waiting for a handshake"));
        let parts = self.inbound.parts.expires_at().map(|at| (at, "packet waiting for its parts"));
        [retry, waiting, parts].into_iter().flatten().min()
    }

    /// Packets, or parts of them, that wait, for the link or for a handshake: what is in but neither out nor dropped.
    pub fn packets_waiting(&self) -> usize {
        self.egress.datagrams() + self.outbound.waiting()
    }
}

/// What a worker remembers of a peer, so that it tells the node once and not for every packet.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The session whose first use was reported, and when.
    session: Option<(u32, Instant)>,
    /// The endpoint that was reported, with our own address, and when.
    endpoint: Option<(Place, Instant)>,
}

/// Where a datagram came from, and to which of our addresses, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    remote: Endpoint,
    local: Option<IpAddr>,
}

/// A report is repeated after this time if nothing came of it: the event may have been lost.
const REPORT_AGAIN: Duration = Duration::from_millis(100);
