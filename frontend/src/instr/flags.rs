//! Flags of an instruction against the list of those that it takes.

use crate::ast::{Flag, Statement};
use crate::error::Diagnostic;
use crate::span::Word;
use crate::suggest;

/// What follows a flag's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `=text`, once.
    Text,
    /// Nothing, `=true` or `=false`; once.
    Bool,
    /// `=text`, any number of times.
    List,
}

/// The flags of one statement, checked.
pub struct Flags<'a> {
    given: &'a [Flag],
}

impl<'a> Flags<'a> {
    /// Checks all flags of a statement. `None` when there is a fault among them.
    pub fn check(
        statement: &'a Statement,
        known: &[(&'static str, Takes)],
        found: &mut Vec<Diagnostic>,
    ) -> Option<Self> {
        let before = found.len();
        let keyword = statement.keyword.name();
        let mut seen: Vec<&str> = Vec::new();
        for flag in &statement.flags {
            let name = flag.name.text.as_str();
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                found.push(unknown(keyword, flag, known));
                continue;
            };
            if *takes != Takes::List {
                if seen.contains(name) {
                    found.push(
                        Diagnostic::error(flag.span, format!("`--{name}` is given twice"), "again")
                            .help("keep one of them"),
                    );
                }
                seen.push(name);
            }
            match (takes, &flag.value) {
                (Takes::Bool, None) | (Takes::Text | Takes::List, Some(_)) => {}
                (Takes::Bool, Some(value)) => {
                    if truth(&value.text).is_none() {
                        found.push(
                            Diagnostic::error(value.span, format!("`{}` is neither true nor false", value.text), "")
                                .help(format!("write `--{name}` or `--{name}=false`")),
                        );
                    }
                }
                (Takes::Text | Takes::List, None) => found.push(
                    Diagnostic::error(flag.span, format!("`--{name}` needs a value"), "no `=` follows")
                        .help(format!("write `--{name}=VALUE`, without a blank")),
                ),
            }
        }
        (found.len() == before).then_some(Self { given: &statement.flags })
    }

    /// The value of a text flag.
    pub fn text(&self, name: &str) -> Option<Word> {
        self.list(name).next().cloned()
    }

    /// The value of a flag that is true or false.
    pub fn bool(&self, name: &str) -> Option<bool> {
        let flag = self.given.iter().find(|flag| flag.name.text == name)?;
        Some(flag.value.as_ref().is_none_or(|value| truth(&value.text).unwrap_or(true)))
    }

    /// The flags of that name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a Flag> {
        self.given.iter().filter(move |flag| flag.name.text == name)
    }

    /// The values of the flags of that name.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a Word> {
        self.all(name).filter_map(|flag| flag.value.as_ref())
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn unknown(keyword: &str, flag: &Flag, known: &[(&'static str, Takes)]) -> Diagnostic {
    let name: String = flag.name.text.chars().take(60).collect();
    let message = format!("{keyword} has no flag `--{name}`");
    let found = Diagnostic::error(flag.name.span, message, "unknown flag");
    if let Some(nearest) = suggest::nearest(&name, known.iter().map(|(known, _)| *known)) {
        return found.help(format!("did you mean `--{nearest}`?"));
    }
    if known.is_empty() {
        return found.help(format!("{keyword} takes no flags"));
    }
    let list: Vec<String> = known.iter().map(|(known, _)| format!("`--{known}`")).collect();
    found.help(format!("{keyword} takes {}", list.join(", ")))
}
