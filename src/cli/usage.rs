//! Turns what clap found wrong into a failure with advice, in the words of the rest of the program.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _};

use super::{Cli, advice};
use crate::engine::Failure;

/// The failure that says what clap's error means, which the words after `verb` caused.
pub fn failure(error: &clap::Error, verb: &str, words: &[OsString]) -> Failure {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let argument = word(ContextKind::InvalidArg).unwrap_or_default();
    let value = word(ContextKind::InvalidValue).unwrap_or_default();
    let root = Cli::command();
    let verb = root.find_subcommand(verb).unwrap_or(&root);
    let (verb, name) = &innermost(verb, words);
    let more = format!("`rbuild {name} --help` lists all flags");
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => unknown_flag(argument, verb, name).help_or(&more),
        ErrorKind::UnknownArgument => {
            let expected = positionals(verb);
            Failure::new(format!("`{argument}` is one word too many: `rbuild {name}` takes {expected}"))
                .help("words with blanks are put in quotes; a flag's value follows the flag")
        }
        ErrorKind::MissingRequiredArgument if verb.get_name() == "build" => {
            Failure::new("the build has no context: the folder that COPY and ADD read from")
                .help("for the current folder, end the line with a dot: `rbuild -t NAME .`")
        }
        ErrorKind::MissingRequiredArgument if matches!(verb.get_name(), "check" | "debug") => {
            let words = if verb.get_name() == "debug" { "debug graph" } else { "check" };
            Failure::new(format!("`rbuild {}` needs {}", verb.get_name(), positionals(verb)))
                .help(format!("for the current folder, end the line with a dot: `rbuild {words} .`"))
        }
        ErrorKind::MissingRequiredArgument => {
            Failure::new(format!("`rbuild {name}` needs {}", positionals(verb))).help(more)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::TooFewValues if value.is_empty() => {
            Failure::new(format!("`{}` needs a value", flag(argument))).help(more)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => invalid_value(error, argument, value, &more),
        ErrorKind::TooManyValues | ErrorKind::NoEquals => {
            Failure::new(format!("`{}` does not take the value `{value}` like this", flag(argument)))
                .help(format!("write `{}=VALUE`", flag(argument)))
        }
        ErrorKind::InvalidUtf8 => Failure::new("an argument is not UTF-8").help(more),
        _ => {
            // What is left cannot come from a command line that only has flags and words; clap's words are fine.
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::new(first.trim_start_matches("error: ").trim_end_matches('.')).help(more)
        }
    }
}

impl Failure {
    /// Adds advice if there is none.
    fn help_or(self, help: &str) -> Self {
        if self.problems.last().is_some_and(|problem| problem.help.is_some()) { self } else { self.help(help) }
    }
}

/// The verb within a verb that the words name, like `imagetools create`, and what it is called.
fn innermost<'a>(verb: &'a Command, words: &[OsString]) -> (&'a Command, String) {
    let after = words.iter().skip_while(|word| *word != verb.get_name()).skip(1);
    let inner = after.filter_map(|word| word.to_str()).find_map(|word| verb.find_subcommand(word));
    match inner {
        Some(inner) => (inner, format!("{} {}", verb.get_name(), inner.get_name())),
        None => (verb, verb.get_name().to_owned()),
    }
}

fn unknown_flag(argument: &str, verb: &Command, called: &str) -> Failure {
    let name = argument.split('=').next().unwrap_or(argument);
    if let Some(instead) = advice::instead_of(called, name) {
        return Failure::new(format!("`{name}` is not supported by this version of rbuild")).help(instead);
    }
    let failure = Failure::new(format!("`rbuild {called}` has no flag `{name}`"));
    let known: Vec<String> = verb.get_arguments().filter_map(|known| known.get_long()).map(str::to_owned).collect();
    match frontend::nearest(name.trim_start_matches('-'), known.iter().map(String::as_str)) {
        Some(near) if name.starts_with("--") => failure.help(format!("did you mean `--{near}`?")),
        _ => failure,
    }
}

fn invalid_value(error: &clap::Error, argument: &str, value: &str, more: &str) -> Failure {
    use std::error::Error as _;
    // `--pull <BOOL>` and `[IMAGE]` are how clap names what the value was for.
    let what = flag(argument);
    let known = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(known)) => known.clone(),
        _ => Vec::new(),
    };
    if !known.is_empty() {
        let failure = Failure::new(format!("`{what}` does not take `{value}`"));
        return match frontend::nearest(value, known.iter().map(String::as_str)) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help(format!("it takes one of {}", known.join(", "))),
        };
    }
    match error.source() {
        Some(reason) => Failure::new(format!("`{what}`: {reason}")).help(more.to_owned()),
        None => Failure::new(format!("`{what}` does not take `{value}`")).help(more.to_owned()),
    }
}

/// `--tag` of `--tag <NAME[:TAG]>`, `IMAGE` of `<IMAGE>`.
fn flag(argument: &str) -> &str {
    let name = argument.split_whitespace().next().unwrap_or(argument);
    let name = name.split(['=', '[']).next().filter(|name| !name.is_empty()).unwrap_or(name);
    name.trim_start_matches('<').trim_end_matches('>').trim_end_matches("...")
}

/// What the verb takes beside flags: `CONTEXT`, `FILE NAME[:TAG]`.
fn positionals(verb: &Command) -> String {
    let words: Vec<String> = verb
        .get_positionals()
        .filter_map(|word| word.get_value_names())
        .map(|names| format!("`{}`", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")))
        .collect();
    match words.split_last() {
        None => "no words beside its flags".into(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}
