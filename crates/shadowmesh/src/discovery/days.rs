//! Which days' advertisements are to be there.

use std::time::Duration;

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

/// The clock may be set, and the machine may sleep, so it is looked at this often.
const LOOK_MAX: Duration = Duration::from_mins(1);

/// The day (UTC, since 1970) of a time since 1970.
pub(super) fn day_of(unix_time: Duration) -> u32 {
    u32::try_from(unix_time.as_secs() / SECONDS_A_DAY).unwrap_or(u32::MAX)
}

/// How much of its day has passed.
fn time_of_day(unix_time: Duration) -> Duration {
    Duration::new(unix_time.as_secs() % SECONDS_A_DAY, unix_time.subsec_nanos())
}

/// Whether the advertisement of `day` has had its time: it is another day's, and not that of the day that has just ended.
pub(super) fn is_over(day: u32, unix_time: Duration, overlap: Duration) -> bool {
    let today = day_of(unix_time);
    let just_ended = day.checked_add(1) == Some(today) && time_of_day(unix_time) < overlap;
    day != today && !just_ended
}

/// How long to wait before looking again.
pub(super) fn next_look(unix_time: Duration, overlap: Duration) -> Duration {
    let passed = time_of_day(unix_time);
    let midnight = Duration::from_secs(SECONDS_A_DAY).saturating_sub(passed);
    let overlap_ends = overlap.checked_sub(passed).filter(|left| !left.is_zero()).unwrap_or(LOOK_MAX);
    LOOK_MAX.min(midnight).min(overlap_ends)
}

#[cfg(test)]
mod tests {
    use super::super::OVERLAP;
    use super::*;

    fn at(day: u64, seconds: u64) -> Duration {
        Duration::from_secs(day * SECONDS_A_DAY + seconds)
    }

    #[test]
    fn yesterdays_advertisement_stays_until_ten_past_midnight() {
        assert_eq!(day_of(at(20_000, 0)), 20_000);
        assert_eq!(day_of(at(19_999, 86_399) + Duration::from_nanos(999_999_999)), 19_999);
        assert!(!is_over(20_000, at(20_000, 86_399), OVERLAP));
        assert!(!is_over(19_999, at(20_000, 0), OVERLAP));
        assert!(!is_over(19_999, at(20_000, 599), OVERLAP));
        assert!(is_over(19_999, at(20_000, 600), OVERLAP));
    }

    #[test]
    fn a_clock_that_is_set_ends_what_is_not_of_today() {
        assert!(
            is_over(0, at(20_000, 0), OVERLAP),
            "a machine without a clock of its own has learnt the time"
        );
        assert!(is_over(20_001, at(20_000, 10), OVERLAP), "set back");
        assert!(is_over(u32::MAX, at(0, 10), OVERLAP));
    }

    #[test]
    fn it_is_looked_again_when_something_is_due_and_every_minute() {
        let look = |seconds| next_look(at(20_000, seconds), OVERLAP).as_secs();
        assert_eq!(look(3_600), 60);
        assert_eq!(look(86_395), 5, "midnight");
        assert_eq!(look(595), 5, "the end of the overlap");
        assert_eq!(look(600), 60);
    }
}
