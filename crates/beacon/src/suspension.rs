//! A machine that has slept.

use std::time::Duration;

/// A shorter suspension than this does no harm; that two clocks are read one after the other must not look like one.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);

/// For how long the machine has been suspended in all: [`os::clock::suspended`], or what a test says.
pub(crate) type Clock = fn() -> Duration;

/// Notices that the machine was suspended.
#[derive(Debug)]
pub(crate) struct Suspension {
    clock: Clock,
    known: Duration,
}

impl Suspension {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, known: clock() }
    }

    /// Whether the machine has slept since the last call.
    pub(crate) fn woke(&mut self) -> bool {
        let suspended = (self.clock)();
        let slept = suspended.saturating_sub(self.known);
        self.known = suspended;
        slept >= SUSPENSION_MIN
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_sleep_is_noticed_once_and_the_difference_of_two_clocks_never() {
        static SUSPENDED_MS: AtomicU64 = AtomicU64::new(100_000);
        let mut suspension = Suspension::new(|| Duration::from_millis(SUSPENDED_MS.load(Relaxed)));
        let mut at = |millis| {
            SUSPENDED_MS.store(millis, Relaxed);
            suspension.woke()
        };
        assert!(!at(100_000));
        assert!(!at(100_001));
        assert!(at(130_000));
        assert!(!at(130_000));
        assert!(!at(129_999));
    }
}
