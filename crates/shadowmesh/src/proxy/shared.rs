//! What all proxies of a thread share: settings, limits, memory and counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The most bytes that move in one direction of one connection before others have their turn.
pub(super) const CHUNK_LEN: usize = 64 * 1024;

/// What one direction may hold even when all buffers together are at their limit: progress for everyone.
pub(super) const CHUNK_LEN_MIN: usize = 512;

/// Bytes that a stream takes by itself, at rest: its task, its socket and what the runtime keeps of both. Measured; the
/// largest, an association of an exit, takes somewhat less.
const STREAM_COST: usize = 8 * 1024;

/// Limits and time-outs. The defaults need no tuning; tests shorten the waits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients of one listener at a time.
    pub clients_max: usize,
    /// Streams to and from all peers at a time.
    pub streams_max: usize,
    /// UDP associations of one user at a time: of one username or, without, of one address.
    pub associations_max: usize,
    /// Bytes that all connections together hold because their receivers are slow.
    pub buffered_max: usize,
    /// How long a client may take to say what it wants, and a peer to send the front of its stream.
    pub request_timeout: Duration,
    /// How long an exit tries to look up and connect.
    pub connect_timeout: Duration,
    /// How long an entry waits for the exit's answer. Longer than the exit tries, so that its reason arrives.
    pub answer_timeout: Duration,
    /// How long a connection that is closed in one direction may be silent in the other.
    pub half_closed_timeout: Duration,
    /// How long a UDP association lives without a datagram, at least (RFC 4787 §4.3 asks for two minutes).
    pub association_timeout: Duration,
    /// The first and the longest wait before a listener is asked for again at a peer.
    pub retry: (Duration, Duration),
}

impl Settings {
    /// The defaults within a budget of memory, in bytes, that the sessions below the proxies share.
    ///
    /// Half of it is left to the sessions however many streams there are and however little their receivers take; what the
    /// proxies do not use, the sessions may.
    pub fn within(memory_max: usize) -> Self {
        let settings = Self::default();
        Self {
            streams_max: settings.streams_max.min(memory_max / 4 / STREAM_COST),
            buffered_max: settings.buffered_max.min(memory_max / 4),
            ..settings
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clients_max: 4_096,
            streams_max: 16_384,
            associations_max: 256,
            buffered_max: 64 << 20,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_secs(30),
            half_closed_timeout: Duration::from_mins(10),
            association_timeout: Duration::from_mins(2),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What has happened so far. Written by the thread of the proxies, read by any.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }
    };
}

counters! {
    /// Connections taken by listeners.
    clients,
    /// Clients turned away, or cut off, at a limit.
    refused_limit,
    /// Clients whose username or password was wrong or missing.
    refused_login,
    /// Clients that were not understood.
    refused_protocol,
    /// Requests of peers served as their exit.
    exit_requests,
    /// Requests of peers refused by the rules of `[exit]`.
    exit_denied,
    /// Names that an exit could not look up.
    exit_name_not_found,
    /// Bytes of connections towards the peer, as an entry, or towards the target, as an exit.
    bytes_up,
    /// Bytes the other way.
    bytes_down,
    /// Datagrams carried, either way.
    datagrams,
    /// Datagrams dropped: malformed, not allowed, too many at once, or refused by the kernel.
    datagrams_dropped,
    /// Times that a listener could not take a connection, as when there are no descriptors left.
    accept_errors,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(super) fn increment(&self) {
        self.add(1);
    }
}

/// What all proxies of a thread share.
#[derive(Debug)]
pub struct Shared {
    /// Limits and time-outs.
    pub settings: Settings,
    /// What has happened so far.
    pub counters: Arc<Counters>,
    streams: Rc<Cell<usize>>,
    buffered: Cell<usize>,
    scratch: RefCell<Box<[u8]>>,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(settings: Settings) -> Rc<Self> {
        Rc::new(Self {
            settings,
            counters: Arc::default(),
            streams: Rc::default(),
            buffered: Cell::new(0),
            scratch: RefCell::new(vec![0; CHUNK_LEN].into()),
        })
    }

    /// Streams that are open now.
    pub fn streams(&self) -> usize {
        self.streams.get()
    }

    /// Bytes held now because their receivers are slow, or because the rest of a datagram has not come yet.
    pub fn buffered(&self) -> usize {
        self.buffered.get()
    }

    /// Bytes that the proxies take now: what is held, and the streams themselves.
    pub fn memory(&self) -> usize {
        self.buffered.get() + self.streams.get() * STREAM_COST
    }

    /// A buffer to read into and to write from before anything else happens: what is at rest holds no memory.
    pub(super) fn with_scratch<T>(&self, with: impl FnOnce(&mut [u8]) -> T) -> T {
        with(&mut self.scratch.borrow_mut())
    }
}

/// What one user of the proxies has of what all share: a peer that goes out from here, or the programs of this host.
///
/// A peer may take more as long as it has no more than is free (the dynamic thresholds of Choudhury and Hahne, 1998). So one that
/// takes all it can get leaves half of everything to the others, two leave a third, and nobody has to say beforehand how
/// many there will be.
#[derive(Debug)]
pub(super) struct Account {
    shared: Rc<Shared>,
    /// Whether there are others to be left something.
    fair: bool,
    streams: Rc<Cell<usize>>,
    buffered: Cell<usize>,
}

impl Account {
    /// That of this host's own programs, which may have everything.
    pub(super) fn of_this_host(shared: &Rc<Shared>) -> Rc<Self> {
        Self::new(shared, false)
    }

    /// That of one peer.
    pub(super) fn of_a_peer(shared: &Rc<Shared>) -> Rc<Self> {
        Self::new(shared, true)
    }

    fn new(shared: &Rc<Shared>, fair: bool) -> Rc<Self> {
        let shared = Rc::clone(shared);
        Rc::new(Self { shared, fair, streams: Rc::default(), buffered: Cell::new(0) })
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// The place for one more stream, if there is one.
    pub(super) fn stream_slot(&self) -> Option<StreamSlot> {
        let max = self.shared.settings.streams_max;
        let own_max = if self.fair { max.saturating_sub(self.shared.streams.get()) } else { max };
        if self.streams.get() > own_max {
            return None;
        }
        let of_all = Slot::take(&self.shared.streams, max)?;
        let own = Slot::take(&self.streams, usize::MAX)?;
        Some(StreamSlot { _own: own, _of_all: of_all })
    }

    /// Bytes that may be held beside those that are.
    pub(super) fn room(&self) -> usize {
        let free = self.shared.settings.buffered_max.saturating_sub(self.shared.buffered.get());
        if self.fair { free.saturating_sub(self.buffered.get()) } else { free }
    }

    /// How much one direction may read now: the less, the more is held already.
    pub(super) fn chunk_len(&self) -> usize {
        (self.room() / 4).clamp(CHUNK_LEN_MIN, CHUNK_LEN)
    }

    /// Accounts for bytes that are held from now on, and no longer held.
    pub(super) fn hold(&self, more: usize, less: usize) {
        for held in [&self.buffered, &self.shared.buffered] {
            held.set((held.get() + more).saturating_sub(less));
        }
    }
}

/// The place of a stream among those of its account, and among all.
#[derive(Debug)]
pub(super) struct StreamSlot {
    _own: Slot,
    _of_all: Slot,
}

/// A place among a limited number, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Rc<Cell<usize>>);

impl Slot {
    pub(super) fn take(taken: &Rc<Cell<usize>>, max: usize) -> Option<Self> {
        (taken.get() < max).then(|| {
            taken.set(taken.get() + 1);
            Self(Rc::clone(taken))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Places among a limited number for each key.
#[derive(Debug)]
pub(super) struct SlotsBy<K>(RefCell<HashMap<K, Rc<Cell<usize>>>>);

impl<K> Default for SlotsBy<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Eq + Hash> SlotsBy<K> {
    pub(super) fn take(&self, key: K, max: usize) -> Option<Slot> {
        let mut slots = self.0.borrow_mut();
        // Keys are as many as have places, not as many as ever came.
        if slots.len() >= 2 * slots.values().filter(|taken| taken.get() > 0).count() + 16 {
            slots.retain(|_, taken| taken.get() > 0);
        }
        Slot::take(slots.entry(key).or_default(), max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_takes_all_streams_it_can_get_leaves_half_to_the_others() {
        let shared = Shared::new(Settings { streams_max: 1_000, ..Settings::default() });
        let (greedy, other) = (Account::of_a_peer(&shared), Account::of_a_peer(&shared));
        let taken: Vec<_> = std::iter::from_fn(|| greedy.stream_slot()).collect();
        assert!((500..=501).contains(&taken.len()), "{}", taken.len());
        let others: Vec<_> = std::iter::from_fn(|| other.stream_slot()).collect();
        assert!(others.len() >= 249, "{}", others.len());
        assert!(Account::of_a_peer(&shared).stream_slot().is_some(), "and somebody new is served too");
        drop((taken, others));
        assert_eq!(shared.streams(), 0);
    }

    #[test]
    fn a_peer_that_holds_all_memory_it_can_get_leaves_half_to_the_others() {
        let shared = Shared::new(Settings { buffered_max: 1 << 20, ..Settings::default() });
        let (greedy, other) = (Account::of_a_peer(&shared), Account::of_a_peer(&shared));
        while greedy.room() >= 1_000 {
            greedy.hold(1_000, 0);
        }
        assert!((510_000..=524_288).contains(&shared.buffered()), "{}", shared.buffered());
        assert!(other.room() >= 1 << 19);
        assert_eq!(greedy.chunk_len(), CHUNK_LEN_MIN);
        assert_eq!(other.chunk_len(), CHUNK_LEN);
    }
}
