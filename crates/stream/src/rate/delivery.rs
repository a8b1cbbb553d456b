//! Delivery-rate estimation (draft-cheng-iccrg-delivery-rate-estimation).
//!
//! Each segment takes along what had been delivered when it was sent. When it is acknowledged, the difference to what is
//! delivered now, over the time between, is the rate at which the path delivered; or less, when there was
//! nothing to send (*application-limited*).

use super::SECOND;

/// What was known when a segment was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    delivered: u64,
    delivered_at: u64,
    first_sent_at: u64,
    app_limited: bool,
}

/// What the acknowledgements of one datagram said, taken together.
#[derive(Debug, Default)]
pub(crate) struct AckBatch {
    /// Bytes acknowledged for the first time.
    pub(crate) acked: u64,
    /// Bytes found to be lost.
    pub(crate) lost: u64,
    /// The least round-trip time among them.
    pub(crate) rtt: Option<u64>,
    newest: Option<(Snapshot, u64)>,
}

impl AckBatch {
    pub(crate) fn rtt_sample(&mut self, rtt: u64) {
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
    }
}

/// One measurement of the delivery rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// The time it was measured over.
    pub(crate) interval: u64,
    /// What had been delivered when the newest of the acknowledged segments was sent.
    pub(crate) prior_delivered: u64,
    /// There was not enough to send: the path may be faster.
    pub(crate) app_limited: bool,
}

/// The state of the measurement.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    delivered: u64,
    delivered_at: u64,
    first_sent_at: u64,
    /// Segments sent before this much is delivered belong to an application-limited phase.
    app_limited_until: u64,
}

impl Delivery {
    /// A segment leaves at `now`, while `in_flight` bytes are on their way.
    #[inline]
    pub(crate) fn on_send(&mut self, now: u64, in_flight: u64) -> Snapshot {
        if in_flight == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            // Up to and with the mark: what is sent when nothing is on its way has delivered just that much.
            app_limited: self.app_limited_until > 0 && self.delivered <= self.app_limited_until,
        }
    }

    /// `bytes` have arrived. `sent` says when and what was known then, unless that is not certain.
    #[inline]
    pub(crate) fn on_ack(
        &mut self,
        now: u64,
        bytes: u64,
        sent: Option<(u64, Snapshot)>,
        batch: &mut AckBatch,
    ) {
        self.delivered += bytes;
        self.delivered_at = now;
        batch.acked += bytes;
        if let Some((sent_at, snapshot)) = sent
            && batch.newest.is_none_or(|(_, newest_sent_at)| sent_at >= newest_sent_at)
        {
            batch.newest = Some((snapshot, sent_at));
        }
    }

    /// The measurement that a batch amounts to.
    pub(crate) fn sample(&mut self, batch: &AckBatch) -> Option<RateSample> {
        let (snapshot, sent_at) = batch.newest?;
        self.first_sent_at = self.first_sent_at.max(sent_at);
        let send_elapsed = sent_at.saturating_sub(snapshot.first_sent_at);
        let ack_elapsed = self.delivered_at.saturating_sub(snapshot.delivered_at);
        // The longer of the two: acknowledgements that come in a bunch must not look like a fast path.
        let interval = send_elapsed.max(ack_elapsed);
        let delivered = self.delivered - snapshot.delivered;
        let rate = u128::from(delivered) * u128::from(SECOND) / u128::from(interval.max(1));
        Some(RateSample {
            rate: rate.min(u128::from(u64::MAX)) as u64,
            interval,
            prior_delivered: snapshot.delivered,
            app_limited: snapshot.app_limited,
        })
    }

    /// There is nothing more to send although more could be in flight.
    #[inline]
    pub(crate) fn mark_app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = (self.delivered + in_flight).max(1);
    }

    /// Bytes delivered in all.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::super::MILLISECOND;
    use super::*;

    /// Ten segments of 1,000 bytes, one a millisecond, each acknowledged after 20 ms: 1 MB/s.
    #[test]
    fn a_steady_flow_is_measured_as_it_is() {
        let mut delivery = Delivery::default();
        let mut sent = Vec::new();
        let mut last = None;
        for time in 0..100_u64 {
            let now = time * MILLISECOND;
            if let Some(&snapshot) = time.checked_sub(20).and_then(|index| sent.get(index as usize)) {
                let mut batch = AckBatch::default();
                delivery.on_ack(now, 1_000, Some(((time - 20) * MILLISECOND, snapshot)), &mut batch);
                last = delivery.sample(&batch);
            }
            sent.push(delivery.on_send(now, 1_000 * time.min(20)));
        }
        let sample = last.unwrap();
        assert!((990_000..=1_050_000).contains(&sample.rate), "{}", sample.rate);
        assert!(!sample.app_limited);
    }

    #[test]
    fn acknowledgements_in_a_bunch_do_not_look_like_a_fast_path() {
        let mut delivery = Delivery::default();
        let snapshots: Vec<_> = (0..10)
            .map(|time| (time * MILLISECOND, delivery.on_send(time * MILLISECOND, time * 1_000)))
            .collect();
        let mut batch = AckBatch::default();
        for sent in snapshots {
            delivery.on_ack(30 * MILLISECOND, 1_000, Some(sent), &mut batch);
        }
        let sample = delivery.sample(&batch).unwrap();
        assert_eq!((sample.rate, sample.interval), (333_333, 30 * MILLISECOND));
    }

    #[test]
    fn a_segment_sent_when_there_was_little_to_send_says_so() {
        let mut delivery = Delivery::default();
        delivery.mark_app_limited(500);
        let snapshot = delivery.on_send(0, 0);
        let mut batch = AckBatch::default();
        delivery.on_ack(10, 500, Some((0, snapshot)), &mut batch);
        assert!(delivery.sample(&batch).unwrap().app_limited);
        // Beyond the mark.
        delivery.on_ack(15, 1, None, &mut batch);
        let mut batch = AckBatch::default();
        let snapshot = delivery.on_send(20, 500);
        delivery.on_ack(30, 500, Some((20, snapshot)), &mut batch);
        assert!(!delivery.sample(&batch).unwrap().app_limited);
    }

    #[test]
    fn the_single_segments_of_a_thin_flow_say_so_and_end_no_search_for_the_rate() {
        let mut delivery = Delivery::default();
        for round in 0..5 {
            // Nothing is on its way when it is noticed that there is nothing to send.
            delivery.mark_app_limited(0);
            let snapshot = delivery.on_send(round * 100, 0);
            let mut batch = AckBatch::default();
            delivery.on_ack(round * 100 + 40, 500, Some((round * 100, snapshot)), &mut batch);
            assert!(delivery.sample(&batch).unwrap().app_limited, "round {round}");
        }
    }
}
