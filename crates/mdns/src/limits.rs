//! What one sender may cost.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::hash::Keyed;

/// Packets a second that one source may send on one interface for as long as it likes.
const RATE: u32 = 250;
/// Packets it may send at once: a host that announces a thousand services is no attack.
const BURST: u32 = 1_000;
/// Sources that are counted one by one. Those beyond share one bucket, so a flood with forged sources costs no memory,
/// and the known ones are still heard.
const SOURCES_MAX: usize = 1_024;
/// How often sources that have been quiet are forgotten when the table is full.
const SWEEP: Duration = Duration::from_millis(250);

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it would have been empty, had it been filled at [`RATE`] since: what is between then and now is its content.
    empty_at: Instant,
}

impl Bucket {
    const TOKEN: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);
    const CONTENT_MAX: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64 * BURST as u64);

    fn full(now: Instant) -> Self {
        Self { empty_at: now.checked_sub(Self::CONTENT_MAX).unwrap_or(now) }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.empty_at) > Self::CONTENT_MAX {
            *self = Self::full(now);
        }
        let enough = now.saturating_duration_since(self.empty_at) >= Self::TOKEN;
        if enough {
            self.empty_at += Self::TOKEN;
        }
        enough
    }

    fn is_full(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.empty_at) >= Self::CONTENT_MAX
    }
}

/// A token bucket for each source and interface.
#[derive(Debug)]
pub(crate) struct SourceLimits {
    buckets: HashMap<(IpAddr, u32), Bucket, Keyed>,
    others: Bucket,
    swept: Instant,
}

impl SourceLimits {
    pub(crate) fn new(keyed: Keyed, now: Instant) -> Self {
        let buckets = HashMap::with_capacity_and_hasher(SOURCES_MAX, keyed);
        Self { buckets, others: Bucket::full(now), swept: now }
    }

    /// Counts a packet. Returns whether it may go on.
    pub(crate) fn admit(&mut self, source: IpAddr, interface: u32, now: Instant) -> bool {
        if let Some(bucket) = self.buckets.get_mut(&(source, interface)) {
            return bucket.take(now);
        }
        if self.buckets.len() >= SOURCES_MAX && now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.buckets.len() >= SOURCES_MAX {
            return self.others.take(now);
        }
        let mut bucket = Bucket::full(now);
        let admitted = bucket.take(now);
        self.buckets.insert((source, interface), bucket);
        admitted
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use super::*;

    #[test]
    fn a_source_may_burst_and_is_soon_heard_again_after_a_flood() {
        let start = Instant::now() + Duration::from_hours(1);
        let mut limits = SourceLimits::new(Keyed::new([1, 2]), start);
        let flooder = IpAddr::from([192, 0, 2, 1]);
        let admitted = (0..10_000).filter(|_| limits.admit(flooder, 1, start)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(limits.admit(flooder, 2, start), "another interface has a bucket of its own");
        assert!(limits.admit(IpAddr::from([192, 0, 2, 2]), 1, start));
        assert!(
            limits.admit(flooder, 1, start + Duration::from_millis(5)),
            "no ban: a token comes every 4 ms"
        );
    }

    #[test]
    fn forged_sources_cost_no_memory_and_known_ones_are_heard_among_them() {
        let start = Instant::now() + Duration::from_hours(1);
        let mut limits = SourceLimits::new(Keyed::new([1, 2]), start);
        let known = IpAddr::from([192, 0, 2, 1]);
        assert!(limits.admit(known, 1, start));
        let mut admitted = 0;
        for n in 0..100_000u32 {
            let now = start + Duration::from_micros(u64::from(n) * 10);
            admitted += u32::from(limits.admit(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 1, now));
        }
        assert!(limits.buckets.len() <= SOURCES_MAX);
        assert!(admitted < 8_000, "{admitted} of 100,000 packets in a second");
        assert!(limits.admit(known, 1, start + Duration::from_secs(1)));
    }
}
