//! From a raw word to its value: quotes and escapes removed, variables put in.
//!
//! In come a word as written, the [`Rules`] of the place where it stands and a [`Lookup`]; out comes an
//! [`Expansion`]. The operators are those of the shell that Dockerfiles know: `$v ${v} ${v-w} ${v:-w} ${v+w} ${v:+w}
//! ${v?w} ${v:?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`. Nesting is bounded, and a [`Budget`] bounds what
//! a whole file may expand to. Next: `reader` reads a word, `pattern` matches.

mod error;

mod pattern;

mod reader;

use std::cell::Cell;

pub use error::ExpandError;
use reader::{Reader, Words};

/// Deeper `${a:-${b:-…}}` is refused: each level is a stack frame.
const DEPTH_MAX: usize = 64;
/// Linux takes no longer argument or environment string than 128 KiB; this leaves room for COPY's inline files.
const WORD_MAX_BYTES: usize = 4 << 20;

/// Where values of variables come from.
pub trait Lookup {
    /// The value, `None` when unset.
    fn value(&self, name: &str) -> Option<&str>;
}

/// Knows no variable.
pub struct NoVariables;

impl Lookup for NoVariables {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How a word is read.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The escape character.
    pub escape: char,
    /// Quotes are kept (they still protect).
    pub keep_quotes: bool,
    /// Escape characters are kept.
    pub keep_escapes: bool,
    /// Quotes are ordinary characters: the body of a here-document.
    pub plain_quotes: bool,
    /// An unset variable stays as written.
    pub keep_unset: bool,
    /// Only the form is of interest: `${v?message}` is no error.
    pub form_only: bool,
}

impl Rules {
    /// The ordinary rules.
    pub fn ordinary(escape: char) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            plain_quotes: false,
            keep_unset: false,
            form_only: false,
        }
    }

    /// Whether a text has none of the characters that mean something, and is not too long: it is its own value, as
    /// most words of a file are.
    fn mean_nothing_in(&self, text: &str) -> bool {
        let plain = |byte: u8| !matches!(byte, b'$' | b'\'' | b'"') && char::from(byte) != self.escape;
        self.escape.is_ascii() && text.len() <= WORD_MAX_BYTES && text.bytes().all(plain)
    }
}

/// What a word expands to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The value.
    pub text: String,
    /// Variables that are unset, in order.
    pub unset: Vec<String>,
}

/// Bounds the work of a whole file: values can double with every line that refers to the line before.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
}

impl Budget {
    /// A budget in bytes made or steps done.
    pub fn new(total: u64) -> Self {
        Self { left: Cell::new(total) }
    }

    /// Takes from the budget.
    ///
    /// # Errors
    /// When there is not that much left; the budget is empty then.
    pub fn spend(&self, amount: u64) -> Result<(), ExpandError> {
        let left = self.left.get().checked_sub(amount);
        self.left.set(left.unwrap_or(0));
        left.map(|_| ()).ok_or(ExpandError::TooMuch)
    }
}

/// Expands a word.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand(text: &str, rules: Rules, variables: &dyn Lookup, budget: &Budget) -> Result<Expansion, ExpandError> {
    if rules.mean_nothing_in(text) {
        crate::meter::tick(text.len());
        budget.spend(text.len() as u64)?;
        return Ok(Expansion { text: text.to_owned(), unset: Vec::new() });
    }
    let mut reader = Reader::new(text, rules, variables, budget);
    let value = reader.until(None, rules.keep_escapes, None)?;
    budget.spend(value.len() as u64)?;
    Ok(Expansion { text: value, unset: reader.unset })
}

/// Looks whether a word can be expanded, whatever its variables are.
///
/// # Errors
/// See [`ExpandError`].
pub fn check_form(text: &str, escape: char, budget: &Budget) -> Result<(), ExpandError> {
    let rules = Rules { form_only: true, ..Rules::ordinary(escape) };
    if rules.mean_nothing_in(text) {
        crate::meter::tick(text.len());
        return budget.spend(text.len() as u64);
    }
    expand(text, rules, &NoVariables, budget).map(drop)
}

/// Expands a word and cuts the value at blanks that are neither quoted nor escaped, those from variables included.
/// Returns the words and the variables that are unset.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand_words(
    text: &str,
    rules: Rules,
    variables: &dyn Lookup,
    budget: &Budget,
) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    let mut reader = Reader::new(text, rules, variables, budget);
    let mut words = Words::default();
    let value = reader.until(None, rules.keep_escapes, Some(&mut words))?;
    budget.spend(value.len() as u64)?;
    Ok((words.finish(), reader.unset))
}
