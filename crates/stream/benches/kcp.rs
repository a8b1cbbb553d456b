//! What a segment costs: `cargo bench -p stream`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use stream::kcp::{Congestion, Kcp, KcpConfig};

fn main() {
    divan::main();
}

const SEGMENT: usize = 1_326;
const BATCH: usize = 45;

/// Two conversations, and what travels between them.
struct Pair {
    now: Instant,
    left: Kcp,
    right: Kcp,
    datagrams: Vec<Vec<u8>>,
    sizes: Vec<usize>,
    answer: Vec<u8>,
    /// One datagram of so many is lost; none when 0.
    loses: usize,
    count: usize,
    read: usize,
}

impl Pair {
    fn new(congestion: Congestion, loses: usize) -> Self {
        let now = Instant::now();
        let config = KcpConfig { congestion, ..KcpConfig::default() };
        let datagrams = vec![vec![0; 1_500]; 64];
        let (left, right) = (Kcp::new(1, config.clone(), now), Kcp::new(1, config, now));
        let (sizes, answer) = (Vec::new(), vec![0; 1_500]);
        let mut pair = Self { now, left, right, datagrams, sizes, answer, loses, count: 0, read: 0 };
        // Past the first round trips, in which windows and memory grow.
        for _ in 0..2_000 {
            pair.round_trip();
        }
        pair
    }

    fn lost(&mut self) -> bool {
        self.count += 1;
        self.loses > 0 && self.count.is_multiple_of(self.loses)
    }

    /// Writes what may be written, and takes the datagrams of that.
    fn send(&mut self) {
        let payload = vec![0x5a; self.left.writable().min(SEGMENT * BATCH)];
        self.left.handle_timeout(self.now);
        self.left.write(&payload);
        self.sizes.clear();
        for datagram in &mut self.datagrams {
            let Some(size) = self.left.poll_transmit(self.now, datagram) else { break };
            self.sizes.push(size);
        }
    }

    fn receive(&mut self) {
        for index in 0..self.sizes.len() {
            if !self.lost() {
                self.right.handle_datagram(&self.datagrams[index][..self.sizes[index]], self.now).unwrap();
            }
        }
        while !self.right.peek().is_empty() {
            let size = self.right.peek().len();
            self.right.consume(size);
            self.read += size;
        }
    }

    fn acknowledge(&mut self) {
        self.right.handle_timeout(self.now);
        while let Some(size) = self.right.poll_transmit(self.now, &mut self.answer) {
            if !self.lost() {
                self.left.handle_datagram(&self.answer[..size], self.now).unwrap();
            }
        }
    }

    /// Up to forty-five segments there, their acknowledgements back, in 100 µs.
    fn round_trip(&mut self) {
        self.send();
        self.now += Duration::from_micros(100);
        self.receive();
        self.acknowledge();
    }

    /// As many round trips as it takes to read so much.
    fn transfer(&mut self, bytes: usize) {
        let end = self.read + bytes;
        while self.read < end {
            self.round_trip();
        }
        self.read = 0;
    }
}

/// Writing, sending, receiving, reading and acknowledging a thousand segments: both ends together.
#[divan::bench(args = [(Congestion::None, 0), (Congestion::Bbr, 0), (Congestion::Bbr, 20)])]
fn thousand_segments_both_ends(bencher: Bencher<'_, '_>, (congestion, loses): (Congestion, usize)) {
    let mut pair = Pair::new(congestion, loses);
    let bytes = 1_000 * SEGMENT;
    bencher.counter(BytesCount::new(bytes)).bench_local(move || pair.transfer(bytes));
}
