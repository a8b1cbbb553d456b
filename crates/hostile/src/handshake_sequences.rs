//! Two nodes that shake hands while somebody on the path repeats, changes, holds back and makes up what passes, and what must hold
//! then: nothing panics, no answer is larger than its question, and once he stops the two find each other in seconds.
//!
//! ```text
//!  input:  kind 1 · operation …      kind: bit 0 WireGuard, bit 1 both call, bit 2 in parts
//!
//!  0  to 1 · message 2 · from 1                    a message seen before, from some address
//!  1  to 1 · message 2 · from 1 · at 2 · xor 1     the same, changed
//!  2  n 1                                          n × 50 ms pass; what the nodes send meanwhile is held back
//!  3  n 1                                          n × 50 ms pass, and what the nodes send arrives
//!  4  who 1                                        a node begins a handshake
//!  5  to 1 · from 1 · count 1                      initiations of a stranger who knows the public key, whole and in parts
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use handshake::{
    Identity, Initiation, InitiationOptions, MessageKind, PeerKeys, PresharedKey, Protocol, PublicKey,
    StaticSecret, Suite, Timestamp, classify,
};
use node::{Action, Config, Node, PeerConfig, PeerId, Ready, Way, Worker};
use packet::coalesce::CoalesceLimits;
use packet::{Carrier, Link, PoolConfig, RecvSlot, Transmit, Tun};

use crate::bytes::Bytes;
use crate::pair::{NOW, rng};

/// Operations of one input: more would show nothing new.
const OPERATIONS_MAX: usize = 48;
/// Messages that the attacker keeps.
const SEEN_MAX: usize = 256;
const STEP: Duration = Duration::from_millis(50);

/// A device that nothing comes from.
struct NoTun;

impl Tun for NoTun {
    fn recv(&mut self, _: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose network is two queues.
#[derive(Default)]
struct Queues {
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    outbox: Vec<(SocketAddr, Vec<u8>)>,
}

impl Link for Queues {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        for datagram in transmit.contents.chunks(transmit.segment_size.max(1)) {
            self.outbox.push((transmit.to, datagram.to_vec()));
        }
        Ok(transmit.contents.len())
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let (Some(slot), Some((from, bytes))) = (slots.first_mut(), self.inbox.pop_front()) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        slot.buf[..bytes.len()].copy_from_slice(&bytes);
        (slot.len, slot.segment_size, slot.from) = (bytes.len(), bytes.len(), from);
        Ok(1)
    }
}

/// One of the two.
struct End {
    node: Node,
    worker: Worker,
    queues: Queues,
    key: PublicKey,
}

impl End {
    fn new(secret: StaticSecret, peer: PeerConfig, seed: u8, now: Instant) -> Self {
        let key = secret.public_key();
        let config = Config {
            secret,
            suite: Suite::ChaCha20Poly1305,
            suite_only: false,
            workers: 1,
            mtu: 1_420,
            peers: vec![peer],
            epoch: 7,
            unix_time: Duration::from_secs(1_767_225_601),
            coalesce: CoalesceLimits::default(),
            streams: false,
            pool: PoolConfig { large: 4, small: 64 },
        };
        let (node, mut workers) = Node::new(config, [seed; 32], now).expect("a valid configuration");
        Self { node, worker: workers.remove(0), queues: Queues::default(), key }
    }

    /// Takes in what has come, and whatever is due. Returns what leaves.
    fn drive(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut ready = Ready { tun: false, link: true, writable: true };
        while self.worker.step(now, &mut NoTun, &mut self.queues, &mut ready) {}
        while let Some(event) = self.worker.poll_event() {
            self.node.handle_event(now, event);
        }
        self.node.handle_timeout(now);
        while let Some(datagram) = self.node.poll_transmit() {
            self.queues.outbox.push((datagram.to.address, datagram.contents));
        }
        std::mem::take(&mut self.queues.outbox)
    }

    fn connected(&self, now: Instant) -> bool {
        self.node.status(now).peers[0].connected
    }
}

struct World {
    ends: [End; 2],
    now: Instant,
    seen: Vec<Vec<u8>>,
    protocol: Protocol,
}

fn home(end: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, end as u8], 9_443))
}

/// An end's own address, or one of a stranger's.
fn somewhere(byte: u8) -> SocketAddr {
    if byte < 2 { home(byte.into()) } else { SocketAddr::from(([198, 51, 100, byte], 6_666)) }
}

impl World {
    fn new(kind: u8) -> Self {
        let protocol = if kind & 1 == 1 { Protocol::WireGuard } else { Protocol::ShadowMesh };
        let mut rng = rng(5);
        let secrets = [StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng)];
        let keys = [secrets[0].public_key(), secrets[1].public_key()];
        let peer = |other: usize, known: bool| PeerConfig {
            name: "other".into(),
            public_key: keys[other],
            preshared_key: PresharedKey::default(),
            protocol,
            endpoint: known.then(|| home(other)),
            ways: vec![Way { carrier: Carrier::Udp, port: None }],
            allowed_ips: Vec::new(),
            keepalive: None,
            confirmed: Timestamp::default(),
        };
        let [first, second] = secrets;
        let ends =
            [End::new(first, peer(1, true), 1, *NOW), End::new(second, peer(0, kind & 2 == 2), 2, *NOW)];
        Self { ends, now: *NOW, seen: Vec::new(), protocol }
    }

    /// Drives both ends until they are silent. What they send arrives, or is only seen.
    fn settle(&mut self, arrives: bool) {
        for _ in 0..64 {
            let mut silent = true;
            for end in 0..2 {
                for (to, bytes) in self.ends[end].drive(self.now) {
                    silent = false;
                    if arrives && to == home(1 - end) {
                        self.ends[1 - end].queues.inbox.push_back((home(end), bytes.clone()));
                    }
                    if self.seen.len() < SEEN_MAX {
                        self.seen.push(bytes);
                    }
                }
            }
            if silent {
                return;
            }
        }
        panic!("two nodes answer each other without end");
    }

    /// Gives one datagram to an end. No answer to it is larger.
    fn deliver(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        self.settle(false);
        self.ends[to].queues.inbox.push_back((from, bytes.to_vec()));
        for (answered, answer) in self.ends[to].drive(self.now) {
            let asked = answered == from && from != home(1 - to);
            assert!(!asked || answer.len() <= bytes.len(), "a stranger gets more than it has sent");
            if self.seen.len() < SEEN_MAX {
                self.seen.push(answer);
            }
        }
    }

    fn pass(&mut self, steps: u32, arrives: bool) {
        for _ in 0..steps {
            self.now += STEP;
            self.settle(arrives);
            for end in &mut self.ends {
                while let Some(action) = end.node.poll_action() {
                    if let Action::KeepConfirmed(confirmed) = action {
                        assert!(confirmed.len() <= 1, "of more peers than there are");
                    }
                }
            }
        }
    }

    fn strange(&mut self, to: usize, from: SocketAddr, count: u8) {
        let mut rng = rng(u64::from(count));
        let stranger = Identity::new(StaticSecret::generate(&mut rng));
        let keys = PeerKeys::new(&stranger, self.ends[to].key, PresharedKey::default(), self.protocol)
            .expect("not a key of low order");
        for n in 0..u32::from(count % 8) {
            let options = InitiationOptions {
                local_index: n,
                timestamp: Timestamp::from_counter(n.into()),
                suite: Suite::ChaCha20Poly1305,
                split: n % 2 == 1,
                cookie: None,
            };
            let (_, datagrams) = Initiation::start(&stranger, &keys, options, &mut rng);
            for datagram in datagrams.iter() {
                self.deliver(to, from, datagram);
            }
        }
    }

    fn operate(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.u8() % 6 {
            operation @ (0 | 1) => {
                let (to, which, from) = (usize::from(bytes.u8() & 1), bytes.u16(), somewhere(bytes.u8()));
                let Some(mut message) = self.seen.get(usize::from(which) % self.seen.len().max(1)).cloned()
                else {
                    return;
                };
                if operation == 1 {
                    let at = usize::from(bytes.u16()) % message.len().max(1);
                    message[at] ^= bytes.u8();
                }
                // A genuine data packet from elsewhere may move the path to there: that is roaming, and no matter of handshakes.
                let data = matches!(classify(&message), Some(MessageKind::Data(_)));
                self.deliver(to, if data { home(1 - to) } else { from }, &message);
            }
            2 => self.pass(u32::from(bytes.u8() % 64), false),
            3 => self.pass(u32::from(bytes.u8() % 64), true),
            4 => {
                let end = usize::from(bytes.u8() & 1);
                self.ends[end].node.rekey(self.now, PeerId(0));
                self.settle(false);
            }
            _ => {
                let (to, from) = (usize::from(bytes.u8() & 1), somewhere(bytes.u8()));
                self.strange(to, from, bytes.u8());
            }
        }
    }
}

/// # Panics
/// When a stranger gets more than it sends, the nodes answer each other for ever, or they do not connect in the end.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut world = World::new(bytes.u8());
    world.settle(false);
    for _ in 0..OPERATIONS_MAX {
        if bytes.is_empty() {
            break;
        }
        world.operate(&mut bytes);
    }
    // From now on the network is an honest one. A handshake that is under way has at most `REKEY_TIMEOUT` and its jitter left, and
    // another may be needed.
    world.ends[0].node.rekey(world.now, PeerId(0));
    world.pass(12 * 20, true);
    let connected = world.ends.each_ref().map(|end| end.connected(world.now));
    assert_eq!(connected, [true, true], "the attacker is gone, and still they do not connect");
}
