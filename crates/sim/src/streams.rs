//! The streams of one machine: its associations, driven as the program's hub drives them.

use std::time::{Duration, Instant};

use node::{Event, PeerId, Reach, Sent, StreamBatch, StreamPort};
use packet::Link;
use stream::association::{Association, Ended};
use stream::session::SessionConfig;
use stream::smux::Role;

/// How often the node is reminded that a session is needed.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Association and what became of it, for one peer.
#[derive(Debug)]
struct Peer {
    role: Role,
    association: Option<Association>,
    /// The longest datagram now, and the longest ever.
    mtu: usize,
    room: usize,
    /// There was no session of the node to send by: when to look again.
    look_again: Option<Instant>,
    ended: Vec<Ended>,
}

/// All associations of a machine that runs.
#[derive(Debug)]
pub(crate) struct Streams {
    port: StreamPort,
    config: SessionConfig,
    seed: u32,
    peers: Vec<Peer>,
    /// Something was written or read: there may be something to send.
    pub(crate) touched: bool,
    blocked: bool,
    needs_session: Vec<PeerId>,
}

impl Streams {
    pub(crate) fn new(port: StreamPort, config: SessionConfig, roles: Vec<Role>, seed: u32) -> Self {
        let peer =
            |role| Peer { role, association: None, mtu: 0, room: 0, look_again: None, ended: Vec::new() };
        let peers = roles.into_iter().map(peer).collect();
        Self { port, config, seed, peers, touched: true, blocked: false, needs_session: Vec::new() }
    }

    /// The association with a peer, once there is a session of the node; asks for that.
    pub(crate) fn association(&mut self, now: Instant, id: PeerId) -> Option<&mut Association> {
        self.touched = true;
        if !self.ready(now, id) {
            return None;
        }
        self.peers[id.0 as usize].association.as_mut()
    }

    /// Why sessions with a peer have ended so far.
    pub(crate) fn ended(&self, id: PeerId) -> &[Ended] {
        &self.peers[id.0 as usize].ended
    }

    fn ready(&mut self, now: Instant, id: PeerId) -> bool {
        let Reach::Ready(datagram_max) = self.port.reach(now, id) else {
            self.needs_session.push(id);
            return false;
        };
        let peer = &mut self.peers[id.0 as usize];
        if let Some(association) = &mut peer.association {
            if datagram_max != peer.mtu {
                peer.mtu = datagram_max;
                peer.room = peer.room.max(datagram_max);
                association.set_mtu(datagram_max);
            }
        } else {
            (peer.mtu, peer.room) = (datagram_max, datagram_max);
            let mut config = self.config.clone();
            config.kcp.mtu = datagram_max;
            self.seed = self.seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            peer.association = Some(Association::new(peer.role, config, self.seed));
        }
        true
    }

    pub(crate) fn receive(&mut self, now: Instant, batch: &StreamBatch) {
        let id = batch.peer();
        if let Some(association) = self.association(now, id) {
            for datagram in batch.datagrams() {
                let _ = association.handle_datagram(datagram, now);
            }
        }
    }

    /// The link takes datagrams again.
    pub(crate) fn writable(&mut self) {
        self.touched |= std::mem::take(&mut self.blocked);
    }

    /// Does all there is to do at `now`. Returns whether there was anything.
    pub(crate) fn process<L: Link>(&mut self, now: Instant, link: &mut L) -> bool {
        let due = self.poll_timeout().is_some_and(|(at, _)| at <= now);
        if !due && !std::mem::take(&mut self.touched) {
            return false;
        }
        self.blocked = self.port.flush(now, link) == Sent::Blocked;
        for id in 0..self.peers.len() {
            // As the hub does: what the path passes now is looked at before each send.
            if self.peers[id].association.is_some() {
                self.ready(now, PeerId(id as u32));
            }
            let peer = &mut self.peers[id];
            let Some(association) = &mut peer.association else { continue };
            if association.poll_timeout().is_some_and(|(at, _)| at <= now) {
                association.handle_timeout(now);
            }
            let (id, room) = (PeerId(id as u32), peer.room);
            match self.port.send(now, id, link, room, |buf| association.poll_transmit(now, &mut buf[..room]))
            {
                Sent::All => peer.look_again = None,
                Sent::Blocked => self.blocked = true,
                Sent::Unreachable => {
                    peer.look_again = Some(now + ASK_AGAIN);
                    self.needs_session.push(id);
                }
            }
            peer.ended.extend(association.poll_ended());
        }
        true
    }

    /// What the node must know.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let wanted = self.needs_session.pop().map(|peer| Event::NeedSession { peer });
        wanted.or_else(|| self.port.poll_event())
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let associations = self.peers.iter().filter_map(|peer| match peer.look_again {
            Some(at) => Some((at, "streams: no session")),
            None => peer.association.as_ref()?.poll_timeout(),
        });
        // A full link says by itself when it takes more.
        let associations = associations.filter(|_| !self.blocked);
        associations.chain(self.port.retry_at().map(|at| (at, "streams: no buffers"))).min()
    }
}
