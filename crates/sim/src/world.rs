//! The world: its clock, its queue of events, and the loop that works them off.

mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use handshake::PresharedKey;
use node::{Action, Notice, Pong, Way};
use packet::{Carrier, Ecn, VnetHeader};

use self::wire::Filter;
pub use self::wire::{Captured, NetworkCounts, Passing};
use crate::check::{AmplificationCheck, NonceCheck, PlaintextCheck};
use crate::dice::Dice;
use crate::inner;
use crate::machine::{self, Arrival, Machine, NodeSpec, Output, PeerOptions};
use crate::nat::Nat;
use crate::network::Network;
use crate::rest::all_drops;
use crate::trace::Trace;
use crate::traffic::{FlowId, Ledger, Load};

/// Events after which a world is said to run away.
const EVENTS_MAX: u64 = 20_000_000;
/// Times one machine may be driven at one instant.
const DRIVES_MAX: u32 = 10_000;

/// A node of the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) usize);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// An inner packet, written by hand, that came out of a node's TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// World time.
    pub at: Duration,
    /// The IP packet.
    pub packet: Vec<u8>,
}

type Call = Box<dyn FnOnce(&mut World)>;

enum Event {
    Arrive { carrier: Carrier, from: SocketAddr, to: SocketAddr, ecn: Ecn, bytes: Vec<u8>, genuine: bool },
    Wake(usize),
    Writable(usize, usize),
    Generate(FlowId, Load),
    Call(Call),
}

/// A deterministic world of machines: see the [crate's documentation](crate).
pub struct World {
    seed: u64,
    epoch: Instant,
    now: Duration,
    sequence: u64,
    events: BTreeMap<(Duration, u64), Event>,
    handled: u64,
    pub(crate) dice: Dice,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    nats: Vec<Nat>,
    pub(crate) partitions: BTreeSet<(NodeId, NodeId)>,
    filter: Option<Filter>,
    pub(crate) trace: Trace,
    pub(crate) ledger: Ledger,
    /// Generators that still run.
    loads: usize,
    plaintext: PlaintextCheck,
    nonces: NonceCheck,
    amplification: AmplificationCheck,
    /// The latest arrival planned from one node to another, and whether anything ever arrived out of order.
    order: BTreeMap<(NodeId, NodeId), (Duration, bool)>,
    pub(crate) counts: NetworkCounts,
    pub(crate) received: BTreeMap<NodeId, Vec<Received>>,
    pub(crate) pongs: BTreeMap<(NodeId, u64), Pong>,
    pub(crate) notices: BTreeMap<NodeId, Vec<(Duration, Notice)>>,
    capture: Option<Vec<Captured>>,
    /// How often each machine was driven at this instant.
    drives: BTreeMap<usize, u32>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("machines", &self.machines.len())
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}

impl World {
    /// An empty world. All chance in it comes from `seed`.
    #[expect(
        clippy::disallowed_methods,
        reason = "an `Instant` cannot be made from nothing; only differences matter"
    )]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let marker = dice.bytes();
        Self {
            seed,
            epoch: Instant::now(),
            now: Duration::ZERO,
            sequence: 0,
            events: BTreeMap::new(),
            handled: 0,
            dice,
            machines: Vec::new(),
            network: Network::default(),
            nats: Vec::new(),
            partitions: BTreeSet::new(),
            filter: None,
            trace: Trace::default(),
            ledger: Ledger::new(marker),
            loads: 0,
            plaintext: PlaintextCheck::new(&marker),
            nonces: NonceCheck::default(),
            amplification: AmplificationCheck::default(),
            order: BTreeMap::new(),
            counts: NetworkCounts::default(),
            received: BTreeMap::new(),
            pongs: BTreeMap::new(),
            notices: BTreeMap::new(),
            capture: None,
            drives: BTreeMap::new(),
        }
    }

    /// A world with two nodes, `left` and `right`, that know each other's keys and addresses.
    pub fn pair(seed: u64) -> (Self, NodeId, NodeId) {
        Self::pair_with(seed, NodeSpec::default(), NodeSpec::default(), &PeerOptions::default())
    }

    /// The same, with a say in what the two are like.
    pub fn pair_with(
        seed: u64,
        left: NodeSpec,
        right: NodeSpec,
        how: &PeerOptions,
    ) -> (Self, NodeId, NodeId) {
        let mut world = Self::new(seed);
        let left = world.add(NodeSpec { name: "left".into(), ..left });
        let right = world.add(NodeSpec { name: "right".into(), ..right });
        world.peer_with(left, right, how);
        (world, left, right)
    }

    /// Adds a machine. It starts at the first use of the world, or with [`restart`](Self::restart).
    pub fn add(&mut self, mut spec: NodeSpec) -> NodeId {
        let number = self.machines.len() as u8 + 1;
        if spec.name.is_empty() {
            spec.name = char::from(b'a' + number - 1).to_string();
        }
        if spec.addresses.is_empty() {
            spec.addresses = vec![Ipv4Addr::new(192, 0, 2, number).into()];
        }
        if spec.inner.is_empty() {
            let six = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number));
            spec.inner = vec![Ipv4Addr::new(10, 77, 0, number).into(), six.into()];
        }
        let machine = Machine::new(spec, &mut self.dice);
        self.machines.push(machine);
        NodeId(self.machines.len() - 1)
    }

    /// Makes two nodes peers of each other. Only before they start.
    pub fn peer(&mut self, a: NodeId, b: NodeId) {
        self.peer_with(a, b, &PeerOptions::default());
    }

    /// The same, with a say in how.
    pub fn peer_with(&mut self, a: NodeId, b: NodeId, how: &PeerOptions) {
        assert!(a != b && !self.machines[a.0].is_started() && !self.machines[b.0].is_started());
        let key =
            if how.preshared_key { PresharedKey::generate(self.dice.rng()) } else { PresharedKey::default() };
        let (low, high) = self.machines.split_at_mut(a.0.max(b.0));
        let (first, second) = (&mut low[a.0.min(b.0)], &mut high[0]);
        let (left, right) = if a < b { (first, second) } else { (second, first) };
        machine::introduce(left, right, b, how, &key, how.endpoints.0);
        machine::introduce(right, left, a, how, &key, how.endpoints.1);
    }

    /// Gives a node its own opinion of the carriers to a peer, best first. Only before it starts.
    pub fn prefer(&mut self, node: NodeId, peer: NodeId, carriers: &[Carrier]) {
        let machine = &mut self.machines[node.0];
        assert!(!machine.is_started());
        for known in machine.peers.iter_mut().filter(|known| known.id == peer) {
            known.config.ways = carriers.iter().map(|&carrier| Way { carrier, port: None }).collect();
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// World time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// A hash over all that has happened: times, names, lengths and kinds.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// What crossed the network so far.
    pub fn counts(&self) -> NetworkCounts {
        self.counts
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step_until(end) {}
    }

    /// Runs until `done` says so, looked at after every instant at which something happened, or for `limit`.
    /// Returns whether it came true.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            if !self.step_until(end) {
                return done(self);
            }
        }
        true
    }

    /// Does `what` at a later time, between two events.
    pub fn after(&mut self, delay: Duration, what: impl FnOnce(&mut Self) + 'static) {
        self.schedule(self.now + delay, Event::Call(Box::new(what)));
    }

    /// Stops with the seed, the reason and the last events.
    #[track_caller]
    pub(crate) fn fail(&self, why: &str) -> ! {
        panic!("seed={} at {:.6}s: {why}", self.seed, self.now.as_secs_f64());
    }

    pub(crate) fn schedule(&mut self, at: Duration, event: impl Into<Scheduled>) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event.into().0);
    }

    /// The time on a machine's own clock.
    pub(crate) fn clock(&self, id: NodeId) -> Instant {
        self.epoch + self.now + self.machines[id.0].ahead
    }

    pub(crate) fn start_all(&mut self) {
        for i in 0..self.machines.len() {
            if self.machines[i].starts == 0 {
                self.start(NodeId(i));
            }
        }
    }

    pub(crate) fn start(&mut self, id: NodeId) {
        self.machines[id.0].start(self.epoch, self.now, &mut self.dice);
        let name = self.machines[id.0].spec.name.clone();
        self.trace.push(self.now, &name, "", 0, "starts");
        let endpoints: Vec<SocketAddr> =
            self.machines[id.0].peers.iter().filter_map(|peer| peer.config.endpoint).collect();
        for endpoint in endpoints {
            self.trust(id, endpoint);
        }
        self.drive(id);
    }

    pub(crate) fn trust(&mut self, id: NodeId, address: SocketAddr) {
        self.amplification.trust(id.0 as u64, address);
    }

    pub(crate) fn start_load(&mut self, flow: FlowId, load: Load) {
        self.loads += 1;
        self.schedule(self.now, Event::Generate(flow, load));
    }

    /// Whether applications have sent all they were told to.
    pub fn is_idle(&self) -> bool {
        self.loads == 0
    }

    /// Works off all events of the next instant that is not after `end`; at `end`, moves the clock there and returns
    /// false.
    fn step_until(&mut self, end: Duration) -> bool {
        self.start_all();
        let Some((&(at, _), _)) = self.events.first_key_value().filter(|((at, _), _)| *at <= end) else {
            self.now = end;
            self.drives.clear();
            return false;
        };
        if at > self.now {
            self.drives.clear();
        }
        self.now = at;
        let mut touched = BTreeSet::new();
        let mut arrived: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 == at) {
            self.handled += 1;
            if self.handled > EVENTS_MAX {
                self.fail("more events than any scenario needs");
            }
            match entry.remove() {
                Event::Arrive { carrier, from, to, ecn, bytes, genuine } => {
                    if let Some((id, to)) = self.arrive(from, to, &bytes, genuine) {
                        arrived.entry(id.0).or_default().push(Arrival { carrier, from, to, ecn, bytes });
                    }
                }
                Event::Wake(i) => {
                    if self.machines[i].armed == Some(at) {
                        self.machines[i].armed = None;
                    }
                    touched.insert(i);
                }
                Event::Writable(i, worker) => {
                    self.machines[i].writable(worker, at);
                    touched.insert(i);
                }
                Event::Generate(flow, load) => self.generate_tick(flow, load),
                Event::Call(call) => call(self),
            }
        }
        for (i, datagrams) in arrived {
            let refused = self.machines[i].deliver(datagrams);
            self.counts.lost += refused as u64;
            touched.insert(i);
        }
        for i in touched {
            if self.machines[i].has_work(self.clock(NodeId(i))) {
                self.drive(NodeId(i));
            } else {
                self.arm(i);
            }
        }
        true
    }

    fn generate_tick(&mut self, flow: FlowId, mut load: Load) {
        self.send(flow, load.bytes, load.segment_bytes);
        load.ticks = load.ticks.saturating_sub(1);
        if load.ticks == 0 {
            self.loads -= 1;
        } else {
            self.schedule(self.now + load.every, Event::Generate(flow, load));
        }
    }

    /// Lets a machine do its work and spreads what comes of it.
    pub(crate) fn drive(&mut self, id: NodeId) {
        let drives = self.drives.entry(id.0).or_default();
        *drives += 1;
        if *drives > DRIVES_MAX {
            self.fail(&format!(
                "{} was driven {DRIVES_MAX} times at one instant",
                self.machines[id.0].spec.name
            ));
        }
        let at = self.clock(id);
        let output = match self.machines[id.0].drive(at, self.now) {
            Ok(output) => output,
            Err(why) => self.fail(&format!("{}: {why}", self.machines[id.0].spec.name)),
        };
        let Output { sent, written, actions } = output;
        for outgoing in sent {
            self.transmit(id, outgoing);
        }
        for packet in written {
            self.deliver_inner(id, &packet);
        }
        for (worker, at) in self.machines[id.0].blocked() {
            // At least a nanosecond later, so that a socket that is full again does not stop time.
            self.schedule(at.max(self.now + Duration::from_nanos(1)), Event::Writable(id.0, worker));
        }
        for action in actions {
            self.act(id, action);
        }
        self.arm(id.0);
    }

    /// Plans the next wake-up of a machine, unless an earlier one is planned.
    fn arm(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        let (true, Some(deadline)) = (machine.is_running(), machine.deadline()) else { return };
        let at = deadline.saturating_duration_since(self.epoch + machine.ahead).max(self.now);
        if machine.armed.is_none_or(|armed| armed > at) {
            machine.armed = Some(at);
            self.schedule(at, Event::Wake(i));
        }
    }

    fn act(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Pong(pong) => {
                self.pongs.insert((id, pong.id), pong);
            }
            Action::Notice(notice) => {
                let name = &self.machines[id.0].spec.name;
                self.trace.push(self.now, name, "", 0, notice_name(&notice));
                self.notices.entry(id).or_default().push((self.now, notice));
            }
            // The machine has answered; there is nothing to open.
            Action::KeepConfirmed(confirmed) => self.machines[id.0].kept = confirmed,
            Action::AskPathMtu { .. } | Action::Dial { .. } | Action::Redial { .. } | Action::HangUp(_) => {}
            Action::Resolve(peer) => {
                let peer = self.machines[id.0].peers[peer.0 as usize].clone();
                let name = &self.machines[id.0].spec.name;
                self.trace.push(self.now, name, &peer.config.name, 0, "wants to be told the address of");
                if peer.host_name {
                    self.set_endpoint(id, peer.id);
                }
            }
        }
    }

    /// Checks what came out of a TUN device.
    fn deliver_inner(&mut self, id: NodeId, bytes: &[u8]) {
        let name = self.machines[id.0].spec.name.clone();
        let packet = bytes.get(VnetHeader::LEN..).unwrap_or_default();
        self.trace.push(self.now, &name, "its TUN", packet.len(), "packet out");
        if self.ledger.take_raw(packet) {
            self.received.entry(id).or_default().push(Received { at: self.now, packet: packet.to_vec() });
            return;
        }
        match inner::parse_too_big(packet) {
            Ok(None) => {}
            Ok(Some(told)) => {
                if let Err(why) = self.ledger.tell(id, &told) {
                    self.fail(&format!("{name} was told of a packet that it did not send: {why}"));
                }
                return;
            }
            Err(why) => self.fail(&format!("{name} wrote a bad ICMP message to its TUN: {why}")),
        }
        let segments = match inner::parse(bytes) {
            Ok(segments) => segments,
            Err(why) => self.fail(&format!("{name} wrote a bad packet to its TUN: {why}")),
        };
        for segment in segments {
            let order = &self.order;
            let may_reorder = |from, to| order.get(&(from, to)).is_some_and(|(_, reordered)| *reordered);
            match self.ledger.receive(self.now, id, &segment, may_reorder) {
                Err(why) => self.fail(&format!("{name} received what it should not: {why}")),
                Ok(sender) => self.check_source(id, sender, segment.tuple.src),
            }
        }
    }

    fn check_source(&self, id: NodeId, sender: NodeId, src: IpAddr) {
        let machine = &self.machines[id.0];
        let owned = machine.peers.iter().any(|peer| {
            peer.id == sender && peer.config.allowed_ips.iter().any(|prefix| prefix.contains(&src))
        });
        if !owned {
            let (name, sender) = (&machine.spec.name, &self.machines[sender.0].spec.name);
            self.fail(&format!("{name} took a packet from {src}, which does not belong to {sender}"));
        }
    }
}

/// An event, opaque to other modules.
pub(crate) struct Scheduled(Event);

impl From<Event> for Scheduled {
    fn from(event: Event) -> Self {
        Self(event)
    }
}

impl Drop for World {
    /// Whatever made a test fail, the seed and the last events are what one wants to see.
    #[expect(clippy::print_stderr, reason = "the output of a failing test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nthe last events of seed={} (World::new({}) replays them):", self.seed, self.seed);
            for entry in self.trace.last() {
                eprintln!("{entry}");
            }
            eprintln!("{:>13.6}s  here it failed (seed={})", self.now.as_secs_f64(), self.seed);
            for (i, machine) in self.machines.iter().enumerate() {
                if let Some(status) = machine.status(self.clock(NodeId(i))) {
                    eprintln!("{}: dropped {:?}", machine.spec.name, all_drops(&status));
                }
            }
            eprintln!("network: {:?}\n", self.counts);
        }
    }
}

fn notice_name(notice: &Notice) -> &'static str {
    match notice {
        Notice::Connected { .. } => "notice: connected",
        Notice::Rekeyed { .. } => "notice: rekeyed",
        Notice::Roamed { .. } => "notice: peer roamed",
        Notice::HandshakeFailed { .. } => "notice: handshake failed",
        Notice::Disconnected { .. } => "notice: disconnected",
        Notice::PathMtuLowered { .. } => "notice: path MTU lowered",
        _ => "notice",
    }
}
