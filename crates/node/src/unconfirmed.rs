//! Initiations of one peer that have authenticated, but whose sender has not shown yet that he holds the peer's private key.
//!
//! Anybody who has our private key, or a quantum computer, can make initiations in a peer's name (and nothing more: see
//! "key-compromise impersonation" in the [`handshake`] crate), and anybody at all can repeat one that never came to anything.
//! So an initiation counts for nothing before a packet in its session has opened: it does not make older ones replays, and it
//! takes nobody's place.
//!
//! ```text
//!  there is room              ─► taken
//!  no room, address unproved  ─► takes the place of one older than 10 s, or must show a cookie
//!  no room, address proved    ─► takes the place of one from the same network, else of an unproved one,
//!                                else of one older than 1 s
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handshake::{IncomingPart1, Session, Timestamp, limits};

/// How many of one peer wait at a time: as many as it sends in [`LIFE`] when it gets no answer, and one more.
pub(crate) const UNCONFIRMED_MAX: usize = 5;
/// So long an initiation keeps its place against all that cannot prove their address, and a repetition of it is refused.
const LIFE: Duration = Duration::from_secs(10);
/// So long it keeps its place against those that can: several round trips.
const ROUND_TRIPS: Duration = Duration::from_secs(1);
/// The first half of an initiation waits this long for the second.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// What one host can have to itself: an IPv4 address, or the /64 of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(u64, bool);

impl Network {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u32::from(address).into(), false),
            IpAddr::V6(address) => Self((u128::from(address) >> 64) as u64, true),
        }
    }

    /// A number for hashing.
    pub(crate) fn number(self) -> u64 {
        self.0 ^ u64::from(self.1) << 63
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    /// The first MAC of the initiation, or of its first part, which tells it from every other: two may have one timestamp.
    pub(crate) mac1: [u8; 16],
    pub(crate) timestamp: Timestamp,
    pub(crate) since: Instant,
    pub(crate) network: Network,
    /// The sender has shown by a cookie that it receives at its address.
    pub(crate) proved: bool,
    pub(crate) stage: Stage,
}

/// How far it has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its second part is missing.
    Half(Box<IncomingPart1>),
    /// It was answered.
    Answered(Answered),
}

/// A session that we made by answering, and that the peer has not used.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) session: Arc<Session>,
    /// The first MAC of the response, to which a cookie reply is bound.
    pub(crate) response_mac1: [u8; 16],
    /// The initiation came in two parts.
    pub(crate) split: bool,
    /// We have come to a session of our own meanwhile: the peer may send on this one, we shall not.
    pub(crate) passed_over: bool,
}

/// Where one more can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    InPlaceOf(usize),
}

/// Those of one peer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct UnconfirmedSet(Vec<Unconfirmed>);

impl UnconfirmedSet {
    /// Whether the initiation with that first MAC is one of these again.
    pub(crate) fn knows(&self, now: Instant, mac1: &[u8; 16]) -> bool {
        self.0.iter().any(|known| known.mac1 == *mac1 && now < known.since + LIFE)
    }

    /// Where one more can go, if anywhere.
    pub(crate) fn room(&self, now: Instant, network: Network, proved: bool) -> Option<Room> {
        if self.0.len() < UNCONFIRMED_MAX {
            return Some(Room::Free);
        }
        let older_than = |age| self.0.iter().position(|known| now >= known.since + age);
        let found = if proved {
            let theirs = self.0.iter().position(|known| known.network == network);
            theirs
                .or_else(|| self.0.iter().position(|known| !known.proved))
                .or_else(|| older_than(ROUND_TRIPS))
        } else {
            older_than(LIFE)
        };
        found.map(Room::InPlaceOf)
    }

    /// Puts one there. Returns the session that had to go for it.
    pub(crate) fn put(&mut self, room: Room, new: Unconfirmed) -> Option<Arc<Session>> {
        let gone = match room {
            Room::InPlaceOf(at) if at < self.0.len() => Some(self.0.remove(at)),
            Room::InPlaceOf(_) | Room::Free => None,
        };
        self.0.push(new);
        gone.and_then(Unconfirmed::into_session)
    }

    /// The first parts that wait for their second, and the first MAC of each.
    pub(crate) fn halves(&self) -> impl Iterator<Item = (&[u8; 16], &IncomingPart1)> {
        self.0.iter().filter_map(|known| match &known.stage {
            Stage::Half(part1) => Some((&known.mac1, &**part1)),
            Stage::Answered(_) => None,
        })
    }

    /// Takes the first part with that first MAC out. There is room for what becomes of it.
    pub(crate) fn take_half(&mut self, mac1: &[u8; 16]) -> Option<Unconfirmed> {
        let half = |known: &Unconfirmed| known.mac1 == *mac1 && matches!(known.stage, Stage::Half(_));
        self.0.iter().position(half).map(|at| self.0.remove(at))
    }

    /// What was answered.
    pub(crate) fn answered(&self) -> impl Iterator<Item = &Answered> {
        self.0.iter().filter_map(|known| match &known.stage {
            Stage::Answered(answered) => Some(answered),
            Stage::Half(_) => None,
        })
    }

    /// The peer has used the session with that index. Returns it, with its timestamp, and the sessions that were begun before it:
    /// whoever has begun anew has given those up.
    pub(crate) fn confirm(&mut self, local_index: u32) -> Option<(Timestamp, Answered, Vec<Arc<Session>>)> {
        let this = |known: &Unconfirmed| matches!(&known.stage, Stage::Answered(answered) if answered.session.local_index() == local_index);
        let found = self.0.remove(self.0.iter().position(this)?);
        let Stage::Answered(answered) = found.stage else { return None };
        let older = self.remove_if(|known| known.timestamp <= found.timestamp);
        Some((found.timestamp, answered, older))
    }

    /// We have come to a session of our own.
    pub(crate) fn pass_over(&mut self) {
        for known in &mut self.0 {
            if let Stage::Answered(answered) = &mut known.stage {
                answered.passed_over = true;
            }
        }
    }

    /// Ends what has waited too long. Returns the sessions among it.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Arc<Session>> {
        self.remove_if(|known| {
            let life = match known.stage {
                Stage::Half(_) => HALF_LIFE,
                Stage::Answered(_) => limits::REJECT_AFTER_TIME,
            };
            now >= known.since + life
        })
    }

    /// Takes out those that fulfil `done`. Returns their sessions.
    fn remove_if(&mut self, mut done: impl FnMut(&Unconfirmed) -> bool) -> Vec<Arc<Session>> {
        self.0.extract_if(.., |known| done(known)).filter_map(Unconfirmed::into_session).collect()
    }
}

impl Unconfirmed {
    fn into_session(self) -> Option<Arc<Session>> {
        match self.stage {
            Stage::Answered(answered) => Some(answered.session),
            Stage::Half(_) => None,
        }
    }
}
