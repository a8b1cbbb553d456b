//! The handshakes that others begin: whom to answer, and when to believe.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrier::Endpoint;
use handshake::{HandshakeError, Incoming, IncomingPart1, Protocol, PublicKey, Suite, Timestamp, first_mac};

use super::handshakes::reason;
use super::{Caller, Node};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::{Action, Notice};
use crate::peer::Peer;
use crate::unconfirmed::{Answered, Network, Room, Stage, Unconfirmed};

/// The least time between two initiations in one peer's name that are answered without a cookie, in the long run (WireGuard uses
/// the same).
const INITIATION_SPACING: Duration = Duration::from_millis(20);
/// So many may come at once: a node that has just started finds all that its peer has tried meanwhile in its socket, and
/// only the last one counts.
const INITIATION_BURST: u32 = 5;
/// How often the log is told of one peer that it asks for a cipher that is not used here.
const CIPHER_NOTICE_INTERVAL: Duration = Duration::from_mins(1);
/// The same of old counters.
const STALE_NOTICE_INTERVAL: Duration = Duration::from_mins(10);
/// How often the program is told to keep what was confirmed.
const KEEP_INTERVAL: Duration = Duration::from_secs(30);

/// An initiation, or the first part of one, whose sender knows whom it talks to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
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
    /// The first MAC proves that the sender of an initiation knows whom it talks to; the second, which is asked for under load,
    /// that it is where it says.
    pub(super) fn admit<'a>(
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
    pub(super) fn charge(&mut self, now: Instant, caller: Caller) -> Result<(), DropReason> {
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

    pub(super) fn may_reply(&mut self, now: Instant, caller: Caller) -> bool {
        let network = Network::of(caller.from.address.ip());
        let Self { load, peer_networks, peers, .. } = self;
        load.may_reply(now, || networks(peer_networks, peers, now).contains(&network))
    }

    fn is_peer_network(&mut self, now: Instant, network: Network) -> bool {
        networks(&mut self.peer_networks, &self.peers, now).contains(&network)
    }

    /// Whether an authenticated initiation is news.
    fn check_fresh(
        &mut self,
        now: Instant,
        (remote, protocol, timestamp): (PublicKey, Protocol, Timestamp),
        mac1: &[u8; 16],
    ) -> Result<PeerId, DropReason> {
        let &peer = self.by_key.get(&remote).ok_or(DropReason::HandshakeUnknownPeer)?;
        let p = &self.peers[peer.0 as usize];
        if p.keys.protocol() != protocol {
            return Err(DropReason::HandshakeUnknownPeer);
        }
        if timestamp <= p.confirmed {
            self.tell_of_stale(now, peer);
            return Err(DropReason::HandshakeReplayed);
        }
        if p.unconfirmed.knows(now, mac1) {
            return Err(DropReason::HandshakeReplayed);
        }
        Ok(peer)
    }

    /// A peer that is not connected and sends old counters may have had its clock set back, and lost its state: it will not get in
    /// before its counter is past what was confirmed, and its user should not have to guess why.
    fn tell_of_stale(&mut self, now: Instant, peer: PeerId) {
        let p = &mut self.peers[peer.0 as usize];
        let told = p.stale_told_at.is_some_and(|at| now < at + STALE_NOTICE_INTERVAL);
        if p.current.is_none() && !told {
            p.stale_told_at = Some(now);
            self.notice(Notice::StaleInitiation { peer });
        }
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

    pub(super) fn handle_whole(&mut self, now: Instant, asking: Asking<'_>) -> Result<(), DropReason> {
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

    pub(super) fn handle_part1(&mut self, now: Instant, asking: Asking<'_>) -> Result<(), DropReason> {
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
    pub(super) fn handle_part2(
        &mut self,
        now: Instant,
        caller: Caller,
        message: &[u8],
    ) -> Result<(), DropReason> {
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
