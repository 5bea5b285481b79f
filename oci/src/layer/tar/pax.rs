//! PAX records: `length key=value\n`, the length in decimal and counting itself. POSIX pax, "pax Extended Header".
//!
//! Values are bytes, taken as they are: names that are no UTF-8 and xattrs that hold newlines pass through.

/// The records of one extended header, ready to be written. They stand in the order in which they are added.
#[derive(Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        // Space, equals sign, newline.
        let fixed = key.len() + value.len() + 3;
        let mut length = fixed;
        while length != fixed + length.to_string().len() {
            length = fixed + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ".as_slice(), key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Splits an extended header into (key, value). Anything but whole, well-formed records is an error: a record that
/// one reader skips and another does not is how archives come to mean two things.
pub(super) fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), &'static str>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let split = first_record(bytes);
        bytes = match &split {
            Ok((_, _, rest)) => rest,
            Err(_) => &[],
        };
        Some(split.map(|(key, value, _)| (key, value)))
    })
}

type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn first_record(bytes: &[u8]) -> Result<Split<'_>, &'static str> {
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or("a PAX record has no length")?;
    let digits = &bytes[..space];
    let length = decimal(digits).and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or("the length of a PAX record is not a number")?;
    if length > bytes.len() || length < space + 3 || bytes[length - 1] != b'\n' {
        return Err("the length of a PAX record is wrong");
    }
    let record = &bytes[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=').ok_or("a PAX record has no `=`")?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err("a PAX record has no proper key");
    }
    Ok((key, value, &bytes[length..]))
}

/// Decimal digits and nothing else; no more than fit into 64 bits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A time: `[-]seconds[.fraction]`. Digits after the ninth are cut. `-1.25` is a quarter second before -1.
pub(super) fn time(text: &[u8]) -> Option<super::Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanoseconds = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(9)
        .fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => super::Time { seconds, nanoseconds },
        (true, 0) => super::Time::at(-seconds),
        (true, _) => super::Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Time;

    #[test]
    fn lengths_count_themselves() {
        for size in (0..200).chain([985, 986, 987, 988, 989, 990, 9_980, 65_536, 100_000]) {
            let value: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let mut header = Records::default();
            header.add(b"SCHILY.xattr.user.x", &value);
            header.add(b"uid", b"3000000");
            let got: Result<Vec<_>, _> = records(header.as_bytes()).collect();
            assert_eq!(got.unwrap(), [(b"SCHILY.xattr.user.x".as_slice(), value.as_slice()), (b"uid", b"3000000")]);
        }
    }

    #[test]
    fn a_malformed_record_is_an_error_never_skipped() {
        for bytes in [
            b"11 path=a\n".as_slice(),
            b"8 path=a\n",
            b"9 path=a",
            b"path=a\n",
            b"+9 path=a\n",
            b"8 path=a\n0000000",
            b"7 patha\n",
            b"6 =ab\n",
            b"9 a\0b=cd\n",
            b"99999999999999999999999 path=a\n",
            b"5 a=\n\0\0\0",
            b" 9 path=a\n",
            b"0 path=a\n",
        ] {
            assert!(records(bytes).any(|record| record.is_err()), "{:?}", bytes.escape_ascii().to_string());
        }
        assert!(records(b"9 path=a\n").all(|record| record.is_ok()));
    }

    #[test]
    fn times_before_1970_and_fractions_are_exact() {
        let check = |text: &str, want: Option<(i64, u32)>| {
            let want = want.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
            assert_eq!(time(text.as_bytes()), want, "{text}");
        };
        check("0", Some((0, 0)));
        check("1700000000.5", Some((1_700_000_000, 500_000_000)));
        check("1.0000000019", Some((1, 1)));
        check("1.", Some((1, 0)));
        check("-1", Some((-1, 0)));
        check("-1.25", Some((-2, 750_000_000)));
        check("-0.5", Some((-1, 500_000_000)));
        check("9223372036854775807", Some((i64::MAX, 0)));
        for bad in ["", "-", ".5", "1e3", "+1", "1.5.5", "1.-5", " 1", "9223372036854775808", "0x1"] {
            check(bad, None);
        }
    }
}
