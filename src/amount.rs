//! Amounts and times as people read them: as BuildKit's displays write them.

use std::time::Duration;

/// Decimal units: `12B`, `1.23kB`, `45.60MB`.
pub fn amount(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// Seconds with one digit: `1.2s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// The time before a log line: `0.123`, `12.34`, `123.4`.
pub fn log_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let digits = match seconds {
        seconds if seconds < 10.0 => 3,
        seconds if seconds < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

/// How far a transfer is: `1.20MB / 3.40MB`, `1.20MB`, or nothing.
pub fn transfer(current_bytes: u64, total_bytes: Option<u64>) -> String {
    match (current_bytes, total_bytes.filter(|total| *total > 0)) {
        (current, Some(total)) => format!("{} / {}", amount(current), amount(total)),
        (0, None) => String::new(),
        (current, None) => amount(current),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn amounts_and_times_have_few_digits() {
        let check = |bytes: u64, expected: &str| assert_eq!(super::amount(bytes), expected);
        check(0, "0B");
        check(999, "999B");
        check(1000, "1.00kB");
        check(999_999, "1.00MB");
        check(1_234_567, "1.23MB");
        check(u64::MAX, "18.45EB");
        let check = |millis: u64, expected: &str| assert_eq!(super::log_time(Duration::from_millis(millis)), expected);
        check(7, "0.007");
        check(12_345, "12.35");
        check(123_456, "123.5");
        assert_eq!(super::transfer(0, None), "");
        assert_eq!(super::transfer(5, Some(0)), "5B");
        assert_eq!(super::transfer(0, Some(10)), "0B / 10B");
    }
}
