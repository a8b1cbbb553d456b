//! Round-trip time and the timeout made of it (RFC 6298, with the bounds of KCP). Times are in nanoseconds.

/// The first timeout, before anything was measured: that of KCP.
const TIMEOUT_START: u64 = 200_000_000;
/// The longest timeout. KCP's 60 s would let a path be back for a minute before anybody notices.
const TIMEOUT_MAX: u64 = 5_000_000_000;
/// The least that is added for the far end's acknowledgement delay and for coarse timers.
const SLACK_MIN: u64 = 5_000_000;

/// What is known of the round-trip time.
#[derive(Debug)]
pub(super) struct Rtt {
    smoothed: Option<u64>,
    variation: u64,
    min: u64,
    nodelay: bool,
    backoff: u32,
}

impl Rtt {
    pub(super) fn new(nodelay: bool) -> Self {
        Self { smoothed: None, variation: 0, min: u64::MAX, nodelay, backoff: 0 }
    }

    pub(super) fn sample(&mut self, rtt: u64) {
        self.min = self.min.min(rtt);
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(rtt);
            self.variation = rtt / 2;
            return;
        };
        let deviation = smoothed.abs_diff(rtt);
        self.variation = self.variation - self.variation / 4 + deviation / 4;
        self.smoothed = Some(smoothed - smoothed / 8 + rtt / 8);
    }

    /// The smoothed round-trip time, once measured.
    pub(super) fn smoothed(&self) -> Option<u64> {
        self.smoothed
    }

    pub(super) fn variation(&self) -> u64 {
        self.variation
    }

    /// The least ever measured.
    pub(super) fn min(&self) -> Option<u64> {
        (self.min != u64::MAX).then_some(self.min)
    }

    /// How long to wait for any acknowledgement before something is sent again.
    pub(super) fn timeout(&self) -> u64 {
        let base =
            self.smoothed.map_or(TIMEOUT_START, |smoothed| smoothed + (4 * self.variation).max(SLACK_MIN));
        let floor = if self.nodelay { 30_000_000 } else { 100_000_000 };
        let (numerator, denominator) = if self.nodelay { (3, 2) } else { (2, 1) };
        let mut timeout = base.max(floor);
        for _ in 0..self.backoff {
            timeout = (timeout * numerator / denominator).min(TIMEOUT_MAX);
        }
        timeout.min(TIMEOUT_MAX)
    }

    /// A timeout has passed in vain: the next one is longer.
    pub(super) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(16);
    }

    /// Something was acknowledged.
    pub(super) fn recovered(&mut self) {
        self.backoff = 0;
    }

    pub(super) fn backoff(&self) -> u32 {
        self.backoff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_timeout_follows_the_round_trip_time() {
        let mut rtt = Rtt::new(true);
        assert_eq!(rtt.timeout(), 200 * MS);
        (0..100).for_each(|_| rtt.sample(40 * MS));
        assert!((40 * MS..50 * MS).contains(&rtt.timeout()), "{}", rtt.timeout());
        (0..100).for_each(|_| rtt.sample(MS));
        assert_eq!(rtt.timeout(), 30 * MS, "never below KCP's floor");
        assert_eq!(rtt.min(), Some(MS));
    }

    #[test]
    fn it_grows_while_nothing_is_heard_and_falls_back_at_once() {
        for (nodelay, second) in [(true, 300 * MS), (false, 400 * MS)] {
            let mut rtt = Rtt::new(nodelay);
            rtt.back_off();
            assert_eq!(rtt.timeout(), second);
            (0..100).for_each(|_| rtt.back_off());
            assert_eq!(rtt.timeout(), TIMEOUT_MAX);
            rtt.recovered();
            assert_eq!(rtt.timeout(), 200 * MS);
        }
    }
}
