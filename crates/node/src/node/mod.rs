//! The slow path: who the peers are, which sessions stand, and what is due.

mod answers;
mod handshakes;
mod load;
mod mtu;
mod paths;
mod slots;
mod timers;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use carrier::{Carrier, Endpoint, PathMtu, overhead};
use handshake::{
    CookieChecker, CookieJar, HEADER_LEN, Identity, LANES, PeerKeys, Protocol, PublicKey, Session, Suite,
    TAG_LEN, Timestamp, limits,
};
use packet::{Class, Pool};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use thiserror::Error;

use self::load::Load;
use self::slots::Slots;
use crate::config::{Config, ConfigError, PeerConfig, PeerId};
use crate::drops::{DropReason, Drops};
use crate::event::{Action, Datagram, Event, Notice, Pong};
use crate::inner::{Content, Control, ProbeReply};
use crate::peer::{Outstanding, Path, Peer, Purpose, QUEUE_PACKETS, Waiting};
use crate::places::Places;
use crate::routes::Routes;
use crate::status::{ClassStatus, NodeStatus, PeerStatus, PoolStatus};
use crate::streams::StreamPort;
use crate::table::{IndexCipher, PeerRow, PeerState, Published, SessionRow, Table};
use crate::unconfirmed::{Network, UnconfirmedSet};
use crate::worker::{Setup, Worker};

/// How often the node looks at its peers while any of them is active: its deadlines are half a second apart and more, so
/// that none is noticeably late.
const TICK: Duration = Duration::from_millis(100);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Whence a message that is not data came, and to which of our addresses.
#[derive(Clone, Copy, Debug)]
struct Caller {
    from: Endpoint,
    local: Option<IpAddr>,
}

impl Caller {
    /// What is said to it in return leaves from where it called.
    fn answer(self, contents: Vec<u8>) -> Datagram {
        Datagram { to: self.from, source: self.local, contents }
    }
}

/// No peer has that name or key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no peer is called `{0}`")]
pub struct NotFound(pub String);

/// The slow path. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    start: Instant,
    /// The wall-clock time at `start`.
    unix_time: Duration,
    epoch: u64,
    suite: Suite,
    suite_only: bool,
    workers: usize,
    /// The MTU of the TUN device.
    mtu: u16,
    peers: Vec<Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    routes: Arc<Routes>,
    slots: Slots,
    /// Peers of which an initiation is half there.
    split_waiting: Vec<PeerId>,
    published: Arc<Published>,
    /// The table no longer shows how things are.
    stale: bool,
    take_published: bool,
    pool: Pool,
    drops: Arc<Drops>,
    rng: ChaCha20Rng,
    cookies: CookieChecker,
    load: Load,
    /// Where peers are known to be, and since when this is.
    peer_networks: Option<(Instant, HashSet<Network>)>,
    /// A peer's [`confirmed`](Peer::confirmed) has risen since it was last kept.
    confirmed_risen: bool,
    confirmed_kept_at: Option<Instant>,
    transmits: VecDeque<Datagram>,
    actions: VecDeque<Action>,
    next_tick: Option<Instant>,
    next_id: u64,
}

impl Node {
    /// A node and its workers. `seed` must be fresh and secret: it feeds every random choice but the key generation of
    /// ML-KEM, which draws its own.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Result<(Self, Vec<Worker>), ConfigError> {
        if !(1..=LANES).contains(&config.workers) {
            return Err(ConfigError::Workers(config.workers));
        }
        let mut rng = ChaCha20Rng::from_seed(seed);
        let identity = Identity::new(config.secret);
        let by_key = check_keys(&identity, &config.peers)?;
        let routes = Arc::new(Routes::new(check_routes(&config.peers)?));
        let peers = (config.peers.into_iter())
            .map(|peer| new_peer(&identity, peer, config.mtu, now))
            .collect::<Result<Vec<_>, _>>()?;
        let pool = Pool::new(config.pool);
        let drops = Arc::new(Drops::default());
        let slots = Slots::new(IndexCipher::new(&mut rng));
        let empty = Table {
            routes: Arc::clone(&routes),
            peers: rows(&peers),
            indices: slots.cipher(),
            sessions: Vec::new(),
        };
        let published = Arc::new(Published::new(empty));
        let workers = (0..config.workers)
            .map(|lane| {
                Worker::new(Setup {
                    lane: lane as u8,
                    workers: config.workers,
                    peers: peers.len(),
                    start: now,
                    pool: pool.clone(),
                    pool_large: config.pool.large,
                    drops: Arc::clone(&drops),
                    published: Arc::clone(&published),
                    coalesce: config.coalesce,
                    streams: config.streams,
                })
            })
            .collect();
        let cookies = CookieChecker::new(&identity, &mut rng);
        let load = Load::new(now, rng.next_u64());
        let mut node = Self {
            identity,
            start: now,
            unix_time: config.unix_time,
            epoch: config.epoch,
            suite: config.suite,
            suite_only: config.suite_only,
            workers: config.workers,
            mtu: config.mtu,
            slots,
            split_waiting: Vec::new(),
            peers,
            by_key,
            routes,
            published,
            stale: false,
            take_published: false,
            pool,
            drops,
            rng,
            cookies,
            load,
            peer_networks: None,
            confirmed_risen: false,
            confirmed_kept_at: None,
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            next_tick: None,
            next_id: 1,
        };
        // Whoever can be reached is reached at once: the first packet then finds a session.
        for index in 0..node.peers.len() {
            if node.peers[index].endpoint.is_some() {
                node.begin_handshake(now, PeerId(index as u32));
                node.ask_path_mtu(now, PeerId(index as u32));
            }
        }
        node.settle(now);
        Ok((node, workers))
    }

    /// The sending side for whoever runs streams: one is enough.
    pub fn stream_port(&self) -> StreamPort {
        let lane = self.workers.min(LANES - 1) as u8;
        StreamPort::new(lane, self.start, Arc::clone(&self.drops), Arc::clone(&self.published))
    }

    /// Takes what a worker has to tell.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Handshake { from, local, message } => {
                self.handle_message(now, Caller { from, local }, &message);
            }
            Event::NeedSession { peer } => {
                let fresh = |session: &Arc<Session>| now < session.established() + limits::REKEY_TIMEOUT;
                // The worker may have asked before it learnt of the session that has come about meanwhile.
                if !self.peers.get(peer.0 as usize).is_some_and(|p| p.current.as_ref().is_some_and(fresh)) {
                    self.begin_handshake(now, peer);
                }
            }
            Event::SessionConfirmed { peer, local_index, endpoint, local } => {
                self.confirm(now, peer, local_index, endpoint, local);
            }
            Event::Roamed { peer, endpoint, local } => self.roam(now, peer, endpoint, local),
            Event::ProbeReply { peer, at, reply } => self.handle_reply(peer, at, &reply),
            Event::PathTooSmall { peer } => self.path_too_small(now, peer),
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| now >= at) {
            self.next_tick = None;
            self.tick(now);
        }
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.next_tick.map(|at| (at, "look at the peers"))
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.transmits.pop_front()
    }

    /// Tells that a datagram could not be sent. What matters is sent again in its time; a handshake message is counted, since
    /// without them nothing else is ever sent.
    pub fn handle_send_failed(&mut self, now: Instant, datagram: &Datagram) {
        if datagram.is_handshake() {
            self.drops.add(DropReason::HandshakeSendFailed, 1);
            self.hurry_handshake(now, datagram.to);
        }
    }

    /// The next thing for the program to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether a new table was published since the last call: wake the workers then.
    pub fn take_published(&mut self) -> bool {
        std::mem::take(&mut self.take_published)
    }

    /// Sends a probe to a peer, after a handshake if there must be one, and returns its number: an
    /// [`Action::Pong`] with that number follows, at the latest [a tick](Self::poll_timeout) after `timeout`. A WireGuard
    /// peer knows no probes and never answers one, and nobody answers by a `carrier` that he [has not](Self::has_carrier).
    pub fn ping(&mut self, now: Instant, peer: PeerId, carrier: Option<Carrier>, timeout: Duration) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = now + timeout;
        let place = carrier.map(|carrier| self.place_by(peer, carrier));
        match self.peers.get_mut(peer.0 as usize) {
            Some(p) if p.keys.protocol() == Protocol::ShadowMesh && place != Some(None) => {
                let place = place.flatten();
                if p.current.is_some() {
                    self.probe_at(now, peer, Purpose::Ping { id, deadline }, place);
                } else {
                    p.pings.push(Waiting { id, deadline, place });
                    self.begin_handshake(now, peer);
                }
            }
            _ => self.actions.push_back(Action::Pong(Pong { id, peer, rtt: None })),
        }
        self.settle(now);
        id
    }

    /// Starts a fresh handshake with a peer now.
    pub fn rekey(&mut self, now: Instant, peer: PeerId) {
        self.begin_handshake(now, peer);
        self.settle(now);
    }

    /// The peer with that name or base64 public key.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<PeerId, NotFound> {
        let by_key = || name.parse().ok().and_then(|key: PublicKey| self.by_key.get(&key).copied());
        let by_name = self.peers.iter().position(|peer| peer.name == name).map(|index| PeerId(index as u32));
        by_name.or_else(by_key).ok_or_else(|| NotFound(name.to_owned()))
    }

    /// A snapshot for people and programs.
    pub fn status(&self, now: Instant) -> NodeStatus {
        let class = |class| {
            let packet::ClassUse { capacity, in_use, exhausted } = self.pool.usage(class);
            ClassStatus { capacity, in_use, exhausted }
        };
        NodeStatus {
            public_key: self.identity.public_key().to_string(),
            workers: self.workers,
            mtu: self.mtu,
            pool: PoolStatus { large: class(Class::Large), small: class(Class::Small) },
            drops: named(&self.drops),
            peers: self.peers.iter().map(|peer| peer_status(peer, now)).collect(),
        }
    }

    /// Packets forwarded, and packets dropped, in all: for checks that nothing is lost unaccounted.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let all = std::iter::once(&*self.drops).chain(self.peers.iter().map(|peer| &peer.state.drops));
        all.flat_map(Drops::iter)
    }

    /// Ends every call: publishes what has changed and keeps the clock going while there is something to watch.
    fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.stale) {
            let mut sessions = vec![None; self.slots.len()];
            for (index, peer) in self.peers.iter().enumerate() {
                for session in peer.sessions() {
                    let row = SessionRow { session: Arc::clone(session), peer: PeerId(index as u32) };
                    sessions[self.slots.cipher().slot_of(session.local_index())] = Some(row);
                }
            }
            self.published.publish(Table {
                routes: Arc::clone(&self.routes),
                peers: rows(&self.peers),
                indices: self.slots.cipher(),
                sessions,
            });
            self.take_published = true;
        }
        if self.next_tick.is_none() && self.peers.iter().any(needs_clock) {
            self.next_tick = Some(now + TICK);
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }

    /// Seals `plaintext` for a peer and sends it to where the peer is, or to another of its places.
    fn send_sealed(&mut self, now: Instant, peer: PeerId, place: Option<Endpoint>, plaintext: &[u8]) -> bool {
        let Some(p) = self.peers.get(peer.0 as usize) else { return false };
        let (Some(session), Some(to)) = (&p.current, place.or(p.endpoint)) else { return false };
        let sealer = session.sealer(0);
        let Ok(counter) = sealer.reserve(1) else { return false };
        let mut contents = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
        contents[HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
        sealer.seal(counter, &mut contents);
        p.state.last_sent.set(self.start, now);
        let source = p.local.filter(|_| Some(to) == p.endpoint);
        self.transmits.push_back(Datagram { to, source, contents });
        true
    }

    /// Sends nothing, but sealed: it confirms a session and keeps a path open.
    fn send_keepalive(&mut self, now: Instant, peer: PeerId) {
        match self.peers[peer.0 as usize].keys.protocol() {
            Protocol::WireGuard => self.send_sealed(now, peer, None, &[]),
            Protocol::ShadowMesh => self.send_sealed(now, peer, None, &[Content::Padding as u8]),
        };
    }

    /// Sends a probe to where the peer is. Returns its number, unless there is no session to send it in.
    fn probe(&mut self, now: Instant, peer: PeerId, purpose: Purpose) -> Option<u64> {
        self.probe_at(now, peer, purpose, None)
    }

    /// As [`probe`](Self::probe), by another of the peer's places: a trial.
    fn probe_at(
        &mut self,
        now: Instant,
        peer: PeerId,
        purpose: Purpose,
        place: Option<Endpoint>,
    ) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let p = &self.peers[peer.0 as usize];
        let to = place.or(p.endpoint)?;
        let trial = Some(to) != p.endpoint;
        let request = if trial { Control::TrialRequest { id } } else { Control::ProbeRequest { id } };
        let mut plaintext = request.to_bytes().to_vec();
        if let Purpose::Mtu(mtu) = purpose {
            let outside = usize::from(overhead(to.carrier, to.address.ip())) + HEADER_LEN + TAG_LEN;
            plaintext.resize(usize::from(mtu).saturating_sub(outside).max(plaintext.len()), 0);
        }
        let deadline = match purpose {
            Purpose::Ping { deadline, .. } => deadline,
            Purpose::Path { .. } | Purpose::Mtu(_) | Purpose::Trial => now + PROBE_TIMEOUT,
        };
        let probe = Outstanding { id, sent_at: now, deadline, tx_datagrams: p.tx_datagrams(), purpose, to };
        if trial {
            self.dial(peer, to);
        }
        let sent = self.send_sealed(now, peer, Some(to), &plaintext);
        let p = &mut self.peers[peer.0 as usize];
        if sent && !trial && !matches!(purpose, Purpose::Mtu(_)) {
            p.state.tx_datagrams.fetch_add(1, Relaxed);
        }
        let given_up = if sent { p.path.sent(probe) } else { Some(probe) };
        if let Some(id) = given_up.and_then(|probe| probe.ping()) {
            self.actions.push_back(Action::Pong(Pong { id, peer, rtt: None }));
        }
        sent.then_some(id)
    }

    fn handle_reply(&mut self, peer: PeerId, at: Instant, reply: &ProbeReply) {
        let Some(p) = self.peers.get_mut(peer.0 as usize) else { return };
        let Some(place) = p.path.outstanding.iter().position(|probe| probe.id == reply.id) else { return };
        let Some(probe) = p.path.outstanding.remove(place) else { return };
        if p.endpoint == Some(probe.to) {
            p.places.prove();
            p.path.answered(&probe, at, reply);
            p.unanswered_since = None;
            self.stale |= p.size_queue(self.mtu);
        }
        match probe.purpose {
            Purpose::Ping { id, .. } => {
                let rtt = Some(at.saturating_duration_since(probe.sent_at));
                self.actions.push_back(Action::Pong(Pong { id, peer, rtt }));
            }
            Purpose::Path { confirms: Some((id, size)) } => {
                if p.path.outstanding.iter().any(|probe| probe.id == id) {
                    p.path_mtu.handle_missed(size, at);
                }
            }
            Purpose::Path { confirms: None } => {}
            Purpose::Trial => self.trial_answered(at, peer, probe.to),
            Purpose::Mtu(size) => {
                if p.path_mtu.handle_answer(size) {
                    self.fit(peer);
                }
            }
        }
    }

    /// The timestamp of the next initiation to a peer.
    fn next_timestamp(&mut self, now: Instant, peer: PeerId) -> Timestamp {
        let p = &mut self.peers[peer.0 as usize];
        p.initiations += 1;
        match p.keys.protocol() {
            Protocol::ShadowMesh => Timestamp::from_epoch(self.epoch, p.initiations),
            Protocol::WireGuard => {
                Timestamp::tai64n(self.unix_time + now.saturating_duration_since(self.start))
            }
        }
    }
}

fn check_keys(identity: &Identity, peers: &[PeerConfig]) -> Result<HashMap<PublicKey, PeerId>, ConfigError> {
    let mut by_key = HashMap::new();
    for (index, peer) in peers.iter().enumerate() {
        if peer.public_key == identity.public_key() {
            return Err(ConfigError::OwnKey(peer.name.clone()));
        }
        if let Some(PeerId(first)) = by_key.insert(peer.public_key, PeerId(index as u32)) {
            let first = peers[first as usize].name.clone();
            return Err(ConfigError::DuplicateKey(first, peer.name.clone()));
        }
    }
    Ok(by_key)
}

fn check_routes(peers: &[PeerConfig]) -> Result<Vec<(ipnet::IpNet, PeerId)>, ConfigError> {
    let mut owners = HashMap::new();
    let mut routes = Vec::new();
    for (index, peer) in peers.iter().enumerate() {
        for prefix in peer.allowed_ips.iter().map(ipnet::IpNet::trunc) {
            if let Some(first) = owners.insert(prefix, index).filter(|&first| first != index) {
                let (first, second) = (peers[first].name.clone(), peer.name.clone());
                return Err(ConfigError::OverlappingAllowedIp { prefix, first, second });
            }
            routes.push((prefix, PeerId(index as u32)));
        }
    }
    Ok(routes)
}

fn new_peer(identity: &Identity, peer: PeerConfig, mtu: u16, now: Instant) -> Result<Peer, ConfigError> {
    let keys = PeerKeys::new(identity, peer.public_key, peer.preshared_key, peer.protocol)
        .map_err(|error| ConfigError::Key(peer.name.clone(), error))?;
    let cookies = CookieJar::new(&keys);
    let places = Places::new(peer.ways, peer.endpoint);
    let endpoint = places.all().first().copied();
    let wanted = mtu::wanted(peer.protocol, endpoint, mtu);
    Ok(Peer {
        name: peer.name,
        keys,
        allowed_ips: peer.allowed_ips,
        keepalive: peer.keepalive,
        endpoint,
        places,
        local: None,
        state: Arc::new(PeerState::default()),
        current: None,
        previous: VecDeque::new(),
        unconfirmed: UnconfirmedSet::default(),
        attempt: None,
        confirmed: peer.confirmed,
        initiations: 0,
        initiations_paid_until: None,
        cipher_refused_at: None,
        stale_told_at: None,
        cookies,
        split: false,
        unanswered_since: None,
        handshake_took: None,
        connected: false,
        path: Path::default(),
        path_mtu: PathMtu::new(wanted, now),
        packet_max: mtu,
        ask_path_mtu_at: now,
        pings: Vec::new(),
        queue_packets_max: *QUEUE_PACKETS.start(),
    })
}

/// Something about the peer may become due.
fn needs_clock(peer: &Peer) -> bool {
    peer.attempt.is_some()
        || peer.sessions().next().is_some()
        || !peer.pings.is_empty()
        || !peer.path.outstanding.is_empty()
        || peer.unconfirmed.halves().next().is_some()
        || (peer.keepalive.is_some() && peer.endpoint.is_some())
}

fn rows(peers: &[Peer]) -> Vec<PeerRow> {
    peers
        .iter()
        .map(|peer| PeerRow {
            state: Arc::clone(&peer.state),
            protocol: peer.keys.protocol(),
            endpoint: peer.endpoint,
            local: peer.local,
            session: peer.current.clone(),
            queue_packets_max: peer.queue_packets_max,
            packet_max: peer.packet_max.into(),
            stream_max: peer.packet_max.min(mtu::by_any_carrier(peer)).into(),
        })
        .collect()
}

fn named(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
}

fn peer_status(peer: &Peer, now: Instant) -> PeerStatus {
    let session: Option<&Session> = peer.current.as_deref();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    PeerStatus {
        name: peer.name.clone(),
        public_key: peer.keys.public_key().to_string(),
        protocol: match peer.keys.protocol() {
            Protocol::ShadowMesh => "shadowmesh".to_owned(),
            Protocol::WireGuard => "wireguard".to_owned(),
        },
        post_quantum: session.is_some_and(Session::post_quantum),
        cipher: session.map(|session| session.suite().name().to_owned()),
        endpoint: peer.endpoint.map(|endpoint| endpoint.address),
        carrier: peer.endpoint.map_or(Carrier::Udp, |endpoint| endpoint.carrier).name().to_owned(),
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        connected: session.is_some(),
        latest_handshake_s: session
            .map(|session| now.saturating_duration_since(session.established()).as_secs_f64()),
        handshake_ms: peer.handshake_took.map(milliseconds),
        rtt_ms: peer.path.rtt.map(milliseconds),
        loss: peer.path.loss,
        rate_bps: peer.path.rate_bps,
        queue_packets_max: peer.queue_packets_max,
        packet_max: peer.packet_max,
        path_mtu: peer.path_mtu.limit(),
        rx_bytes: peer.state.rx_bytes.load(Relaxed),
        rx_packets: peer.state.rx_packets.load(Relaxed),
        tx_bytes: peer.state.tx_bytes.load(Relaxed),
        tx_packets: peer.state.tx_packets.load(Relaxed),
        tx_recut: peer.state.tx_recut.load(Relaxed),
        drops: named(&peer.state.drops),
    }
}
