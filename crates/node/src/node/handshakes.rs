//! The handshakes that we begin, and what becomes of the sessions that any make. Those of others: `answers.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carrier::Endpoint;
use handshake::{
    HandshakeError, Initiation, InitiationOptions, MessageKind, Protocol, Session, classify, limits,
    receiver_index,
};
use rand_core::Rng;

use super::{Caller, Node};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::{Action, Datagram, Notice};
use crate::peer::{Attempt, Purpose, Waiting};

/// So many false responses to one try are worth what they cost.
const FALSE_RESPONSES_MAX: u32 = 8;
/// How long a native peer has to answer, by the number of tries. WireGuard's 5 s stay as they are in its protocol.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), limits::REKEY_TIMEOUT];
/// After a place that nothing can be sent to, the next one is called so soon (RFC 8305 §5, "Connection Attempt Delay"), in the first
/// round.
const NEXT_PLACE_AFTER: Duration = Duration::from_millis(250);
/// Up to this much is added to each, so that peers do not keep step.
const JITTER_MS: u32 = 333;
/// A peer that something authentic came from so recently is where it was.
const SIGN_OF_LIFE: Duration = Duration::from_millis(2_500);
/// After this many unanswered tries the host name is looked up again.
const RESOLVE_AFTER: u32 = 2;

impl Node {
    /// Begins a handshake, unless one is under way.
    pub(super) fn begin_handshake(&mut self, now: Instant, peer: PeerId) {
        let Some(p) = self.peers.get(peer.0 as usize) else { return };
        if p.attempt.is_none() {
            self.send_initiation(now, peer, 0, now);
        }
    }

    /// Sends an initiation, fresh in every part, that replaces the one before.
    fn send_initiation(&mut self, now: Instant, peer: PeerId, tries: u32, since: Instant) {
        self.abandon_attempt(peer);
        let protocol = self.peers[peer.0 as usize].keys.protocol();
        let p = &self.peers[peer.0 as usize];
        let alive = p.current.is_some()
            && p.state.last_received.get(self.start).is_some_and(|at| now < at + SIGN_OF_LIFE);
        let Some((to, turns)) = p.places.turn(tries, p.endpoint, alive) else { return };
        let elsewhere = p.endpoint != Some(to);
        self.dial(peer, to);
        let Some(local_index) = self.slots.allocate(peer, &mut self.rng) else { return };
        let timestamp = self.next_timestamp(now, peer);
        let p = &mut self.peers[peer.0 as usize];
        let options = InitiationOptions {
            local_index,
            timestamp,
            suite: self.suite,
            split: p.split,
            cookie: p.cookies.current(now),
        };
        let (initiation, datagrams) = Initiation::start(&self.identity, &p.keys, options, &mut self.rng);
        for contents in datagrams.iter() {
            let source = p.local.filter(|_| !elsewhere);
            self.transmits.push_back(Datagram { to, source, contents: contents.to_vec() });
        }
        let patience = match protocol {
            Protocol::WireGuard => limits::REKEY_TIMEOUT,
            Protocol::ShadowMesh => RETRY_AFTER[(turns as usize).min(RETRY_AFTER.len() - 1)],
        };
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % JITTER_MS));
        p.attempt = Some(Attempt {
            initiation,
            to,
            elsewhere,
            sent_at: now,
            retry_at: now + patience + jitter,
            tries: tries + 1,
            since,
            cookie_taken: false,
            false_responses: 0,
        });
    }

    /// Tries once more, or gives up.
    pub(super) fn retry_handshake(&mut self, now: Instant, peer: PeerId) {
        let p = &mut self.peers[peer.0 as usize];
        let Some(attempt) = &p.attempt else { return };
        let (tries, since) = (attempt.tries, attempt.since);
        if now >= since + limits::REKEY_ATTEMPT_TIME {
            self.abandon_attempt(peer);
            self.notice(Notice::HandshakeFailed { peer });
            return;
        }
        let to = attempt.to;
        self.redial(peer, to);
        let p = &mut self.peers[peer.0 as usize];
        // Perhaps the path is too narrow for a whole initiation, perhaps it merely lost one: take turns, each place for
        // itself.
        if (tries as usize).is_multiple_of(p.places.all().len().max(1)) {
            p.split = !p.split && p.keys.protocol() == Protocol::ShadowMesh;
        }
        // Perhaps our address is not the right one any more, although we still have it.
        self.stale |= p.local.take().is_some();
        if tries >= RESOLVE_AFTER {
            self.actions.push_back(Action::Resolve(peer));
        }
        self.send_initiation(now, peer, tries, since);
    }

    /// An initiation could not be sent to `place`: the peer's other places need not wait for an answer from there.
    pub(super) fn hurry_handshake(&mut self, now: Instant, place: Endpoint) {
        for peer in &mut self.peers {
            let places = peer.places.all().len();
            let Some(attempt) = peer.attempt.as_mut().filter(|attempt| attempt.to == place) else { continue };
            if (attempt.tries as usize) < places {
                attempt.retry_at = attempt.retry_at.min(now + NEXT_PLACE_AFTER);
            }
        }
    }

    pub(super) fn abandon_attempt(&mut self, peer: PeerId) {
        if let Some(attempt) = self.peers[peer.0 as usize].attempt.take() {
            self.slots.release(attempt.initiation.local_index());
        }
    }

    /// Takes a handshake message from the network.
    pub(super) fn handle_message(&mut self, now: Instant, caller: Caller, message: &[u8]) {
        let result = match classify(message) {
            Some(MessageKind::CookieReply(_)) => self.handle_cookie_reply(now, message),
            Some(MessageKind::Response(_)) => self.handle_response(now, caller, message),
            Some(MessageKind::InitiationPart2) => self.handle_part2(now, caller, message),
            Some(MessageKind::Initiation(_)) => {
                self.admit(now, caller, message).and_then(|asking| self.handle_whole(now, asking))
            }
            Some(MessageKind::InitiationPart1) => {
                self.admit(now, caller, message).and_then(|asking| self.handle_part1(now, asking))
            }
            Some(MessageKind::Data(_)) | None => Err(DropReason::UnknownMessage),
        };
        if let Err(reason) = result {
            self.drops.add(reason, 1);
        }
    }

    /// A response counts only where an attempt of ours waits for one, and then it needs no cookie: a node under load can finish
    /// what it has begun. Anybody who sees the index can answer a WireGuard initiation with junk that costs two Diffie–Hellman
    /// operations; after a few of them in one try, only proved senders are heard. (A native response has a first MAC that
    /// only the peer can make.)
    fn handle_response(&mut self, now: Instant, caller: Caller, message: &[u8]) -> Result<(), DropReason> {
        let peer = receiver_index(message)
            .and_then(|index| self.slots.owner(index))
            .ok_or(DropReason::HandshakeUnexpected)?;
        let waiting =
            |attempt: &&mut Attempt| Some(attempt.initiation.local_index()) == receiver_index(message);
        let p = &mut self.peers[peer.0 as usize];
        let attempt = p.attempt.as_mut().filter(waiting).ok_or(DropReason::HandshakeUnexpected)?;
        if attempt.false_responses >= FALSE_RESPONSES_MAX {
            self.admit_response(now, caller, peer, message)?;
        }
        let p = &mut self.peers[peer.0 as usize];
        let attempt = p.attempt.as_mut().filter(waiting).ok_or(DropReason::HandshakeUnexpected)?;
        let session = match attempt.initiation.finish(&self.identity, &p.keys, message, now) {
            Ok(session) => Arc::new(session),
            Err(error) => {
                let cheap = matches!(error, HandshakeError::InvalidMac1 | HandshakeError::Malformed);
                attempt.false_responses += u32::from(!cheap);
                return Err(reason(error));
            }
        };
        let took = now.saturating_duration_since(attempt.sent_at);
        p.handshake_took = Some(took);
        let (to, elsewhere) = (attempt.to, attempt.elsewhere);
        p.attempt = None; // its slot is the session's now
        // A response can be captured and sent on from elsewhere just as an initiation can: the peer is where we called.
        let mut endpoint = p.endpoint.unwrap_or(caller.from);
        p.unconfirmed.pass_over();
        let done = p.switch_to(session);
        self.retire(&done);
        if elsewhere {
            endpoint = to;
            self.peers[peer.0 as usize].local = None;
            self.move_to(now, peer, to);
            self.peers[peer.0 as usize].places.prove();
        }
        self.established(now, peer, endpoint, Some(took));
        Ok(())
    }

    /// Has the sender of a response prove its address.
    fn admit_response(
        &mut self,
        now: Instant,
        caller: Caller,
        peer: PeerId,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let from = caller.from.address;
        if !self.cookies.verify_response_mac1(&self.peers[peer.0 as usize].keys, message) {
            return Err(DropReason::HandshakeMac);
        }
        if self.cookies.verify_mac2(now, message, from) {
            return self.charge(now, caller);
        }
        if self.may_reply(now, caller) {
            let keys = &self.peers[peer.0 as usize].keys;
            let reply = self.cookies.reply_to_response(now, keys, message, from, &mut self.rng);
            self.transmits.push_back(caller.answer(reply.to_vec()));
        }
        Err(DropReason::HandshakeNoCookie)
    }

    /// A cookie answers an initiation of ours, which is sent again with it, or a response, and then the next one has it.
    fn handle_cookie_reply(&mut self, now: Instant, message: &[u8]) -> Result<(), DropReason> {
        let index = receiver_index(message).ok_or(DropReason::HandshakeUnexpected)?;
        let peer = self.slots.owner(index).ok_or(DropReason::HandshakeUnexpected)?;
        let p = &mut self.peers[peer.0 as usize];
        let Some(attempt) = p.attempt.as_mut().filter(|attempt| attempt.initiation.local_index() == index)
        else {
            let mut answered = p.unconfirmed.answered();
            let answered = answered.find(|answered| answered.session.local_index() == index);
            let mac1 = answered.ok_or(DropReason::HandshakeUnexpected)?.response_mac1;
            return p.cookies.consume_for_response(now, message, &mac1).map_err(reason);
        };
        p.cookies.consume(now, message, attempt.initiation.last_mac1()).map_err(reason)?;
        // Once a try: whoever can read our initiations shall not make us send them in a circle.
        if !std::mem::replace(&mut attempt.cookie_taken, true) {
            let (tries, since) = (attempt.tries, attempt.since);
            self.send_initiation(now, peer, tries, since);
            if let Some(attempt) = &mut self.peers[peer.0 as usize].attempt {
                attempt.cookie_taken = true;
            }
        }
        Ok(())
    }

    /// A new session is in use.
    pub(super) fn established(
        &mut self,
        now: Instant,
        peer: PeerId,
        endpoint: Endpoint,
        took: Option<Duration>,
    ) {
        self.stale = true;
        let p = &mut self.peers[peer.0 as usize];
        p.unanswered_since = None;
        let post_quantum = p.current.as_ref().is_some_and(|session| session.post_quantum());
        let first = !std::mem::replace(&mut p.connected, true);
        let native = p.keys.protocol() == Protocol::ShadowMesh;
        let pings = std::mem::take(&mut p.pings);
        self.notice(if first {
            Notice::Connected { peer, endpoint, handshake: took, post_quantum }
        } else {
            Notice::Rekeyed { peer }
        });
        for Waiting { id, deadline, place } in pings {
            self.probe_at(now, peer, Purpose::Ping { id, deadline }, place);
        }
        if native {
            self.probe(now, peer, Purpose::Path { confirms: None }); // measures the path, and confirms the session as well
        } else if took.is_some() {
            self.send_keepalive(now, peer); // the responder may not send before it hears from us
        }
    }

    /// Frees what belonged to sessions that nobody uses any more.
    pub(super) fn retire(&mut self, sessions: &[Arc<Session>]) {
        for session in sessions {
            self.slots.release(session.local_index());
            self.stale = true;
        }
    }
}

pub(super) fn reason(error: HandshakeError) -> DropReason {
    match error {
        HandshakeError::Malformed => DropReason::UnknownMessage,
        HandshakeError::InvalidMac1 => DropReason::HandshakeMac,
        HandshakeError::OtherHandshake | HandshakeError::AlreadyComplete => DropReason::HandshakeUnexpected,
        HandshakeError::OtherPeer | HandshakeError::UnknownPeer => DropReason::HandshakeUnknownPeer,
        _ => DropReason::HandshakeForged,
    }
}
