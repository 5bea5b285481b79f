//! Variables: UndefinedVar, SecretsUsedInArgOrEnv.

use std::cell::RefCell;
use std::collections::HashSet;

use super::Rule;
use crate::error::Diagnostic;
use crate::expand::{Budget, Lookup, Rules, expand};
use crate::instr::{Instruction, Kind};
use crate::span::{Span, Word};

/// Words in a name that speak of a secret.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words in a name that say it is none.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// UndefinedVar.
pub(crate) fn undefined(word: &Word, name: &str, help: String) -> Diagnostic {
    let shown: String = name.chars().take(60).collect();
    Diagnostic::warning(place_of_variable(word, name), format!("`{shown}` is not set here and counts as empty"), "")
        .help(help)
        .rule(Rule::UndefinedVar)
}

/// Where a variable stands inside a word: `$name` or `${name…}`. The whole word when its places in the text are not
/// those in the file (continuations, quotes of a flag).
pub(super) fn place_of_variable(word: &Word, name: &str) -> Span {
    let text = word.text.as_str();
    if word.span.end - word.span.start != text.len() {
        return word.span;
    }
    let at = |from: usize, to: usize| Span::new(word.span.start + from, word.span.start + to);
    for (dollar, _) in text.match_indices('$') {
        let rest = &text[dollar + 1..];
        if let Some(after) = rest.strip_prefix('{').and_then(|inner| inner.strip_prefix(name)) {
            if !continues(after) {
                let closed = usize::from(after.starts_with('}'));
                return at(dollar, dollar + 2 + name.len() + closed);
            }
        } else if let Some(after) = rest.strip_prefix(name)
            && !continues(after)
        {
            return at(dollar, dollar + 1 + name.len());
        }
    }
    word.span
}

/// The variables that a word refers to.
pub(crate) fn variables(text: &str, escape: char) -> HashSet<String> {
    struct Asked(RefCell<HashSet<String>>);
    impl Lookup for Asked {
        fn value(&self, name: &str) -> Option<&str> {
            self.0.borrow_mut().insert(name.to_owned());
            None
        }
    }
    let asked = Asked(RefCell::default());
    let rules = Rules { form_only: true, ..Rules::ordinary(escape) };
    // A word that cannot be expanded is an error elsewhere; what it names up to there is fine.
    let _ = expand(text, rules, &asked, &Budget::new(u64::MAX));
    asked.0.into_inner()
}

/// Whether a name goes on.
fn continues(after: &str) -> bool {
    after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// SecretsUsedInArgOrEnv: at every name.
pub(super) fn secrets(command: &Instruction, found: &mut Vec<Diagnostic>) {
    let (names, keyword): (Vec<&Word>, _) = match &command.kind {
        Kind::Arg(declarations) => (declarations.iter().map(|arg| &arg.name).collect(), "ARG"),
        Kind::Env(pairs) => (pairs.iter().map(|pair| &pair.key).collect(), "ENV"),
        _ => return,
    };
    for name in names.into_iter().filter(|name| speaks_of_secret(&name.text)) {
        let shown: String = name.text.chars().take(60).collect();
        let id = shown.to_ascii_lowercase();
        found.push(
            Diagnostic::warning(name.span, format!("{keyword} `{shown}` may put a secret into the image"), "")
                .help(format!("pass it by `--secret id={id}` and `RUN --mount=type=secret,id={id},env={shown}`"))
                .rule(Rule::SecretsUsedInArgOrEnv),
        );
    }
}

fn speaks_of_secret(name: &str) -> bool {
    let has = |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)));
    has(&SECRET) && !has(&HARMLESS)
}
