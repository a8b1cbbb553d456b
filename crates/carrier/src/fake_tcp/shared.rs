//! What all lanes share: the flows, the secret of the sequence numbers, timers. Everything here is off the packet path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};

use super::counters::add;
use super::flow::{Flow, GuardOf, Numbers, opening_header, timestamp};
use super::{
    Config, Control, Counters, Ends, Flags, HELD_BYTES_MAX, HELD_MAX, IDLE, KEEPALIVE, LANE_BITS, Lane, Role,
    SILENCE, SYN_RETRY, Segment,
};
use crate::guard::{GuardKey, window_number};

/// While there are flows, timers are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// As above, while there are none: the guard's window moves on.
const IDLE_TICK: Duration = Duration::from_secs(10);
/// For so many seconds, and as many again, a SYN-ACK's number proves a handshake.
const ISN_SLOT_SECONDS: u64 = 64;
/// A full table gives the room of a validated flow that was silent for this long.
const EVICT_AFTER: Duration = Duration::from_mins(1);
/// Flows from one source, an IPv4 address or an IPv6 /64, that no session has been proved on.
pub(super) const UNVALIDATED_PER_SOURCE_MAX: usize = 64;
/// SYNs answered a second: of callers that show our key, and of strangers, who are answered at all because every listener does.
const CALLERS_PER_SECOND: u32 = 2_000;
const STRANGERS_PER_SECOND: u32 = 100;

/// The engine. Clones are handles on the same one.
#[derive(Debug)]
pub struct FakeTcp<P>(pub(super) Arc<Shared<P>>);

impl<P> Clone for FakeTcp<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
pub(super) struct Shared<P> {
    pub(super) config: Config,
    pub(super) listen_key: Arc<GuardKey>,
    start: Instant,
    /// Changes when a lane must forget what it has noted of flows.
    generation: AtomicU64,
    /// The guard's window now.
    window: AtomicU64,
    /// When timers are due.
    due_ms: AtomicU64,
    pub(super) counters: Counters,
    syns: Mutex<Syns>,
    /// The addresses of this machine on which calls are taken; `None` before anybody has told.
    own: Mutex<Option<Arc<BTreeSet<IpAddr>>>>,
    table: Mutex<Table<P>>,
}

/// How many more SYNs are answered.
#[derive(Debug)]
struct Syns {
    callers: Allowance,
    strangers: Allowance,
}

/// So many a second, and at most those of one second at once.
#[derive(Debug)]
struct Allowance {
    per_second: u32,
    thousandths: u64,
    at_ms: u64,
}

impl Allowance {
    fn new(per_second: u32) -> Self {
        Self { per_second, thousandths: u64::from(per_second) * 1_000, at_ms: 0 }
    }

    fn take(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms).min(1_000) * u64::from(self.per_second);
        self.at_ms = self.at_ms.max(now_ms);
        self.thousandths = (self.thousandths + gained).min(u64::from(self.per_second) * 1_000);
        let left = self.thousandths.checked_sub(1_000);
        self.thousandths = left.unwrap_or(self.thousandths);
        left.is_some()
    }
}

#[derive(Debug)]
struct Table<P> {
    /// By the other end's address.
    entries: BTreeMap<SocketAddr, Entry<P>>,
    /// Handshakes begun, for numbers that nobody guesses.
    dials: u64,
}

#[derive(Debug)]
struct Entry<P> {
    flow: Arc<Flow>,
    path: Option<P>,
    opening: Option<Opening>,
    /// A session was proved on it.
    validated: bool,
    /// The largest segment that we take.
    mss: u16,
}

/// A handshake that we have begun.
#[derive(Debug)]
struct Opening {
    sequence: u32,
    attempts: u32,
    next_at_ms: u64,
    /// The SYN was answered; what waits is about to be sent.
    answered: bool,
    /// Which guard the flow will have: the clock's, or its own.
    by_clock: bool,
    /// Datagrams that wait for its end.
    held: Vec<Vec<u8>>,
}

/// A flow as a lane notes it.
#[derive(Clone, Debug)]
pub(super) struct OpenFlow<P> {
    pub(super) flow: Arc<Flow>,
    pub(super) path: Option<P>,
}

/// What a person or a driver may know of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStatus<P> {
    /// The other end.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Who began it.
    pub role: Role,
    /// Its handshake is done.
    pub open: bool,
    /// The driver's note of the way there.
    pub path: Option<P>,
}

impl<P: Copy + Eq> FakeTcp<P> {
    /// An engine without flows. `unix_time` is the wall-clock time since the Unix epoch at `now`.
    pub fn new(config: Config, now: Instant, unix_time: Duration) -> Self {
        Self(Arc::new(Shared {
            listen_key: Arc::new(config.listen_key.clone()),
            config,
            start: now,
            generation: AtomicU64::new(1),
            window: AtomicU64::new(window_number(unix_time)),
            due_ms: AtomicU64::new(IDLE_TICK.as_millis() as u64),
            counters: Counters::default(),
            syns: Mutex::new(Syns {
                callers: Allowance::new(CALLERS_PER_SECOND),
                strangers: Allowance::new(STRANGERS_PER_SECOND),
            }),
            own: Mutex::new(None),
            table: Mutex::new(Table { entries: BTreeMap::new(), dials: 0 }),
        }))
    }

    /// The packet path of one lane, 0 to 15.
    pub fn lane(&self, lane: u8) -> Lane<P> {
        Lane::new(self.clone(), lane)
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Opens a flow from `local` to the listener at `remote`, whose guard key is `key`, or opens it anew from another local address. The
    /// SYN is due at once: see [`handle_timeout`](Self::handle_timeout). Dialling again what is dialled changes nothing.
    pub fn dial(
        &self,
        remote: SocketAddr,
        local: SocketAddr,
        key: GuardKey,
        mss: u16,
        path: impl Into<Option<P>>,
        now: Instant,
    ) {
        let now_ms = self.0.ms(now);
        let mut table = self.0.table();
        if table
            .entries
            .get(&remote)
            .is_some_and(|entry| entry.flow.role == Role::Dialled && entry.flow.local == local)
        {
            return;
        }
        table.dials += 1;
        let ends = (local, remote);
        let next = key.opening_number(self.0.hash(b"dial", ends, table.dials) as u32);
        let numbers = Numbers {
            guard_of: GuardOf::Clock,
            next,
            expected: 0,
            echo: None,
            timestamp_offset: self.0.timestamp_offset(ends),
        };
        let flow = Arc::new(Flow::new(ends, Role::Dialled, Arc::new(key), numbers, now_ms));
        let opening = Some(Opening {
            sequence: next,
            attempts: 0,
            next_at_ms: now_ms,
            answered: false,
            by_clock: true,
            held: Vec::new(),
        });
        table.entries.insert(remote, Entry { flow, path: path.into(), opening, validated: false, mss });
        self.0.due_ms.fetch_min(now_ms, Relaxed);
        self.0.forget();
    }

    /// Opens a flow that we dialled anew from another local address: the old one is gone.
    pub fn move_to(&self, remote: SocketAddr, local: SocketAddr, now: Instant) {
        let dialled = |entry: &&Entry<P>| entry.flow.role == Role::Dialled;
        let known = self
            .0
            .table()
            .entries
            .get(&remote)
            .filter(dialled)
            .map(|e| (GuardKey::clone(&e.flow.key), e.mss));
        if let Some((key, mss)) = known {
            self.dial(remote, local, key, mss, None, now);
        }
    }

    /// Closes a flow and returns the FIN that tells the NATs on the way.
    pub fn hang_up(&self, remote: SocketAddr, now: Instant) -> Option<Control<P>> {
        let entry = self.0.table().entries.remove(&remote)?;
        self.0.forget();
        let header = entry.flow.fin(self.0.ms(now));
        entry.opening.is_none().then_some(Control { header, path: entry.path })
    }

    /// Tells on which addresses calls are taken: those of this machine, or the one that is listened on. A segment for any other address
    /// is one that the machine forwards, or of another program, and is left alone.
    pub fn set_own_addresses(&self, own: impl IntoIterator<Item = IpAddr>) {
        let own: BTreeSet<IpAddr> = own.into_iter().collect();
        let mut known = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(&own) {
            *known = Some(Arc::new(own));
            self.0.forget();
        }
    }

    /// A session was proved on a flow: it makes room for others only when it is silent and there is nobody else to.
    pub fn validate(&self, remote: SocketAddr) {
        if let Some(entry) = self.0.table().entries.get_mut(&remote) {
            entry.validated = true;
        }
    }

    /// Notes the way to the other end of a flow.
    pub fn set_path(&self, remote: SocketAddr, path: Option<P>) {
        let mut table = self.0.table();
        if let Some(entry) = table.entries.get_mut(&remote)
            && entry.path != path
        {
            entry.path = path;
            self.0.forget();
        }
    }

    /// All flows.
    pub fn flows(&self) -> Vec<FlowStatus<P>> {
        let status = |entry: &Entry<P>| FlowStatus {
            remote: entry.flow.remote,
            local: entry.flow.local,
            role: entry.flow.role,
            open: entry.opening.is_none(),
            path: entry.path,
        };
        self.0.table().entries.values().map(status).collect()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next. Earlier after a [`dial`](Self::dial), so ask after each
    /// wake. Costs one load.
    pub fn poll_timeout(&self) -> Instant {
        self.0.instant(self.0.due_ms.load(Relaxed))
    }

    /// Does what is due and appends the segments to send: SYNs, keepalives.
    pub fn handle_timeout(&self, now: Instant, unix_time: Duration, out: &mut Vec<Control<P>>) {
        let shared = &*self.0;
        let now_ms = shared.ms(now);
        let window = window_number(unix_time);
        if shared.window.swap(window, Relaxed) != window {
            shared.forget();
        }
        let mut table = shared.table();
        let before = table.entries.len();
        let expired = now_ms.saturating_sub(IDLE.as_millis() as u64);
        table.entries.retain(|_, entry| {
            entry.flow.role == Role::Dialled || entry.flow.heard_ms.load(Relaxed) >= expired
        });
        if table.entries.len() < before {
            add(&shared.counters.flows_expired, (before - table.entries.len()) as u64);
            shared.forget();
        }
        let Table { entries, dials } = &mut *table;
        for entry in entries.values_mut().filter(|entry| entry.flow.role == Role::Dialled) {
            shared.look_after(entry, dials, now_ms, out);
        }
        let tick = if entries.is_empty() { IDLE_TICK } else { TICK };
        let waiting =
            entries.values().filter_map(|entry| entry.opening.as_ref()).filter(|opening| !opening.answered);
        let soonest = waiting.map(|opening| opening.next_at_ms).min().unwrap_or(u64::MAX);
        shared.due_ms.store(soonest.min(now_ms + tick.as_millis() as u64), Relaxed);
    }
}

impl<P: Copy + Eq> Shared<P> {
    fn table(&self) -> MutexGuard<'_, Table<P>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all lanes look flows up again.
    fn forget(&self) {
        self.generation.fetch_add(1, Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    pub(super) fn window(&self) -> u64 {
        self.window.load(Relaxed)
    }

    pub(super) fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64 + 1
    }

    pub(super) fn instant(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms.saturating_sub(1))
    }

    /// The timers of a flow that we dialled.
    fn look_after(&self, entry: &mut Entry<P>, dials: &mut u64, now_ms: u64, out: &mut Vec<Control<P>>) {
        let flow = &entry.flow;
        if entry.opening.is_none() {
            let unanswered = flow.unanswered_ms.load(Relaxed);
            if unanswered != 0 && now_ms.saturating_sub(unanswered) >= SILENCE.as_millis() as u64 {
                // Whatever kept the flow alive on the way has forgotten it. New numbers, as a new connection has.
                *dials += 1;
                let noise = self.hash(b"dial", (flow.local, flow.remote), *dials) as u32;
                let sequence = flow.key.opening_number(noise);
                entry.opening = Some(Opening {
                    sequence,
                    attempts: 0,
                    next_at_ms: now_ms,
                    answered: false,
                    // Where nothing was ever heard, the guard of the other kind may be the one that is understood.
                    by_clock: (flow.guard_of == GuardOf::Clock) == flow.was_heard(),
                    held: Vec::new(),
                });
                self.forget();
            } else if now_ms.saturating_sub(flow.sent_ms.load(Relaxed)) >= KEEPALIVE.as_millis() as u64 {
                out.push(Control { header: flow.keepalive(now_ms), path: entry.path });
            }
        }
        if let Some(opening) = &mut entry.opening
            && !opening.answered
            && now_ms >= opening.next_at_ms
        {
            let retry = SYN_RETRY * (1 << opening.attempts.min(2));
            opening.attempts += 1;
            opening.next_at_ms = now_ms + retry.as_millis() as u64;
            let stamps = Some((self.timestamp((flow.local, flow.remote), now_ms), 0));
            let ends = (flow.local, flow.remote);
            let header = opening_header(ends, Flags::SYN, (opening.sequence, 0), stamps, entry.mss);
            add(&self.counters.syns_sent, 1);
            out.push(Control { header, path: entry.path });
        }
    }

    /// 64 bits that only we can compute, of the ends of a flow.
    fn hash(&self, purpose: &[u8], (local, remote): Ends, number: u64) -> u64 {
        let mut state =
            Blake2sMac::<U16>::new_from_slice(&self.config.secret).expect("BLAKE2s takes keys of 32 bytes");
        state.update(purpose);
        for end in [local, remote] {
            match end.ip() {
                IpAddr::V4(address) => state.update(&address.to_ipv6_mapped().octets()),
                IpAddr::V6(address) => state.update(&address.octets()),
            }
            state.update(&end.port().to_be_bytes());
        }
        state.update(&number.to_le_bytes());
        let hash = state.finalize_fixed();
        u64::from_le_bytes(std::array::from_fn(|i| hash[i]))
    }

    /// Our timestamp in the handshake of a flow. It follows from the ends alone, so nothing needs to be kept.
    fn timestamp(&self, ends: Ends, now_ms: u64) -> u32 {
        timestamp(self.timestamp_offset(ends), now_ms, 0)
    }

    fn timestamp_offset(&self, ends: Ends) -> u32 {
        self.hash(b"timestamp", ends, 0) as u32 & !((1 << LANE_BITS) - 1)
    }

    /// The number that our SYN-ACK has (as SYN cookies: RFC 4987 §3.6), in the slot of `age` before this one.
    fn cookie(&self, ends: Ends, now_ms: u64, age: u64) -> u32 {
        let slot = (now_ms / 1_000 / ISN_SLOT_SECONDS).wrapping_sub(age);
        self.hash(b"cookie", ends, slot) as u32
    }

    /// Whether an acknowledgment tells that our SYN-ACK has arrived.
    pub(super) fn has_shaken_hands(&self, segment: &Segment, now_ms: u64) -> bool {
        let ends = (segment.to, segment.from);
        let acknowledged = segment.acknowledgment.wrapping_sub(1);
        (0..2).any(|age| self.cookie(ends, now_ms, age) == acknowledged)
    }

    /// The addresses on which calls are taken.
    pub(super) fn own_addresses(&self) -> Option<Arc<BTreeSet<IpAddr>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether one more SYN is answered.
    fn may_answer(&self, caller: bool, now_ms: u64) -> bool {
        let mut syns = self.syns.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = if caller { syns.callers.take(now_ms) } else { syns.strangers.take(now_ms) };
        if !taken {
            add(&self.counters.syns_limited, 1);
        }
        taken
    }

    /// The answer to a SYN.
    pub(super) fn syn_ack(&self, segment: &Segment, now_ms: u64) -> Option<Control<P>> {
        // What dials us has timestamps, as nearly everything has today, unless a box on the way takes them out. A scan that has none
        // learns nothing.
        let caller = self.listen_key.is_opening_number(segment.sequence);
        if segment.timestamps.is_none() && !caller {
            add(&self.counters.strangers, 1);
            return None;
        }
        if !self.may_answer(caller, now_ms) {
            return None;
        }
        let ends = (segment.to, segment.from);
        add(&self.counters.syns_answered, 1);
        let numbers = (self.cookie(ends, now_ms, 0), segment.sequence.wrapping_add(1));
        let stamps = segment.timestamps.map(|(value, _)| (self.timestamp(ends, now_ms), value));
        // No more than was asked for: what fits one way fits the other.
        let mss = segment.mss.unwrap_or(536);
        let header = opening_header(ends, Flags::SYN | Flags::ACK, numbers, stamps, mss);
        Some(Control { header, path: None })
    }

    /// The other end has answered our SYN. Returns the acknowledgment.
    pub(super) fn open(&self, segment: &Segment, now_ms: u64, lane: u8) -> Option<Control<P>> {
        let mut table = self.table();
        let entry = table.entries.get_mut(&segment.from)?;
        let opening = entry.opening.as_mut().filter(|opening| !opening.answered)?;
        let expected = opening.sequence.wrapping_add(1);
        if entry.flow.local != segment.to || segment.acknowledgment != expected {
            return None;
        }
        let guard_of = if opening.by_clock { GuardOf::Clock } else { GuardOf::Flow(segment.sequence) };
        if guard_of != GuardOf::Clock {
            add(&self.counters.flows_without_clock, 1);
        }
        let numbers = Numbers {
            guard_of,
            next: expected,
            expected: segment.sequence.wrapping_add(1),
            echo: segment.timestamps.map(|(value, _)| value),
            timestamp_offset: self.timestamp_offset((segment.to, segment.from)),
        };
        let ends = (segment.to, segment.from);
        let flow = Flow::new(ends, Role::Dialled, Arc::clone(&entry.flow.key), numbers, now_ms);
        let header = flow.acknowledgment(now_ms, lane);
        entry.flow = Arc::new(flow);
        // Those who wait are sent next, and keep the entry's room until then.
        if opening.held.is_empty() {
            entry.opening = None;
        } else {
            opening.answered = true;
        }
        add(&self.counters.flows_opened, 1);
        self.forget();
        Some(Control { header, path: entry.path })
    }

    /// Hands out what waited for the handshake of a flow that is open now.
    pub(super) fn take_held(&self, remote: SocketAddr) -> Vec<Vec<u8>> {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&remote) else { return Vec::new() };
        match entry.opening.take_if(|opening| opening.answered) {
            Some(opening) => {
                self.forget();
                opening.held
            }
            None => Vec::new(),
        }
    }

    /// Keeps datagrams until a handshake is done; `None` when there is none, otherwise how many bytes were taken.
    pub(super) fn hold(&self, remote: SocketAddr, train: &[u8], segment_size: usize) -> Option<usize> {
        let mut table = self.table();
        let opening = table.entries.get_mut(&remote)?.opening.as_mut()?;
        let mut taken = 0;
        for datagram in train.chunks(segment_size) {
            let bytes: usize = opening.held.iter().map(Vec::len).sum();
            if opening.held.len() >= HELD_MAX || bytes + datagram.len() > HELD_BYTES_MAX {
                break;
            }
            opening.held.push(datagram.to_vec());
            taken += datagram.len();
        }
        Some(taken)
    }

    /// Whether a segment has the ends of a flow of ours, open or not.
    pub(super) fn has(&self, segment: &Segment) -> bool {
        self.table().entries.get(&segment.from).is_some_and(|entry| entry.flow.local == segment.to)
    }

    /// The flow with that other end, if it is open.
    pub(super) fn find(&self, remote: SocketAddr) -> Option<OpenFlow<P>> {
        let table = self.table();
        let entry = table.entries.get(&remote)?;
        entry.opening.is_none().then(|| OpenFlow { flow: Arc::clone(&entry.flow), path: entry.path })
    }

    /// Makes a flow of a segment that has proved to be from somebody who knows our key, or gives one that called us the guard, or our address,
    /// that it has now. `None` when there is no room.
    pub(super) fn accept(&self, segment: &Segment, guard_of: GuardOf, now_ms: u64) -> Option<OpenFlow<P>> {
        let shaken = self.has_shaken_hands(segment, now_ms);
        let ends = (segment.to, segment.from);
        let numbers = Numbers {
            guard_of,
            next: segment.acknowledgment,
            expected: segment.sequence,
            echo: segment.timestamps.map(|(value, _)| value),
            timestamp_offset: self.timestamp_offset(ends),
        };
        let mut table = self.table();
        if let Some(entry) = table.entries.get_mut(&segment.from) {
            let changed = entry.flow.guard_of != guard_of || entry.flow.local != segment.to;
            if entry.flow.role == Role::Accepted && changed {
                let key = Arc::clone(&self.listen_key);
                entry.flow = Arc::new(Flow::new(ends, Role::Accepted, key, numbers, now_ms));
                add(&self.counters.flows_renewed, 1);
                self.forget();
            }
            // Another lane was first; or it is a flow that we dial, and whose handshake is not done.
            let known = OpenFlow { flow: Arc::clone(&entry.flow), path: entry.path };
            return entry.opening.is_none().then_some(known);
        }
        if !self.make_room(&mut table, segment.from.ip(), shaken, now_ms) {
            add(&self.counters.flows_full, 1);
            return None;
        }
        let flow = Arc::new(Flow::new(ends, Role::Accepted, Arc::clone(&self.listen_key), numbers, now_ms));
        let entry = Entry { flow: Arc::clone(&flow), path: None, opening: None, validated: false, mss: 0 };
        table.entries.insert(segment.from, entry);
        if guard_of != GuardOf::Clock {
            add(&self.counters.flows_without_clock, 1);
        }
        add(if shaken { &self.counters.flows_accepted } else { &self.counters.flows_resumed }, 1);
        Some(OpenFlow { flow, path: None })
    }

    /// Whether there is room for one more flow. The last half is for those who have shaken hands: the others may have
    /// given us any source address, with a segment they have seen somewhere. Flows that a session was proved on outlive all others.
    fn make_room(&self, table: &mut Table<P>, from: IpAddr, shaken: bool, now_ms: u64) -> bool {
        let max = self.config.flows_max;
        if of_source(table, from).filter(|entry| !entry.validated).count() >= UNVALIDATED_PER_SOURCE_MAX {
            return false;
        }
        if table.entries.len() < if shaken { max } else { max / 2 } {
            return true;
        }
        if !shaken {
            return false;
        }
        let silent = now_ms.saturating_sub(EVICT_AFTER.as_millis() as u64);
        let accepted = table.entries.values().filter(|entry| entry.flow.role == Role::Accepted);
        // False comes first: what was never validated, and of those the one silent for longest.
        let oldest = accepted
            .map(|entry| (entry.validated, entry.flow.heard_ms.load(Relaxed), entry.flow.remote))
            .min_by_key(|&(validated, heard, _)| (validated, heard));
        let Some((_, _, remote)) = oldest.filter(|&(validated, heard, _)| !validated || heard < silent)
        else {
            return false;
        };
        table.entries.remove(&remote);
        add(&self.counters.flows_expired, 1);
        self.forget();
        true
    }
}

/// The flows that called us from one source: an IPv4 address or, since a host has one to itself, an IPv6 /64.
fn of_source<P>(table: &Table<P>, from: IpAddr) -> impl Iterator<Item = &Entry<P>> {
    let (first, last) = match from {
        IpAddr::V4(_) => (from, from),
        IpAddr::V6(address) => {
            let host = u128::from(u64::MAX);
            let bits = address.to_bits();
            (Ipv6Addr::from_bits(bits & !host).into(), Ipv6Addr::from_bits(bits | host).into())
        }
    };
    let range = SocketAddr::new(first, 0)..=SocketAddr::new(last, u16::MAX);
    table.entries.range(range).map(|(_, entry)| entry).filter(|entry| entry.flow.role == Role::Accepted)
}
