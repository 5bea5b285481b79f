//! Values of flags that several verbs know.

use executor::isolation::{Rung, Wanted};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use oci::model::{Platform, Reference};
use solver::op::NetworkMode;

use super::format::Format;

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

/// How strongly steps are kept apart.
///
/// # Errors
/// For everything that is no rung of this version.
pub fn isolation(text: &str) -> Result<Wanted, String> {
    match text {
        "full" => Ok(Wanted::Rung(Rung::Full)),
        "rootless" => Ok(Wanted::Rung(Rung::Rootless)),
        "auto" => Ok(Wanted::Auto),
        "chroot" => Ok(Wanted::Rung(Rung::Chroot)),
        _ => Err(format!("`{text}` is none of full, rootless, chroot, auto")),
    }
}

/// As [`isolation`] reads it.
pub fn isolation_name(wanted: Wanted) -> String {
    match wanted {
        Wanted::Rung(rung) => rung.to_string(),
        Wanted::Auto => "auto".into(),
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

/// A name of an image in a registry, perhaps as podman and skopeo write it: `docker://NAME`.
///
/// # Errors
/// For names that are none, and for places that are no registry.
pub fn in_registry(text: &str) -> Result<Reference, String> {
    const OTHERS: [&str; 6] = ["docker-archive", "docker-daemon", "oci", "oci-archive", "dir", "containers-storage"];
    image(text.strip_prefix("docker://").unwrap_or(text)).map_err(|error| {
        let kind = text.split_once(':').map(|(kind, _)| kind).filter(|kind| OTHERS.contains(kind));
        match kind {
            Some(kind) => format!("`{kind}:` is no registry; `rbuild save` writes archives, `rbuild load` reads them"),
            None => error,
        }
    })
}

/// `linux/arm64`.
///
/// # Errors
/// For what is no platform.
pub fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// `json` or `table`, of images here.
///
/// # Errors
/// For everything else, with what to do instead of a template.
pub fn inspect_format(text: &str) -> Result<Format, String> {
    format(text, "rbuild inspect IMAGE | jq -r '.[0].Id'")
}

/// `json` or `table`, of what is in registries.
///
/// # Errors
/// Likewise.
pub fn imagetools_format(text: &str) -> Result<Format, String> {
    format(text, "rbuild imagetools inspect --format json NAME | jq -r .manifest.digest")
}

fn format(text: &str, instead: &str) -> Result<Format, String> {
    match text {
        "json" => Ok(Format::Json),
        "table" => Ok(Format::Table),
        // Docker's own words for the whole of it.
        "{{json .}}" => Ok(Format::Json),
        template if template.contains("{{") => {
            Err(format!("`{template}` is a Go template, and rbuild has none; ask jq: `{instead}`"))
        }
        other => Err(format!("`{other}` is none of json, table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
