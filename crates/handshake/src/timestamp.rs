//! What tells a fresh initiation from a replayed one.

use std::time::Duration;

/// 12 bytes that grow with each initiation a node sends to a peer; the peer refuses one that is not greater
/// than the greatest it has seen. They are compared as one big-endian number.
///
/// WireGuard peers expect the time of day ([`Timestamp::tai64n`]). Between ShadowMesh nodes it is a counter
/// that survives restarts ([`Timestamp::from_epoch`]): a wrong clock then locks nobody out.
///
/// What it tells, and whom: it travels sealed for the responder, who learns the sender's epoch and how many initiations the
/// sender has made to it since. Where epochs come from a clock, as in the daemon, that is about when the sender was started.
/// Nobody else learns either, unless he has the responder's private key or a quantum computer.
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

    /// The timestamp of initiation number `number` of an epoch. An epoch is a stretch of a node's life over which it has counted
    /// without forgetting: each is greater than the one before. Numbers beyond 32 bits carry into the epoch.
    pub fn from_epoch(epoch: u64, number: u64) -> Self {
        let whole = (u128::from(epoch) << 32).saturating_add(u128::from(number)).min((1 << 96) - 1);
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&whole.to_be_bytes()[16 - Self::LEN..]);
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
    fn epochs_count_more_than_numbers_and_neither_ends() {
        assert!(Timestamp::from_epoch(7, u64::from(u32::MAX)) < Timestamp::from_epoch(8, 0));
        assert!(Timestamp::from_epoch(7, 1 << 32) > Timestamp::from_epoch(7, (1 << 32) - 1), "no wrap");
        assert!(Timestamp::from_epoch(u64::from(u32::MAX), 5) < Timestamp::from_epoch(1 << 32, 0));
        assert_eq!(Timestamp::from_epoch(u64::MAX, u64::MAX), Timestamp([0xff; 12]));
    }

    #[test]
    fn tai64n_is_the_published_label_without_the_fine_nanoseconds() {
        let label = Timestamp::tai64n(Duration::new(0x2a2b_2c2d, 0x1234_5678)).0;
        assert_eq!(label, [0x40, 0, 0, 0, 0x2a, 0x2b, 0x2c, 0x2d + 10, 0x12, 0, 0, 0]);
        assert!(Timestamp::tai64n(Duration::new(5, 999_999_999)) < Timestamp::tai64n(Duration::from_secs(6)));
    }
}
