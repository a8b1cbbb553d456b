//! The clock that tells a suspended machine from a busy one.

use std::time::Duration;

/// For how long the machine has been suspended since it was started, in all: `CLOCK_BOOTTIME` runs meanwhile and
/// `CLOCK_MONOTONIC`, which [`Instant`](std::time::Instant) reads, does not (`clock_gettime(2)`). It grows when the machine
/// wakes up; between two suspensions it is constant but for the microseconds between reading the two clocks.
pub fn suspended() -> Duration {
    let monotonic = read(libc::CLOCK_MONOTONIC);
    read(libc::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid during the call. It cannot fail: both clocks exist since Linux 2.6.39.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_awake_is_suspended_no_longer_by_the_next_look() {
        let before = suspended();
        assert!(suspended().abs_diff(before) < Duration::from_millis(500));
    }
}
