//! The replay window of one lane.

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleCounter {
    /// It is [`ReplayWindow::SIZE`] or more below the highest counter seen.
    TooOld,
    /// A packet with this counter was accepted before.
    Replayed,
}

/// Remembers which of the last 8,192 counters were seen.
///
/// A ring of bitmap words (RFC 6479): moving forward clears whole words instead of shifting the bitmap. One
/// word more than the window needs is kept, because the word that holds the highest counter is only partly
/// used.
///
/// ```
/// use handshake::{ReplayWindow, StaleCounter};
///
/// let mut window = ReplayWindow::new();
/// assert_eq!(window.check(7), Ok(()));
/// assert!(window.record(7), "no higher counter was seen before");
/// assert_eq!(window.check(7), Err(StaleCounter::Replayed));
/// ```
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The counter after the highest seen; 0 when none was.
    next: u64,
    words: [u64; Self::WORDS],
}

impl ReplayWindow {
    /// How far below the highest counter a packet may arrive late.
    pub const SIZE: u64 = 8_192;

    const WORD_BITS: u64 = u64::BITS as u64;
    const WORDS: usize = (Self::SIZE / Self::WORD_BITS) as usize + 1;

    /// A window that has seen nothing.
    pub const fn new() -> Self {
        Self { next: 0, words: [0; Self::WORDS] }
    }

    /// Where in the ring the bit of `counter` is: index of the word, and mask.
    #[inline]
    fn position(counter: u64) -> (usize, u64) {
        let word = (counter / Self::WORD_BITS) % Self::WORDS as u64;
        (word as usize, 1 << (counter % Self::WORD_BITS))
    }

    /// Whether a packet with this counter may still be accepted. It changes nothing: record it once it has
    /// authenticated.
    ///
    /// # Errors
    ///
    /// Why it may not.
    #[inline]
    pub fn check(&self, counter: u64) -> Result<(), StaleCounter> {
        if counter >= self.next {
            return Ok(());
        }
        // `next` is one above the highest counter, hence `>`.
        if self.next - counter > Self::SIZE {
            return Err(StaleCounter::TooOld);
        }
        let (word, bit) = Self::position(counter);
        if self.words[word] & bit == 0 { Ok(()) } else { Err(StaleCounter::Replayed) }
    }

    /// Records the counter of an authenticated packet that [`check`](Self::check) let pass. True if no higher
    /// counter was seen before.
    #[inline]
    pub fn record(&mut self, counter: u64) -> bool {
        let newest = counter >= self.next;
        if newest {
            self.advance(counter);
        }
        let (word, bit) = Self::position(counter);
        self.words[word] |= bit;
        newest
    }

    /// Moves the window up to `counter`, clearing the words it enters.
    #[inline]
    fn advance(&mut self, counter: u64) {
        // The word of the highest counter seen is in use already; before the first packet it is empty anyway.
        let current = self.next.saturating_sub(1) / Self::WORD_BITS;
        let target = counter / Self::WORD_BITS;
        let entered = (target - current).min(Self::WORDS as u64);
        for word in target - entered + 1..=target {
            self.words[(word % Self::WORDS as u64) as usize] = 0;
        }
        // Counters end far below u64::MAX (`limits::REJECT_AFTER_MESSAGES`); saturating merely keeps this
        // total.
        self.next = counter.saturating_add(1);
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Receives a packet the way a session does.
    fn receive(window: &mut ReplayWindow, counter: u64) -> Result<bool, StaleCounter> {
        window.check(counter)?;
        Ok(window.record(counter))
    }

    #[test]
    fn each_counter_is_accepted_once_in_any_order() {
        let mut window = ReplayWindow::new();
        for counter in [0, 5, 3, 64, 63, 8_191] {
            assert!(receive(&mut window, counter).is_ok(), "{counter} the first time");
            assert_eq!(receive(&mut window, counter), Err(StaleCounter::Replayed), "{counter} again");
        }
    }

    #[test]
    fn the_window_is_exactly_8192_wide() {
        for highest in [8_192, 8_255, 8_256, 100_000, u64::MAX - 8_192] {
            let mut window = ReplayWindow::new();
            assert_eq!(receive(&mut window, highest), Ok(true));
            assert_eq!(
                receive(&mut window, highest - 8_191),
                Ok(false),
                "the oldest one inside, below {highest}"
            );
            assert_eq!(
                receive(&mut window, highest - 8_192),
                Err(StaleCounter::TooOld),
                "the first one outside"
            );
        }
    }

    #[test]
    fn a_jump_forward_forgets_what_the_ring_held() {
        let mut window = ReplayWindow::new();
        (0..10_000).for_each(|counter| assert_eq!(receive(&mut window, counter), Ok(true)));
        assert_eq!(receive(&mut window, 1_000_000), Ok(true));
        for counter in 1_000_000 - 8_191..1_000_000 {
            assert_eq!(receive(&mut window, counter), Ok(false), "{counter} was never seen");
        }
    }

    /// Steps that stay near the window, cross its edge, or jump far.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![6 => -20i64..20, 3 => -9_000i64..9_000, 1 => -100_000i64..100_000]
    }

    proptest! {
        #[test]
        fn it_decides_as_a_set_of_all_counters_would(steps in prop::collection::vec(step(), 1..600)) {
            let mut window = ReplayWindow::new();
            let mut seen: HashSet<u64> = HashSet::new();
            let mut highest: Option<u64> = None;
            let mut counter = 0u64;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                let expected = match highest {
                    Some(highest) if counter + ReplayWindow::SIZE <= highest => Err(StaleCounter::TooOld),
                    _ if seen.contains(&counter) => Err(StaleCounter::Replayed),
                    _ => Ok(highest.is_none_or(|highest| counter > highest)),
                };
                prop_assert_eq!(receive(&mut window, counter), expected, "counter {}", counter);
                if expected.is_ok() {
                    seen.insert(counter);
                    highest = highest.max(Some(counter));
                }
            }
        }
    }
}
