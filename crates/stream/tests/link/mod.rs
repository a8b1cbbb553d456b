//! A deterministic link, and conversations that cross it: delay, rate with a bounded queue, loss, reordering, duplication
//! and damage, all from one seed. Time is a number that jumps from event to event.

// Each user of this file uses another part of it.
#![allow(dead_code, unreachable_pub)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use stream::kcp::{Kcp, KcpConfig};

/// One direction of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// One way.
    pub delay: Duration,
    /// Bytes a second, headers of UDP and IP (28 bytes) included; 0 is without limit.
    pub rate: u64,
    /// Bytes that wait for the rate before datagrams are dropped.
    pub queue: usize,
    /// The chance that a datagram is lost, of 1.
    pub loss: f64,
    /// It is lost before the queue, so that what is lost takes no share of the rate: as in `bench/helpers/linkemu.c`.
    pub lost_first: bool,
    /// The chance that it comes up to half a delay (and 2 ms) later, so that others overtake it.
    pub reorder: f64,
    /// The chance that it comes twice.
    pub duplicate: f64,
    /// The chance that a bit of it changes.
    pub corrupt: f64,
    /// Datagrams larger than this never arrive.
    pub largest: usize,
    /// Datagrams reach the queue up to this much later than they were sent, in order: without any, flows fall into step
    /// with each other and with a full queue, as they never do outside of emulators.
    pub jitter: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        let delay = Duration::from_millis(20);
        Self {
            delay,
            rate: 0,
            queue: usize::MAX,
            loss: 0.0,
            lost_first: false,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            largest: usize::MAX,
            jitter: Duration::ZERO,
        }
    }
}

/// Headers of UDP and IPv4.
const ENVELOPE: usize = 28;

type Packet = (Duration, u64, usize, Vec<u8>);

/// A link in one direction, shared by all flows.
pub struct Link {
    pub config: LinkConfig,
    rng: ChaCha8Rng,
    free_at: Duration,
    entering: BinaryHeap<Reverse<Packet>>,
    entered_at: Vec<Duration>,
    under_way: BinaryHeap<Reverse<Packet>>,
    count: u64,
    /// Bytes handed to it, envelopes included, by flow.
    pub offered: Vec<u64>,
    /// Datagrams that found the queue full.
    pub overflowed: u64,
}

impl Link {
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            free_at: Duration::ZERO,
            entering: BinaryHeap::new(),
            entered_at: vec![Duration::ZERO; 16],
            under_way: BinaryHeap::new(),
            count: 0,
            offered: vec![0; 16],
            overflowed: 0,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && f64::from(self.rng.next_u32()) < probability * f64::from(u32::MAX)
    }

    pub fn send(&mut self, now: Duration, flow: usize, datagram: &[u8]) {
        let size = datagram.len() + ENVELOPE;
        self.offered[flow] += size as u64;
        let jitter = self.config.jitter.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
        let enters = (now + jitter).max(self.entered_at[flow]);
        self.entered_at[flow] = enters;
        self.count += 1;
        self.entering.push(Reverse((enters, self.count, flow, datagram.to_vec())));
    }

    /// A datagram is at the queue.
    fn enqueue(&mut self, now: Duration, flow: usize, datagram: &[u8]) {
        let size = datagram.len() + ENVELOPE;
        if self.config.lost_first && self.chance(self.config.loss) {
            return;
        }
        let mut leaves = now;
        if self.config.rate > 0 {
            let waiting = self.free_at.saturating_sub(now).as_secs_f64() * self.config.rate as f64;
            if waiting as usize + size > self.config.queue {
                self.overflowed += 1;
                return;
            }
            leaves = self.free_at.max(now) + Duration::from_secs_f64(size as f64 / self.config.rate as f64);
            self.free_at = leaves;
        }
        if datagram.len() > self.config.largest {
            return;
        }
        let copies = 1 + u32::from(self.chance(self.config.duplicate));
        for _ in 0..copies {
            if !self.config.lost_first && self.chance(self.config.loss) {
                continue;
            }
            let mut arrives = leaves + self.config.delay;
            if self.chance(self.config.reorder) {
                let span = self.config.delay / 2 + Duration::from_millis(2);
                arrives += span.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
            }
            let mut bytes = datagram.to_vec();
            // What carries datagrams discards damaged ones (an AEAD, or a checksum): so does this link, at its end.
            bytes.extend(checksum(&bytes).to_le_bytes());
            if self.chance(self.config.corrupt) {
                let at = self.rng.next_u32() as usize % bytes.len();
                bytes[at] ^= 1 << (self.rng.next_u32() % 8);
            }
            self.count += 1;
            self.under_way.push(Reverse((arrives, self.count, flow, bytes)));
        }
    }

    pub fn next_event(&self) -> Option<Duration> {
        let heads = [self.entering.peek(), self.under_way.peek()];
        heads.into_iter().flatten().map(|Reverse(packet)| packet.0).min()
    }

    pub fn receive(&mut self, now: Duration) -> Option<(usize, Vec<u8>)> {
        while self.entering.peek().is_some_and(|Reverse(packet)| packet.0 <= now) {
            let Reverse((at, _, flow, datagram)) = self.entering.pop()?;
            self.enqueue(at, flow, &datagram);
        }
        while self.under_way.peek().is_some_and(|Reverse(packet)| packet.0 <= now) {
            let Reverse((_, _, flow, mut bytes)) = self.under_way.pop()?;
            let end = bytes.len() - 8;
            let sum = u64::from_le_bytes(bytes[end..].try_into().expect("eight bytes"));
            bytes.truncate(end);
            if sum == checksum(&bytes) {
                return Some((flow, bytes));
            }
        }
        None
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    sum ^ bytes.len() as u64
}

/// The byte that every test stream has at a place.
pub fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

/// One end of a conversation, with an application that writes a stream and checks the one it reads.
pub struct End {
    pub kcp: Kcp,
    /// Bytes that the application wants to have written in all.
    pub to_write: u64,
    pub written: u64,
    pub read: u64,
    /// Whether the application reads.
    pub reads: bool,
}

impl End {
    fn new(kcp: Kcp) -> Self {
        Self { kcp, to_write: 0, written: 0, read: 0, reads: true }
    }

    fn run_application(&mut self) {
        while self.written < self.to_write && self.kcp.writable() > 0 {
            let size = (self.to_write - self.written).min(4_096) as usize;
            let bytes: Vec<u8> = (self.written..self.written + size as u64).map(byte_at).collect();
            self.written += self.kcp.write(&bytes) as u64;
        }
        while self.reads && self.kcp.readable() > 0 {
            let bytes = self.kcp.peek();
            let wrong = bytes.iter().zip(self.read..).find(|&(&byte, place)| byte != byte_at(place));
            assert!(wrong.is_none(), "a wrong byte at {wrong:?}");
            let size = bytes.len();
            self.read += size as u64;
            self.kcp.consume(size);
        }
    }
}

/// Conversations between a left and a right machine, over one link in each direction.
pub struct World {
    pub epoch: Instant,
    pub now: Duration,
    /// Left and right ends by flow.
    pub flows: Vec<[End; 2]>,
    /// From left to right, and back.
    pub links: [Link; 2],
    /// Timers of the machines are no finer than this.
    pub tick: Duration,
    turn: usize,
}

impl World {
    /// With no conversations yet.
    pub fn new(seed: u64, config: LinkConfig) -> Self {
        #[allow(clippy::disallowed_methods)] // The only reading of a clock: all times are relative to it.
        let epoch = Instant::now();
        let links = [Link::new(config, seed), Link::new(config, seed ^ 0x5eed)];
        Self { epoch, now: Duration::ZERO, flows: Vec::new(), links, tick: Duration::ZERO, turn: 0 }
    }

    /// One conversation.
    pub fn pair(seed: u64, config: LinkConfig, kcp: &KcpConfig) -> Self {
        let mut world = Self::new(seed, config);
        world.add(kcp);
        world
    }

    /// Another conversation; gives its number.
    pub fn add(&mut self, config: &KcpConfig) -> usize {
        self.add_starting_at(config, 0, 0)
    }

    pub fn add_starting_at(&mut self, config: &KcpConfig, sequence: u32, timestamp: u32) -> usize {
        let now = self.instant();
        let conversation = 0x1000 + self.flows.len() as u32;
        let end = || End::new(Kcp::starting_at(conversation, config.clone(), sequence, timestamp, now));
        self.flows.push([end(), end()]);
        self.flows.len() - 1
    }

    pub fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    pub fn left(&mut self) -> &mut End {
        &mut self.flows[0][0]
    }

    pub fn right(&mut self) -> &mut End {
        &mut self.flows[0][1]
    }

    /// Lets applications run and sends what there is to send.
    fn settle(&mut self) {
        let now = self.instant();
        let mut buf = [0; 9_000];
        // Whoever is first finds more room in the queue: each is, in turn.
        self.turn = self.turn.wrapping_add(1);
        let count = self.flows.len();
        for flow in (0..count).map(|index| (index + self.turn) % count) {
            let ends = &mut self.flows[flow];
            for (end, link) in ends.iter_mut().zip(&mut self.links) {
                end.kcp.handle_timeout(now);
                loop {
                    end.run_application();
                    let mut idle = true;
                    while let Some(size) = end.kcp.poll_transmit(now, &mut buf) {
                        link.send(self.now, flow, &buf[..size]);
                        idle = false;
                    }
                    if idle {
                        break;
                    }
                }
            }
        }
    }

    /// When something happens next.
    fn next_event(&self) -> Option<Duration> {
        let arrivals = self.links.iter().filter_map(Link::next_event);
        let timeouts = self.flows.iter().flatten().filter_map(|end| {
            let (at, reason) = end.kcp.poll_timeout()?;
            let at = at.saturating_duration_since(self.epoch);
            assert!(at > self.now, "the deadline '{reason}' is left in the past");
            Some(at.max(self.now + self.tick))
        });
        arrivals.chain(timeouts).min()
    }

    /// Goes on until `done` or until `limit` has passed; says whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            let now = self.instant();
            for side in 0..2 {
                while let Some((flow, datagram)) = self.links[side].receive(self.now) {
                    let receiver = &mut self.flows[flow][1 - side];
                    receiver.kcp.handle_datagram(&datagram, now).expect("datagrams of our own are right");
                }
            }
            self.settle();
            if done(self) {
                return true;
            }
            match self.next_event() {
                Some(at) if at <= end => self.now = at.max(self.now),
                _ => {
                    self.now = end;
                    return false;
                }
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }
}
