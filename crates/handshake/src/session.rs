//! What a handshake leaves behind: keys, counters and replay windows, one set a lane.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::crypto::{AeadKey, Secret, counter_nonce, hkdf};
use crate::message::MessageKind;
use crate::noise::SymmetricState;
use crate::replay::{ReplayWindow, StaleCounter};
use crate::{HEADER_LEN, LANES, Protocol, PublicKey, Suite, TAG_LEN, limits};

/// The clear header of a data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Which of the two protocols it belongs to.
    pub protocol: Protocol,
    /// The lane; 0 in WireGuard. It may be one that no session has: [`Session::opener`] decides.
    pub lane: u8,
    /// The receiver's index of the session.
    pub receiver: u32,
    /// The number of the packet in its lane.
    pub counter: u64,
}

impl DataHeader {
    /// The header of `datagram`, if that is a data packet with room for a header and a tag.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < HEADER_LEN + TAG_LEN {
            return None;
        }
        let header = datagram.first_chunk::<HEADER_LEN>()?;
        let &[type_byte, lane, 0, 0, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7] = header else {
            return None;
        };
        let protocol = match (type_byte, lane) {
            (WIREGUARD_TYPE, 0) => Protocol::WireGuard,
            (SHADOWMESH_TYPE, _) => Protocol::ShadowMesh,
            _ => return None,
        };
        let receiver = u32::from_le_bytes([r0, r1, r2, r3]);
        let counter = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        Some(Self { protocol, lane, receiver, counter })
    }
}

const WIREGUARD_TYPE: u8 = MessageKind::Data(Protocol::WireGuard).type_byte();
const SHADOWMESH_TYPE: u8 = MessageKind::Data(Protocol::ShadowMesh).type_byte();

/// The first eight bytes of the data packets of one lane and direction: all of the header but the counter.
fn header_prefix(protocol: Protocol, lane: u8, receiver: u32) -> [u8; 8] {
    let [r0, r1, r2, r3] = receiver.to_le_bytes();
    [MessageKind::Data(protocol).type_byte(), lane, 0, 0, r0, r1, r2, r3]
}

/// Why a data packet was refused. Every variant is one counted drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// It is shorter than a header and a tag.
    #[error("the packet is shorter than a header and a tag")]
    Truncated,
    /// It names a lane the session does not have.
    #[error("the packet is for a lane this session does not have")]
    UnknownLane,
    /// It is so late that it cannot be told from a replay.
    #[error("the packet is {} or more behind the newest one", ReplayWindow::SIZE)]
    TooOld,
    /// A packet with its counter was received before.
    #[error("the packet was received before")]
    Replayed,
    /// It does not authenticate.
    #[error("the packet does not authenticate")]
    Forged,
    /// Its counter is beyond [`limits::REJECT_AFTER_MESSAGES`].
    #[error("the packet's counter is beyond the limit of a session")]
    Expired,
}

impl From<StaleCounter> for OpenError {
    fn from(stale: StaleCounter) -> Self {
        match stale {
            StaleCounter::TooOld => Self::TooOld,
            StaleCounter::Replayed => Self::Replayed,
        }
    }
}

/// A lane has used up its counters ([`limits::REJECT_AFTER_MESSAGES`]): nothing can be sent before the next
/// handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the lane has used up its counters")]
pub struct Exhausted;

/// A packet was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The number of the packet in its lane.
    pub counter: u64,
    /// Whether no higher counter was seen before on this lane: only such a packet may move the path of a
    /// peer.
    pub newest: bool,
}

/// What one lane needs to send and to receive.
struct Lane {
    sealing: AeadKey,
    opening: AeadKey,
    next_counter: AtomicU64,
    window: Mutex<ReplayWindow>,
}

// The memory of a thousand peers is that of their lanes.
const _: () = assert!(size_of::<Lane>() <= 2_560);

/// The result of a handshake, from which a [`Session`] is made.
#[derive(Clone, Copy)]
pub(crate) struct Established<'a> {
    pub(crate) state: &'a SymmetricState,
    pub(crate) protocol: Protocol,
    pub(crate) suite: Suite,
    pub(crate) initiator: bool,
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
    pub(crate) remote: PublicKey,
    pub(crate) now: Instant,
}

/// An established session with one peer: seals and opens data packets.
///
/// It is shared by reference among threads. Each works on a lane of its own, so nothing in it is contended.
/// The keys of a lane (2.5 kB of state) are derived when the lane is first used.
///
/// The session does not know the time: dropping it when it is [`limits::REJECT_AFTER_TIME`] old is up to the
/// caller.
pub struct Session {
    /// What the keys of all lanes are derived from.
    secret: Secret,
    lanes: [OnceLock<Box<Lane>>; LANES],
    protocol: Protocol,
    suite: Suite,
    initiator: bool,
    local_index: u32,
    remote_index: u32,
    remote: PublicKey,
    established: Instant,
}

impl Session {
    pub(crate) fn new(established: Established<'_>) -> Self {
        let Established { state, protocol, suite, initiator, local_index, remote_index, remote, now } =
            established;
        let secret = match protocol {
            Protocol::WireGuard => state.chaining_key(),
            Protocol::ShadowMesh => state.session_secret(),
        };
        let lanes = [const { OnceLock::new() }; LANES];
        Self {
            secret,
            lanes,
            protocol,
            suite,
            initiator,
            local_index,
            remote_index,
            remote,
            established: now,
        }
    }

    /// Our index of the session, by which its packets to us are recognised.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The remote's index of the session.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// The protocol whose handshake made it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The AEAD in use.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether we began the handshake.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// When the handshake completed on our side.
    pub fn established(&self) -> Instant {
        self.established
    }

    /// Whether what is recorded of it today stays closed to a quantum computer.
    pub fn post_quantum(&self) -> bool {
        self.protocol == Protocol::ShadowMesh
    }

    /// The peer.
    pub fn remote(&self) -> PublicKey {
        self.remote
    }

    /// How many lanes the session has.
    fn lane_count(&self) -> usize {
        match self.protocol {
            Protocol::WireGuard => 1,
            Protocol::ShadowMesh => LANES,
        }
    }

    /// The two keys of a lane: from initiator to responder, and back.
    fn lane_keys(&self, lane: u8) -> [Secret; 2] {
        match self.protocol {
            Protocol::WireGuard => hkdf(&self.secret, &[]),
            Protocol::ShadowMesh => hkdf(&self.secret, &[lane]),
        }
    }

    #[inline]
    fn lane(&self, lane: u8) -> &Lane {
        self.lanes[usize::from(lane)].get_or_init(|| self.derive_lane(lane))
    }

    #[cold]
    fn opening_key(&self, lane: u8) -> AeadKey {
        let [to_responder, to_initiator] = self.lane_keys(lane);
        AeadKey::new(self.suite, if self.initiator { &to_initiator } else { &to_responder })
    }

    #[cold]
    fn derive_lane(&self, lane: u8) -> Box<Lane> {
        let [to_responder, to_initiator] = self.lane_keys(lane);
        let (sealing, opening) =
            if self.initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
        Box::new(Lane {
            sealing: AeadKey::new(self.suite, &sealing),
            opening: AeadKey::new(self.suite, &opening),
            next_counter: AtomicU64::new(0),
            window: Mutex::new(ReplayWindow::new()),
        })
    }

    /// What seals packets on `lane`, which is below [`LANES`], and 0 in a WireGuard session. (A lane the
    /// session does not have is a bug of the caller's: it is reduced to one it has, and caught in debug
    /// builds.)
    #[inline]
    pub fn sealer(&self, lane: u8) -> Sealer<'_> {
        debug_assert!(usize::from(lane) < self.lane_count(), "lane {lane} of a {:?} session", self.protocol);
        let lane = (usize::from(lane) % self.lane_count()) as u8;
        Sealer {
            lane: self.lane(lane),
            header_prefix: header_prefix(self.protocol, lane, self.remote_index),
            authenticate_header: self.protocol == Protocol::ShadowMesh,
        }
    }

    /// What opens packets of `lane`. It holds the lane's replay window: keep it for a run of packets, not for
    /// longer.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownLane`] if the session has no such lane.
    #[inline]
    pub fn opener(&self, lane: u8) -> Result<Opener<'_>, OpenError> {
        if usize::from(lane) >= self.lane_count() {
            return Err(OpenError::UnknownLane);
        }
        Ok(Opener {
            session: self,
            lane: match self.lanes[usize::from(lane)].get() {
                Some(state) => LaneKey::kept(state),
                None => LaneKey::Tried(self.opening_key(lane)),
            },
            header_prefix: header_prefix(self.protocol, lane, self.local_index),
            authenticate_header: self.protocol == Protocol::ShadowMesh,
        })
    }

    /// How many lanes hold keys.
    pub fn lanes_in_use(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.get().is_some()).count()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("remote", &self.remote)
            .field("protocol", &self.protocol)
            .field("suite", &self.suite)
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .finish_non_exhaustive()
    }
}

/// Seals packets on one lane of a session: first [`reserve`](Self::reserve) counters, then
/// [`seal`](Self::seal) a packet with each.
pub struct Sealer<'a> {
    lane: &'a Lane,
    header_prefix: [u8; 8],
    authenticate_header: bool,
}

impl Sealer<'_> {
    /// Reserves `count` consecutive counters and returns the first. A counter that is not used is merely
    /// lost.
    ///
    /// # Errors
    ///
    /// [`Exhausted`] if that would reach [`limits::REJECT_AFTER_MESSAGES`]; nothing is reserved then.
    #[inline]
    pub fn reserve(&self, count: u64) -> Result<u64, Exhausted> {
        // Not `fetch_add`: refused attempts must not move the counter, lest it wrap and a nonce return.
        self.lane
            .next_counter
            .fetch_update(Relaxed, Relaxed, |next| {
                next.checked_add(count).filter(|&end| end <= limits::REJECT_AFTER_MESSAGES)
            })
            .map_err(|_| Exhausted)
    }

    /// Seals a packet in place. `packet` is [`HEADER_LEN`] bytes of room, the plaintext, and [`TAG_LEN`]
    /// bytes of room; all of it is the datagram to send afterwards.
    ///
    /// `counter` comes from [`reserve`](Self::reserve) and is used for this packet only: sealing two
    /// different packets with one counter gives both of them away.
    ///
    /// # Panics
    ///
    /// If `packet` is shorter than a header and a tag.
    #[inline]
    pub fn seal(&self, counter: u64, packet: &mut [u8]) {
        debug_assert!(counter < self.lane.next_counter.load(Relaxed), "counter {counter} was never reserved");
        let (header, rest) = packet.split_at_mut(HEADER_LEN);
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        header[..8].copy_from_slice(&self.header_prefix);
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let associated_data: &[u8] = if self.authenticate_header { header } else { &[] };
        self.lane.sealing.seal(counter_nonce(counter), associated_data, text, tag);
    }
}

impl fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("lane", &self.header_prefix[1]).finish_non_exhaustive()
    }
}

/// Opens packets of one lane of a session, and holds that lane's replay window meanwhile.
pub struct Opener<'a> {
    session: &'a Session,
    lane: LaneKey<'a>,
    header_prefix: [u8; 8],
    authenticate_header: bool,
}

/// What an opener opens with.
enum LaneKey<'a> {
    /// A lane that is in use.
    Kept { key: &'a AeadKey, window: MutexGuard<'a, ReplayWindow> },
    /// The key of a lane on which nothing authentic was seen yet: headers can be made up, and shall not make lanes.
    Tried(AeadKey),
}

impl Opener<'_> {
    /// Opens a datagram in place: on success the plaintext is
    /// `packet[HEADER_LEN..packet.len() - TAG_LEN]`.
    ///
    /// # Errors
    ///
    /// Why the packet is refused; it has had no effect, but its contents are undefined now.
    #[inline]
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opened, OpenError> {
        let (header, rest) = packet.split_first_chunk_mut::<HEADER_LEN>().ok_or(OpenError::Truncated)?;
        let (text, tag) = rest.split_at_mut(rest.len().checked_sub(TAG_LEN).ok_or(OpenError::Truncated)?);
        let (prefix, counter) = header.split_at(8);
        // WireGuard does not authenticate the header, but a packet of this lane can have only this one.
        if prefix != self.header_prefix {
            return Err(OpenError::Forged);
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(counter);
        let counter = u64::from_le_bytes(bytes);
        if counter >= limits::REJECT_AFTER_MESSAGES {
            return Err(OpenError::Expired);
        }
        // A replay is refused before the work of decrypting it; a counter is recorded only once its packet is
        // authentic.
        let associated_data: &[u8] = if self.authenticate_header { header } else { &[] };
        let nonce = counter_nonce(counter);
        match &mut self.lane {
            LaneKey::Kept { key, window } => {
                window.check(counter)?;
                key.open(nonce, associated_data, text, tag).map_err(|_| OpenError::Forged)?;
                Ok(Opened { counter, newest: window.record(counter) })
            }
            LaneKey::Tried(key) => {
                key.open(nonce, associated_data, text, tag).map_err(|_| OpenError::Forged)?;
                self.first_on_lane(counter)
            }
        }
    }

    /// A packet has shown that the lane is in use. Another thread may have come first with a packet of the same lane.
    #[cold]
    fn first_on_lane(&mut self, counter: u64) -> Result<Opened, OpenError> {
        let mut kept = LaneKey::kept(self.session.lane(self.header_prefix[1]));
        let LaneKey::Kept { window, .. } = &mut kept else { return Err(OpenError::UnknownLane) };
        let fresh = window.check(counter).map(|()| window.record(counter));
        self.lane = kept;
        Ok(Opened { counter, newest: fresh? })
    }
}

impl<'a> LaneKey<'a> {
    #[inline]
    fn kept(lane: &'a Lane) -> Self {
        // Nothing that runs under this lock can panic halfway through a change to the window, so it is whole.
        let window = lane.window.lock().unwrap_or_else(PoisonError::into_inner);
        Self::Kept { key: &lane.opening, window }
    }
}

impl fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("lane", &self.header_prefix[1]).finish_non_exhaustive()
    }
}
