//! What a conversation asks the allocator for once it runs.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use stream::kcp::{Congestion, Kcp, KcpConfig};

/// Two conversations and one buffer: nothing here allocates but they.
struct Pair {
    now: Instant,
    left: Kcp,
    right: Kcp,
    buf: [u8; 1_500],
    payload: [u8; 8_192],
    /// One datagram of so many is lost.
    loses: u32,
    count: u32,
    read: usize,
}

impl Pair {
    fn new(congestion: Congestion, loses: u32) -> Self {
        #[allow(clippy::disallowed_methods)] // All times are relative to it.
        let now = Instant::now();
        let config = KcpConfig { congestion, send_window: 1_024, ..KcpConfig::default() };
        let (left, right) = (Kcp::new(1, config.clone(), now), Kcp::new(1, config, now));
        Self { now, left, right, buf: [0; 1_500], payload: [7; 8_192], loses, count: 0, read: 0 }
    }

    fn lost(&mut self) -> bool {
        self.count += 1;
        self.loses > 0 && self.count.is_multiple_of(self.loses)
    }

    /// Half a millisecond.
    fn step(&mut self) {
        self.left.handle_timeout(self.now);
        self.right.handle_timeout(self.now);
        for _ in 0..4 {
            self.left.write(&self.payload);
        }
        for _ in 0..24 {
            let Some(size) = self.left.poll_transmit(self.now, &mut self.buf) else { break };
            if !self.lost() {
                self.right.handle_datagram(&self.buf[..size], self.now).unwrap();
            }
        }
        self.now += Duration::from_micros(500);
        while !self.right.peek().is_empty() {
            let size = self.right.peek().len();
            self.right.consume(size);
            self.read += size;
        }
        while let Some(size) = self.right.poll_transmit(self.now, &mut self.buf) {
            if !self.lost() {
                self.left.handle_datagram(&self.buf[..size], self.now).unwrap();
            }
        }
    }

    /// Allocations, and segments of full size read, in two seconds after four.
    fn measure(&mut self) -> (u64, usize) {
        for _ in 0..8_000 {
            self.step();
        }
        self.read = 0;
        let info = allocation_counter::measure(|| {
            for _ in 0..4_000 {
                self.step();
            }
        });
        (info.count_total, self.read / 1_326)
    }
}

#[test]
fn a_running_conversation_does_not_allocate() {
    for congestion in [Congestion::Bbr, Congestion::None] {
        let (allocations, segments) = Pair::new(congestion, 0).measure();
        assert!(segments > 40_000, "{segments} segments were moved");
        assert_eq!(allocations, 0, "with {congestion:?}, for {segments} segments");
    }
}

/// Memory follows what is needed, second by second, so a rare peak may cost something.
#[test]
fn losses_cost_hardly_an_allocation() {
    for congestion in [Congestion::Bbr, Congestion::None] {
        let (allocations, segments) = Pair::new(congestion, 19).measure();
        assert!(segments > 20_000, "{segments} segments were moved");
        assert!(
            allocations < segments as u64 / 500,
            "{allocations} for {segments} segments with {congestion:?}"
        );
    }
}
