//! The packet path of one lane.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use packet::Ecn;
use thiserror::Error;

use super::counters::add;
use super::flow::{Flow, GuardOf};
use super::shared::{OpenFlow, Shared};
use super::{ACK_BYTES, ACK_DELAY, Control, FakeTcp, Flags, Header, Role, Segment};
use crate::guard::{Direction, Guard, MASK_LEN};

/// Flags that data does not have.
const UNUSUAL: Flags = Flags(Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0);

/// One lane's view of the flows.
pub struct Lane<P> {
    engine: FakeTcp<P>,
    number: u8,
    notes: Notes<P>,
}

/// What a lane has noted of the flows, so that the packet path takes no lock.
struct Notes<P> {
    seen_generation: u64,
    listen_guard: Arc<Guard>,
    /// On which addresses calls are taken; on all while that is not known.
    own: Option<Arc<BTreeSet<IpAddr>>>,
    open: BTreeMap<SocketAddr, Noted<P>>,
    /// Flows from which something was received, with nothing sent since, as far as this lane knows.
    unacknowledged: Vec<SocketAddr>,
    /// When they are acknowledged.
    acknowledge_at: Option<Instant>,
}

struct Noted<P> {
    flow: Arc<Flow>,
    guard: Arc<Guard>,
    path: Option<P>,
    /// It is in [`Notes::unacknowledged`].
    listed: bool,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<P> {
    /// The payload, uncovered in place, is for the session. Datagrams in it that were not valid are as they came.
    Deliver {
        /// The flow is new: tell the engine of the way there, with [`FakeTcp::set_path`].
        fresh: bool,
    },
    /// Send that.
    Reply(Control<P>),
    /// Our handshake is done: send that, then what [`Lane::take_held`] hands out.
    Opened(Control<P>),
    /// Nothing is to be done; it was counted if it was not in order.
    Nothing,
}

/// Why a train was not sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// Nobody has dialled that address, and it has not called.
    #[error("there is no flow to that address")]
    NoFlow,
    /// The handshake is not done; so many bytes of the train, from its front, wait for it.
    #[error("the flow is being opened")]
    Opening(usize),
    /// A datagram is shorter than [`DATAGRAM_MIN`](crate::guard::DATAGRAM_MIN) bytes, or there are too many in the train.
    #[error("a datagram is too short, or the train too long")]
    Shape,
}

/// A train that has its numbers.
#[derive(Debug)]
pub struct Sending<P> {
    /// The headers of the super-segment.
    pub header: Header,
    /// The driver's note of the way there.
    pub path: Option<P>,
    /// Datagrams in the train.
    pub count: usize,
    flow: Arc<Flow>,
    len: usize,
}

impl<P> Sending<P> {
    /// Only the first `taken` bytes were sent: the numbers of the others are free again.
    pub fn give_back(self, taken: usize) {
        self.flow.give_back(self.header.sequence, self.len, taken);
    }
}

impl<P: Copy + Eq> Notes<P> {
    /// Forgets what may have changed.
    #[inline]
    fn refresh(&mut self, shared: &Shared<P>) {
        let generation = shared.generation();
        if generation != self.seen_generation {
            self.seen_generation = generation;
            self.open.clear();
            self.unacknowledged.clear();
            self.own = shared.own_addresses();
            let window = shared.window();
            if self.listen_guard.number() != window {
                self.listen_guard = Arc::new(Guard::new(&shared.listen_key, window));
            }
        }
    }

    /// Whether a segment of no flow is a call, and ours to take. What is not is counted.
    fn is_called(&self, shared: &Shared<P>, to: SocketAddr) -> bool {
        let ours = |own: &BTreeSet<IpAddr>| to.ip().is_loopback() || own.contains(&to.ip());
        if to.port() != shared.config.listen_port {
            add(&shared.counters.strangers, 1);
            return false;
        }
        let called = self.own.as_deref().is_none_or(ours);
        if !called {
            add(&shared.counters.elsewhere, 1);
        }
        called
    }

    /// Uncovers the datagrams of a segment by the guards that its flow has not, or not yet, but may have after its last handshake. Returns
    /// how many are valid, and by which.
    #[cold]
    fn unmask_call(
        &self,
        shared: &Shared<P>,
        now_ms: u64,
        segment: &Segment,
        payload: &mut [u8],
        segment_size: usize,
    ) -> (usize, Option<GuardOf>) {
        // Only who has our SYN-ACK is worth the hashes of a key, and may change the guard of a flow.
        if !shared.has_shaken_hands(segment, now_ms) {
            return (0, None);
        }
        let known = self.open.get(&segment.from).map(|noted| &noted.flow);
        if known.is_some_and(|flow| flow.guard_of != GuardOf::Clock) {
            let valid = self.listen_guard.unmask(Direction::ToListener, payload, segment_size);
            if valid > 0 {
                return (valid, Some(GuardOf::Clock));
            }
        }
        let sequence = segment.acknowledgment.wrapping_sub(1);
        let guard = Guard::of_flow(&shared.listen_key, sequence);
        let valid = guard.unmask(Direction::ToListener, payload, segment_size);
        (valid, (valid > 0).then_some(GuardOf::Flow(sequence)))
    }

    /// The flow with that other end, if it is open; noted from now on.
    #[inline]
    fn flow(&mut self, shared: &Shared<P>, remote: SocketAddr) -> Option<&mut Noted<P>> {
        if !self.open.contains_key(&remote) {
            self.note(shared, shared.find(remote)?);
        }
        self.open.get_mut(&remote)
    }

    #[cold]
    fn note(&mut self, shared: &Shared<P>, found: OpenFlow<P>) {
        let guard = match found.flow.guard_of {
            GuardOf::Flow(sequence) => Arc::new(Guard::of_flow(&found.flow.key, sequence)),
            GuardOf::Clock if Arc::ptr_eq(&found.flow.key, &shared.listen_key) => {
                Arc::clone(&self.listen_guard)
            }
            GuardOf::Clock => Arc::new(Guard::new(&found.flow.key, shared.window())),
        };
        let remote = found.flow.remote;
        self.open.insert(remote, Noted { flow: found.flow, guard, path: found.path, listed: false });
    }

    /// Moves the numbers of a flow by a valid segment.
    #[inline]
    fn advance(&mut self, shared: &Shared<P>, now: Instant, segment: &Segment, now_ms: u64) {
        let Some(noted) = self.open.get_mut(&segment.from) else { return };
        let flow = &noted.flow;
        if flow.is_renewed_by(segment) {
            add(&shared.counters.flows_renewed, 1);
            flow.renew(segment);
        }
        let unacknowledged = flow.handle_data(segment, now_ms);
        if !noted.listed {
            noted.listed = true;
            self.unacknowledged.push(segment.from);
        }
        if unacknowledged >= ACK_BYTES {
            self.acknowledge_at = Some(now);
        } else if self.acknowledge_at.is_none() {
            self.acknowledge_at = Some(now + ACK_DELAY);
        }
    }
}

impl<P: Copy + Eq> Lane<P> {
    pub(super) fn new(engine: FakeTcp<P>, number: u8) -> Self {
        let listen_guard = Arc::new(Guard::new(&engine.0.listen_key, engine.0.window()));
        let notes = Notes {
            seen_generation: 0,
            listen_guard,
            own: None,
            open: BTreeMap::new(),
            unacknowledged: Vec::new(),
            acknowledge_at: None,
        };
        Self { engine, number, notes }
    }

    /// Looks at a segment, or a super-segment whose payload is datagrams of `segment_size` bytes.
    #[inline]
    pub fn receive(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: &mut [u8],
        segment_size: usize,
    ) -> Verdict<P> {
        let Self { engine, notes, .. } = self;
        let shared = &*engine.0;
        notes.refresh(shared);
        if segment.flags.has_any(UNUSUAL) || payload.is_empty() {
            return self.receive_control(now, segment);
        }
        let now_ms = shared.ms(now);
        let datagrams = payload.len().div_ceil(segment_size.max(1));
        let known = notes.flow(shared, segment.from).is_some();
        let mut moved = false;
        let (guard, direction) = match notes.open.get(&segment.from) {
            Some(noted) if noted.flow.local == segment.to => (&noted.guard, noted.flow.role.incoming()),
            // It calls another of our addresses now, and has shaken hands there.
            Some(noted)
                if noted.flow.role == Role::Accepted
                    && notes.is_called(shared, segment.to)
                    && shared.has_shaken_hands(segment, now_ms) =>
            {
                moved = true;
                (&notes.listen_guard, Direction::ToListener)
            }
            Some(_) => {
                add(&shared.counters.strangers, 1);
                return Verdict::Nothing;
            }
            None if notes.is_called(shared, segment.to) => (&notes.listen_guard, Direction::ToListener),
            None => return Verdict::Nothing,
        };
        let mut valid = guard.unmask(direction, payload, segment_size);
        let mut anew = ((!known || moved) && valid > 0).then_some(GuardOf::Clock);
        if valid == 0 && direction == Direction::ToListener {
            (valid, anew) = notes.unmask_call(shared, now_ms, segment, payload, segment_size);
        }
        if valid < datagrams {
            add(&shared.counters.guard_failures, (datagrams - valid) as u64);
        }
        if valid == 0 {
            return Verdict::Nothing;
        }
        if let Some(guard_of) = anew {
            let Some(found) = shared.accept(segment, guard_of, now_ms) else { return Verdict::Nothing };
            notes.note(shared, found);
        }
        notes.advance(shared, now, segment, now_ms);
        Verdict::Deliver { fresh: anew.is_some() }
    }

    /// A segment without data, or with flags that data does not have.
    fn receive_control(&mut self, now: Instant, segment: &Segment) -> Verdict<P> {
        let Self { engine, number, notes } = self;
        let shared = &*engine.0;
        let (counters, now_ms) = (&shared.counters, shared.ms(now));
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            add(&counters.resets_ignored, 1);
        } else if flags.has(Flags::SYN | Flags::ACK) {
            match shared.open(segment, now_ms, *number) {
                Some(control) => return Verdict::Opened(control),
                // The answer to a SYN that was repeated too early.
                None if shared.has(segment) => {}
                None => add(&counters.strangers, 1),
            }
        } else if flags.has(Flags::SYN) {
            if notes.is_called(shared, segment.to)
                && let Some(control) = shared.syn_ack(segment, now_ms)
            {
                return Verdict::Reply(control);
            }
        } else if flags.has(Flags::FIN) {
            add(&counters.fins_ignored, 1);
        } else if let Some(noted) =
            notes.flow(shared, segment.from).filter(|noted| noted.flow.local == segment.to)
        {
            noted.flow.handle_acknowledgment(segment);
            if noted.flow.is_keepalive(segment, now_ms) {
                let header = noted.flow.acknowledgment(now_ms, 0);
                return Verdict::Reply(Control { header, path: noted.path });
            }
        } else if !shared.has_shaken_hands(segment, now_ms) {
            add(&counters.strangers, 1);
        }
        Verdict::Nothing
    }

    /// What waited for the handshake that [`Verdict::Opened`] has told of.
    pub fn take_held(&mut self, remote: SocketAddr) -> Vec<Vec<u8>> {
        self.engine.0.take_held(remote)
    }

    /// The headers for a train to `to`, and in `heads` what goes on the wire instead of the first [`MASK_LEN`] bytes of each
    /// datagram. Should the train not leave, [give it back](Sending::give_back).
    ///
    /// # Errors
    /// When there is no open flow, or a datagram is too short.
    #[inline]
    pub fn send(
        &mut self,
        now: Instant,
        to: SocketAddr,
        train: &[u8],
        segment_size: usize,
        ecn: Ecn,
        heads: &mut [[u8; MASK_LEN]],
    ) -> Result<Sending<P>, SendError> {
        let Self { engine, number, notes } = self;
        let shared = &*engine.0;
        notes.refresh(shared);
        let Some(noted) = notes.flow(shared, to) else { return Err(hold(shared, to, train, segment_size)) };
        let direction = noted.flow.role.outgoing();
        let count = noted.guard.mask(direction, train, segment_size, heads).ok_or(SendError::Shape)?;
        let header = noted.flow.train(&shared.config, train.len(), count, ecn, shared.ms(now), *number);
        Ok(Sending { header, path: noted.path, count, flow: Arc::clone(&noted.flow), len: train.len() })
    }

    /// The next acknowledgment that is due. Ask until there is none.
    pub fn poll_ack(&mut self, now: Instant) -> Option<Control<P>> {
        let Self { engine, number, notes } = self;
        if now < notes.acknowledge_at? {
            return None;
        }
        let now_ms = engine.0.ms(now);
        while let Some(remote) = notes.unacknowledged.pop() {
            let Some(noted) = notes.open.get_mut(&remote) else { continue };
            noted.listed = false;
            if noted.flow.unacknowledged.load(Relaxed) > 0 {
                let header = noted.flow.acknowledgment(now_ms, *number);
                return Some(Control { header, path: noted.path });
            }
        }
        notes.acknowledge_at = None;
        None
    }

    /// When [`poll_ack`](Self::poll_ack) has something.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.notes.acknowledge_at.map(|at| (at, "acknowledgment of fake TCP"))
    }
}

impl<P> fmt::Debug for Lane<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("lane", &self.number)
            .field("open", &self.notes.open.len())
            .finish_non_exhaustive()
    }
}

#[cold]
fn hold<P: Copy + Eq>(shared: &Shared<P>, to: SocketAddr, train: &[u8], segment_size: usize) -> SendError {
    match shared.hold(to, train, segment_size.max(1)) {
        Some(taken) => SendError::Opening(taken),
        None => SendError::NoFlow,
    }
}
