//! Times as Dockerfiles write them: `1h30m`, `1.5s`, `500ms`.

/// Reads a time in nanoseconds. `None` when it is none or does not fit.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 18 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        // Digits beyond a billionth of the unit cannot matter.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let digits = u32::try_from(fraction.len()).ok()?;
            total += fraction.parse::<i128>().ok()? * scale / 10i128.pow(digits);
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Writes a time the way other builders put it into an image's history: `1m30s`, `1.5s`, `500ms`, `0s`.
pub fn show(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    const SECOND: u64 = 1_000_000_000;
    match total {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(total, 1_000)),
        1_000_000..SECOND => format!("{sign}{}ms", decimal(total, 1_000_000)),
        _ => {
            let (hours, minutes) = (total / (3600 * SECOND), total / (60 * SECOND) % 60);
            let seconds = decimal(total % (60 * SECOND), SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_go_does() {
        let check = |text: &str, nanoseconds: i64, shown: &str| {
            assert_eq!(parse(text), Some(nanoseconds), "{text}");
            assert_eq!(show(nanoseconds), shown, "{text}");
        };
        check("0", 0, "0s");
        check("0s", 0, "0s");
        check("5s", 5_000_000_000, "5s");
        check("1m30s", 90_000_000_000, "1m30s");
        check("90s", 90_000_000_000, "1m30s");
        check("1h", 3_600_000_000_000, "1h0m0s");
        check("1.5s", 1_500_000_000, "1.5s");
        check(".5s", 500_000_000, "500ms");
        check("500ms", 500_000_000, "500ms");
        check("1.5ms", 1_500_000, "1.5ms");
        check("10us", 10_000, "10µs");
        check("7ns", 7, "7ns");
        check("-5s", -5_000_000_000, "-5s");
        check("+5s", 5_000_000_000, "5s");
        check("1.s", 1_000_000_000, "1s");
        for bad in ["", "5", "s", "-", "5x", "5 s", "1..5s", ".s", "1d", "99999999999999999999h", "9999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
