//! Values of flags that several verbs know.

use std::str::FromStr;

use clap::ValueEnum;
use oci::model::Reference;
use solver::op::NetworkMode;

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
