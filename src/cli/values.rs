//! Values of flags that several verbs know.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use oci::model::Reference;
use solver::op::NetworkMode;

use crate::progress::amount;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// `tty` on a terminal, else `plain`
    #[default]
    Auto,
    /// Lines that can be searched
    Plain,
    /// Redrawn in place
    Tty,
    /// Only the image id, on standard output
    Quiet,
    /// Nothing
    None,
    /// One JSON object per line
    Rawjson,
}

impl ProgressArg {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::Tty => "tty",
            Self::Quiet => "quiet",
            Self::None => "none",
            Self::Rawjson => "rawjson",
        }
    }
}

impl FromStr for ProgressArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::value_variants().iter().copied().find(|known| known.name() == text).ok_or_else(|| {
            let known: Vec<_> = Self::value_variants().iter().map(|known| known.name()).collect();
            format!("`{text}` is none of {}", known.join(", "))
        })
    }
}

/// `1`, `true`, `0` or `false`.
pub fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Whether colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorArg {
    /// On terminals.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl ColorArg {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl FromStr for ColorArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Always, Self::Never]
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or_else(|| format!("`{text}` is none of auto, always, never"))
    }
}

/// `default`, `host` or `none`.
///
/// # Errors
/// For everything else.
pub fn network(text: &str) -> Result<NetworkMode, String> {
    match text {
        "default" => Ok(NetworkMode::Default),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        _ => Err(format!("`{text}` is none of default, host, none")),
    }
}

/// As [`network`] reads it.
pub fn network_name(network: NetworkMode) -> &'static str {
    match network {
        NetworkMode::Default => "default",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    }
}

/// At least one.
///
/// # Errors
/// For everything else.
pub fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a number from 1 on")),
        Ok(jobs) => Ok(jobs),
    }
}

/// How many: of lines that are shown, of builds that are kept.
///
/// # Errors
/// For what is no number.
pub fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

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
        const UNITS: [(&str, u64); 12] = [
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

/// A time as people write it: `90s`, `15m`, `48h`, `60d`, `2w`, `1h30m`.
///
/// # Errors
/// For everything else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: `90s`, `15m`, `48h`, `60d`, `1h30m`");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let count: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next().ok_or_else(wrong)?;
        let length = TIMES.iter().find(|(letter, _)| *letter == unit).ok_or_else(wrong)?.1;
        seconds = count.checked_mul(length).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[end + unit.len_utf8()..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// As [`duration`] reads it, in one unit.
pub fn duration_name(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let unit = TIMES
        .iter()
        .filter(|(letter, _)| *letter != 'w')
        .find(|(_, length)| seconds.is_multiple_of(*length) && seconds > 0);
    unit.map_or_else(|| format!("{seconds}s"), |(letter, length)| format!("{}{letter}", seconds / length))
}

const TIMES: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// A name under which an image is kept: no digest.
///
/// # Errors
/// For names that are none, and for names with a digest.
pub fn tag(text: &str) -> Result<Reference, String> {
    let name: Reference = text.parse().map_err(|error| format!("{error}"))?;
    match name.digest() {
        None => Ok(name),
        Some(_) => Err(format!("`{text}` names a digest, which only the content decides; leave out what follows `@`")),
    }
}

/// A name of an image.
///
/// # Errors
/// For names that are none.
pub fn image(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|error| format!("{error}"))
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

    #[test]
    fn times_are_read_in_all_units() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_secs), "{text}");
        };
        check("90s", Some(90));
        check("1h30m", Some(5400));
        check("60d", Some(5_184_000));
        check("2w", Some(1_209_600));
        check("0s", Some(0));
        for wrong in ["", "5", "h", "1.5h", "-1h", "1y", "99999999999999999w", "1h "] {
            check(wrong, None);
        }
        for text in ["90s", "15m", "36h", "60d"] {
            assert_eq!(duration_name(duration(text).expect("a time")), text);
        }
    }
}
