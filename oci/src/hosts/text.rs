//! TOML of others, read with patience: what cannot be understood is left out and told with file and line.
//!
//! Deliberately absent: what the keys mean, which each format's own file knows. Keys that rbuild does not know are those
//! of other programs and nobody's business.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Location, Prefix, Rule};

/// What one source says.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// About registries.
    pub rules: Vec<Rule>,
    /// What could not be understood, with file and line.
    pub warnings: Vec<String>,
}

impl Said {
    /// Takes what a later part of the same source says: about the same prefix it replaces what was said before.
    pub fn replaced_by(mut self, later: Self) -> Self {
        self.rules.retain(|rule| later.rules.iter().all(|other| other.prefix != rule.prefix));
        self.rules.extend(later.rules);
        self.warnings.extend(later.warnings);
        self
    }
}

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// A text and what is said about it.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Path,
    text: &'a str,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Path, text: &'a str) -> Self {
        Self { source, text, warnings: Vec::new() }
    }

    /// The text as a table; `None` if it is no TOML.
    pub(super) fn table(&mut self) -> Option<Spanned<DeTable<'a>>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(table),
            Err(error) => {
                self.warn(&error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message()));
                None
            }
        }
    }

    /// `/etc/containers/registries.conf:12`
    pub(super) fn place(&self, span: &Range<usize>) -> Arc<str> {
        let line = self.text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1;
        format!("{}:{line}", self.source.display()).into()
    }

    pub(super) fn warn(&mut self, span: &Range<usize>, what: impl std::fmt::Display) {
        let what = crate::registry::words::harmless(&what.to_string());
        self.warnings.push(format!("{}: {what}", self.place(span)));
    }

    pub(super) fn text(&mut self, value: &Value<'_>) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        self.expected(value, text, "a text in quotes")
    }

    pub(super) fn flag(&mut self, value: &Value<'_>) -> Option<bool> {
        self.expected(value, value.get_ref().as_bool(), "true or false")
    }

    /// One text, or a list of them.
    pub(super) fn texts(&mut self, value: &Value<'_>) -> Vec<(String, Range<usize>)> {
        match value.get_ref().as_array() {
            Some(items) => items.iter().filter_map(|item| self.text(item).map(|text| (text, item.span()))).collect(),
            None => self.text(value).map(|text| (text, value.span())).into_iter().collect(),
        }
    }

    /// Paths; relative ones begin where the file is.
    pub(super) fn paths(&mut self, value: &Value<'_>) -> Vec<PathBuf> {
        let texts = self.texts(value);
        texts.into_iter().map(|(text, _)| self.path(&text)).collect()
    }

    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.source.parent().unwrap_or(Path::new("/")).join(text)
    }

    pub(super) fn location(&mut self, text: &str, span: &Range<usize>) -> Option<Location> {
        Location::parse(text).map_err(|error| self.warn(span, error)).ok()
    }

    pub(super) fn prefix(&mut self, text: &str, span: &Range<usize>) -> Option<Prefix> {
        Prefix::parse(text).map_err(|error| self.warn(span, error)).ok()
    }

    fn expected<T>(&mut self, value: &Value<'_>, found: Option<T>, what: &str) -> Option<T> {
        if found.is_none() {
            self.warn(&value.span(), format_args!("{what} is expected"));
        }
        found
    }
}
