//! The congestion window of classic KCP (`nc = 0`): slow start, then one segment a round trip, halved by a loss.

/// A window that grows until something is lost.
#[derive(Debug)]
pub(crate) struct Classic {
    window: u64,
    threshold: u64,
    segment: u64,
    window_max: u64,
    /// Losses of what was sent before this much had been delivered belong to a loss that was answered already.
    recovered_at: u64,
}

impl Classic {
    /// For segments of `segment` bytes, at most `window_max` bytes in flight.
    pub(crate) fn new(segment: u64, window_max: u64) -> Self {
        Self { window: 4 * segment, threshold: u64::MAX, segment, window_max, recovered_at: 0 }
    }

    pub(crate) fn on_ack(&mut self, acked: u64, lost: u64, delivered: u64, in_flight: u64) {
        if lost > 0 && delivered >= self.recovered_at {
            self.threshold = in_flight.midpoint(lost).max(2 * self.segment);
            self.window = self.threshold;
            self.recovered_at = delivered + in_flight;
            return;
        }
        let growth =
            if self.window < self.threshold { acked } else { self.segment * acked / self.window.max(1) };
        self.window = (self.window + growth).min(self.window_max);
    }

    pub(crate) fn on_timeout(&mut self) {
        self.threshold = (self.window / 2).max(2 * self.segment);
        self.window = 2 * self.segment;
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_then_halves_once_a_round_trip() {
        let mut classic = Classic::new(1_000, 1_000_000);
        for _ in 0..5 {
            classic.on_ack(classic.window(), 0, 0, 0);
        }
        assert_eq!(classic.window(), 128_000);
        classic.on_ack(0, 2_000, 100_000, 126_000);
        assert_eq!(classic.window(), 64_000);
        classic.on_ack(0, 2_000, 150_000, 100_000);
        assert!(classic.window() >= 64_000, "the same round trip");
        classic.on_ack(64_000, 0, 230_000, 64_000);
        assert!((64_900..=65_100).contains(&classic.window()), "{}", classic.window());
        classic.on_timeout();
        assert_eq!(classic.window(), 2_000);
    }
}
