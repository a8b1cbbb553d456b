//! Packetization-layer path MTU discovery (RFC 8899, much simplified): padded probes down a ladder of sizes.

use std::time::{Duration, Instant};

/// Outer packet sizes that paths really have: Ethernet, PPPoE, tunnels in tunnels, the IPv6 minimum.
const LADDER: [u16; 11] = [1500, 1492, 1480, 1454, 1420, 1400, 1380, 1360, 1340, 1300, 1280];
/// A size is given up after this many probes without an answer.
const TRIES: u32 = 3;
/// Between two probes of one size.
const RETRY: Duration = Duration::from_millis(500);
/// A smaller size than wanted is put in question again after this time (RFC 8899 §5.1.1, `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_mins(10);

/// The search for the largest packet that one path passes.
///
/// Call [`poll`](Self::poll) now and then; probe with what it returns; tell of the answer with
/// [`handle_answer`](Self::handle_answer). A size counts as lost only while the path is otherwise alive, which the
/// caller knows: it polls only then.
#[derive(Debug)]
pub struct PathMtu {
    /// What the search begins with.
    wanted: u16,
    /// Known to pass.
    confirmed: Option<u16>,
    /// On trial.
    candidate: u16,
    tries: u32,
    next_at: Option<Instant>,
}

impl PathMtu {
    /// A search downwards from outer packets of `wanted` bytes.
    pub fn new(wanted: u16, now: Instant) -> Self {
        Self { wanted, confirmed: None, candidate: wanted, tries: 0, next_at: Some(now) }
    }

    /// The size of the outer packet to probe with now, if it is time.
    pub fn poll(&mut self, now: Instant) -> Option<u16> {
        if self.next_at.is_none_or(|at| now < at) {
            return None;
        }
        if self.confirmed.is_some() {
            // Time to look whether the path has grown.
            *self = Self::new(self.wanted, now);
        }
        if self.tries == TRIES {
            let smaller = LADDER.into_iter().find(|&size| size < self.candidate);
            self.candidate = smaller.unwrap_or(self.candidate);
            self.tries = 0;
        }
        self.tries += 1;
        self.next_at = Some(now + RETRY);
        Some(self.candidate)
    }

    /// A probe of `size` arrived. Returns the path's MTU if that was news.
    pub fn handle_answer(&mut self, now: Instant, size: u16) -> Option<u16> {
        if self.confirmed.is_some_and(|confirmed| confirmed >= size) || size < self.candidate {
            return None;
        }
        self.confirmed = Some(size);
        self.next_at = (size < self.wanted).then(|| now + RAISE);
        Some(size)
    }

    /// The path has changed, or refused a packet: search again.
    pub fn restart(&mut self, wanted: u16, now: Instant) {
        *self = Self::new(wanted, now);
    }

    /// The largest size known to pass.
    pub fn confirmed(&self) -> Option<u16> {
        self.confirmed
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use super::*;

    /// What the search finds on a path of `mtu` bytes, and the probes it took.
    fn search(path: &mut PathMtu, mtu: u16, now: &mut Instant) -> (Option<u16>, u32) {
        let mut probes = 0;
        for _ in 0..200 {
            if let Some(size) = path.poll(*now) {
                probes += 1;
                if size <= mtu {
                    return (path.handle_answer(*now, size), probes);
                }
            }
            *now += RETRY;
        }
        (None, probes)
    }

    #[test]
    fn a_path_that_passes_everything_takes_one_probe() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert_eq!(search(&mut path, 1500, &mut now), (Some(1500), 1));
        assert_eq!(path.poll(now + RAISE), None, "nothing more to find");
    }

    #[test]
    fn the_search_ends_at_the_largest_size_that_passes() {
        for (mtu, expected) in [(1499, 1492), (1420, 1420), (1281, 1280)] {
            let mut now = Instant::now();
            let mut path = PathMtu::new(1500, now);
            assert_eq!(search(&mut path, mtu, &mut now).0, Some(expected));
        }
    }

    #[test]
    fn a_small_path_is_tried_again_later() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert_eq!(search(&mut path, 1400, &mut now).0, Some(1400));
        assert_eq!(path.poll(now + RETRY), None);
        now += RAISE;
        assert_eq!(search(&mut path, 1500, &mut now).0, Some(1500));
    }

    #[test]
    fn an_answer_to_a_given_up_size_changes_nothing() {
        let now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert_eq!(path.poll(now), Some(1500));
        assert_eq!(path.handle_answer(now, 1400), None);
        assert_eq!(path.confirmed(), None);
    }
}
