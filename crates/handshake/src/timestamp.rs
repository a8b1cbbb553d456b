//! What tells a fresh initiation from a replayed one.

use std::time::Duration;

/// 12 bytes that grow with each initiation a node sends to a peer; the peer refuses one that is not greater
/// than the greatest it has seen. They are compared as one big-endian number.
///
/// WireGuard peers expect the time of day ([`Timestamp::tai64n`]). Between ShadowMesh nodes it is a counter
/// that survives restarts ([`Timestamp::from_counter`]): a wrong clock then locks nobody out, and tells
/// nobody the time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// Bytes of a timestamp.
    pub const LEN: usize = 12;

    /// The TAI64 label of 1970-01-01 00:00:00 UTC, ten leap seconds included
    /// (<https://cr.yp.to/libtai/tai64.html>).
    const TAI64_UNIX_EPOCH: u64 = (1 << 62) + 10;

    /// The timestamp of initiation number `counter`.
    pub fn from_counter(counter: u64) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&counter.to_be_bytes());
        Self(bytes)
    }

    /// The TAI64N label of the time of day, rounded down to a multiple of 2²⁴ ns (16.8 ms) so that
    /// initiations do not disclose a precise clock, which timing attacks on other programs of this host could
    /// use.
    pub fn tai64n(since_unix_epoch: Duration) -> Self {
        let mut bytes = [0; Self::LEN];
        let seconds = Self::TAI64_UNIX_EPOCH.saturating_add(since_unix_epoch.as_secs());
        let nanoseconds = since_unix_epoch.subsec_nanos() & !0x00ff_ffff;
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_ordered_as_numbers() {
        assert!(Timestamp::from_counter(255) < Timestamp::from_counter(256));
        assert!(Timestamp::default() < Timestamp::from_counter(1));
    }

    #[test]
    fn tai64n_is_the_published_label_without_the_fine_nanoseconds() {
        let label = Timestamp::tai64n(Duration::new(0x2a2b_2c2d, 0x1234_5678)).0;
        assert_eq!(label, [0x40, 0, 0, 0, 0x2a, 0x2b, 0x2c, 0x2d + 10, 0x12, 0, 0, 0]);
        assert!(Timestamp::tai64n(Duration::new(5, 999_999_999)) < Timestamp::tai64n(Duration::from_secs(6)));
    }
}
