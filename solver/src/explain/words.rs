//! Reasons in words, one line each. Values are clipped, and those of variables that may be secret are not told.

use super::{Change, Fate, Reason};

/// A value longer than this is clipped: a reason is one line.
const VALUE_MAX_CHARS: usize = 60;
/// Digits of a digest that tell two apart.
const DIGEST_CHARS: usize = 12;
/// Words in a name that speak of a secret, and words that say that it is none.
const SECRET: [&str; 11] =
    ["apikey", "auth", "credential", "credentials", "key", "pass", "password", "pword", "passwd", "secret", "token"];
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether the name of a variable speaks of a secret.
pub fn secret_name(name: &str) -> bool {
    let has = |words: &[&str]| {
        name.split(['_', '-', '.']).any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
    };
    has(&SECRET) && !has(&HARMLESS)
}

/// At most so much of a value as fits into a line; line breaks are shown as `⏎`.
pub fn clip(value: &str) -> String {
    let mut chars = value.trim().chars().map(|c| if c == '\n' { '⏎' } else { c });
    let mut text: String = chars.by_ref().take(VALUE_MAX_CHARS).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}

impl Reason {
    /// One line, not escaped for terminals. `instruction` is the step's; `is_arg` tells which variables are declared by
    /// ARG.
    pub fn words(&self, instruction: &str, is_arg: &dyn Fn(&str) -> bool) -> String {
        match self {
            Self::Image { name, digest } => format!("base image {name} moved {}", digests(digest)),
            Self::Source { name, digest } => format!("{name} gives something else {}", digests(digest)),
            Self::Command(_) => format!("{instruction}: the command changed"),
            Self::Shell(change) => format!("SHELL {}", arrow(change)),
            Self::Variable { name, value } => {
                let keyword = if is_arg(name) { "ARG" } else { "ENV" };
                match value {
                    Change { old: None, .. } if secret_name(name) => format!("{keyword} {name} is new"),
                    Change { old: None, new } => {
                        format!("{keyword} {name} is new: {}", clip(new.as_deref().unwrap_or_default()))
                    }
                    Change { new: None, .. } => format!("{keyword} {name} is gone"),
                    _ if secret_name(name) => format!("{keyword} {name} changed"),
                    change => format!("{keyword} {name} {}", arrow(change)),
                }
            }
            Self::VariableOrder => "variables are set in another order".into(),
            Self::Content { path, digest } => format!("{instruction} {path}: content changed {}", digests(digest)),
            Self::Mount { target, how: Change { old: None, .. } } => format!("the mount at {target} is new"),
            Self::Mount { target, how: Change { new: None, .. } } => format!("the mount at {target} is gone"),
            Self::Mount { target, how } => format!("the mount at {target}: {}", arrow(how)),
            Self::Setting { what, value } if what == "the text" => {
                format!("{instruction}: the text changed {}", digests(value))
            }
            Self::Setting { what, value } => format!("{what} {}", arrow(value)),
            Self::Beneath(Change { old: Some(old), new: Some(new) }) => {
                format!("it stands on `{}` now, not on `{}`", clip(new), clip(old))
            }
            Self::Beneath(Change { new: Some(new), .. }) => format!("it stands on `{}` now", clip(new)),
            Self::Beneath(_) => "it stands on nothing now".into(),
            Self::New => "this step is new".into(),
            Self::Same(Fate::Failed) => "it failed last time".into(),
            Self::Same(Fate::Canceled) => "it was stopped last time".into(),
            Self::Same(Fate::NotReached) => "the last build did not come to it".into(),
            Self::Same(_) => "nothing changed, but its result is not there any more".into(),
        }
    }
}

/// `1.2 → 1.3`
fn arrow(change: &Change) -> String {
    let side = |value: &Option<String>| match value.as_deref() {
        None | Some("") => "(none)".to_owned(),
        Some(value) => clip(value),
    };
    format!("{} → {}", side(&change.old), side(&change.new))
}

/// `(sha256:12ab…→sha256:34cd…)`, by so many digits as tell them apart.
fn digests(change: &Change) -> String {
    let side = |value: &Option<String>| match value.as_deref() {
        None => "none".to_owned(),
        Some(digest) => {
            let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
            format!("sha256:{}…", digits.chars().take(DIGEST_CHARS).collect::<String>())
        }
    };
    format!("({} → {})", side(&change.old), side(&change.new))
}
