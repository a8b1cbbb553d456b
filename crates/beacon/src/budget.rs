//! How much of a processor packets that arrive may cost.

use std::time::{Duration, Instant};

/// Packets a second that are taken for as long as they come. Looking at one takes about 2 µs, most of it in the kernel, so a flood
/// costs a few percent of one processor, however fast it is. Networks with thousands of services have hundreds a second.
const RATE: u32 = 20_000;
/// Packets that are taken at once.
const BURST: u32 = 4_096;
/// Packets that are waited for when none may be taken: one by one they would cost a wake-up each.
const BATCH: u32 = 64;

const PACKET: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);

/// A token bucket, as the instant at which it is full again (GCRA). When it is empty, the socket is left alone: what arrives
/// meanwhile fills the kernel's buffer and is dropped there, which costs no time of ours, and which the kernel counts.
#[derive(Debug)]
pub(crate) struct Budget {
    full_at: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Counts packets that were taken.
    pub(crate) fn take(&mut self, packets: usize, now: Instant) {
        self.full_at = self.full_at.max(now) + PACKET * u32::try_from(packets).unwrap_or(BURST);
    }

    /// When packets may be taken again, if none may now.
    pub(crate) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        let owed = self.full_at.saturating_duration_since(now);
        (owed > PACKET * BURST).then(|| now + owed.saturating_sub(PACKET * (BURST - BATCH)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets taken of a flood in one second, and rounds in which some were.
    fn flood(budget: &mut Budget, start: Instant) -> (usize, usize) {
        let (mut now, mut taken, mut rounds) = (start, 0, 0);
        while now < start + Duration::from_secs(1) {
            if let Some(until) = budget.blocked_until(now) {
                now = until;
                continue;
            }
            budget.take(32, now);
            (taken, rounds) = (taken + 32, rounds + 1);
            now += Duration::from_micros(10);
        }
        (taken, rounds)
    }

    #[test]
    fn a_flood_costs_a_bounded_share_of_a_processor_and_few_wakeups() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let (burst, _) = flood(&mut budget, start);
        assert!((20_000..25_000).contains(&burst), "{burst}");
        let (taken, rounds) = flood(&mut budget, start + Duration::from_secs(1));
        assert!((19_000..=21_000).contains(&taken) && rounds <= 700, "{taken} in {rounds}");
        // Soon after it, all is as before.
        let after = start + Duration::from_secs(3);
        for _ in 0..BURST / 32 {
            assert_eq!(budget.blocked_until(after), None);
            budget.take(32, after);
        }
    }
}
