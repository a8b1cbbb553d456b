//! Packetization-layer path MTU discovery (RFC 8899, much simplified): padded probes of the sizes that paths really have.

use std::time::{Duration, Instant};

/// Outer packet sizes to try when the wanted one does not pass: Ethernet, PPPoE, tunnels in tunnels, the IPv6 minimum.
const SIZES: [u16; 11] = [1500, 1492, 1480, 1454, 1420, 1400, 1380, 1360, 1340, 1300, 1280];
/// Between two rounds of probes.
const RETRY: Duration = Duration::from_millis(500);
/// The wanted size is tried alone first; then, so many times, all sizes are tried at once.
const ROUNDS: u32 = 3;
/// A smaller size than wanted is put in question again after this time (RFC 8899 §5.1.1, `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_mins(10);

/// The search for the largest packet that one path passes.
///
/// Call [`poll`](Self::poll) now and then, until it returns `None`; probe with what it returns; tell of answers with
/// [`handle_answer`](Self::handle_answer). A healthy path costs one probe, a narrow one a dozen small bursts at most. A
/// size counts as lost only while the path is otherwise alive, which the caller knows: it polls only then.
#[derive(Debug)]
pub struct PathMtu {
    wanted: u16,
    /// Known to pass.
    confirmed: Option<u16>,
    round: u32,
    /// Sizes of this round that were handed out; the wanted one is the first.
    sent: usize,
    round_at: Option<Instant>,
}

impl PathMtu {
    /// A search downwards from outer packets of `wanted` bytes.
    pub fn new(wanted: u16, now: Instant) -> Self {
        Self { wanted, confirmed: None, round: 0, sent: 0, round_at: Some(now) }
    }

    /// The size of the next outer packet to probe with now, if one is due.
    pub fn poll(&mut self, now: Instant) -> Option<u16> {
        let round_at = self.round_at?;
        if now < round_at {
            return None;
        }
        if self.round > ROUNDS {
            // Time to look whether the path has grown. What it is known to pass stands until then.
            *self = Self { confirmed: self.confirmed, ..Self::new(self.wanted, now) };
        }
        if let Some(size) = self.sizes().nth(self.sent) {
            self.sent += 1;
            return Some(size);
        }
        self.sent = 0;
        self.round += 1;
        let pause = if self.round > ROUNDS { RAISE } else { RETRY };
        self.round_at = Some(round_at.max(now) + pause);
        None
    }

    /// What this round probes with, largest first: nothing that would be no news.
    fn sizes(&self) -> impl Iterator<Item = u16> + use<> {
        let Self { wanted, confirmed, round, .. } = *self;
        let others = if round == 0 { &[][..] } else { &SIZES[..] };
        let smaller = others.iter().copied().filter(move |&size| size < wanted);
        std::iter::once(wanted).chain(smaller).filter(move |&size| confirmed.is_none_or(|known| size > known))
    }

    /// A probe of `size` arrived. Returns whether that was news: the path passes more than was known.
    pub fn handle_answer(&mut self, size: u16) -> bool {
        if size > self.wanted || self.confirmed.is_some_and(|known| known >= size) {
            return false;
        }
        self.confirmed = Some(size);
        if size == self.wanted {
            self.round_at = None;
        }
        true
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

    /// Polls for `time` on a path of `mtu` bytes; returns the probes it took.
    fn search(path: &mut PathMtu, mtu: u16, now: &mut Instant, time: Duration) -> u32 {
        let mut probes = 0;
        let end = *now + time;
        while *now < end {
            let sizes: Vec<u16> = std::iter::from_fn(|| path.poll(*now)).collect();
            probes += sizes.len() as u32;
            for size in sizes.into_iter().filter(|&size| size <= mtu) {
                path.handle_answer(size);
            }
            *now += Duration::from_millis(100);
        }
        probes
    }

    #[test]
    fn a_path_that_passes_everything_takes_one_probe() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert_eq!(search(&mut path, 1500, &mut now, RAISE * 2), 1);
        assert_eq!(path.confirmed(), Some(1500));
    }

    #[test]
    fn a_narrow_path_is_measured_within_a_second() {
        for (mtu, expected) in [(1499, 1492), (1420, 1420), (1281, 1280)] {
            let mut now = Instant::now();
            let mut path = PathMtu::new(1500, now);
            search(&mut path, mtu, &mut now, Duration::from_secs(1));
            assert_eq!(path.confirmed(), Some(expected));
        }
    }

    #[test]
    fn a_dead_path_costs_a_bounded_number_of_probes() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        let probes = search(&mut path, 0, &mut now, RAISE);
        assert_eq!(probes, 1 + ROUNDS * SIZES.len() as u32);
    }

    #[test]
    fn a_narrow_path_is_tried_again_later_and_keeps_what_it_has_until_then() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        search(&mut path, 1400, &mut now, RAISE);
        assert_eq!(path.confirmed(), Some(1400));
        search(&mut path, 1500, &mut now, RETRY * 10);
        assert_eq!(path.confirmed(), Some(1500));
    }

    #[test]
    fn an_answer_that_is_no_news_changes_nothing() {
        let mut path = PathMtu::new(1500, Instant::now());
        assert!(path.handle_answer(1400));
        assert!(!path.handle_answer(1300), "known");
        assert!(!path.handle_answer(1501), "of an earlier search, with other wishes");
        assert_eq!(path.confirmed(), Some(1400));
    }
}
