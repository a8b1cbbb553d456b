//! The whole packet path of a worker, without a kernel: TUN and link are memory.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use handshake::{PresharedKey, Protocol, PublicKey, StaticSecret};
use node::{Config, Event, Node, PeerConfig, Ready, Worker};
use packet::{CoalesceLimits, Ecn, GsoType, Link, PoolConfig, RecvSlot, Transmit, Tun, VnetHeader};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::packets::{self, SEGMENTS};
use crate::{Batch, Hot, done};

pub(crate) const HOT: &[Hot] = &[
    Hot {
        name: "forward-out",
        unit: "segment",
        what: "TCP super-packets of 45 segments from the TUN, routed, cut, sealed, sent",
        prepare: |batch| outgoing(batch, Traffic::Bulk, 1),
    },
    Hot {
        name: "forward-in",
        unit: "segment",
        what: "the trains of forward-out received, opened, coalesced, written to the TUN",
        prepare: |batch| incoming(batch, Traffic::Bulk),
    },
    Hot {
        name: "forward-small-out",
        unit: "packet",
        what: "UDP packets of 200 bytes, one by one from the TUN, sent",
        prepare: |batch| outgoing(batch, Traffic::Small, 1),
    },
    Hot {
        name: "forward-small-out-1000",
        unit: "packet",
        what: "the same with 1,000 peers and 10,000 routes",
        prepare: |batch| outgoing(batch, Traffic::Small, 1_000),
    },
    Hot {
        name: "forward-small-in",
        unit: "packet",
        what: "the datagrams of forward-small-out received, written to the TUN",
        prepare: |batch| incoming(batch, Traffic::Small),
    },
];

const LEFT: ([u8; 4], u16) = ([192, 0, 2, 1], 9443);
const RIGHT: ([u8; 4], u16) = ([192, 0, 2, 2], 9443);

#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    /// TCP super-packets.
    Bulk,
    /// UDP packets, each for itself.
    Small,
}

impl Traffic {
    /// What the TUN hands over, from 10.0.0.1 to 10.0.0.2, with its virtio-net header.
    fn packet(self) -> Vec<u8> {
        let (vnet, packet) = match self {
            Self::Bulk => packets::super_packet(),
            Self::Small => (VnetHeader::default(), packets::small_packet()),
        };
        assert_eq!(vnet.gso_type == GsoType::TcpV4, self == Self::Bulk);
        [&vnet.to_bytes()[..], &packet].concat()
    }

    /// Packets on the inner network that one packet from the TUN stands for.
    fn segments(self) -> usize {
        if self == Self::Bulk { SEGMENTS } else { 1 }
    }
}

/// A TUN queue that hands over one packet again and again, and counts what is written.
struct MemoryTun {
    packet: Vec<u8>,
    waiting: usize,
    written_bytes: usize,
}

impl Tun for MemoryTun {
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.waiting == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.waiting -= 1;
        let mut rest = &self.packet[..];
        for buf in bufs {
            let (front, behind) = rest.split_at(buf.len().min(rest.len()));
            buf[..front.len()].copy_from_slice(front);
            rest = behind;
        }
        Ok(self.packet.len() - rest.len())
    }

    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.written_bytes += bufs.iter().map(|buf| buf.len()).sum::<usize>();
        Ok(())
    }
}

/// A train on its way.
struct Train {
    contents: Vec<u8>,
    segment_size: usize,
}

/// A link that keeps or only counts what is sent, and delivers what was put into it.
struct MemoryLink {
    from: SocketAddr,
    inbox: VecDeque<Train>,
    sent: Vec<Train>,
    keep: bool,
    sent_datagrams: usize,
}

impl MemoryLink {
    fn new(from: impl Into<SocketAddr>) -> Self {
        Self { from: from.into(), inbox: VecDeque::new(), sent: Vec::new(), keep: true, sent_datagrams: 0 }
    }
}

impl Link for MemoryLink {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        self.sent_datagrams += transmit.contents.len().div_ceil(transmit.segment_size);
        if self.keep {
            let contents = transmit.contents.to_vec();
            self.sent.push(Train { contents, segment_size: transmit.segment_size });
        }
        Ok(transmit.contents.len())
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let mut filled = 0;
        for slot in slots {
            let Some(train) = self.inbox.pop_front() else { break };
            slot.buf[..train.contents.len()].copy_from_slice(&train.contents);
            (slot.len, slot.segment_size) = (train.contents.len(), train.segment_size);
            (slot.from, slot.ecn) = (self.from, Ecn::NotEct);
            filled += 1;
        }
        if filled == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }
}

/// A node with one worker.
struct Machine {
    node: Node,
    worker: Worker,
    tun: MemoryTun,
    link: MemoryLink,
}

impl Machine {
    fn new(secret: StaticSecret, peers: Vec<PeerConfig>, from: impl Into<SocketAddr>, now: Instant) -> Self {
        let config = Config {
            suite: handshake::preferred_suite(),
            suite_only: false,
            streams: false,
            secret,
            workers: 1,
            mtu: 1_500,
            peers,
            epoch: 1,
            unix_time: Duration::from_secs(1_700_000_000),
            coalesce: CoalesceLimits::ALL,
            pool: PoolConfig { large: 64, small: 64 },
        };
        let (node, mut workers) = Node::new(config, [7; 32], now).expect("a good configuration");
        let worker = workers.pop().expect("one worker was asked for");
        let tun = MemoryTun { packet: Vec::new(), waiting: 0, written_bytes: 0 };
        Self { node, worker, tun, link: MemoryLink::new(from) }
    }

    /// Steps until there is no more to do, and tells the node of it if that is wanted.
    fn work(&mut self, now: Instant, mut tell: impl FnMut(&mut Node, Event)) {
        let mut ready = Ready { tun: true, link: true, writable: true };
        while self.worker.step(now, &mut self.tun, &mut self.link, &mut ready) {}
        while let Some(event) = self.worker.poll_event() {
            tell(&mut self.node, event);
        }
    }

    /// Works, and returns what the machine and its node have sent.
    fn round(&mut self, now: Instant) -> Vec<Train> {
        self.work(now, |node, event| node.handle_event(now, event));
        self.node.handle_timeout(now);
        let mut sent = std::mem::take(&mut self.link.sent);
        while let Some(datagram) = self.node.poll_transmit() {
            let segment_size = datagram.contents.len();
            sent.push(Train { contents: datagram.contents, segment_size });
        }
        sent
    }
}

/// Two machines with a session between them; the left one has `peers` peers.
fn machines(peers: usize, traffic: Traffic, now: Instant) -> (Machine, Machine) {
    let mut rng = ChaCha12Rng::seed_from_u64(3);
    let (left_secret, right_secret) = (StaticSecret::generate(&mut rng), StaticSecret::generate(&mut rng));
    let mut left_peers = vec![peer("right", right_secret.public_key(), RIGHT, &["10.0.0.2/32".into()])];
    for index in 1..peers {
        let routes: Vec<String> =
            (0..10).map(|n| format!("172.16.{}.{}/32", index / 25, index % 25 * 10 + n)).collect();
        let mut key = [0; 32];
        rng.fill_bytes(&mut key[..31]);
        left_peers.push(peer(&format!("idle{index}"), PublicKey::from_bytes(key), RIGHT, &routes));
    }
    let right_peers = vec![peer("left", left_secret.public_key(), LEFT, &["10.0.0.1/32".into()])];
    let mut left = Machine::new(left_secret, left_peers, RIGHT, now);
    let mut right = Machine::new(right_secret, right_peers, LEFT, now);

    (left.tun.packet, left.tun.waiting) = (traffic.packet(), 1);
    for _ in 0..8 {
        right.link.inbox.extend(left.round(now));
        left.link.inbox.extend(right.round(now));
    }
    assert!(right.tun.written_bytes > 0, "the first packet arrived, so there is a session");
    (left, right)
}

fn peer(name: &str, public_key: PublicKey, endpoint: ([u8; 4], u16), allowed_ips: &[String]) -> PeerConfig {
    PeerConfig {
        name: name.into(),
        public_key,
        preshared_key: PresharedKey::default(),
        protocol: Protocol::ShadowMesh,
        ways: vec![node::Way::UDP],
        endpoint: Some(endpoint.into()),
        allowed_ips: allowed_ips.iter().map(|ip| ip.parse().expect("a prefix")).collect(),
        keepalive: None,
        confirmed: handshake::Timestamp::default(),
    }
}

fn outgoing(batch: usize, traffic: Traffic, peers: usize) -> Batch {
    let now = Instant::now();
    let (mut left, _) = machines(peers, traffic, now);
    left.link.keep = false;
    left.tun.waiting = batch;
    let before = left.link.sent_datagrams;
    Box::new(move || {
        left.work(now, |_, _| {});
        let sent = left.link.sent_datagrams - before;
        assert_eq!(sent, batch * traffic.segments(), "every packet was sent");
        done(sent as u64, left)
    })
}

fn incoming(batch: usize, traffic: Traffic) -> Batch {
    let now = Instant::now();
    let (mut left, mut right) = machines(1, traffic, now);
    left.tun.waiting = batch;
    left.work(now, |_, _| {});
    right.link.inbox.extend(left.link.sent.drain(..));
    let before = right.tun.written_bytes;
    let packet_len = left.tun.packet.len() - VnetHeader::LEN;
    Box::new(move || {
        right.work(now, |_, _| {});
        assert!(right.tun.written_bytes - before >= batch * packet_len, "every packet was written");
        done((batch * traffic.segments()) as u64, right)
    })
}
