//! `SOURCE_DATE_EPOCH`: the time of the image, said by a build arg or a global ARG.
//!
//! It is a number of seconds, `context` for the time of the main context, or the name of a named context for its. A
//! context that knows no time (a directory) sets nothing. The number replaces what was written, so that a stage that
//! declares the ARG sees seconds; a stage that does not declare it sees nothing.

use super::contexts::Contexts;
use super::env::Env;
use crate::error::{Diagnostic, Refusal};
use crate::plan::PlanOptions;
use crate::stage::Dockerfile;
use crate::suggest;

/// Its name.
pub const NAME: &str = "SOURCE_DATE_EPOCH";
/// The last second of the year 9999: later ones have no place in a config.
const LATEST_SECONDS: i64 = 253_402_300_799;
/// What stands for the main context.
const MAIN: &str = "context";

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Seconds since 1970.
    pub seconds: Option<i64>,
    /// Whether the build arg was given; then its value is `seconds`, and no default of the file counts.
    pub given: bool,
}

/// Resolves it, and puts the number into the global variables.
///
/// # Errors
/// When the value is nothing that it may be.
pub fn resolve(
    file: &Dockerfile,
    options: &PlanOptions,
    contexts: &Contexts<'_>,
    globals: &mut Env,
) -> Result<Epoch, Diagnostic> {
    let given = options.build_args.get(NAME);
    let value = given.map(String::as_str).or_else(|| globals.get(NAME)).unwrap_or_default();
    let seconds = read(value, file, options, contexts).map_err(|refusal| {
        let place = file.global_args.iter().rev().find(|arg| arg.name.text == NAME && given.is_none());
        match place {
            Some(arg) => refusal.at(arg.value.as_ref().map_or(arg.name.span, |value| value.span)),
            None => Diagnostic::general(refusal.message).maybe_help(refusal.help),
        }
    })?;
    if globals.get(NAME).is_some() {
        match seconds {
            Some(seconds) => globals.set(NAME, &seconds.to_string()),
            None => globals.remove(NAME),
        }
    }
    Ok(Epoch { seconds, given: given.is_some() && seconds.is_some() })
}

fn read(
    value: &str,
    file: &Dockerfile,
    options: &PlanOptions,
    contexts: &Contexts<'_>,
) -> Result<Option<i64>, Refusal> {
    if value.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = value.parse::<i64>() {
        if !(0..=LATEST_SECONDS).contains(&seconds) || value.starts_with('+') {
            return Err(Refusal::new(format!("`{NAME}={value}` is no time between 1970 and 9999"))
                .help("write seconds since 1970, for example of the last commit: `git log -1 --format=%ct`"));
        }
        return Ok(Some(seconds));
    }
    if value == MAIN {
        return Ok(options.context_times.get(MAIN).copied());
    }
    if let Some(key) = contexts.key(value, &options.platform) {
        return Ok(options.context_times.get(key).copied());
    }
    if file.names_in_order().iter().any(|name| name.eq_ignore_ascii_case(value)) {
        return Err(Refusal::new(format!(
            "`{NAME}={value}` names a stage, whose time is not known before it is built"
        ))
        .help("write seconds since 1970, or give what the stage fetches as a `--build-context` and name that"));
    }
    let shown: String = value.chars().take(60).collect();
    let mut names: Vec<&str> = contexts.names().chain([MAIN]).collect();
    names.sort_unstable();
    let help = suggest::did_you_mean(value, names)
        .unwrap_or_else(|| "write seconds since 1970, `context`, or the name of a `--build-context`".into());
    Err(Refusal::new(format!("`{NAME}={shown}` is no time and no context")).help(help))
}
