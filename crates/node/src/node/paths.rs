//! Moving peers between the places where they can be reached.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use carrier::{Carrier, Endpoint};
use handshake::Protocol;

use super::Node;
use crate::config::PeerId;
use crate::event::{Action, Notice};
use crate::peer::{Peer, Purpose};
use crate::places::Step;

/// A probe is overdue that the place in use has not answered after four round trips, but at least and at most so long.
const OVERDUE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1_500));
/// The round-trip time of a path that has not been measured yet.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);
/// A better place is of interest this long after the last data.
const INTEREST: Duration = Duration::from_mins(1);

impl Node {
    /// Sets the addresses that a peer may have, as after a look-up of its host name, the one to try first at the front. Each is
    /// tried, the others when one is silent (RFC 8305).
    pub fn set_endpoints(&mut self, now: Instant, peer: PeerId, addresses: &[SocketAddr]) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        let begin = p.endpoint.is_none() && p.current.is_none();
        let gone = p.places.configure(addresses);
        // The same carrier as before, and not by the way what was found on the local network.
        let carrier = p.endpoint.map(|endpoint| endpoint.carrier);
        let alike = p.places.configured().iter().find(|place| Some(place.carrier) == carrier);
        let stays = p.endpoint.is_some_and(|endpoint| p.places.all().contains(&endpoint));
        if let Some(&place) = alike.or(p.places.all().first()).filter(|_| !stays) {
            p.endpoint = Some(place);
            p.local = None;
            self.search_path_mtu(now, peer);
            self.stale = true;
        }
        self.actions
            .extend(gone.into_iter().filter(|place| place.carrier != Carrier::Udp).map(Action::HangUp));
        // An attempt under way goes on to the new place at its next try.
        if begin {
            self.begin_handshake(now, peer);
        }
        self.settle(now);
    }

    /// Tells of a place on the local network where a peer may be, better than its configured address if the peer answers
    /// from there. Nothing but that answer is believed: an offer may come from anybody.
    pub fn offer_endpoint(&mut self, now: Instant, peer: PeerId, address: SocketAddr) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        p.places.offer(now, address);
        if p.endpoint.is_none() {
            p.endpoint = Some(Endpoint::udp(address));
            p.local = None;
            self.stale = true;
            self.search_path_mtu(now, peer);
        }
        if self.peers[peer.0 as usize].current.is_none() {
            self.begin_handshake(now, peer);
        }
        self.settle(now);
    }

    /// Takes an [offer](Self::offer_endpoint) back. A place in use stays in use as long as it works.
    pub fn withdraw_endpoint(&mut self, now: Instant, peer: PeerId, address: SocketAddr) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        p.places.withdraw(address);
        self.settle(now);
    }

    /// A peer has authenticated itself from a new place, or to another address of ours.
    pub(super) fn roam(&mut self, now: Instant, peer: PeerId, endpoint: Endpoint, local: Option<IpAddr>) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        if p.endpoint.is_some_and(|current| current != endpoint && !p.places.follow(now, current, endpoint)) {
            return;
        }
        self.stale |= std::mem::replace(&mut p.local, local) != local;
        if p.endpoint != Some(endpoint) {
            self.move_to(now, peer, endpoint);
        }
    }

    /// What is for a peer goes there from now on.
    pub(super) fn move_to(&mut self, now: Instant, peer: PeerId, endpoint: Endpoint) {
        let p = &mut self.peers[peer.0 as usize];
        let before = p.endpoint.replace(endpoint);
        p.places.moved(now, before, endpoint);
        p.path.moved();
        self.search_path_mtu(now, peer);
        self.stale = true;
        if before.is_some() {
            self.notice(Notice::Roamed { peer, endpoint });
        }
    }

    /// Tries other places if the one in use is silent, and better ones now and then.
    pub(super) fn tick_places(&mut self, now: Instant, peer: PeerId) {
        let p = &mut self.peers[peer.0 as usize];
        let (Some(endpoint), Some(_), Protocol::ShadowMesh) = (p.endpoint, &p.current, p.keys.protocol())
        else {
            return;
        };
        let rtt = p.path.rtt.unwrap_or(RTT_UNKNOWN);
        let asked = p.path.unanswered(endpoint);
        let overdue = asked.is_some_and(|asked| now >= asked + (rtt * 4).clamp(OVERDUE.0, OVERDUE.1));
        if overdue {
            self.redial(peer, endpoint);
        }
        let p = &mut self.peers[peer.0 as usize];
        let last_data = [&p.state.last_data_sent, &p.state.last_data_received].map(|at| at.get(self.start));
        let in_use = last_data.into_iter().flatten().any(|at| now < at + INTEREST);
        match p.places.poll(now, endpoint, overdue, rtt, in_use) {
            Step::Rest => {}
            Step::Ask => {
                self.probe(now, peer, Purpose::Path { confirms: None });
            }
            Step::Try(places) => {
                if p.places.is_doubted() {
                    // It may be the one that lives: what was asked of it before may be too old to be answered.
                    self.probe(now, peer, Purpose::Path { confirms: None });
                }
                for place in places {
                    self.probe_at(now, peer, Purpose::Trial, Some(place));
                }
            }
            Step::Use(place) => self.choose(now, peer, place),
        }
    }

    /// Uses another place, and lets the peer know by using it.
    fn choose(&mut self, now: Instant, peer: PeerId, place: Endpoint) {
        // By which address of ours is the operating system's choice again.
        self.peers[peer.0 as usize].local = None;
        self.move_to(now, peer, place);
        self.peers[peer.0 as usize].places.prove();
        self.probe(now, peer, Purpose::Path { confirms: None });
    }

    /// A trial was answered.
    pub(super) fn trial_answered(&mut self, now: Instant, peer: PeerId, place: Endpoint) {
        let p = &mut self.peers[peer.0 as usize];
        if let Some(place) = p.places.answered(now, place, p.endpoint) {
            self.choose(now, peer, place);
        }
    }

    /// Has a connection opened to a place of a peer that needs one.
    pub(super) fn dial(&mut self, peer: PeerId, endpoint: Endpoint) {
        let ours = |p: &Peer| p.places.all().contains(&endpoint);
        if endpoint.carrier != Carrier::Udp && self.peers.get(peer.0 as usize).is_some_and(ours) {
            self.actions.push_back(Action::Dial { peer, endpoint });
        }
    }

    /// Has the connection to a place looked at that does not answer.
    pub(super) fn redial(&mut self, peer: PeerId, endpoint: Endpoint) {
        let ours = |p: &Peer| p.places.all().contains(&endpoint);
        if endpoint.carrier != Carrier::Udp && self.peers.get(peer.0 as usize).is_some_and(ours) {
            self.actions.push_back(Action::Redial { endpoint });
        }
    }

    /// Where a peer can be reached by a carrier.
    pub(super) fn place_by(&self, peer: PeerId, carrier: Carrier) -> Option<Endpoint> {
        let p = self.peers.get(peer.0 as usize)?;
        let places = p.endpoint.iter().chain(p.places.all());
        places.copied().find(|place| place.carrier == carrier)
    }

    /// Whether a peer can be reached by a carrier, as far as anybody knows.
    pub fn has_carrier(&self, peer: PeerId, carrier: Carrier) -> bool {
        self.place_by(peer, carrier).is_some()
    }
}
