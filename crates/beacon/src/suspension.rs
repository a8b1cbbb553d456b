//! A machine that has slept.

use std::time::Duration;

/// A shorter suspension than this does no harm; that two clocks are read one after the other must not look like one.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);

/// Notices that the machine was suspended, from how long it has been so in all ([`os::clock::suspended`]).
#[derive(Debug)]
pub(crate) struct Suspension {
    known: Duration,
}

impl Suspension {
    pub(crate) fn new(suspended: Duration) -> Self {
        Self { known: suspended }
    }

    /// Whether the machine has slept since the last call.
    pub(crate) fn woke(&mut self, suspended: Duration) -> bool {
        let slept = suspended.saturating_sub(self.known);
        self.known = suspended;
        slept >= SUSPENSION_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_noticed_once_and_the_difference_of_two_clocks_never() {
        let mut suspension = Suspension::new(Duration::from_secs(100));
        let mut at = |millis| suspension.woke(Duration::from_millis(millis));
        assert!(!at(100_000));
        assert!(!at(100_001));
        assert!(at(130_000));
        assert!(!at(130_000));
        assert!(!at(129_999));
    }
}
