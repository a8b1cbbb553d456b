//! The streams between two nodes that know each other: one [`Session`] at a time, begun when somebody first wants a stream, and
//! begun anew after either node has lost it.
//!
//! It runs over datagrams that are already encrypted and authentic, between the same two ends for ever, while a session
//! dies with the process at either end. So each datagram says which session it is of:
//!
//! ```text
//!  0     1..4     5..
//!  kind  session  a datagram of the session
//!
//!  client                    server
//!    ── BEGIN s ──────────────►    the server lets go of any other session
//!    ◄───────────── BEGUN s ──
//!    ◄══════════ DATA s ══════►
//!                                  a server that wants a session asks for one:
//!    ◄───────────────── WANT ──
//!    ◄──────────── UNKNOWN s ──    whoever knows nothing of s says so, and the other end lets go of it
//! ```
//!
//! The numbers of sessions begin at random. The roles are fixed once, by any rule on which both agree. A session without
//! streams is let go after a while, without a word: nothing is sent between two nodes that have nothing to say.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::session::{DropReason, Session, SessionConfig, SessionError};
use crate::smux::Role;

/// Bytes before a datagram of the session.
pub const HEADER_LEN: usize = 5;

/// How long a session without streams is kept.
const IDLE: Duration = Duration::from_secs(30);
/// The first and the longest wait before BEGIN or WANT is repeated.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long to go on asking: whoever still wants a session then asks again.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two UNKNOWN: one is enough, and its loss does not matter.
const UNKNOWN_INTERVAL: Duration = Duration::from_millis(100);

/// What a datagram is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Data = 0,
    Begin = 1,
    Begun = 2,
    Want = 3,
    Unknown = 4,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        [Self::Data, Self::Begin, Self::Begun, Self::Want, Self::Unknown]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why a session, and all its streams, ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Ended {
    /// The session itself failed.
    #[error(transparent)]
    Failed(#[from] SessionError),
    /// The other end has lost the session: it was restarted.
    #[error("the peer was restarted")]
    Restarted,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// It is no datagram of an association.
    #[error("not a datagram of streams")]
    Malformed,
    /// It is of another session than the present one.
    #[error("of a session that is not known")]
    UnknownSession,
    /// The session dropped it.
    #[error(transparent)]
    Session(#[from] DropReason),
}

/// Asking for a session until there is one.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// The number it shall have; for the server, which does not choose, 0.
    id: u32,
    next: Instant,
    wait: Duration,
    until: Instant,
}

/// The streams between two nodes. See the [module](self).
///
/// As with the [`Session`] inside: after any call take all datagrams from [`poll_transmit`](Self::poll_transmit), then wait
/// until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Association {
    role: Role,
    config: SessionConfig,
    /// The number of the next session, at the client.
    next_id: u32,
    session: Option<Session>,
    asking: Option<Asking>,
    /// A message to send, with the number it is about.
    reply: Option<(Kind, u32)>,
    unknown_again: Option<Instant>,
    idle_since: Option<Instant>,
    ended: Option<Ended>,
    /// Bytes that a session may hold, if anybody has said.
    memory_max: Option<usize>,
}

impl Association {
    /// An association without a session. `role` is the other one at the other end; `config.kcp.mtu` is the longest datagram of
    /// the association, [`HEADER_LEN`] included. `seed` is random: sessions are numbered from there, so that a process has
    /// other numbers than the one before it.
    pub fn new(role: Role, mut config: SessionConfig, seed: u32) -> Self {
        config.kcp.mtu = config.kcp.mtu.saturating_sub(HEADER_LEN);
        Self {
            role,
            config,
            next_id: seed.max(1),
            session: None,
            asking: None,
            reply: None,
            unknown_again: None,
            idle_since: None,
            ended: None,
            memory_max: None,
        }
    }

    /// From now on, the longest datagram of the association, in bytes, [`HEADER_LEN`] included: the path passes less, or more
    /// again. The session stands.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.config.kcp.mtu = mtu.saturating_sub(HEADER_LEN);
        if let Some(session) = &mut self.session {
            session.set_mtu(self.config.kcp.mtu);
        }
    }

    /// From now on, a session holds at most about `bytes`.
    pub fn set_memory(&mut self, bytes: usize) {
        if self.memory_max != Some(bytes) {
            self.memory_max = Some(bytes);
            if let Some(session) = &mut self.session {
                session.set_memory(bytes);
            }
        }
    }

    /// The session, if there is one.
    pub fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// The number of the session, by which a user knows that it is still the one of its stream.
    pub fn session_id(&self) -> Option<u32> {
        self.session.as_ref().map(Session::conversation)
    }

    /// Somebody wants a session: begins one, or asks the other end to, unless there is one or this is under way. Call it
    /// again while it is still wanted: it is given up after ten seconds.
    pub fn want(&mut self, now: Instant) {
        if self.session.is_none() && self.asking.is_none() {
            let id = match self.role {
                Role::Client => self.next_id,
                Role::Server => 0,
            };
            self.next_id = self.next_id.wrapping_add(1).max(1);
            self.asking = Some(Asking { id, next: now, wait: RETRY.0, until: now + GIVE_UP });
        }
    }

    /// Why the last session ended, once, if it had not been idle.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// Hands in what has arrived.
    ///
    /// # Errors
    /// [`Refused`]: it was dropped, or the rest of it.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), Refused> {
        let (&[kind, a, b, c, d], body) =
            datagram.split_first_chunk::<HEADER_LEN>().ok_or(Refused::Malformed)?;
        let kind = Kind::parse(kind).ok_or(Refused::Malformed)?;
        let id = u32::from_le_bytes([a, b, c, d]);
        if kind != Kind::Data && !body.is_empty() {
            return Err(Refused::Malformed);
        }
        match (kind, self.role) {
            (Kind::Data, _) => self.handle_data(id, body, now),
            (Kind::Begin, Role::Server) => {
                if self.session_id() != Some(id) {
                    self.end(Ended::Restarted);
                    self.begin(id, now);
                }
                self.reply = Some((Kind::Begun, id));
                Ok(())
            }
            (Kind::Begun, Role::Client) => {
                self.begin_asked(id, now);
                Ok(())
            }
            (Kind::Want, Role::Client) => {
                self.want(now);
                Ok(())
            }
            (Kind::Unknown, _) => {
                if self.session_id() == Some(id) {
                    self.end(Ended::Restarted);
                }
                Ok(())
            }
            (Kind::Begin, Role::Client) | (Kind::Begun | Kind::Want, Role::Server) => Err(Refused::Malformed),
        }
    }

    fn handle_data(&mut self, id: u32, body: &[u8], now: Instant) -> Result<(), Refused> {
        // A server that sends has begun, whatever became of its BEGUN.
        if self.role == Role::Client {
            self.begin_asked(id, now);
        }
        match &mut self.session {
            Some(session) if session.conversation() == id => {
                session.handle_datagram(body, now)?;
                self.check(now);
                Ok(())
            }
            _ => {
                if self.unknown_again.is_none_or(|at| now >= at) {
                    self.unknown_again = Some(now + UNKNOWN_INTERVAL);
                    self.reply = Some((Kind::Unknown, id));
                }
                Err(Refused::UnknownSession)
            }
        }
    }

    /// The client's session stands, if this is the one it asked for.
    fn begin_asked(&mut self, id: u32, now: Instant) {
        if self.asking.is_some_and(|asking| asking.id == id) {
            self.begin(id, now);
        }
    }

    fn begin(&mut self, id: u32, now: Instant) {
        self.asking = None;
        self.idle_since = Some(now);
        let mut session = Session::new(self.role, id, self.config.clone(), now);
        if let Some(bytes) = self.memory_max {
            session.set_memory(bytes);
        }
        self.session = Some(session);
    }

    fn end(&mut self, why: Ended) {
        if let Some(mut session) = self.session.take()
            && session.streams().streams() > 0
        {
            self.ended = Some(why);
        }
    }

    /// Ends a session that has failed, and lets go of one that nobody uses.
    fn check(&mut self, now: Instant) {
        let Some(session) = &mut self.session else { return };
        if let Some(error) = session.error() {
            self.end(error.into());
        } else if session.streams().streams() > 0 {
            self.idle_since = None;
        } else if *self.idle_since.get_or_insert(now) + IDLE <= now {
            self.session = None;
        }
    }

    /// Writes the next datagram into `buf`, which has room for the largest MTU that was ever set, and returns its length; `None`
    /// when nothing is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        let (header, body) = buf.split_first_chunk_mut::<HEADER_LEN>()?;
        let mut write = |kind: Kind, id: u32| {
            header[0] = kind as u8;
            header[1..].copy_from_slice(&id.to_le_bytes());
        };
        if let Some((kind, id)) = self.reply.take() {
            write(kind, id);
            return Some(HEADER_LEN);
        }
        if let Some(asking) = &mut self.asking
            && asking.next <= now
        {
            asking.next = now + asking.wait;
            asking.wait = (asking.wait * 2).min(RETRY.1);
            write(if self.role == Role::Client { Kind::Begin } else { Kind::Want }, asking.id);
            return Some(HEADER_LEN);
        }
        let session = self.session.as_mut()?;
        let len = session.poll_transmit(now, body)?;
        write(Kind::Data, session.conversation());
        Some(HEADER_LEN + len)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let asking = self.asking.map(|asking| (asking.next.min(asking.until), "session asked for"));
        let idle = self.idle_since.filter(|_| self.session.is_some()).map(|at| (at + IDLE, "session idle"));
        let session = self.session.as_ref().and_then(Session::poll_timeout);
        [asking, idle, session].into_iter().flatten().min()
    }

    /// Does what time has brought.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.asking.is_some_and(|asking| asking.until <= now) {
            self.asking = None;
        }
        if let Some(session) = &mut self.session {
            session.handle_timeout(now);
        }
        self.check(now);
    }

    /// Bytes of memory that the session holds.
    pub fn memory(&self) -> usize {
        self.session.as_ref().map_or(0, Session::memory)
    }
}
