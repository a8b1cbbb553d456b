//! What each peer's path passes: the search for it, the watch over it, and what the workers are told.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use carrier::{Carrier, Endpoint};
use handshake::Protocol;

use super::Node;
use crate::config::PeerId;
use crate::event::{Action, Notice};
use crate::framing::{outer_len, packet_max};
use crate::peer::{Peer, Purpose};

/// How often the program is asked for what the operating system knows of a path: what it has learnt from ICMP it
/// forgets after 10 minutes (`net.ipv4.route.mtu_expires`).
const ASK_AGAIN: Duration = Duration::from_mins(10);
/// At least so much time lies between two questions, however many packets are refused meanwhile.
const ASK_SPACING: Duration = Duration::from_secs(1);

/// As if by UDP over IPv6, whose header is the longer one.
const UNKNOWN: Endpoint =
    Endpoint::udp(std::net::SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));

/// Bytes of the outer packet that carries an inner one of `mtu` bytes to a peer.
pub(super) fn wanted(protocol: Protocol, endpoint: Option<Endpoint>, mtu: u16) -> u16 {
    let Endpoint { carrier, address } = endpoint.unwrap_or(UNKNOWN);
    outer_len(protocol, carrier, address.ip(), mtu)
}

impl Node {
    /// A peer's path is another one: looks anew for the largest packet it passes.
    pub(super) fn search_path_mtu(&mut self, now: Instant, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        p.path_mtu.restart(wanted(p.keys.protocol(), p.endpoint, self.mtu), now);
        p.ask_path_mtu_at = now;
        self.ask_path_mtu(now, peer);
        self.fit(peer);
    }

    /// The operating system has refused a packet to a peer as too large.
    pub(super) fn path_too_small(&mut self, now: Instant, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        // It may not know by how much; then the search tells.
        p.path_mtu.doubt(now);
        if now + ASK_AGAIN >= p.ask_path_mtu_at + ASK_SPACING {
            p.ask_path_mtu_at = now;
            self.ask_path_mtu(now, peer);
        }
    }

    /// Asks the program, when it is time, what the operating system knows of a path.
    pub(super) fn ask_path_mtu(&mut self, now: Instant, peer: PeerId) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        // A TCP connection cuts its stream as it likes: there is no size that it would refuse.
        let asks = |place: &Endpoint| place.carrier != Carrier::Tcp && now >= p.ask_path_mtu_at;
        let Some(endpoint) = p.endpoint.filter(asks) else { return };
        p.ask_path_mtu_at = now + ASK_AGAIN;
        self.actions.push_back(Action::AskPathMtu { peer, endpoint });
    }

    /// Tells how large an IP packet the operating system sends to a peer's `endpoint`, in bytes: the answer to
    /// [`Action::AskPathMtu`]. An answer about a place where the peer is no longer is ignored.
    pub fn set_path_mtu(&mut self, now: Instant, peer: PeerId, endpoint: Endpoint, mtu: u16) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        if p.endpoint == Some(endpoint) && p.path_mtu.set_hint(mtu, now) {
            self.fit(peer);
        }
        self.settle(now);
    }

    /// Brings what workers send a peer in one piece to what its path passes.
    pub(super) fn fit(&mut self, peer: PeerId) {
        let mtu = self.mtu;
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        let fits = fitting(p, mtu);
        let before = std::mem::replace(&mut p.packet_max, fits);
        if fits != before {
            self.stale = true;
        }
        if fits < before {
            self.notice(Notice::PathMtuLowered { peer, mtu: fits });
        }
    }

    /// The regular probes of a path in use: a small one for its figures, and one of full size right before it while that
    /// is worth confirming.
    pub(super) fn probe_path(&mut self, now: Instant, peer: PeerId, sending: bool) {
        let size = self.peers[peer.0 as usize].path_mtu.confirmation().filter(|_| sending);
        let confirms = size.and_then(|size| Some((self.probe(now, peer, Purpose::Mtu(size))?, size)));
        self.probe(now, peer, Purpose::Path { confirms });
    }
}

/// The largest inner packet that goes to a peer in one piece by whichever of its carriers and addresses, on paths of 1,500 bytes.
pub(super) fn by_any_carrier(peer: &Peer) -> u16 {
    let to = peer.endpoint.unwrap_or(UNKNOWN).address.ip();
    let carriers = peer.places.carriers();
    let places = peer.places.all();
    if carriers.len() < 2 && places.len() < 2 {
        return u16::MAX;
    }
    let by_carrier = carriers.map(|carrier| (carrier, to));
    let all = by_carrier.chain(places.iter().map(|place| (place.carrier, place.address.ip())));
    let fits = all.map(|(carrier, to)| packet_max(peer.keys.protocol(), carrier, to, 1_500));
    fits.min().unwrap_or(u16::MAX)
}

/// The largest inner packet that goes to a peer in one piece.
fn fitting(peer: &Peer, mtu: u16) -> u16 {
    let Some(endpoint) = peer.endpoint else { return mtu };
    let Endpoint { carrier, address } = endpoint;
    packet_max(peer.keys.protocol(), carrier, address.ip(), peer.path_mtu.limit()).min(mtu)
}
