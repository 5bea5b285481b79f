//! Why a network could not be set up, as the helper tells it: words, and what to do where that is known.

use std::fmt::Display;
use std::io;

use serde::{Deserialize, Serialize};

/// Why something failed, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Trouble {
    /// What failed, on what, and the kernel's words.
    pub detail: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Trouble {
    /// Only words.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), help: None }
    }

    /// With what to do.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// `(error) => "could not ACT: error"`.
pub fn could_not<E: Into<io::Error>>(act: impl Display) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::new(format!("could not {act}: {}", words(&error.into())))
}

/// `(error) => "could not ACT `WHAT`: error"`.
pub fn at(act: &'static str, what: impl AsRef<std::ffi::OsStr>) -> impl FnOnce(io::Error) -> Trouble {
    move |error| could_not(format!("{act} `{}`", what.as_ref().display()))(error)
}

/// The kernel's words without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
