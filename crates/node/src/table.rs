//! What the node publishes and the workers read: one immutable table, replaced whole.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use handshake::{Protocol, Session};
use packet::Endpoint;
use rand_core::Rng;

use crate::config::PeerId;
use crate::drops::Drops;
use crate::routes::Routes;

/// Everything a worker must know to forward.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) routes: Arc<Routes>,
    /// Indexed by [`PeerId`].
    pub(crate) peers: Vec<PeerRow>,
    /// What turns a local index into a place in `sessions`.
    pub(crate) indices: IndexCipher,
    /// Indexed by the [slot](IndexCipher::slot_of) of a session's local index.
    pub(crate) sessions: Vec<Option<SessionRow>>,
}

/// A peer as a worker sees it.
#[derive(Clone, Debug)]
pub(crate) struct PeerRow {
    pub(crate) state: Arc<PeerState>,
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: Option<Endpoint>,
    /// Which of our addresses to send from; `None` for whichever the operating system chooses.
    pub(crate) local: Option<IpAddr>,
    /// The session to send on.
    pub(crate) session: Option<Arc<Session>>,
    /// How many packets its egress queue may hold.
    pub(crate) queue_packets_max: u32,
    /// The largest inner packet that goes to it in one piece, bytes.
    pub(crate) packet_max: usize,
    /// The same for datagrams of streams: what also passes by the narrowest other carrier, since streams cannot shrink what they
    /// have sent once.
    pub(crate) stream_max: usize,
}

/// A session that data may arrive on.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) session: Arc<Session>,
    pub(crate) peer: PeerId,
}

/// The low bits of a session's local index, as we read it, are its place in [`Table::sessions`]; the rest is random, so that
/// an index of a session long gone is not mistaken for one of today.
pub(crate) const SLOT_BITS: u32 = 20;

/// How an index looks outside: everybody on the way sees it, and nobody shall see how many sessions we have, nor which of them
/// belong to one peer. A Feistel network of four rounds (Luby and Rackoff, 1988) over two halves of 16 bits under a key of the
/// node's: a permutation, so that an index still says its slot to whoever has the key, for a few nanoseconds a train. It hides,
/// and protects nothing: an index is no secret.
#[derive(Clone, Copy)]
pub(crate) struct IndexCipher([u32; 4]);

impl IndexCipher {
    pub(crate) fn new(rng: &mut impl Rng) -> Self {
        Self(std::array::from_fn(|_| rng.next_u32()))
    }

    /// Mixes one half with the key of a round (the finalizer of `MurmurHash3`).
    #[inline]
    fn round(half: u32, key: u32) -> u32 {
        let mut value = half ^ key;
        value = (value ^ value >> 16).wrapping_mul(0x85eb_ca6b);
        value = (value ^ value >> 13).wrapping_mul(0xc2b2_ae35);
        (value ^ value >> 16) & 0xffff
    }

    /// The local index that stands for a slot, below [`SLOT_BITS`], and chance above.
    pub(crate) fn index_of(self, slot_and_chance: u32) -> u32 {
        let halves = (slot_and_chance >> 16, slot_and_chance & 0xffff);
        let mix = |(left, right): (u32, u32), key: &u32| (right, left ^ Self::round(right, *key));
        let (left, right) = self.0.iter().fold(halves, mix);
        left << 16 | right
    }

    /// The slot that a local index stands for.
    #[inline]
    pub(crate) fn slot_of(self, local_index: u32) -> usize {
        let halves = (local_index >> 16, local_index & 0xffff);
        let unmix = |(left, right): (u32, u32), key: &u32| (right ^ Self::round(left, *key), left);
        let (left, right) = self.0.iter().rev().fold(halves, unmix);
        ((left << 16 | right) & ((1 << SLOT_BITS) - 1)) as usize
    }
}

impl fmt::Debug for IndexCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexCipher(redacted)")
    }
}

impl Table {
    /// The session with that local index.
    #[inline]
    pub(crate) fn session(&self, local_index: u32) -> Option<&SessionRow> {
        let row = self.sessions.get(self.indices.slot_of(local_index))?.as_ref()?;
        (row.session.local_index() == local_index).then_some(row)
    }
}

/// Where the node puts each new table, and workers look for it: an uncontended lock, taken only when the generation
/// has changed.
#[derive(Debug)]
pub(crate) struct Published {
    generation: AtomicU64,
    table: Mutex<Arc<Table>>,
}

impl Published {
    pub(crate) fn new(table: Table) -> Self {
        Self { generation: AtomicU64::new(1), table: Mutex::new(Arc::new(table)) }
    }

    pub(crate) fn publish(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.generation.fetch_add(1, Release);
    }

    /// The table, if it is newer than the generation in `seen`, which is brought up to date.
    pub(crate) fn newer(&self, seen: &mut u64) -> Option<Arc<Table>> {
        let generation = self.generation.load(Acquire);
        if generation == *seen {
            return None;
        }
        *seen = generation;
        Some(Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What the workers count for a peer and the node reads. Written once a train, not once a packet.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) rx_bytes: AtomicU64,
    pub(crate) rx_packets: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
    pub(crate) tx_packets: AtomicU64,
    /// Packets sent beyond those read: what came of cutting TCP segments for a narrow path.
    pub(crate) tx_recut: AtomicU64,
    /// Sealed datagrams sent, with packets, parts of them, or probes: what the peer's count is compared with.
    pub(crate) tx_datagrams: AtomicU64,
    /// Authentic data datagrams received, whatever became of their contents: what the peer's loss is measured by.
    pub(crate) rx_datagrams: AtomicU64,
    /// Bytes of those datagrams.
    pub(crate) rx_datagram_bytes: AtomicU64,
    pub(crate) last_data_sent: Moment,
    pub(crate) last_data_received: Moment,
    /// Anything authentic, keepalives and probes included.
    pub(crate) last_received: Moment,
    /// Anything sealed.
    pub(crate) last_sent: Moment,
    pub(crate) drops: Drops,
}

/// A point in time that several threads share: milliseconds, plus one, since the node's start; 0 for never.
#[derive(Debug, Default)]
pub(crate) struct Moment(AtomicU64);

impl Moment {
    pub(crate) fn set(&self, start: Instant, now: Instant) {
        let value = now.saturating_duration_since(start).as_millis() as u64 + 1;
        // Most trains fall into a millisecond already noted: then the cache line stays shared.
        if self.0.load(Relaxed) != value {
            self.0.store(value, Relaxed);
        }
    }

    pub(crate) fn get(&self, start: Instant) -> Option<Instant> {
        let value = self.0.load(Relaxed);
        (value > 0).then(|| start + std::time::Duration::from_millis(value - 1))
    }
}
