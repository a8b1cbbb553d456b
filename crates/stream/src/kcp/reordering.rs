//! How long a segment may be late behind later ones before it counts as lost (RFC 8985 §6.2). Times are in nanoseconds.

/// The least that is tolerated.
const WINDOW_MIN: u64 = 500_000;
/// What is tolerated is counted in eighths of a round trip: from one, to this many.
const STEPS_MAX: u64 = 16;
/// Patience is lost after so many round trips in which less would have done.
const MEMORY: u64 = 16;

/// What is known of reordering on the path.
#[derive(Debug)]
pub(super) struct Reordering {
    steps: u64,
    grew_at: u64,
    needed_at: u64,
    window: u64,
}

impl Reordering {
    pub(super) fn new() -> Self {
        Self { steps: 1, grew_at: 0, needed_at: 0, window: WINDOW_MIN }
    }

    /// The window at `now`, for a round-trip time as measured.
    pub(super) fn window(&mut self, now: u64, smoothed: Option<u64>, min: Option<u64>) -> u64 {
        let Some(rtt) = smoothed else { return WINDOW_MIN };
        if self.steps > 1 && now.saturating_sub(self.needed_at) > MEMORY * rtt {
            self.steps -= 1;
            self.needed_at = now;
        }
        self.window = (min.unwrap_or(rtt) / 8 * self.steps).clamp(WINDOW_MIN, rtt.max(WINDOW_MIN));
        self.window
    }

    /// A segment that was taken for lost was only late: more patience, once a round trip.
    pub(super) fn was_impatient(&mut self, now: u64, smoothed: Option<u64>) {
        if now >= self.grew_at + smoothed.unwrap_or(0) {
            self.steps = (self.steps + 1).min(STEPS_MAX);
            self.grew_at = now;
        }
        self.needed_at = now;
    }

    /// A segment came so much later than one sent after it, and was waited for.
    pub(super) fn was_patient(&mut self, now: u64, lateness: u64) {
        if lateness > self.window / 2 {
            self.needed_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RTT: Option<u64> = Some(40 * MS);

    #[test]
    fn patience_grows_once_a_round_trip_up_to_a_round_trip() {
        let mut reordering = Reordering::new();
        assert_eq!(reordering.window(0, RTT, RTT), 5 * MS);
        for now in 100..110 {
            reordering.was_impatient(now * MS, RTT);
        }
        assert_eq!(reordering.window(110 * MS, RTT, RTT), 10 * MS);
        for round in 0..20 {
            reordering.was_impatient((200 + 50 * round) * MS, RTT);
        }
        assert_eq!(reordering.window(1_200 * MS, RTT, RTT), 40 * MS);
    }

    #[test]
    fn patience_that_is_not_needed_is_lost_step_by_step() {
        let mut reordering = Reordering::new();
        reordering.was_impatient(100 * MS, RTT);
        reordering.was_impatient(200 * MS, RTT);
        assert_eq!(reordering.window(200 * MS, RTT, RTT), 15 * MS);
        reordering.was_patient(800 * MS, 8 * MS);
        assert_eq!(reordering.window(1_400 * MS, RTT, RTT), 15 * MS, "more than half of it was needed");
        reordering.was_patient(1_400 * MS, 7 * MS);
        assert_eq!(reordering.window(1_500 * MS, RTT, RTT), 10 * MS);
        assert_eq!(reordering.window(2_200 * MS, RTT, RTT), 5 * MS);
        assert_eq!(reordering.window(9_000 * MS, RTT, RTT), 5 * MS);
    }
}
