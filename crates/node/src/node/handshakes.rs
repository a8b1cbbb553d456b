//! Handshake messages in and out, and what becomes of the sessions they make.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrier::Endpoint;
use handshake::{
    HandshakeError, Incoming, IncomingPart1, Initiation, InitiationOptions, MessageKind, Protocol, PublicKey,
    Session, Suite, Timestamp, classify, first_mac, limits, receiver_index,
};
use rand_core::Rng;

use super::{Caller, Node};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::{Action, Datagram, Notice};
use crate::peer::{Attempt, Peer, Purpose, Waiting};
use crate::unconfirmed::{Answered, Network, Room, Stage, Unconfirmed};

/// The least time between two initiations in one peer's name that are answered without a cookie, in the long run (WireGuard uses
/// the same).
const INITIATION_SPACING: Duration = Duration::from_millis(20);
/// So many may come at once: a node that has just started finds all that its peer has tried meanwhile in its socket, and
/// only the last one counts.
const INITIATION_BURST: u32 = 5;
/// So many false responses to one try are worth what they cost.
const FALSE_RESPONSES_MAX: u32 = 8;
/// How often the log is told of one peer that it asks for a cipher that is not used here.
const CIPHER_NOTICE_INTERVAL: Duration = Duration::from_mins(1);
/// How often the program is told to keep what was confirmed.
const KEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How long a native peer has to answer, by the number of tries. WireGuard's 5 s stay as they are in its protocol.
const RETRY_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), limits::REKEY_TIMEOUT];
/// Up to this much is added to each, so that peers do not keep step.
const JITTER_MS: u32 = 333;
/// A peer that something authentic came from so recently is where it was.
const SIGN_OF_LIFE: Duration = Duration::from_millis(2_500);
/// After this many unanswered tries the host name is looked up again.
const RESOLVE_AFTER: u32 = 2;

/// An initiation, or the first part of one, whose sender knows whom it talks to.
#[derive(Clone, Copy, Debug)]
struct Asking<'a> {
    caller: Caller,
    message: &'a [u8],
    mac1: [u8; 16],
    /// It has shown by a cookie that it receives at its address.
    proved: bool,
}

/// The same without the message.
#[derive(Clone, Copy, Debug)]
struct Asked {
    caller: Caller,
    mac1: [u8; 16],
    proved: bool,
}

impl From<Asking<'_>> for Asked {
    fn from(asking: Asking<'_>) -> Self {
        Self { caller: asking.caller, mac1: asking.mac1, proved: asking.proved }
    }
}

/// An initiation to be answered.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    asking: Asked,
    room: Room,
    split: bool,
}

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

    fn abandon_attempt(&mut self, peer: PeerId) {
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

    /// The first MAC proves that the sender of an initiation knows whom it talks to; the second, which is asked for under load,
    /// that it is where it says.
    fn admit<'a>(
        &mut self,
        now: Instant,
        caller: Caller,
        message: &'a [u8],
    ) -> Result<Asking<'a>, DropReason> {
        if !self.cookies.verify_mac1(message) {
            return Err(DropReason::HandshakeMac);
        }
        let mac1 = first_mac(message).ok_or(DropReason::UnknownMessage)?;
        let loaded = self.load.arrived(now);
        let proved = self.cookies.verify_mac2(now, message, caller.from.address);
        let asking = Asking { caller, message, mac1, proved };
        if proved {
            self.charge(now, caller)?;
        } else if loaded {
            return Err(self.ask_for_cookie(now, asking));
        }
        Ok(asking)
    }

    /// Counts a handshake against the network of a sender that has proved to be there.
    fn charge(&mut self, now: Instant, caller: Caller) -> Result<(), DropReason> {
        let network = Network::of(caller.from.address.ip());
        let peer = self.is_peer_network(now, network);
        if self.load.admit(now, network, peer) { Ok(()) } else { Err(DropReason::HandshakeRate) }
    }

    /// Has the sender of an initiation prove its address. The reply is shorter than the question, and they are limited in number.
    fn ask_for_cookie(&mut self, now: Instant, asking: Asking<'_>) -> DropReason {
        let Asking { caller, message, .. } = asking;
        if self.may_reply(now, caller) {
            let reply = self.cookies.reply(now, message, caller.from.address, &mut self.rng);
            self.transmits.push_back(caller.answer(reply.to_vec()));
        }
        DropReason::HandshakeNoCookie
    }

    fn may_reply(&mut self, now: Instant, caller: Caller) -> bool {
        let network = Network::of(caller.from.address.ip());
        let Self { load, peer_networks, peers, .. } = self;
        load.may_reply(now, || networks(peer_networks, peers, now).contains(&network))
    }

    fn is_peer_network(&mut self, now: Instant, network: Network) -> bool {
        networks(&mut self.peer_networks, &self.peers, now).contains(&network)
    }

    /// Whether an authenticated initiation is news.
    fn check_fresh(
        &self,
        now: Instant,
        (remote, protocol, timestamp): (PublicKey, Protocol, Timestamp),
        mac1: &[u8; 16],
    ) -> Result<PeerId, DropReason> {
        let &peer = self.by_key.get(&remote).ok_or(DropReason::HandshakeUnknownPeer)?;
        let p = &self.peers[peer.0 as usize];
        if p.keys.protocol() != protocol {
            return Err(DropReason::HandshakeUnknownPeer);
        }
        if timestamp <= p.confirmed || p.unconfirmed.knows(now, mac1) {
            return Err(DropReason::HandshakeReplayed);
        }
        Ok(peer)
    }

    /// Finds a place for one more initiation of a peer to wait in for its confirmation. Who has our private key can make them in
    /// the peer's name, so where there are many, the peer is told from others by its address.
    fn find_room(&mut self, now: Instant, peer: PeerId, asking: Asking<'_>) -> Result<Room, DropReason> {
        let p = &mut self.peers[peer.0 as usize];
        let network = Network::of(asking.caller.from.address.ip());
        let room = p.unconfirmed.room(now, network, asking.proved);
        if asking.proved {
            return room.ok_or(DropReason::HandshakeRate);
        }
        let paid_until = p.initiations_paid_until.max(Some(now)).unwrap_or(now);
        if let Some(room) = room.filter(|_| paid_until <= now + INITIATION_SPACING * (INITIATION_BURST - 1)) {
            p.initiations_paid_until = Some(paid_until + INITIATION_SPACING);
            return Ok(room);
        }
        Err(self.ask_for_cookie(now, asking))
    }

    fn handle_whole(&mut self, now: Instant, asking: Asking<'_>) -> Result<(), DropReason> {
        let Self { identity, by_key, peers, .. } = self;
        let find = |key: &PublicKey| Some(&peers[by_key.get(key)?.0 as usize].keys);
        let incoming = Incoming::receive_from(identity, asking.message, find).map_err(reason)?;
        let claims = (incoming.remote(), incoming.protocol(), incoming.timestamp());
        let peer = self.check_fresh(now, claims, &asking.mac1)?;
        self.check_suite(now, peer, incoming.suite())?;
        let room = self.find_room(now, peer, asking)?;
        self.respond(now, peer, incoming, Accepted { asking: asking.into(), room, split: false })
    }

    /// Answers an initiation that has been found a place for.
    fn respond(
        &mut self,
        now: Instant,
        peer: PeerId,
        incoming: Incoming,
        accepted: Accepted,
    ) -> Result<(), DropReason> {
        let Accepted { asking: Asked { caller, mac1, proved }, room, split } = accepted;
        let timestamp = incoming.timestamp();
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
        let answered = Answered {
            session: Arc::new(session),
            response_mac1: first_mac(&response).unwrap_or_default(),
            split,
            passed_over: false,
        };
        let network = Network::of(caller.from.address.ip());
        let stage = Stage::Answered(answered);
        let new = Unconfirmed { mac1, timestamp, since: now, network, proved, stage };
        let displaced = p.unconfirmed.put(room, new);
        self.retire(displaced.as_slice());
        // The path does not move yet: an initiation can be captured and sent on from elsewhere before the original
        // arrives. What the peer seals in the new session will tell where it is.
        self.transmits.push_back(caller.answer(response));
        self.stale = true;
        Ok(())
    }

    fn handle_part1(&mut self, now: Instant, asking: Asking<'_>) -> Result<(), DropReason> {
        let Self { identity, by_key, peers, .. } = self;
        let find = |key: &PublicKey| Some(&peers[by_key.get(key)?.0 as usize].keys);
        let part1 = IncomingPart1::receive_from(identity, asking.message, find).map_err(reason)?;
        let timestamp = part1.timestamp();
        let claims = (part1.remote(), Protocol::ShadowMesh, timestamp);
        let peer = self.check_fresh(now, claims, &asking.mac1)?;
        self.check_suite(now, peer, part1.suite())?;
        let room = self.find_room(now, peer, asking)?;
        let Asking { caller, mac1, proved, .. } = asking;
        let network = Network::of(caller.from.address.ip());
        let stage = Stage::Half(Box::new(part1));
        let new = Unconfirmed { mac1, timestamp, since: now, network, proved, stage };
        let displaced = self.peers[peer.0 as usize].unconfirmed.put(room, new);
        self.retire(displaced.as_slice());
        if !self.split_waiting.contains(&peer) {
            self.split_waiting.push(peer);
        }
        Ok(())
    }

    /// A second part counts only where a first part waits for just this one: it is charged to nobody, for it comes from anybody.
    /// One that fits no index costs a look at those that wait, one that does two hashes.
    fn handle_part2(&mut self, now: Instant, caller: Caller, message: &[u8]) -> Result<(), DropReason> {
        let peers = &self.peers;
        let waiting = self.split_waiting.iter().flat_map(|&peer| {
            let halves = peers[peer.0 as usize].unconfirmed.halves();
            halves.filter(|(_, part1)| part1.matches(message)).map(move |(mac1, part1)| (peer, *mac1, part1))
        });
        let mut refused = DropReason::HandshakeUnexpected;
        let found = { waiting }.find_map(|(peer, mac1, part1)| match part1.complete(message) {
            Ok(incoming) => Some((peer, mac1, Ok(incoming))),
            // Another part 1 may wait for it, and another part 2 may come for this one.
            Err(error @ (HandshakeError::InvalidMac1 | HandshakeError::OtherPart2)) => {
                refused = reason(error);
                None
            }
            Err(error) => Some((peer, mac1, Err(error))),
        });
        let (peer, mac1, incoming) = found.ok_or(refused)?;
        // It has come, so what was kept for it goes, whatever comes of it.
        let half = self.peers[peer.0 as usize].unconfirmed.take_half(&mac1);
        self.forget_split();
        let proved = half.is_some_and(|half| half.proved);
        let asking = Asked { caller, mac1, proved };
        self.respond(now, peer, incoming.map_err(reason)?, Accepted { asking, room: Room::Free, split: true })
    }

    /// Forgets peers of which nothing is half there.
    pub(super) fn forget_split(&mut self) {
        let Self { split_waiting, peers, .. } = self;
        split_waiting.retain(|peer| peers[peer.0 as usize].unconfirmed.halves().next().is_some());
    }

    /// The configured cipher holds for sessions that we answer, too, if it was configured.
    fn check_suite(&mut self, now: Instant, peer: PeerId, suite: Suite) -> Result<(), DropReason> {
        let p = &mut self.peers[peer.0 as usize];
        if !self.suite_only || suite == self.suite || p.keys.protocol() == Protocol::WireGuard {
            return Ok(());
        }
        if p.cipher_refused_at.is_none_or(|at| now >= at + CIPHER_NOTICE_INTERVAL) {
            p.cipher_refused_at = Some(now);
            self.notice(Notice::CipherRefused { peer, suite });
            // A peer that has no such rule takes the cipher that we ask for.
            if self.peers[peer.0 as usize].current.is_none() {
                self.begin_handshake(now, peer);
            }
        }
        Err(DropReason::HandshakeCipher)
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

    /// The peer has used a session that we made by answering: from now on it is ours to send on, and only now is it known that
    /// the initiation was the peer's.
    pub(super) fn confirm(
        &mut self,
        now: Instant,
        peer: PeerId,
        local_index: u32,
        from: Endpoint,
        local: Option<IpAddr>,
    ) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        let Some((timestamp, answered, older)) = p.unconfirmed.confirm(local_index) else { return };
        p.confirmed = p.confirmed.max(timestamp);
        self.confirmed_risen = true;
        self.retire(&older);
        let p = &mut self.peers[peer.0 as usize];
        let Answered { session, split, passed_over, .. } = answered;
        if passed_over {
            let done = p.keep_behind(session);
            self.retire(&done);
            return;
        }
        // The peer's path is narrow: ours to it is likely the same path.
        p.split |= split;
        if p.endpoint.is_none() {
            self.move_to(now, peer, from); // the event that told so was lost
        }
        let p = &mut self.peers[peer.0 as usize];
        // Our address belongs to the path that it was seen on, and the peer may have been denied to move to that.
        if p.endpoint == Some(from) {
            p.local = local;
        }
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

    /// The newest initiation of each peer that has come to a session in use, for [`PeerConfig::confirmed`](crate::PeerConfig).
    pub fn confirmed(&self) -> Vec<(PublicKey, Timestamp)> {
        let known = self.peers.iter().filter(|p| p.confirmed > Timestamp::default());
        known.map(|p| (p.keys.public_key(), p.confirmed)).collect()
    }

    /// Has the program keep it, now and then.
    pub(super) fn keep_confirmed(&mut self, now: Instant) {
        let due = self.confirmed_kept_at.is_none_or(|at| now >= at + KEEP_INTERVAL);
        if due && std::mem::take(&mut self.confirmed_risen) {
            self.confirmed_kept_at = Some(now);
            self.actions.push_back(Action::KeepConfirmed(self.confirmed()));
        }
    }
}

/// Where peers are known to be, not older than a second.
fn networks<'a>(
    cache: &'a mut Option<(Instant, HashSet<Network>)>,
    peers: &[Peer],
    now: Instant,
) -> &'a HashSet<Network> {
    if cache.as_ref().is_none_or(|(at, _)| now >= *at + Duration::from_secs(1)) {
        let of = |p: &Peer| p.endpoint.into_iter().chain(p.places.all().iter().copied()).collect::<Vec<_>>();
        let all = peers.iter().flat_map(of).map(|place| Network::of(place.address.ip()));
        *cache = Some((now, all.collect()));
    }
    &cache.get_or_insert_with(|| (now, HashSet::new())).1
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
