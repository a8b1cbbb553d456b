//! Numbers as people read them.

/// Bytes with a binary unit and three digits: `1.42 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would round up to 1,024 belongs to the next unit.
        if value < 1_023.5 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    format!("{} {unit}", three_digits(value))
}

/// Seconds as the two largest units: `3 min 12 s`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (1, _, _) => format!("1 day {hours} h"),
        _ => format!("{days} days {hours} h"),
    }
}

/// Milliseconds with three digits: `0.213 ms`.
pub(super) fn millis(millis: f64) -> String {
    format!("{} ms", if millis < 1.0 { format!("{millis:.3}") } else { three_digits(millis) })
}

/// A part of one in percent: `0.2 %`.
pub(super) fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent == 0.0 || percent >= 10.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// A count with its digits in groups: `12,345`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn three_digits(value: f64) -> String {
    match value {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_024), "1.00 KiB");
        assert_eq!(bytes(1_048_575), "1.00 MiB");
        assert_eq!(bytes(1_500_000_000), "1.40 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(duration(0.4), "0 s");
        assert_eq!(duration(192.0), "3 min 12 s");
        assert_eq!(duration(7_300.0), "2 h 1 min");
        assert_eq!(duration(90_000.0), "1 day 1 h");
        assert_eq!(duration(200_000.0), "2 days 7 h");
        assert_eq!(millis(0.2134), "0.213 ms");
        assert_eq!(millis(12.345), "12.3 ms");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.002), "0.2 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
