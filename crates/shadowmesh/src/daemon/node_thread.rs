//! The slow path's thread: it owns the node and does whatever the node decides.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use node::{Action, Datagram, DropReason, Node, Notice, PeerId, Pong};
use os::poll::Waker;
use os::tun::TunDevice;
use packet::{Carrier, Ecn, Endpoint, Link, Transmit, Via};
use tokio::sync::oneshot;

use super::carriers::{CarrierLink, Dialler};
use super::confirmed::Confirmed;
use super::flips::{Flips, Move};
use super::handle::{Answer, Command, Input, Snapshot};
use super::resolver::Resolver;
use super::send_errors::SendErrors;
use crate::control::server::Refusal;
use crate::control::types::{Offloads, TunOffloads, UdpOffloads};
use crate::streams::Inbox;

/// Inputs handled before what they caused is sent.
const INPUTS_PER_ROUND: usize = 64;

/// What the thread knows of a peer beyond the node's own knowledge.
#[derive(Debug)]
pub(super) struct PeerNotes {
    pub(super) name: String,
    /// It is kept alive, so it should always be connected.
    pub(super) expected: bool,
    /// It speaks WireGuard, which has no probes: what to `ping` instead.
    pub(super) ping_instead: Option<String>,
}

/// The node's thread's belongings.
#[derive(Debug)]
pub(super) struct NodeThread {
    pub(super) node: Node,
    pub(super) inputs: Receiver<Input>,
    /// The workers' sockets, at least one. What the node sends itself leaves by the first.
    pub(super) links: Vec<CarrierLink>,
    pub(super) dialler: Dialler,
    /// `None` for a node with nothing but streams.
    pub(super) device: Option<TunDevice>,
    pub(super) wakers: Vec<Arc<Waker>>,
    /// Where datagrams of streams go, if anybody runs streams.
    pub(super) streams: Option<Arc<Inbox>>,
    /// Where it is kept what the node must remember of peers.
    pub(super) confirmed: Confirmed,
    pub(super) peers: Vec<PeerNotes>,
    pub(super) resolver: Resolver,
    /// What was said of sends that failed.
    pub(super) send_errors: SendErrors,
    /// Probes under way, and who waits for them.
    pub(super) pings: HashMap<u64, oneshot::Sender<Result<Answer, Refusal>>>,
    /// Peers whose last handshake was given up.
    pub(super) unreachable: HashSet<PeerId>,
    /// Peers that are at two places by turns.
    pub(super) flips: Flips,
}

impl NodeThread {
    /// Works until [`Command::Stop`].
    ///
    /// # Errors
    /// When every sender of inputs is gone, which only a panic elsewhere brings about.
    pub(super) fn run(mut self) -> Result<(), String> {
        self.resolver.handle_timeout(Instant::now());
        loop {
            self.drain();
            let first = match self.next_deadline() {
                None => self.inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.inputs.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let now = Instant::now();
            let mut first = match first {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err("all its inputs are gone".into()),
            };
            for _ in 0..INPUTS_PER_ROUND {
                // Taken only to be handled at once: one more than the round has room for would be lost.
                let Some(input) = first.take().or_else(|| self.inputs.try_recv().ok()) else { break };
                match input {
                    Input::Command(Command::Stop) => {
                        self.confirmed.keep(&self.node.confirmed());
                        return Ok(());
                    }
                    Input::Event(event) => self.node.handle_event(now, event),
                    Input::Command(command) => self.handle_command(now, command),
                }
            }
            if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.node.handle_timeout(now);
            }
            self.resolver.handle_timeout(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let node = self.node.poll_timeout().map(|(at, _reason)| at);
        [node, self.resolver.poll_timeout()].into_iter().flatten().min()
    }

    /// Does all that the node wants done.
    fn drain(&mut self) {
        // Actions first: what is to be sent may need a flow that is yet to be dialled.
        while let Some(action) = self.node.poll_action() {
            self.act(action);
        }
        while let Some(datagram) = self.node.poll_transmit() {
            self.transmit(&datagram);
        }
        if self.node.take_published() {
            for waker in &self.wakers {
                waker.wake();
            }
        }
    }

    /// A message that cannot be sent now is as good as lost on the way: the node's timers send another.
    fn transmit(&mut self, datagram: &Datagram) {
        let Datagram { to, source, contents } = datagram;
        let transmit = Transmit { to: to.address, ecn: Ecn::NotEct, segment_size: contents.len(), contents };
        let via = Via { carrier: to.carrier, source: *source };
        let handshake = datagram.is_handshake();
        let sent = if handshake {
            self.links[0].send_fragmentable(via, &transmit)
        } else {
            self.links[0].send_via(via, &transmit)
        };
        let Err(error) = sent else { return };
        debug!("cannot send {} bytes to {to}: {error}", contents.len());
        self.node.handle_send_failed(Instant::now(), datagram);
        // A probe that is larger than the interface allows has found out what it was for.
        let tells = handshake || error.kind() != io::ErrorKind::InvalidInput;
        if tells && let Some(text) = self.send_errors.tell(Instant::now(), *to, &error) {
            warn!("{text}");
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Resolve(peer) => self.resolver.request(Instant::now(), peer),
            Action::AskPathMtu { peer, endpoint } => {
                // Without a route there is nothing to know, and nothing to send.
                if let Ok(mtu) = os::udp::path_mtu(endpoint.address) {
                    self.node.set_path_mtu(Instant::now(), peer, endpoint, mtu);
                }
            }
            Action::Dial { peer, endpoint: Endpoint { carrier, address } } => {
                if let Err(error) = self.dialler.dial(carrier, peer.0 as usize, address) {
                    debug!("{}: cannot call {address} over {carrier}: {error}", self.name(peer));
                }
                // The first worker keeps the timers of what was dialled.
                self.wakers[0].wake();
            }
            Action::Redial { endpoint: Endpoint { carrier, address } } => {
                self.dialler.redial(carrier, address);
            }
            Action::HangUp(Endpoint { carrier, address }) => self.dialler.hang_up(carrier, address),
            Action::Pong(Pong { id, peer, rtt }) => {
                if let Some(reply) = self.pings.remove(&id) {
                    // Whoever asked may have gone away.
                    let _ = reply.send(Ok(Answer { peer: self.name(peer).into(), rtt }));
                }
            }
            Action::KeepConfirmed(confirmed) => self.confirmed.keep_soon(confirmed),
            Action::Notice(notice) => self.notice(&notice),
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Status(reply) => {
                let _ = reply.send(self.snapshot(now));
            }
            Command::Ping { peer, carrier, timeout, reply } => match self.can_ping(&peer, carrier) {
                Ok(peer) => {
                    let id = self.node.ping(now, peer, carrier, timeout);
                    self.pings.insert(id, reply);
                }
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                }
            },
            Command::Rekey { peer, reply } => {
                let found = self.node.find(&peer).map(|peer| self.node.rekey(now, peer));
                let _ = reply.send(found.map_err(|error| Refusal::NotFound(error.to_string())));
            }
            Command::Resolved { peer, found } => self.resolved(now, peer, &found),
            Command::Offer { peer, address } => self.node.offer_endpoint(now, peer, address),
            Command::Withdraw { peer, address } => self.node.withdraw_endpoint(now, peer, address),
            Command::Stop => {}
        }
    }

    fn can_ping(&self, name: &str, carrier: Option<Carrier>) -> Result<PeerId, Refusal> {
        let peer = self.node.find(name).map_err(|error| Refusal::NotFound(error.to_string()))?;
        if let Some(carrier) = carrier.filter(|&carrier| !self.node.has_carrier(peer, carrier)) {
            return Err(Refusal::BadRequest(format!(
                "nothing is known of `{}` over {carrier}: it needs an `endpoint`, and `{carrier}` among its `carriers`",
                self.name(peer)
            )));
        }
        match self.peers.get(peer.0 as usize).and_then(|notes| notes.ping_instead.as_ref()) {
            None => Ok(peer),
            Some(instead) => Err(Refusal::BadRequest(format!(
                "peer `{}` speaks WireGuard, which has no probes: try `{instead}` instead",
                self.name(peer)
            ))),
        }
    }

    fn resolved(&mut self, now: Instant, peer: PeerId, found: &Result<Vec<SocketAddr>, String>) {
        self.resolver.resolved(now, peer, found);
        if let Ok(addresses) = found {
            for endpoint in addresses {
                if let Some(complaint) = self.resolver.complaint(peer, *endpoint) {
                    warn!("{}: {complaint}", self.name(peer));
                }
            }
            self.node.set_endpoints(now, peer, addresses);
        }
    }

    fn snapshot(&mut self, now: Instant) -> Snapshot {
        let mut node = self.node.status(now);
        // What the kernel had to drop before we saw it: counted too, beside what the node has dropped itself.
        let at_sockets = self.links.iter().map(CarrierLink::receive_drops).sum();
        let at_tun = self.device.as_mut().and_then(|device| device.kernel_drops().ok()).unwrap_or(0);
        for (reason, count) in [("kernel_socket_full", at_sockets), ("kernel_tun_full", at_tun)] {
            if count > 0 {
                node.drops.insert(reason.into(), count);
            }
        }
        if let Some(dropped) = self.streams.as_ref().map(|inbox| inbox.dropped()).filter(|&count| count > 0) {
            *node.drops.entry(DropReason::StreamBacklog.name().into()).or_default() += dropped;
        }
        if let Some(refused) = self.streams.as_ref().map(|inbox| inbox.refused()).filter(|&count| count > 0) {
            *node.drops.entry(DropReason::StreamRefused.name().into()).or_default() += refused;
        }
        let tun = self.device.as_ref().map(TunDevice::offloads).unwrap_or_default();
        let udp = self.links[0].udp().offloads();
        let degraded = node.peers.iter().zip(&self.peers).enumerate().filter(|(id, (status, notes))| {
            let unreachable = self.unreachable.contains(&PeerId(*id as u32));
            let flips = self.flips.flips(now, PeerId(*id as u32));
            flips || !status.connected && (notes.expected || unreachable)
        });
        let degraded = degraded.map(|(_, (_, notes))| notes.name.clone()).collect();
        let offloads = Offloads {
            tun: TunOffloads {
                csum: tun.csum,
                tso4: tun.tso4,
                tso6: tun.tso6,
                uso4: tun.uso4,
                uso6: tun.uso6,
                multi_queue: tun.multi_queue,
            },
            udp: UdpOffloads { gso: udp.gso, gro: udp.gro },
        };
        Snapshot { node, offloads, degraded, carriers: self.dialler.counts() }
    }

    fn name(&self, peer: PeerId) -> &str {
        self.peers.get(peer.0 as usize).map_or("?", |notes| &notes.name)
    }

    /// One line for each thing that a person may want to know.
    fn notice(&mut self, notice: &Notice) {
        if let Notice::Connected { endpoint, .. } | Notice::Roamed { endpoint, .. } = notice {
            self.dialler.vouch_for(endpoint.carrier, endpoint.address);
        }
        match notice {
            Notice::Connected { peer, endpoint, handshake, post_quantum } => {
                self.unreachable.remove(peer);
                let kind = if *post_quantum { "post-quantum" } else { "classical" };
                let how = match handshake {
                    Some(took) => format!("{kind} handshake in {:.1} ms", millis(*took)),
                    None => format!("{kind} handshake, answered"),
                };
                info!("{}: connected at {endpoint} ({how})", self.name(*peer));
            }
            Notice::Rekeyed { peer } => {
                self.unreachable.remove(peer);
                debug!("{}: fresh keys", self.name(*peer));
            }
            Notice::Roamed { peer, endpoint } => {
                let name = self.name(*peer).to_owned();
                match self.flips.moved(Instant::now(), *peer, *endpoint) {
                    Move::Plain => info!("{name}: moved to {endpoint}"),
                    Move::FirstFlip => warn!(
                        "{name}: two programs use this key: it moves to {endpoint} and back within seconds, again and again; stop \
                         one of them, or give it a key of its own"
                    ),
                    Move::Flip => debug!("{name}: moved to {endpoint}"),
                }
            }
            Notice::HandshakeFailed { peer } => {
                self.unreachable.insert(*peer);
                warn!("{}: does not answer", self.name(*peer));
            }
            Notice::StaleInitiation { peer } => warn!(
                "{}: its handshake is not newer than one seen before, so it is refused: a recording, or its clock was set back and its \
                 state lost. To let it in, stop this node and remove its line from {}",
                self.name(*peer),
                self.confirmed.path().display()
            ),
            Notice::CipherRefused { peer, suite } => warn!(
                "{}: asks for {}, which `cipher` forbids: give both ends the same `cipher`",
                self.name(*peer),
                suite.name()
            ),
            Notice::Disconnected { peer } => info!("{}: disconnected", self.name(*peer)),
            Notice::PathMtuLowered { peer, mtu } => {
                let name = self.name(*peer);
                info!("{name}: the path is narrower than thought: it carries packets of {mtu} bytes");
            }
            other => info!("{other:?}"),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
