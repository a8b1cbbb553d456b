//! Packetization-layer path MTU discovery (RFC 8899, much simplified): padded probes of the sizes that paths really have.

use std::time::{Duration, Instant};

/// Outer packet sizes to try when the wanted one does not pass: Ethernet, PPPoE, tunnels in tunnels, the IPv6 minimum, and what
/// old IPv4 links have (RFC 1191 §7.1), down to what every IPv4 host takes (RFC 791 §3.1).
const SIZES: [u16; 14] =
    [1500, 1492, 1480, 1454, 1420, 1400, 1380, 1360, 1340, 1300, 1280, 1240, 1006, SMALLEST];
/// What every path is believed to pass (RFC 8899 §5.1.2, `BASE_PLPMTU`): over IPv4, which the search does not tell from IPv6.
const SMALLEST: u16 = 576;
/// Whatever carries IPv6 has at least this (RFC 8200 §5), and nearly all of IPv4, too. The operating system is not believed below it
/// without a probe, for a forger would ask for less. Smaller sizes are tried in the last round only, when none from here on has
/// passed: in a full queue the smallest probes may be all that gets through.
const RARELY_LESS: u16 = 1280;
/// Between two rounds of probes.
const RETRY: Duration = Duration::from_millis(500);
/// The wanted size is tried alone first; then, so many times, all sizes are tried at once.
const ROUNDS: u32 = 3;
/// A smaller size than wanted is put in question again after this time, since it may have been loss that took the larger ones;
/// then after twice as long, and so on,
const RAISE_FIRST: Duration = Duration::from_secs(30);
/// until it is this time (RFC 8899 §5.1.1, `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_mins(10);
/// A search that nothing at all came of is made again after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// So many confirmations in a row that do not arrive make a size doubtful (RFC 8899 §5.1.2, `MAX_PROBES`).
const MISSED_MAX: u32 = 3;

/// The search for the largest packet that one path passes, and the watch over it.
///
/// Call [`poll`](Self::poll) now and then, until it returns `None`; probe with what it returns; tell of answers with
/// [`handle_answer`](Self::handle_answer). A healthy path costs one probe, a narrow one a dozen small bursts at most. A
/// size counts as lost only while the path is otherwise alive, which the caller knows: it polls only then.
///
/// A path may become narrower without a word (a black hole, RFC 8899 §4.3). So that this is noticed, send while the path
/// is in use a probe of the size of [`confirmation`](Self::confirmation) together with a small one, and tell with
/// [`handle_missed`](Self::handle_missed) when only the small one was answered.
#[derive(Debug)]
pub struct PathMtu {
    /// What the largest inner packet takes outside.
    wanted: u16,
    /// What the operating system believes that the path passes.
    hint: Option<u16>,
    /// Known to pass.
    confirmed: Option<u16>,
    /// In use until the search that has just begun knows better.
    held: Option<u16>,
    round: u32,
    /// Sizes of this round that were handed out; the wanted one is the first.
    sent: usize,
    round_at: Option<Instant>,
    /// When the search has found less than was wanted, the next one is made after this time.
    raise: Duration,
    /// Confirmations missed in a row.
    missed: u32,
}

impl PathMtu {
    /// A search downwards from outer packets of `wanted` bytes.
    pub fn new(wanted: u16, now: Instant) -> Self {
        Self {
            wanted,
            hint: None,
            confirmed: None,
            held: None,
            round: 0,
            sent: 0,
            round_at: Some(now),
            raise: RAISE_FIRST,
            missed: 0,
        }
    }

    /// The largest outer packet to send: what is known to pass, or as long as nothing is known, what is wanted and the operating
    /// system believes in, but no less than `RARELY_LESS`: a peer that answers no probes has nothing else to refute a forged
    /// message with.
    pub fn limit(&self) -> u16 {
        let believed = self.hint.map_or(u16::MAX, |hint| hint.max(RARELY_LESS));
        self.confirmed.or(self.held).unwrap_or(self.wanted.min(believed))
    }

    /// The size of the next outer packet to probe with now, if one is due.
    pub fn poll(&mut self, now: Instant) -> Option<u16> {
        let round_at = self.round_at?;
        if now < round_at {
            return None;
        }
        if self.round > ROUNDS {
            // Time to look whether the path has grown. What it is known to pass stands until then.
            self.round = 0;
        }
        if let Some(size) = self.sizes().nth(self.sent) {
            self.sent += 1;
            return Some(size);
        }
        self.sent = 0;
        self.round += 1;
        let pause = match self.confirmed {
            _ if self.round <= ROUNDS => RETRY,
            Some(_) => {
                let next = RAISE.min(2 * self.raise);
                std::mem::replace(&mut self.raise, next)
            }
            None => AGAIN,
        };
        self.round_at = Some(round_at.max(now) + pause);
        None
    }

    /// What this round probes with, largest first: nothing that would be no news.
    fn sizes(&self) -> impl Iterator<Item = u16> + use<> {
        let Self { confirmed, round, wanted, hint, .. } = *self;
        let others = if round == 0 { &[][..] } else { &SIZES[..] };
        let smaller = hint.into_iter().chain(others.iter().copied()).filter(move |&size| size < wanted);
        let smaller = smaller.filter(move |&size| size >= RARELY_LESS || round == ROUNDS);
        std::iter::once(wanted).chain(smaller).filter(move |&size| confirmed.is_none_or(|known| size > known))
    }

    /// A probe of `size` arrived. Returns whether that was news: more is known to pass than before.
    pub fn handle_answer(&mut self, size: u16) -> bool {
        if self.confirmed == Some(size) {
            self.missed = 0;
        }
        if size > self.wanted || self.confirmed.is_some_and(|known| known >= size) {
            return false;
        }
        self.confirmed = Some(size);
        self.missed = 0;
        if size == self.wanted {
            self.round_at = None;
        }
        true
    }

    /// The size that a path in use should be probed with now and then; `None` while there is nothing to confirm.
    pub fn confirmation(&self) -> Option<u16> {
        let searching = self.round_at.is_some() && self.round <= ROUNDS;
        self.confirmed.filter(|&size| size > SMALLEST && !searching)
    }

    /// A probe of `size` was not answered, though a small one that was sent after it was. A few of these in a row start
    /// the search anew; what is in use stays in use until that has found something.
    pub fn handle_missed(&mut self, size: u16, now: Instant) {
        if self.confirmed != Some(size) {
            return;
        }
        self.missed += 1;
        if self.missed == MISSED_MAX {
            self.doubt(now);
        }
    }

    /// What is in use does not pass, it seems: tries all sizes at once, unless a search is under way.
    pub fn doubt(&mut self, now: Instant) {
        if self.round_at.is_some() && self.round <= ROUNDS {
            return;
        }
        let Self { wanted, hint, .. } = *self;
        *self = Self { hint, held: Some(self.limit()), round: 1, ..Self::new(wanted, now) };
    }

    /// The path is another one: search from the beginning.
    pub fn restart(&mut self, wanted: u16, now: Instant) {
        *self = Self::new(wanted, now);
    }

    /// What the operating system believes that the path passes: the MTU of an interface or a route, or what an ICMP message has
    /// said, which anybody can send who knows of the flow. So it is never believed against a probe that was answered (RFC 8899
    /// §4.6.1): less than what is in use makes the search begin anew, with that size among the first, and more than what is
    /// in use makes it go on. Only as long as nothing is known is it what is sent. Returns whether the [limit](Self::limit) has changed.
    pub fn set_hint(&mut self, hint: u16, now: Instant) -> bool {
        let before = self.limit();
        let hint = hint.max(SMALLEST);
        if self.hint.replace(hint) == Some(hint) {
            return false;
        }
        if self.confirmed.is_some_and(|known| known < self.wanted && known < hint) {
            // Room to grow, perhaps.
            (self.round, self.sent, self.round_at) = (0, 0, Some(now));
        } else if self.confirmed.is_some_and(|known| hint < known) {
            self.doubt(now);
        }
        self.limit() != before
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

    /// A path of `mtu` bytes whose search from 1,500 is over.
    fn searched(mtu: u16) -> (PathMtu, Instant) {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        search(&mut path, mtu, &mut now, RETRY * 5);
        (path, now)
    }

    #[test]
    fn a_path_that_passes_everything_takes_one_probe() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert_eq!(path.limit(), 1500, "believed until there is a reason not to");
        assert_eq!(search(&mut path, 1500, &mut now, RAISE * 2), 1);
        assert_eq!(path.limit(), 1500);
    }

    #[test]
    fn a_narrow_path_is_measured_within_a_second() {
        for (mtu, expected) in [(1499, 1492), (1420, 1420), (1281, 1280)] {
            let mut now = Instant::now();
            let mut path = PathMtu::new(1500, now);
            search(&mut path, mtu, &mut now, Duration::from_secs(1));
            assert_eq!(path.limit(), expected);
        }
    }

    #[test]
    fn the_narrowest_of_ipv4_are_found_when_all_else_has_failed() {
        for (mtu, expected) in [(1252, 1240), (1006, 1006), (576, 576)] {
            let mut now = Instant::now();
            let mut path = PathMtu::new(1500, now);
            search(&mut path, mtu, &mut now, Duration::from_secs(1));
            assert_eq!(path.limit(), 1500, "not yet");
            search(&mut path, mtu, &mut now, Duration::from_secs(1));
            assert_eq!(path.limit(), expected);
        }
    }

    #[test]
    fn a_dead_path_costs_a_bounded_number_of_probes() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        let probes = search(&mut path, 0, &mut now, AGAIN);
        assert!(probes <= 1 + ROUNDS * SIZES.len() as u32, "{probes}");
        search(&mut path, 1400, &mut now, AGAIN);
        assert_eq!(path.limit(), 1400, "and is searched again when it lives");
    }

    #[test]
    fn a_narrow_path_is_tried_again_later_and_keeps_what_it_has_until_then() {
        let (mut path, mut now) = searched(1400);
        search(&mut path, 1400, &mut now, RAISE / 2);
        assert_eq!(path.limit(), 1400);
        search(&mut path, 1500, &mut now, RAISE / 2);
        assert_eq!(path.limit(), 1500);
    }

    #[test]
    fn an_answer_that_is_no_news_changes_nothing() {
        let mut path = PathMtu::new(1500, Instant::now());
        assert!(path.handle_answer(1400));
        assert!(!path.handle_answer(1300), "known");
        assert!(!path.handle_answer(1501), "of an earlier search, with other wishes");
        assert_eq!(path.limit(), 1400);
    }

    #[test]
    fn a_path_that_narrows_without_a_word_is_searched_after_three_missed_confirmations() {
        let (mut path, mut now) = searched(1500);
        for _ in 1..MISSED_MAX {
            path.handle_missed(path.confirmation().unwrap(), now);
        }
        assert_eq!(path.poll(now), None, "that may be chance");
        path.handle_answer(1500);
        for _ in 0..MISSED_MAX {
            assert_eq!(path.confirmation(), Some(1500));
            path.handle_missed(1500, now);
        }
        assert_eq!(path.confirmation(), None, "in doubt");
        assert_eq!(path.limit(), 1500, "in use as long as nothing better is known");
        search(&mut path, 1400, &mut now, RETRY);
        assert_eq!(path.limit(), 1400);
    }

    #[test]
    fn a_false_alarm_costs_probes_and_nothing_else() {
        let (mut path, mut now) = searched(1500);
        (0..MISSED_MAX).for_each(|_| path.handle_missed(1500, now));
        search(&mut path, 1500, &mut now, RETRY);
        assert_eq!((path.limit(), path.confirmation()), (1500, Some(1500)));
    }

    #[test]
    fn a_size_that_loss_has_taken_is_back_within_a_minute() {
        let (mut path, mut now) = searched(1500);
        (0..MISSED_MAX).for_each(|_| path.handle_missed(1500, now));
        search(&mut path, 1340, &mut now, RETRY * 5);
        assert_eq!(path.limit(), 1340, "all that was answered");
        search(&mut path, 1500, &mut now, RAISE_FIRST);
        assert_eq!(path.limit(), 1500);
    }

    #[test]
    fn a_narrow_path_is_bothered_ever_less() {
        let (mut path, mut now) = searched(1400);
        let first = search(&mut path, 1400, &mut now, RAISE);
        let later = search(&mut path, 1400, &mut now, 10 * RAISE);
        assert!(later <= 3 * first, "{first} probes in ten minutes, {later} in the next hundred");
    }

    #[test]
    fn the_smallest_size_needs_no_confirmation() {
        assert_eq!(searched(576).0.confirmation(), None);
    }

    #[test]
    fn what_the_operating_system_believes_is_sent_until_a_probe_tells() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        assert!(path.set_hint(1400, now));
        assert_eq!(path.limit(), 1400, "before any probe");
        search(&mut path, 1400, &mut now, Duration::from_secs(1));
        assert_eq!(path.limit(), 1400);
        assert!(!path.set_hint(9000, now), "growing must be proved");
        search(&mut path, 1500, &mut now, RETRY);
        assert_eq!(path.limit(), 1500);
    }

    #[test]
    fn without_probes_a_forged_word_leaves_1280_bytes() {
        let now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        path.set_hint(576, now);
        assert_eq!(path.limit(), RARELY_LESS);
    }

    #[test]
    fn a_forged_word_of_a_narrow_path_costs_probes_and_nothing_else() {
        for hint in [0, 68, 576, 1200, 1499] {
            let (mut path, mut now) = searched(1500);
            assert!(!path.set_hint(hint, now));
            let probes = search(&mut path, 1500, &mut now, RAISE);
            assert_eq!((path.limit(), path.confirmation()), (1500, Some(1500)));
            assert!(probes <= 1 + SIZES.len() as u32, "{probes} probes for one word");
        }
    }

    #[test]
    fn a_true_word_of_a_narrow_path_is_confirmed_within_a_second() {
        let (mut path, mut now) = searched(1500);
        path.set_hint(1444, now);
        search(&mut path, 1444, &mut now, Duration::from_secs(1));
        assert_eq!(path.limit(), 1444, "no size of the table, but of the message");
    }

    #[test]
    fn a_path_that_a_forger_called_narrow_before_the_first_probe_is_wide_after_it() {
        let mut now = Instant::now();
        let mut path = PathMtu::new(1500, now);
        path.set_hint(600, now);
        search(&mut path, 1500, &mut now, RETRY);
        assert_eq!(path.limit(), 1500);
    }
}
