//! A model of the path, in the manner of BBR version 1 (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM
//! Queue 2016; draft-cardwell-iccrg-bbr-congestion-control-00).
//!
//! The path is described by two numbers: the highest rate at which it delivered in the last ten round trips, and the
//! lowest round-trip time of the last ten seconds. Their product is what fits on it without a queue. A segment lost on
//! the way changes neither number, so a lossy link keeps its rate. The gains, and the cycle of probing, are those of
//! version 1, so that flows of ours and of a kernel's BBR share a bottleneck.
//!
//! One thing is added. At a loss of *p*, sending at the bandwidth delivers only 1 − *p* of it, and above a quarter
//! even the probing delivers less than the model holds true: the rate would decay round by round. The loss that is
//! there even when there is no queue ([`BaseLoss`]) is therefore sent on top.

use super::{AckBatch, MILLISECOND, RateSample, SECOND};

/// 2/ln 2: the least gain that doubles the rate each round trip.
const STARTUP_GAIN: f64 = 2.885;
/// Twice what fits, so that acknowledgements may come late or in bunches.
const WINDOW_GAIN: f64 = 2.0;
/// When the queue overflows, that is where it does: flows that want twice what fits fill a queue of one bandwidth-delay
/// product to the brim. A little less, for a cycle of probing, spares all of them the losses.
const NARROW_GAIN: f64 = 1.7;
const NARROW_ROUNDS: u32 = 10;
/// Probe for more, drain the queue that made, then cruise.
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// A little less than the model says, so that queues drain in the long run.
const PACING_MARGIN: f64 = 0.99;
/// Round trips that the highest delivery rate is remembered for.
const BANDWIDTH_ROUNDS: usize = 10;
/// How long the lowest round-trip time is remembered for.
const RTT_MEMORY: u64 = 10 * SECOND;
/// It is remembered anew when the lowest one of such a span was no more than so small a part above it.
const RTT_SPAN: u64 = SECOND;
const RTT_SIMILAR: u64 = 16;
/// How long the queue is kept empty to measure it again.
const PROBE_RTT_TIME: u64 = 200 * MILLISECOND;
/// Startup ends when the rate has not grown by a quarter for three rounds.
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// Segments in flight before anything is known, and at the very least.
const WINDOW_START: u64 = 32;
const WINDOW_MIN: u64 = 4;
/// How much of the window may be for acknowledgements that come in bunches, in time at the model's bandwidth.
const BUNCH_MAX: u64 = 100 * MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Doubling the rate each round trip until the path is full.
    Startup,
    /// Sending less than is delivered until the queue of the startup is gone.
    Drain,
    /// At the path's rate, probing for more now and then.
    Cruise { step: usize, since: u64 },
    /// Few in flight, to see the round-trip time without a queue. `until` is set once that is reached.
    ProbeRtt { until: Option<u64>, round: u64 },
}

/// The model of one path.
#[derive(Debug)]
pub(crate) struct Bbr {
    phase: Phase,
    segment: u64,
    bandwidth: MaxByRound,
    min_rtt: Option<u64>,
    min_rtt_at: u64,
    /// The lowest of this span, and when that began.
    recent_rtt: Option<u64>,
    recent_rtt_since: u64,
    round: u64,
    round_ends_at: u64,
    full_bandwidth: u64,
    full_rounds: u32,
    pipe_full: bool,
    window: u64,
    window_before: u64,
    pacing_rate: u64,
    bunching: Bunching,
    base_loss: BaseLoss,
    /// Rounds that the window stays narrow for, because the queue overflows.
    narrow_rounds: u32,
    /// Begins the cycle at another step in each conversation, so that flows do not probe together.
    first_step: usize,
    idle: bool,
    rtt_known: bool,
}

impl Bbr {
    /// For segments of `segment` bytes on the wire. `seed` may be anything that differs between flows.
    pub(crate) fn new(segment: u64, seed: u32) -> Self {
        let window = WINDOW_START * segment;
        Self {
            phase: Phase::Startup,
            segment,
            bandwidth: MaxByRound::default(),
            min_rtt: None,
            min_rtt_at: 0,
            recent_rtt: None,
            recent_rtt_since: 0,
            round: 0,
            round_ends_at: 0,
            full_bandwidth: 0,
            full_rounds: 0,
            pipe_full: false,
            window,
            window_before: 0,
            pacing_rate: rate_of(window, MILLISECOND, STARTUP_GAIN),
            bunching: Bunching::default(),
            base_loss: BaseLoss::default(),
            narrow_rounds: 0,
            // Any step but the draining one.
            first_step: match seed.wrapping_mul(0x9e37_79b9) >> 24 {
                byte if byte % 7 == 0 => 0,
                byte => 1 + (byte % 7) as usize,
            },
            idle: false,
            rtt_known: false,
        }
    }

    /// The most bytes that may be in flight.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Bytes a second to send at.
    pub(crate) fn pacing_rate(&self) -> u64 {
        self.pacing_rate
    }

    /// The bandwidth of the path as far as known, in bytes a second.
    pub(crate) fn bandwidth(&self) -> u64 {
        self.bandwidth.max
    }

    /// Whether few are in flight on purpose.
    pub(crate) fn probes_rtt(&self) -> bool {
        matches!(self.phase, Phase::ProbeRtt { .. })
    }

    /// Sending begins again after there was nothing in flight and nothing to send.
    pub(crate) fn on_restart(&mut self) {
        self.idle = true;
    }

    /// Acknowledgements came in. `delivered` and `in_flight` are what is true after them.
    pub(crate) fn on_ack(
        &mut self,
        now: u64,
        batch: &AckBatch,
        sample: Option<RateSample>,
        delivered: u64,
        in_flight: u64,
    ) {
        let mut new_round = false;
        if let Some(sample) = sample {
            new_round = self.count_round(&sample, delivered);
            self.update_bandwidth(&sample);
            if new_round {
                self.check_pipe_full(sample.app_limited);
            }
        }
        self.base_loss.update(batch, self.segment, self.min_rtt, self.pipe_full, new_round);
        if new_round {
            self.narrow_rounds = self.narrow_rounds.saturating_sub(1);
            if self.pipe_full && self.base_loss.exceeded() {
                self.narrow_rounds = NARROW_ROUNDS;
            }
        }
        if self.pipe_full {
            self.bunching.update(now, batch.acked, self.bandwidth.max, self.window, new_round);
        }
        self.advance_phase(now, batch, in_flight);
        self.update_min_rtt(now, batch.rtt, in_flight);
        self.set_rate(batch.rtt);
        self.set_window(batch.acked, delivered);
        self.idle = false;
    }

    /// Nothing came back for a long time: begin again with little, until something does.
    pub(crate) fn on_timeout(&mut self) {
        self.window_before = self.window_before.max(self.window);
        self.window = WINDOW_MIN * self.segment;
    }

    fn count_round(&mut self, sample: &RateSample, delivered: u64) -> bool {
        let new_round = sample.prior_delivered >= self.round_ends_at;
        if new_round {
            self.round_ends_at = delivered;
            self.round += 1;
            self.bandwidth.next_round();
        }
        new_round
    }

    fn update_bandwidth(&mut self, sample: &RateSample) {
        // Faster than a round trip: such a sample measures how acknowledgements bunch.
        let plausible = self.min_rtt.is_none_or(|min_rtt| sample.interval >= min_rtt);
        if plausible && (!sample.app_limited || sample.rate >= self.bandwidth.max) {
            self.bandwidth.add(sample.rate);
        }
    }

    fn check_pipe_full(&mut self, app_limited: bool) {
        if self.pipe_full || app_limited {
            return;
        }
        if self.bandwidth.max as f64 >= self.full_bandwidth as f64 * FULL_GROWTH {
            self.full_bandwidth = self.bandwidth.max;
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        self.pipe_full = self.full_rounds >= FULL_ROUNDS;
    }

    fn advance_phase(&mut self, now: u64, batch: &AckBatch, in_flight: u64) {
        match self.phase {
            Phase::Startup if self.pipe_full => self.phase = Phase::Drain,
            Phase::Drain if in_flight <= self.fits(1.0) => self.cruise(now),
            Phase::Cruise { step, since } => {
                let long_enough = now.saturating_sub(since) > self.min_rtt.unwrap_or(0);
                let done = match CYCLE[step] {
                    // Until the extra data has had its effect.
                    gain if gain > 1.0 => long_enough && (batch.lost > 0 || in_flight >= self.fits(gain)),
                    gain if gain < 1.0 => long_enough || in_flight <= self.fits(1.0),
                    _ => long_enough,
                };
                if done {
                    self.phase = Phase::Cruise { step: (step + 1) % CYCLE.len(), since: now };
                }
            }
            _ => {}
        }
    }

    fn cruise(&mut self, now: u64) {
        self.phase = Phase::Cruise { step: self.first_step, since: now };
    }

    fn update_min_rtt(&mut self, now: u64, rtt: Option<u64>, in_flight: u64) {
        self.confirm_min_rtt(now, rtt);
        let expired = now > self.min_rtt_at + RTT_MEMORY;
        if let Some(rtt) = rtt
            && (expired || self.min_rtt.is_none_or(|min_rtt| rtt <= min_rtt))
        {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = now;
        }
        if expired && !self.idle && !self.probes_rtt() {
            self.window_before = self.window_before.max(self.window);
            self.phase = Phase::ProbeRtt { until: None, round: self.round };
        }
        if let Phase::ProbeRtt { until, round } = &mut self.phase {
            match *until {
                None if in_flight <= WINDOW_MIN * self.segment => {
                    *until = Some(now + PROBE_RTT_TIME);
                    *round = self.round;
                }
                Some(until) if now > until && self.round > *round => {
                    self.min_rtt_at = now;
                    self.restore_window();
                    if self.pipe_full { self.cruise(now) } else { self.phase = Phase::Startup }
                }
                _ => {}
            }
        }
    }

    /// A round-trip time that is as good as the lowest one shows that the queue was empty: it need not be emptied to see that.
    fn confirm_min_rtt(&mut self, now: u64, rtt: Option<u64>) {
        self.recent_rtt = self.recent_rtt.into_iter().chain(rtt).min();
        if now > self.recent_rtt_since + RTT_SPAN {
            self.recent_rtt_since = now;
            // The lowest one stays what it was, or it would creep upwards.
            if let (Some(recent), Some(min_rtt)) = (self.recent_rtt.take(), self.min_rtt)
                && recent <= min_rtt + min_rtt / RTT_SIMILAR
            {
                self.min_rtt_at = now;
            }
        }
    }

    fn restore_window(&mut self) {
        self.window = self.window.max(self.window_before);
        self.window_before = 0;
    }

    fn gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => 1.0 / STARTUP_GAIN,
            Phase::Cruise { step, .. } => CYCLE[step],
            Phase::ProbeRtt { .. } => 1.0,
        }
    }

    fn set_rate(&mut self, rtt: Option<u64>) {
        if let Some(rtt) = rtt
            && !std::mem::replace(&mut self.rtt_known, true)
        {
            // Only now is known how long the first window takes.
            self.pacing_rate = rate_of(WINDOW_START * self.segment, rtt, STARTUP_GAIN);
        }
        if self.bandwidth.max == 0 {
            return;
        }
        let rate =
            (self.bandwidth.max as f64 * self.gain() * PACING_MARGIN * self.base_loss.surplus()) as u64;
        if self.pipe_full || rate > self.pacing_rate {
            self.pacing_rate = rate.max(self.segment);
        }
    }

    /// What fits on the path, times `gain`.
    fn fits(&self, gain: f64) -> u64 {
        let Some(min_rtt) = self.min_rtt else { return WINDOW_START * self.segment };
        (self.bandwidth.max as f64 * min_rtt as f64 / SECOND as f64 * gain) as u64
    }

    fn set_window(&mut self, acked: u64, delivered: u64) {
        if self.probes_rtt() {
            self.window = self.window.min(WINDOW_MIN * self.segment);
            return;
        }
        if acked > 0 && self.window_before > 0 {
            // The timeout was a pause, not the end.
            self.restore_window();
        }
        let gain = match self.phase {
            Phase::Startup | Phase::Drain => STARTUP_GAIN,
            _ if self.narrow_rounds > 0 => NARROW_GAIN,
            _ => WINDOW_GAIN,
        };
        let quantum = (self.pacing_rate / 1_000).max(2 * self.segment);
        let target = self.fits(gain * self.base_loss.surplus())
            + self.bunching.allowance(self.bandwidth.max)
            + 3 * quantum;
        if self.pipe_full {
            self.window = (self.window + acked).min(target);
        } else if self.window < target || delivered < WINDOW_START * self.segment {
            self.window += acked;
        }
        self.window = self.window.max(WINDOW_MIN * self.segment);
    }
}

/// `bytes` in `time`, times `gain`, in bytes a second.
fn rate_of(bytes: u64, time: u64, gain: f64) -> u64 {
    (bytes as f64 * gain * SECOND as f64 / time.max(1) as f64) as u64
}

/// The highest of the values of the last rounds.
#[derive(Debug, Default)]
struct MaxByRound {
    rounds: [u64; BANDWIDTH_ROUNDS],
    current: usize,
    max: u64,
}

impl MaxByRound {
    fn next_round(&mut self) {
        self.current = (self.current + 1) % BANDWIDTH_ROUNDS;
        self.rounds[self.current] = 0;
        // What leaves must not leave nothing: a round without samples keeps what is known.
        let max = self.rounds.iter().copied().max().unwrap_or(0);
        if max == 0 {
            self.rounds[self.current] = self.max;
        } else {
            self.max = max;
        }
    }

    fn add(&mut self, value: u64) {
        self.rounds[self.current] = self.rounds[self.current].max(value);
        self.max = self.max.max(value);
    }
}

/// How much more is acknowledged at once than the bandwidth explains: a receiver that waits, or a link that bunches.
/// The window must be larger by that, or the sender would stand still between bunches.
#[derive(Debug, Default)]
struct Bunching {
    since: u64,
    acked: u64,
    /// The most seen in this span of rounds and in the one before.
    most: [u64; 2],
    rounds: u32,
}

impl Bunching {
    const SPAN_ROUNDS: u32 = 5;

    fn update(&mut self, now: u64, acked: u64, bandwidth: u64, window: u64, new_round: bool) {
        if new_round {
            self.rounds += 1;
            if self.rounds >= Self::SPAN_ROUNDS {
                self.rounds = 0;
                self.most = [0, self.most[0]];
            }
        }
        let expected =
            |since: u64| (bandwidth as f64 * now.saturating_sub(since) as f64 / SECOND as f64) as u64;
        let mut explained = expected(self.since);
        if self.acked <= explained {
            self.since = now;
            self.acked = 0;
            explained = 0;
        }
        self.acked += acked;
        let extra = self.acked.saturating_sub(explained).min(window);
        self.most[0] = self.most[0].max(extra);
    }

    fn allowance(&self, bandwidth: u64) -> u64 {
        let most = self.most[0].max(self.most[1]);
        most.min((bandwidth as f64 * BUNCH_MAX as f64 / SECOND as f64) as u64)
    }
}

/// The loss of a path that has nothing to do with how much is sent: the least of the last rounds, some of which
/// belong to the part of the cycle in which the queue is empty and nothing overflows.
#[derive(Debug, Default)]
struct BaseLoss {
    acked: u64,
    lost: u64,
    /// 0 until known.
    rounds: [f64; 10],
    current: usize,
    /// The queue is short: what is lost now is lost by chance.
    applies: bool,
}

impl BaseLoss {
    /// Fewer segments than this say nothing about a rate: several rounds are taken together.
    const SEGMENTS_MIN: u64 = 256;
    /// More than this is not believed: sending ever more into a path that drops it helps nobody.
    const BELIEVED_MAX: f64 = 0.3;
    /// So much more than the least is not chance.
    const EXCESS: f64 = 0.02;

    fn update(
        &mut self,
        batch: &AckBatch,
        segment: u64,
        min_rtt: Option<u64>,
        pipe_full: bool,
        new_round: bool,
    ) {
        self.acked += batch.acked;
        self.lost += batch.lost;
        let all = self.acked + self.lost;
        if new_round && all >= Self::SEGMENTS_MIN * segment {
            self.rounds[self.current] = self.lost as f64 / all as f64;
            self.current = (self.current + 1) % self.rounds.len();
            self.acked = 0;
            self.lost = 0;
        }
        if let (Some(rtt), Some(min_rtt)) = (batch.rtt, min_rtt) {
            self.applies = pipe_full && rtt <= min_rtt + min_rtt / 4;
        }
    }

    /// Whether more was lost lately than chance explains.
    fn exceeded(&self) -> bool {
        let latest = self.rounds[(self.current + self.rounds.len() - 1) % self.rounds.len()];
        latest > self.least() + Self::EXCESS
    }

    fn least(&self) -> f64 {
        self.rounds.iter().fold(Self::BELIEVED_MAX, |least, &loss| least.min(loss))
    }

    /// By how much more is to be sent for one unit to arrive.
    fn surplus(&self) -> f64 {
        if !self.applies {
            return 1.0;
        }
        1.0 / (1.0 - self.least())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::{Delivery, Snapshot};
    use super::*;

    const SEGMENT: u64 = 1_000;
    /// 10 MB/s and 20 ms: 200 segments fit.
    const RATE: u64 = 10_000_000;
    const RTT: u64 = 20 * MILLISECOND;
    const FIT: u64 = 200 * SEGMENT;

    /// A path with that rate and round-trip time, an endless queue, and a sender that always has something to send.
    struct Path {
        model: Bbr,
        delivery: Delivery,
        now: u64,
        paced_until: u64,
        free_at: u64,
        in_flight: u64,
        /// When each arrives, when it was sent, and what was known then.
        under_way: VecDeque<(u64, u64, Snapshot)>,
        /// Of so many segments one is lost; none when 0.
        loses: u64,
        count: u64,
    }

    impl Path {
        fn new(loses: u64) -> Self {
            Self {
                model: Bbr::new(SEGMENT, 1),
                delivery: Delivery::default(),
                now: 0,
                paced_until: 0,
                free_at: 0,
                in_flight: 0,
                under_way: VecDeque::new(),
                loses,
                count: 0,
            }
        }

        /// 20 µs: at most one segment there, and the acknowledgements that are due.
        fn step(&mut self) {
            self.now += 20_000;
            if self.paced_until <= self.now && self.in_flight + SEGMENT <= self.model.window() {
                let snapshot = self.delivery.on_send(self.now, self.in_flight);
                self.free_at = self.free_at.max(self.now) + SEGMENT * SECOND / RATE;
                self.under_way.push_back((self.free_at + RTT, self.now, snapshot));
                self.in_flight += SEGMENT;
                self.paced_until = self.paced_until.max(self.now.saturating_sub(100_000))
                    + SEGMENT * SECOND / self.model.pacing_rate();
            }
            let mut batch = AckBatch::default();
            while let Some(&(_, sent_at, snapshot)) = self.under_way.front().filter(|sent| sent.0 <= self.now)
            {
                self.under_way.pop_front();
                self.in_flight -= SEGMENT;
                self.count += 1;
                if self.loses > 0 && self.count.is_multiple_of(self.loses) {
                    batch.lost += SEGMENT;
                } else {
                    batch.rtt_sample(self.now - sent_at);
                    self.delivery.on_ack(self.now, SEGMENT, Some((sent_at, snapshot)), &mut batch);
                }
            }
            if batch.acked + batch.lost > 0 {
                let sample = self.delivery.sample(&batch);
                self.model.on_ack(self.now, &batch, sample, self.delivery.delivered(), self.in_flight);
            }
        }

        fn run_until(&mut self, time: u64) {
            while self.now < time {
                self.step();
            }
        }
    }

    #[test]
    fn the_model_finds_bandwidth_and_round_trip_time() {
        let mut path = Path::new(0);
        path.run_until(3 * SECOND);
        let bandwidth = path.model.bandwidth();
        assert!((RATE * 98 / 100..=RATE * 103 / 100).contains(&bandwidth), "{bandwidth}");
        let min_rtt = path.model.min_rtt.unwrap();
        assert!((RTT..RTT + MILLISECOND).contains(&min_rtt), "{min_rtt}");
        assert!((2 * FIT..3 * FIT).contains(&path.model.window()), "{}", path.model.window());
        assert!(path.in_flight < 2 * FIT, "the queue of the startup is gone: {} in flight", path.in_flight);
    }

    #[test]
    fn every_ten_seconds_the_queue_is_emptied_for_a_moment() {
        let mut path = Path::new(0);
        // A path that became longer: the old minimum must be forgotten.
        path.run_until(SECOND);
        path.model.min_rtt = Some(RTT / 2);
        path.model.min_rtt_at = path.now;
        let mut emptied = 0;
        let mut restored = false;
        while path.now < 12 * SECOND {
            path.step();
            let few = path.in_flight <= WINDOW_MIN * SEGMENT;
            emptied += u64::from(path.model.probes_rtt() && few) * 20_000;
            restored = !path.model.probes_rtt() && path.model.window() > FIT;
        }
        assert!((PROBE_RTT_TIME..PROBE_RTT_TIME + 2 * RTT).contains(&emptied), "{emptied} ns");
        assert!(restored && path.model.min_rtt >= Some(RTT));
    }

    #[test]
    fn loss_by_chance_is_sent_on_top_but_not_more_than_is_believed() {
        for (loses, surplus) in [(0, 1.0), (10, 1.0 / 0.9), (2, 1.0 / 0.7)] {
            let mut path = Path::new(loses);
            path.run_until(3 * SECOND);
            path.model.base_loss.applies = true;
            assert!((path.model.base_loss.surplus() - surplus).abs() < 0.02, "one of {loses}");
        }
    }

    #[test]
    fn a_round_that_loses_more_than_chance_does_narrows_the_window() {
        let mut path = Path::new(20);
        path.run_until(2 * SECOND);
        assert_eq!(path.model.narrow_rounds, 0, "the same loss all the time is chance");
        path.loses = 5;
        path.run_until(path.now + 4 * RTT);
        assert!(path.model.narrow_rounds > 0);
        assert!(path.model.window() < 2 * FIT);
    }

    #[test]
    fn after_a_silence_little_is_sent_until_something_comes_back() {
        let mut path = Path::new(0);
        path.run_until(SECOND);
        let before = path.model.window();
        path.model.on_timeout();
        path.model.on_timeout();
        assert_eq!(path.model.window(), WINDOW_MIN * SEGMENT);
        path.step();
        while path.model.window() == WINDOW_MIN * SEGMENT {
            path.step();
        }
        assert!(path.model.window() >= before * 9 / 10, "{}", path.model.window());
    }
}
