//! Handshake messages in and out, and what becomes of the sessions they make.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrier::Endpoint;
use handshake::{
    HandshakeError, Incoming, IncomingPart1, Initiation, InitiationOptions, MessageKind, Protocol, PublicKey,
    Session, Timestamp, classify, limits, receiver_index,
};
use rand_core::Rng;

use super::{Caller, Node};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::{Action, Datagram, Notice};
use crate::peer::{Attempt, Purpose, Waiting};

/// The least time between two initiations that one peer may have answered, in the long run (WireGuard uses the same).
const INITIATION_SPACING: Duration = Duration::from_millis(20);
/// So many may come at once: a node that has just started finds all that its peer has tried meanwhile in its socket, and
/// only the last one counts.
const INITIATION_BURST: u32 = 5;
/// The first half of an initiation waits this long for the second.
const PART1_LIFE: Duration = Duration::from_secs(5);
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
        let timestamp = self.next_timestamp(now, protocol);
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

    fn abandon_attempt(&mut self, peer: PeerId) {
        if let Some(attempt) = self.peers[peer.0 as usize].attempt.take() {
            self.slots.release(attempt.initiation.local_index());
        }
    }

    /// Takes a handshake message from the network.
    pub(super) fn handle_message(&mut self, now: Instant, caller: Caller, message: &[u8]) {
        let result = match classify(message) {
            Some(MessageKind::CookieReply(_)) => self.handle_cookie_reply(now, message),
            Some(MessageKind::Data(_)) | None => Err(DropReason::UnknownMessage),
            Some(kind) => self.admit(now, caller, message).and_then(|()| match kind {
                MessageKind::Initiation(_) => {
                    let Self { identity, by_key, peers, .. } = self;
                    let find = |key: &PublicKey| Some(&peers[by_key.get(key)?.0 as usize].keys);
                    let incoming = Incoming::receive_from(identity, message, find).map_err(reason)?;
                    self.handle_initiation(now, caller, incoming)
                }
                MessageKind::InitiationPart1 => self.handle_part1(now, message),
                MessageKind::InitiationPart2 => self.handle_part2(now, caller, message),
                _ => self.handle_response(now, caller.from, message),
            }),
        };
        if let Err(reason) = result {
            self.drops.add(reason, 1);
        }
    }

    /// The first MAC proves that the sender knows whom it talks to; under load, the second that it is where it says.
    fn admit(&mut self, now: Instant, caller: Caller, message: &[u8]) -> Result<(), DropReason> {
        let Caller { from, .. } = caller;
        if !self.cookies.verify_mac1(message) {
            return Err(DropReason::HandshakeMac);
        }
        if !self.load.arrived(now) {
            return Ok(());
        }
        if !self.cookies.verify_mac2(now, message, from.address) {
            let reply = self.cookies.reply(now, message, from.address, &mut self.rng);
            self.transmits.push_back(caller.answer(reply.to_vec()));
            return Err(DropReason::HandshakeNoCookie);
        }
        if self.load.admit(now, from.address.ip()) { Ok(()) } else { Err(DropReason::HandshakeRate) }
    }

    /// Whether an authenticated initiation is news.
    fn check_fresh(
        &mut self,
        now: Instant,
        remote: PublicKey,
        protocol: Protocol,
        timestamp: Timestamp,
    ) -> Result<PeerId, DropReason> {
        let &peer = self.by_key.get(&remote).ok_or(DropReason::HandshakeUnknownPeer)?;
        let p = &self.peers[peer.0 as usize];
        if p.keys.protocol() != protocol {
            return Err(DropReason::HandshakeUnknownPeer);
        }
        if timestamp <= p.greatest_timestamp {
            return Err(DropReason::HandshakeReplayed);
        }
        if p.initiations_paid_until
            .is_some_and(|until| until > now + INITIATION_SPACING * (INITIATION_BURST - 1))
        {
            return Err(DropReason::HandshakeRate);
        }
        Ok(peer)
    }

    fn handle_initiation(
        &mut self,
        now: Instant,
        caller: Caller,
        incoming: Incoming,
    ) -> Result<(), DropReason> {
        let timestamp = incoming.timestamp();
        let peer = self.check_fresh(now, incoming.remote(), incoming.protocol(), timestamp)?;
        let local_index = self.slots.allocate(peer, &mut self.rng).ok_or(DropReason::HandshakeBacklog)?;
        let p = &mut self.peers[peer.0 as usize];
        let cookie = p.cookies.current(now);
        let made = incoming.respond(&p.keys, local_index, cookie, now, &mut self.rng);
        let (response, session) = match made {
            Ok(made) => made,
            Err(error) => {
                self.slots.release(local_index);
                return Err(reason(error));
            }
        };
        p.greatest_timestamp = timestamp;
        p.initiations_paid_until =
            p.initiations_paid_until.max(Some(now)).map(|until| until + INITIATION_SPACING);
        p.part1 = None;
        let replaced = p.next.replace(Arc::new(session));
        self.retire(replaced.as_slice());
        // The path does not move yet: an initiation can be captured and sent on from elsewhere before the original
        // arrives. What the peer seals in the new session will tell where it is.
        self.transmits.push_back(caller.answer(response));
        self.stale = true;
        Ok(())
    }

    fn handle_part1(&mut self, now: Instant, message: &[u8]) -> Result<(), DropReason> {
        let Self { identity, by_key, peers, .. } = self;
        let find = |key: &PublicKey| Some(&peers[by_key.get(key)?.0 as usize].keys);
        let part1 = IncomingPart1::receive_from(identity, message, find).map_err(reason)?;
        let peer = self.check_fresh(now, part1.remote(), Protocol::ShadowMesh, part1.timestamp())?;
        self.peers[peer.0 as usize].part1 = Some((part1, now + PART1_LIFE));
        self.split_waiting.retain(|&waiting| waiting != peer);
        self.split_waiting.push(peer);
        Ok(())
    }

    fn handle_part2(&mut self, now: Instant, caller: Caller, message: &[u8]) -> Result<(), DropReason> {
        let Self { split_waiting, peers, .. } = self;
        let mut matches = split_waiting.iter().copied().filter_map(|peer| {
            let (part1, until) = peers[peer.0 as usize].part1.as_ref()?;
            (now < *until && part1.matches(message)).then_some((peer, part1))
        });
        let incoming =
            matches.find_map(|(peer, part1)| part1.complete(message).ok().map(|made| (peer, made)));
        let (peer, incoming) = incoming.ok_or(DropReason::HandshakeUnexpected)?;
        split_waiting.retain(|&waiting| waiting != peer);
        // The peer's path is narrow: ours to it is likely the same path.
        peers[peer.0 as usize].split = true;
        self.handle_initiation(now, caller, incoming)
    }

    fn handle_response(&mut self, now: Instant, from: Endpoint, message: &[u8]) -> Result<(), DropReason> {
        let peer = receiver_index(message)
            .and_then(|index| self.slots.owner(index))
            .ok_or(DropReason::HandshakeUnexpected)?;
        let p = &mut self.peers[peer.0 as usize];
        let attempt = p
            .attempt
            .as_mut()
            .filter(|attempt| Some(attempt.initiation.local_index()) == receiver_index(message))
            .ok_or(DropReason::HandshakeUnexpected)?;
        let made = attempt.initiation.finish(&self.identity, &p.keys, message, now);
        let session = Arc::new(made.map_err(reason)?);
        let took = now.saturating_duration_since(attempt.sent_at);
        p.handshake_took = Some(took);
        let (to, elsewhere) = (attempt.to, attempt.elsewhere);
        p.attempt = None; // its slot is the session's now
        // A response can be captured and sent on from elsewhere just as an initiation can: the peer is where we called.
        let mut endpoint = p.endpoint.unwrap_or(from);
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

    fn handle_cookie_reply(&mut self, now: Instant, message: &[u8]) -> Result<(), DropReason> {
        let peer = receiver_index(message)
            .and_then(|index| self.slots.owner(index))
            .ok_or(DropReason::HandshakeUnexpected)?;
        let p = &mut self.peers[peer.0 as usize];
        let attempt = p.attempt.as_mut().ok_or(DropReason::HandshakeUnexpected)?;
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

    /// The peer has used a session that we made by answering: from now on it is ours to send on.
    pub(super) fn confirm(&mut self, now: Instant, peer: PeerId, local_index: u32, local: Option<IpAddr>) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        let Some(session) = p.next.take_if(|next| next.local_index() == local_index) else { return };
        p.local = local;
        let endpoint = p.endpoint;
        let done = p.switch_to(session);
        self.retire(&done);
        self.abandon_attempt(peer); // the peer's handshake has done what ours was for
        if let Some(endpoint) = endpoint {
            self.established(now, peer, endpoint, None);
        }
    }

    /// A new session is in use.
    fn established(&mut self, now: Instant, peer: PeerId, endpoint: Endpoint, took: Option<Duration>) {
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

    /// Ends a first half that has waited in vain.
    pub(super) fn expire_part1(&mut self, now: Instant) {
        let Self { split_waiting, peers, .. } = self;
        split_waiting.retain(|peer| {
            let part1: &mut Option<_> = &mut peers[peer.0 as usize].part1;
            part1.take_if(|(_, until)| now >= *until);
            part1.is_some()
        });
    }
}

fn reason(error: HandshakeError) -> DropReason {
    match error {
        HandshakeError::Malformed => DropReason::UnknownMessage,
        HandshakeError::InvalidMac1 => DropReason::HandshakeMac,
        HandshakeError::OtherHandshake | HandshakeError::AlreadyComplete => DropReason::HandshakeUnexpected,
        HandshakeError::OtherPeer | HandshakeError::UnknownPeer => DropReason::HandshakeUnknownPeer,
        _ => DropReason::HandshakeForged,
    }
}
