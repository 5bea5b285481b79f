//! How large something may be, as people write it: in bytes or as a share of the disk.

use std::fmt;
use std::str::FromStr;

use crate::amount::amount;

/// How large something may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u64),
}

impl Size {
    /// In bytes, on a disk of so many bytes.
    pub fn bytes(self, disk_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk_bytes / 100 * percent,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&amount(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    /// `20GB` and `20 GB` are decimal, as they are shown; `20GiB` is binary.
    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 13] = [
            ("", 1),
            ("b", 1),
            ("k", 1000),
            ("kb", 1000),
            ("kib", 1 << 10),
            ("m", 1_000_000),
            ("mb", 1_000_000),
            ("mib", 1 << 20),
            ("g", 1_000_000_000),
            ("gb", 1_000_000_000),
            ("gib", 1 << 30),
            ("tb", 1_000_000_000_000),
            ("tib", 1 << 40),
        ];
        let wrong = || format!("`{text}` is not a size: `20GB`, `512MiB`, `10%`");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim().to_ascii_lowercase());
        if unit == "%" {
            let percent = number.parse().ok().filter(|percent| (1..=100).contains(percent));
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if part.len() > 9 || (number.contains('.') && part.is_empty()) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let thousandths: u64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
        let part = u128::from(thousandths) * u128::from(factor) / 1_000_000_000;
        let bytes = u128::from(whole) * u128::from(factor) + part;
        u64::try_from(bytes).map(Self::Bytes).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        let check = |text: &str, expected: Option<Size>| assert_eq!(text.parse::<Size>().ok(), expected, "{text}");
        check("0", Some(Size::Bytes(0)));
        check("1234", Some(Size::Bytes(1234)));
        check("20GB", Some(Size::Bytes(20_000_000_000)));
        check("1.5 kB", Some(Size::Bytes(1500)));
        check("512MiB", Some(Size::Bytes(512 << 20)));
        check("10%", Some(Size::Percent(10)));
        for wrong in ["", "GB", "-1", "1.", "101%", "0%", "1.5%", "1 2", "1XB", "99999999999999TB", "1e3"] {
            check(wrong, None);
        }
        assert_eq!(Size::Percent(10).bytes(250), 20);
    }
}
