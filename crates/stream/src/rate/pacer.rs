//! Datagrams at a steady rate, in bursts no longer than a timer is precise.

use super::{MILLISECOND, SECOND};

/// A burst is what the rate allows in this time …
const BURST_TIME: u64 = MILLISECOND;
/// … but never more than this.
const BURST_MAX: u64 = 256 * 1024;
/// Bursts that may leave at once when the timer was late: without that, lateness would be lost for good.
const BURSTS_LATE: i64 = 4;

/// A bucket of credit, in bytes.
#[derive(Debug)]
pub(crate) struct Pacer {
    credit: i64,
    refilled_at: u64,
    rate: u64,
    burst_min: u64,
}

impl Pacer {
    /// Begins with a full bucket. Two datagrams of `mtu` bytes may always leave together.
    pub(crate) fn new(rate: u64, mtu: usize) -> Self {
        let burst_min = 2 * mtu as u64;
        let mut pacer = Self { credit: 0, refilled_at: 0, rate, burst_min };
        pacer.credit = pacer.burst();
        pacer
    }

    fn burst(&self) -> i64 {
        (self.rate / (SECOND / BURST_TIME)).clamp(self.burst_min, BURST_MAX) as i64
    }

    /// From `now` on, `rate` bytes a second.
    pub(crate) fn set_rate(&mut self, now: u64, rate: u64) {
        self.refill(now);
        self.rate = rate.max(1);
    }

    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    #[inline]
    fn refill(&mut self, now: u64) {
        // Bounded so that the product fits, and so that a pause earns no more than a burst.
        let elapsed = now.saturating_sub(self.refilled_at).min(100 * MILLISECOND);
        let earned = elapsed * self.rate.min(100 * SECOND) / SECOND;
        // Time that has earned less than a byte must not be forgotten.
        if earned > 0 {
            self.credit = (self.credit + earned as i64).min(BURSTS_LATE * self.burst());
            self.refilled_at = now;
        }
    }

    /// Whether a datagram may leave now.
    #[inline]
    pub(crate) fn ready(&mut self, now: u64) -> bool {
        self.refill(now);
        self.credit > 0
    }

    /// A datagram has left.
    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.credit -= bytes as i64;
    }

    /// When the next burst may leave, so that a timer is not set for each datagram.
    pub(crate) fn ready_at(&self) -> u64 {
        let wanted = (self.burst() / 2 - self.credit).max(1) as u64;
        self.refilled_at + (u128::from(wanted) * u128::from(SECOND)).div_ceil(u128::from(self.rate)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_the_rate_is_kept() {
        let mut pacer = Pacer::new(10_000_000, 1_350);
        let (mut now, mut sent, mut wakes) = (0, 0_u64, 0_u64);
        while now < SECOND {
            while pacer.ready(now) {
                pacer.spend(1_350);
                sent += 1_350;
            }
            now = pacer.ready_at();
            wakes += 1;
        }
        assert!((9_950_000..=10_050_000).contains(&sent), "{sent}");
        assert!(wakes < 2_500, "{wakes} timers for {} datagrams", sent / 1_350);
    }

    #[test]
    fn a_timer_that_is_late_does_not_lower_the_rate() {
        let mut pacer = Pacer::new(10_000_000, 1_350);
        let (mut now, mut sent) = (0, 0_u64);
        while now < SECOND {
            while pacer.ready(now) {
                pacer.spend(1_350);
                sent += 1_350;
            }
            now = pacer.ready_at() + 3 * MILLISECOND;
        }
        assert!((9_900_000..=10_100_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_earns_a_few_bursts_only() {
        let mut pacer = Pacer::new(1_000_000, 1_000);
        let mut sent = 0;
        while pacer.ready(10 * SECOND) {
            pacer.spend(1_000);
            sent += 1;
        }
        assert_eq!(sent, 8);
    }

    #[test]
    fn a_slow_rate_still_sends() {
        let mut pacer = Pacer::new(100, 1_000);
        while pacer.ready(0) {
            pacer.spend(1_000);
        }
        assert!(!pacer.ready(9 * MILLISECOND), "a byte takes 10 ms");
        let at = pacer.ready_at();
        assert!(pacer.ready(at), "a deadline that is met makes ready");
    }
}
