//! One machine: a node with its workers, TUN queues and sockets, driven as the daemon drives them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use handshake::{PresharedKey, Protocol, PublicKey, StaticSecret, Suite, Timestamp};
use ipnet::IpNet;
use node::{Action, Config, Node, NodeStatus, PeerConfig, PeerId, Ready, Way, Worker};
use packet::coalesce::CoalesceLimits;
use packet::{Carrier, Ecn, Link, PoolConfig, Transmit, Via};
use stream::session::SessionConfig;
use stream::smux::Role;

use crate::dice::Dice;
use crate::link::{Outgoing, SimLink, Train, Uplink};
use crate::streams::Streams;
use crate::tun::SimTun;
use crate::world::NodeId;

/// Rounds of work at one instant after which a machine is said to spin.
const ROUNDS_MAX: usize = 20_000;

/// The Unix time at which every world starts, in seconds: 2026-01-01.
const UNIX_START_S: u64 = 1_767_225_600;

/// What a machine is like. All fields have defaults: name those that matter to the scenario.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name in traces and in the configuration of its peers. Empty: a letter is chosen.
    pub name: String,
    /// Outer addresses, one per IP version in use is enough. Empty: `192.0.2.N`.
    pub addresses: Vec<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Inner addresses. Empty: `10.77.0.N` and `fd77::N`.
    pub inner: Vec<IpAddr>,
    /// Data-plane threads, and so lanes in use.
    pub workers: usize,
    /// Inner MTU, bytes.
    pub mtu: u16,
    /// Whether the TUN device takes super-packets.
    pub offloads: bool,
    /// Whether the kernel joins datagrams that arrive together (UDP GRO).
    pub gro: bool,
    /// Packet memory.
    pub pool: PoolConfig,
    /// The connection to the network.
    pub uplink: Uplink,
    /// Streams to peers, if this node runs any.
    pub streams: Option<SessionConfig>,
    /// The only cipher to use; `None` for the fastest, and whatever a peer asks for.
    pub suite: Option<Suite>,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            addresses: Vec::new(),
            port: 9443,
            inner: Vec::new(),
            workers: 1,
            mtu: 1_420,
            offloads: true,
            gro: true,
            pool: PoolConfig { large: 256, small: 256 },
            uplink: Uplink::default(),
            streams: None,
            suite: None,
        }
    }
}

/// How two nodes know each other.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Which handshake they speak.
    pub protocol: Protocol,
    /// Whether they share a key of their own beside their public keys.
    pub preshared_key: bool,
    /// Whether the first node is told the second's address, and the other way round.
    pub endpoints: (bool, bool),
    /// Whether endpoints are host names, which always resolve to the peer's present address.
    pub host_names: bool,
    /// What may carry their datagrams, best first. Connections are not simulated: whatever is sent arrives.
    pub carriers: Vec<Carrier>,
    /// Send something at least this often, both ways.
    pub keepalive: Option<Duration>,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::ShadowMesh,
            preshared_key: false,
            endpoints: (true, true),
            host_names: false,
            carriers: vec![Carrier::Udp],
            keepalive: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) host_name: bool,
    pub(crate) config: PeerConfig,
}

/// A datagram that has reached a machine.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) carrier: Carrier,
    pub(crate) from: SocketAddr,
    /// Which of the machine's addresses it was sent to.
    pub(crate) to: IpAddr,
    pub(crate) ecn: Ecn,
    pub(crate) bytes: Vec<u8>,
}

/// What one round of driving produced.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) sent: Vec<Outgoing>,
    /// vnet header and packet.
    pub(crate) written: Vec<Vec<u8>>,
    pub(crate) actions: Vec<Action>,
}

/// What runs while the machine is up.
#[derive(Debug)]
struct Running {
    node: Node,
    workers: Vec<Worker>,
    ready: Vec<Ready>,
    /// Workers to step at once: something became ready, or they said there is more.
    awake: Vec<bool>,
    tuns: Vec<SimTun>,
    links: Vec<SimLink>,
    streams: Option<Streams>,
    /// Buffers that the workers hold for good.
    pool_baseline: (usize, usize),
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) spec: NodeSpec,
    pub(crate) peers: Vec<Peer>,
    /// The translator that it is behind.
    pub(crate) nat: Option<usize>,
    /// Stopped, as by SIGSTOP or a hypervisor: it takes part in nothing, and its clock goes on.
    pub(crate) paused: bool,
    /// How far this machine's clock is ahead of the world's.
    pub(crate) ahead: Duration,
    /// Its wall clock differs from the world's by so many seconds; read at start only.
    pub(crate) unix_offset_s: i64,
    /// Starts so far.
    pub(crate) starts: u32,
    /// The earliest wake-up that is planned, world time.
    pub(crate) armed: Option<Duration>,
    secret_seed: [u8; 32],
    pub(crate) public_key: PublicKey,
    /// What the node had kept on disk: the newest confirmed initiation of each peer.
    pub(crate) kept: Vec<(PublicKey, Timestamp)>,
    running: Option<Running>,
}

impl Machine {
    pub(crate) fn new(spec: NodeSpec, dice: &mut Dice) -> Self {
        let secret_seed = dice.bytes();
        Self {
            spec,
            peers: Vec::new(),
            nat: None,
            paused: false,
            ahead: Duration::ZERO,
            unix_offset_s: 0,
            starts: 0,
            armed: None,
            public_key: secret(secret_seed).public_key(),
            secret_seed,
            kept: Vec::new(),
            running: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some() && !self.paused
    }

    pub(crate) fn is_started(&self) -> bool {
        self.running.is_some()
    }

    /// This machine's present address of the same IP version as `other`.
    pub(crate) fn address_for(&self, other: IpAddr) -> Option<IpAddr> {
        self.spec.addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
    }

    /// Where this machine is, for peers that use `version_of`'s IP version if it can.
    pub(crate) fn endpoint(&self, version_of: Option<IpAddr>) -> Option<SocketAddr> {
        let same = version_of.and_then(|other| self.address_for(other));
        let address = same.or_else(|| self.spec.addresses.first().copied())?;
        Some(SocketAddr::new(address, self.spec.port))
    }

    pub(crate) fn peer_id(&self, other: NodeId) -> Option<PeerId> {
        self.peers.iter().position(|peer| peer.id == other).map(|at| PeerId(at as u32))
    }

    /// Starts the node, as after boot: nothing is left of an earlier run but its keys and what it had kept on disk.
    pub(crate) fn start(&mut self, epoch: Instant, now: Duration, dice: &mut Dice) {
        self.starts += 1;
        self.armed = None;
        let offload = self.spec.offloads;
        let unix_time = (Duration::from_secs(UNIX_START_S) + now).as_secs_f64() + self.unix_offset_s as f64;
        let config = Config {
            secret: secret(self.secret_seed),
            suite: self.spec.suite.unwrap_or_else(handshake::preferred_suite),
            workers: self.spec.workers,
            mtu: self.spec.mtu,
            peers: self.peers.iter().map(|peer| self.remembered(peer)).collect(),
            epoch: self.starts.into(),
            suite_only: self.spec.suite.is_some(),
            unix_time: Duration::from_secs_f64(unix_time),
            coalesce: if offload { CoalesceLimits::ALL } else { CoalesceLimits::default() },
            streams: self.spec.streams.is_some(),
            pool: self.spec.pool,
        };
        let at = epoch + now + self.ahead;
        let (node, workers) =
            Node::new(config, dice.bytes(), at).expect("a world makes valid configurations");
        let count = workers.len();
        let status = node.status(at);
        let role = |peer: &Peer| {
            let first = self.public_key.as_bytes() < peer.config.public_key.as_bytes();
            if first { Role::Client } else { Role::Server }
        };
        let streams = self.spec.streams.clone().map(|config| {
            let seed = u32::from_ne_bytes(dice.bytes());
            Streams::new(node.stream_port(), config, self.peers.iter().map(role).collect(), seed)
        });
        self.running = Some(Running {
            pool_baseline: (status.pool.large.in_use, status.pool.small.in_use),
            node,
            workers,
            // An edge-triggered poller reports what is already ready when it is told of a descriptor.
            ready: vec![Ready { tun: true, link: true, writable: true }; count],
            awake: vec![true; count],
            tuns: (0..count).map(|_| SimTun::new(offload)).collect(),
            links: (0..count).map(|_| SimLink::new(self.spec.uplink)).collect(),
            streams,
        });
        self.addresses_changed();
    }

    /// What is configured of a peer, and what was kept of it.
    fn remembered(&self, peer: &Peer) -> PeerConfig {
        let kept = self.kept.iter().find(|(key, _)| *key == peer.config.public_key);
        PeerConfig { confirmed: kept.map_or_else(Timestamp::default, |&(_, at)| at), ..peer.config.clone() }
    }

    /// The private key of this machine, for an attacker who has stolen it.
    pub(crate) fn stolen_key(&self) -> StaticSecret {
        secret(self.secret_seed)
    }

    pub(crate) fn kill(&mut self) {
        self.running = None;
        self.armed = None;
        self.paused = false;
    }

    /// Tells the sockets which addresses they have.
    pub(crate) fn addresses_changed(&mut self) {
        let addresses = self.spec.addresses.clone();
        for link in self.links_mut() {
            link.addresses.clone_from(&addresses);
        }
    }

    pub(crate) fn links_mut(&mut self) -> &mut [SimLink] {
        self.running.as_mut().map_or(&mut [], |running| &mut running.links)
    }

    pub(crate) fn tuns_mut(&mut self) -> &mut [SimTun] {
        self.running.as_mut().map_or(&mut [], |running| &mut running.tuns)
    }

    pub(crate) fn node_mut(&mut self) -> Option<&mut Node> {
        self.running.as_mut().map(|running| &mut running.node)
    }

    pub(crate) fn streams_mut(&mut self) -> Option<&mut Streams> {
        self.running.as_mut().and_then(|running| running.streams.as_mut())
    }

    pub(crate) fn status(&self, at: Instant) -> Option<NodeStatus> {
        self.running.as_ref().map(|running| running.node.status(at))
    }

    /// The kernel hands datagrams that arrived at one instant to the sockets: joined by GRO, then steered by the lane
    /// of the first, data packets only. Returns how many found a full receive buffer.
    pub(crate) fn deliver(&mut self, datagrams: Vec<Arrival>) -> usize {
        let gro = self.spec.gro;
        let Some(running) = &mut self.running else { return 0 };
        let workers = running.links.len();
        let worker_of = |bytes: &[u8]| match *bytes {
            [4 | 20, lane, ..] => lane as usize % workers,
            _ => 0,
        };
        let mut trains: Vec<Train> = Vec::new();
        // Each socket of a sender has a hop limit of its own, and GRO joins nothing of different hop limits.
        let hop_limit_of = |bytes: &[u8]| match *bytes {
            [4 | 20, lane, ..] => lane,
            _ => 0,
        };
        for Arrival { carrier, from, to, ecn, bytes } in datagrams {
            let alike = |last: &&mut Train| {
                last.carrier == carrier && hop_limit_of(&last.bytes) == hop_limit_of(&bytes)
            };
            let last = trains.last_mut().filter(|_| gro).filter(alike);
            if !last.is_some_and(|last| last.try_append(from, to, ecn, &bytes)) {
                trains.push(Train::new(from, to, ecn, bytes).by(carrier));
            }
        }
        let mut refused = 0;
        for train in trains {
            let lane = worker_of(&train.bytes);
            refused += usize::from(!running.links[lane].push(train));
            running.ready[lane].link = true;
            running.awake[lane] = true;
        }
        refused
    }

    /// An application sends. The kernel keeps a flow on one queue.
    pub(crate) fn send(&mut self, flow: usize, packet: Vec<u8>) -> bool {
        let Some(running) = &mut self.running else { return false };
        let queue = flow % running.tuns.len();
        let taken = running.tuns[queue].push(packet);
        running.ready[queue].tun |= taken;
        running.awake[queue] |= taken;
        taken
    }

    /// The TUN device goes up or down.
    pub(crate) fn set_tun_up(&mut self, up: bool) {
        let Some(running) = &mut self.running else { return };
        for (queue, tun) in running.tuns.iter_mut().enumerate() {
            tun.up = up;
            // A device that goes up or down wakes whoever polls its queues.
            running.ready[queue].tun = true;
            running.awake[queue] = true;
        }
    }

    /// The socket of a worker can take datagrams again.
    pub(crate) fn writable(&mut self, worker: usize, now: Duration) {
        let Some(running) = &mut self.running else { return };
        let Some(link) = running.links.get_mut(worker) else { return };
        if link.blocked && link.writable_at() <= now {
            link.blocked = false;
            if let Some(streams) = running.streams.as_mut().filter(|_| worker == 0) {
                streams.writable();
            }
            running.ready[worker].writable = true;
            running.awake[worker] = true;
        }
    }

    /// Sockets that were refused a send and when they will be writable.
    pub(crate) fn blocked(&self) -> Vec<(usize, Duration)> {
        let links = self.running.as_ref().map_or(&[][..], |running| &running.links);
        links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.blocked)
            .map(|(i, link)| (i, link.writable_at()))
            .collect()
    }

    /// Whether a deadline is due or a worker was woken.
    pub(crate) fn has_work(&self, at: Instant) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let touched = running.streams.as_ref().is_some_and(|streams| streams.touched);
            touched
                || running.awake.contains(&true)
                || running.deadline().is_some_and(|(deadline, _)| deadline <= at)
        })
    }

    /// The next deadline of node or workers.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().and_then(|running| running.deadline().map(|(deadline, _)| deadline))
    }

    /// Does all the work there is at one instant, as the daemon's threads would, worker by worker.
    ///
    /// # Errors
    /// When it never ends, when a deadline stays in the past, or when a worker goes to sleep on a full inbox.
    pub(crate) fn drive(&mut self, at: Instant, now: Duration) -> Result<Output, String> {
        let mut output = Output::default();
        let Some(running) = self.running.as_mut().filter(|_| !self.paused) else { return Ok(output) };
        let mut rounds = 0;
        while running.round(at, now, &mut output) {
            rounds += 1;
            if rounds > ROUNDS_MAX {
                return Err(format!(
                    "busy loop: {rounds} rounds at one instant; next deadline {:?}, ready {:?}",
                    running.deadline().map(|(deadline, why)| (deadline.saturating_duration_since(at), why)),
                    running.ready
                ));
            }
        }
        for (i, link) in running.links.iter().enumerate() {
            if link.waiting() > 0 {
                return Err(format!("worker {i} sleeps with {} trains in its inbox", link.waiting()));
            }
        }
        Ok(output)
    }

    /// What is not as it must be when nothing is going on.
    pub(crate) fn unrest(&self, at: Instant) -> Vec<String> {
        let Some(running) = &self.running else { return Vec::new() };
        let mut found = Vec::new();
        for (i, tun) in running.tuns.iter().enumerate() {
            if tun.waiting() > 0 {
                found.push(format!("TUN queue {i} still holds {} packets", tun.waiting()));
            }
        }
        for worker in running.workers.iter().filter(|worker| worker.packets_waiting() > 0) {
            found.push(format!("worker {} holds {} packets", worker.lane(), worker.packets_waiting()));
        }
        let pool = running.node.status(at).pool;
        let (large, small) = running.pool_baseline;
        for (class, in_use, baseline) in
            [("large", pool.large.in_use, large), ("small", pool.small.in_use, small)]
        {
            if in_use != baseline {
                found.push(format!("{in_use} {class} buffers are out, {baseline} at start"));
            }
        }
        found
    }

    /// Packets read from and written to the TUN device since the start.
    pub(crate) fn tun_counts(&self) -> (u64, u64) {
        let tuns = self.running.as_ref().map_or(&[][..], |running| &running.tuns);
        (tuns.iter().map(|tun| tun.packets_read).sum(), tuns.iter().map(|tun| tun.packets_written).sum())
    }
}

impl Running {
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let workers = self.workers.iter().filter_map(Worker::poll_timeout);
        let streams = self.streams.as_ref().and_then(Streams::poll_timeout);
        workers.chain(self.node.poll_timeout()).chain(streams).min()
    }

    /// One pass over workers and node. Returns whether anything was done.
    fn round(&mut self, at: Instant, now: Duration, output: &mut Output) -> bool {
        let mut busy = false;
        for i in 0..self.workers.len() {
            let worker = &mut self.workers[i];
            let due = worker.poll_timeout().is_some_and(|(deadline, _)| deadline <= at);
            if self.awake[i] || due {
                busy = true;
                self.links[i].now = now;
                self.awake[i] = worker.step(at, &mut self.tuns[i], &mut self.links[i], &mut self.ready[i]);
                output.written.extend(self.tuns[i].take_written());
                output.sent.extend(self.links[i].take_sent());
            }
            while let Some(batch) = worker.poll_streams() {
                busy = true;
                if let Some(streams) = &mut self.streams {
                    streams.receive(at, &batch);
                }
            }
            while let Some(event) = worker.poll_event() {
                busy = true;
                self.node.handle_event(at, event);
            }
        }
        if let Some(streams) = &mut self.streams {
            self.links[0].now = now;
            busy |= streams.process(at, &mut self.links[0]);
            output.sent.extend(self.links[0].take_sent());
            while let Some(event) = streams.poll_event() {
                self.node.handle_event(at, event);
            }
        }
        if self.node.poll_timeout().is_some_and(|(deadline, _)| deadline <= at) {
            busy = true;
            self.node.handle_timeout(at);
        }
        self.drain_node(at, now, output);
        busy | self.awake.contains(&true)
    }

    /// What the daemon's node thread does after each call of the node.
    fn drain_node(&mut self, at: Instant, now: Duration, output: &mut Output) {
        while let Some(datagram) = self.node.poll_transmit() {
            let contents = &datagram.contents[..];
            let to = datagram.to;
            let transmit =
                Transmit { to: to.address, ecn: Ecn::NotEct, segment_size: contents.len(), contents };
            self.links[0].now = now;
            let via = Via { carrier: to.carrier, source: datagram.source };
            if self.links[0].send_via(via, &transmit).is_err() {
                self.node.handle_send_failed(at, &datagram);
            }
        }
        output.sent.extend(self.links[0].take_sent());
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::AskPathMtu { peer, endpoint } => {
                    let uplink = self.links[0].uplink;
                    let mtu = uplink.mtu.min(usize::from(u16::MAX)) as u16;
                    let believed = uplink.believed_mtu.map_or(mtu, |believed| believed.min(mtu));
                    self.node.set_path_mtu(at, peer, endpoint, believed);
                }
                other => output.actions.push(other),
            }
        }
        if self.node.take_published() {
            self.awake.fill(true);
        }
    }
}

fn secret(seed: [u8; 32]) -> StaticSecret {
    use rand_core::SeedableRng;
    StaticSecret::generate(&mut rand_chacha::ChaCha20Rng::from_seed(seed))
}

/// Adds a peer to a machine's configuration.
pub(crate) fn introduce(
    machine: &mut Machine,
    other: &Machine,
    id: NodeId,
    options: &PeerOptions,
    preshared_key: &PresharedKey,
    knows_endpoint: bool,
) {
    let version = machine.spec.addresses.first().copied();
    let allowed_ips = other.spec.inner.iter().map(|&address| IpNet::from(address)).collect();
    machine.peers.push(Peer {
        id,
        host_name: options.host_names && knows_endpoint,
        config: PeerConfig {
            name: other.spec.name.clone(),
            public_key: other.public_key,
            preshared_key: preshared_key.clone(),
            protocol: options.protocol,
            endpoint: if knows_endpoint { other.endpoint(version) } else { None },
            ways: options.carriers.iter().map(|&carrier| Way { carrier, port: None }).collect(),
            allowed_ips,
            keepalive: options.keepalive,
            confirmed: Timestamp::default(),
        },
    });
}
