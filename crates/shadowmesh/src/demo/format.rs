//! Numbers as a person reads them.

use std::time::Duration;

/// `14.9 Gbit/s`.
pub(super) fn rate(bits_per_second: f64) -> String {
    scaled(bits_per_second, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// `5.61 GB`.
pub(super) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// `61 µs`, `1.42 ms`, `2.0 s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.001 {
        format!("{} ms", significant(seconds * 1e3))
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

/// `0.061 ms`, `1.42 ms`, `112 ms`: always milliseconds, for figures that are compared.
pub(super) fn millis(millis: f64) -> String {
    if millis < 1.0 { format!("{millis:.3} ms") } else { format!("{} ms", significant(millis)) }
}

/// `1,234,567`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    digits.char_indices().fold(String::new(), |mut text, (index, digit)| {
        if index > 0 && index % 3 == first {
            text.push(',');
        }
        text.push(digit);
        text
    })
}

/// Three significant digits of a number below a thousand, and all digits before the point of others.
fn significant(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter();
    let mut unit = units.next().unwrap_or(&"");
    let mut whole = true;
    // 999.5 would be shown as 1000.
    while value >= 999.5
        && let Some(larger) = units.next()
    {
        value /= 1000.0;
        unit = larger;
        whole = false;
    }
    if whole { format!("{value:.0} {unit}") } else { format!("{} {unit}", significant(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_sizes_have_three_digits_and_a_unit() {
        assert_eq!(rate(0.0), "0 bit/s");
        assert_eq!(rate(14_930_000_000.0), "14.9 Gbit/s");
        assert_eq!(rate(999_600.0), "1.00 Mbit/s");
        assert_eq!(rate(812_345_678.0), "812 Mbit/s");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(5_611_000_000), "5.61 GB");
        assert_eq!(bytes(u64::MAX), "18446744 TB");
    }

    #[test]
    fn times_name_their_unit() {
        assert_eq!(duration(Duration::from_micros(61)), "61 µs");
        assert_eq!(duration(Duration::from_micros(1_416)), "1.42 ms");
        assert_eq!(duration(Duration::from_millis(2_040)), "2.0 s");
        assert_eq!(millis(0.0614), "0.061 ms");
        assert_eq!(millis(9.996), "10.0 ms");
        assert_eq!(millis(112.4), "112 ms");
    }

    #[test]
    fn counts_are_grouped_by_three() {
        let shown = [0, 12, 123, 1_234, 123_456, 1_234_567].map(count);
        assert_eq!(shown, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
