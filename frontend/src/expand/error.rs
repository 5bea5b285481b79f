//! Why a word has no value, and what to do about it.

use super::{DEPTH_MAX, WORD_MAX_BYTES};

/// Why a word has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// `'…` or `"…`.
    #[error("a {0} is not closed")]
    Quote(&'static str),
    /// `${…`.
    #[error("`${{` is not closed by `}}`")]
    Brace,
    /// `${v/p`.
    #[error("`${{{name}/` needs a second `/` before the replacement")]
    Slash {
        /// The variable.
        name: String,
    },
    /// `${}`, `${:…`, `${{…`.
    #[error("a variable name is expected after `${{`")]
    Name,
    /// `${v^}`, `${v:#p}`.
    #[error("`{operator}` is no operator of `${{{name}…}}`")]
    Operator {
        /// The variable.
        name: String,
        /// What stands there.
        operator: String,
    },
    /// `${v?}`, `${v:?message}`.
    #[error("`{name}`: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it, or our own words.
        message: String,
    },
    /// `${v#\x}`.
    #[error("the pattern `{pattern}` escapes {}", escaped.map_or("nothing".into(), |c| format!("`{c}`")))]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What follows the backslash.
        escaped: Option<char>,
    },
    /// Nested too deep.
    #[error("variables are nested more than {DEPTH_MAX} deep")]
    Depth,
    /// One value is too long.
    #[error("the value is longer than {} MiB", WORD_MAX_BYTES >> 20)]
    Long,
    /// All values together are too long.
    #[error("this Dockerfile expands to more than rbuild is willing to hold in memory")]
    TooMuch,
}

impl ExpandError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Quote(_) => "close it, or escape it if it is meant as a character".into(),
            Self::Brace | Self::Name => "write `${name}`; for a plain dollar sign write `\\$`".into(),
            Self::Slash { name } => format!("write `${{{name}/pattern/replacement}}`"),
            Self::Operator { .. } => {
                "known are `-`, `+`, `?` (also after `:`), `#`, `##`, `%`, `%%`, `/` and `//`".into()
            }
            Self::Required { name, .. } => {
                format!("pass `--build-arg {name}=…` if it is declared by `ARG {name}`, or give it a default")
            }
            Self::Pattern { .. } => "a backslash may stand before `*`, `?`, `\\`, `}` and `/`".into(),
            Self::Depth | Self::Long | Self::TooMuch => return None,
        })
    }
}
