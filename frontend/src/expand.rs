//! From a raw word to its value: quotes and escapes removed, variables put in.
//!
//! In come a word as written, the [`Rules`] of the place where it stands and a [`Lookup`]; out comes an
//! [`Expansion`]. The operators are those of the shell that Dockerfiles know: `$v ${v} ${v-w} ${v:-w} ${v+w} ${v:+w}
//! ${v?w} ${v:?w} ${v#p} ${v##p} ${v%p} ${v%%p} ${v/p/r} ${v//p/r}`. Nesting is bounded, and a [`Budget`] bounds what
//! a whole file may expand to. Next: [`crate::pattern`].

use std::cell::Cell;

use crate::meter;
use crate::pattern::Pattern;

/// Deeper `${a:-${b:-…}}` is refused: each level is a stack frame.
const DEPTH_MAX: usize = 64;
/// Linux takes no longer argument or environment string than 128 KiB; this leaves room for COPY's inline files.
const WORD_MAX_BYTES: usize = 16 << 20;

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
}

/// What a word expands to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The value.
    pub text: String,
    /// The value cut at blanks that are neither quoted nor escaped, those from variables included.
    pub words: Vec<String>,
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
            Self::Operator { .. } => "known are `-`, `+`, `?` (also after `:`), `#`, `##`, `%`, `%%`, `/` and `//`".into(),
            Self::Required { name, .. } => {
                format!("pass `--build-arg {name}=…` if it is declared by `ARG {name}`, or give it a default")
            }
            Self::Pattern { .. } => "a backslash may stand before `*`, `?`, `\\`, `}` and `/`".into(),
            Self::Depth | Self::Long | Self::TooMuch => return None,
        })
    }
}

/// Expands a word.
///
/// # Errors
/// See [`ExpandError`].
pub fn expand(text: &str, rules: Rules, variables: &dyn Lookup, budget: &Budget) -> Result<Expansion, ExpandError> {
    let mut reader = Reader { text, pos: 0, rules, variables, budget, depth: 0, unset: Vec::new() };
    let mut words = Words::default();
    let value = reader.until(None, rules.keep_escapes, Some(&mut words))?;
    budget.spend(value.len() as u64)?;
    Ok(Expansion { text: value, words: words.finish(), unset: reader.unset })
}

/// Collects words while a value is put together.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    /// A character that separates words if it is a blank.
    fn push(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

struct Reader<'a> {
    text: &'a str,
    pos: usize,
    rules: Rules,
    variables: &'a dyn Lookup,
    budget: &'a Budget,
    depth: usize,
    unset: Vec<String>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.pos..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        meter::tick(1);
        self.pos += c.len_utf8();
        Some(c)
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.value(name).map(str::to_owned);
        if value.is_none() && !self.unset.iter().any(|known| known == name) && self.unset.len() < 100 {
            self.unset.push(name.to_owned());
        }
        value
    }

    /// Reads up to `stop` (consumed), or to the end when that is `None`.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        mut words: Option<&mut Words>,
    ) -> Result<String, ExpandError> {
        let mut value = String::new();
        loop {
            let Some(c) = self.peek() else {
                return if stop.is_none() { Ok(value) } else { Err(ExpandError::Brace) };
            };
            if Some(c) == stop {
                self.next();
                return Ok(value);
            }
            match c {
                '\'' | '"' if !self.rules.plain_quotes => {
                    let quoted = if c == '"' { self.double_quoted(keep_escapes)? } else { self.single_quoted()? };
                    value.push_str(&quoted);
                    if let Some(words) = words.as_deref_mut() {
                        words.word.push_str(&quoted);
                    }
                }
                '$' => {
                    let part = self.dollar()?;
                    value.push_str(&part);
                    if let Some(words) = words.as_deref_mut() {
                        part.chars().for_each(|c| words.push(c));
                    }
                }
                _ if c == self.rules.escape => {
                    self.next();
                    if keep_escapes {
                        value.push(c);
                        if let Some(words) = words.as_deref_mut() {
                            words.word.push(c);
                        }
                    }
                    if let Some(escaped) = self.next() {
                        value.push(escaped);
                        if let Some(words) = words.as_deref_mut() {
                            words.word.push(escaped);
                        }
                    }
                }
                _ => {
                    self.next();
                    value.push(c);
                    if let Some(words) = words.as_deref_mut() {
                        words.push(c);
                    }
                }
            }
            if value.len() > WORD_MAX_BYTES {
                return Err(ExpandError::Long);
            }
        }
    }

    /// Everything up to the next single quote, as it is.
    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.pos;
        self.next();
        let length = self.text[self.pos..].find('\'').ok_or(ExpandError::Quote("single quote"))?;
        meter::tick(length);
        let inner = self.pos..self.pos + length;
        self.pos = inner.end + 1;
        Ok(if self.rules.keep_quotes { self.text[start..self.pos].to_owned() } else { self.text[inner].to_owned() })
    }

    /// Up to the next double quote: variables are put in, the escape character protects `"`, `$` and itself.
    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, ExpandError> {
        let mut value = String::new();
        self.next();
        if self.rules.keep_quotes {
            value.push('"');
        }
        loop {
            match self.peek().ok_or(ExpandError::Quote("double quote"))? {
                '"' => {
                    self.next();
                    if self.rules.keep_quotes {
                        value.push('"');
                    }
                    return Ok(value);
                }
                '$' => value.push_str(&self.dollar()?),
                c if c == self.rules.escape => {
                    self.next();
                    match self.peek() {
                        // The quote is not closed; the next round says so.
                        None => {}
                        Some(protected) if protected == '"' || protected == '$' || protected == c => {
                            if keep_escapes {
                                value.push(c);
                            }
                            value.push(protected);
                            self.next();
                        }
                        // Before anything else it is an ordinary character.
                        Some(_) => {
                            if keep_escapes {
                                value.push(c);
                            }
                            value.push(c);
                        }
                    }
                }
                c => {
                    self.next();
                    value.push(c);
                }
            }
            if value.len() > WORD_MAX_BYTES {
                return Err(ExpandError::Long);
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpandError::Depth);
        }
        let start = self.pos;
        self.next();
        let value = if self.peek() == Some('{') {
            self.next();
            self.braces()?
        } else {
            let name = self.name();
            if name.is_empty() {
                "$".to_owned()
            } else {
                match self.value(&name) {
                    None if self.rules.keep_unset => self.text[start..self.pos].to_owned(),
                    value => value.unwrap_or_default(),
                }
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    /// What follows `${`, the closing brace included.
    fn braces(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(ExpandError::Brace),
            Some('{' | '}' | ':') => return Err(ExpandError::Name),
            _ => {}
        }
        let name = self.name();
        let first = self.next().ok_or(ExpandError::Brace)?;
        match first {
            '}' => {
                let value = self.value(&name);
                Ok(match value {
                    None if self.rules.keep_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            ':' => match self.next().ok_or(ExpandError::Brace)? {
                operator @ ('-' | '+' | '?') => self.default(&name, operator, true),
                other => Err(ExpandError::Operator { name, operator: format!(":{other}") }),
            },
            '-' | '+' | '?' => self.default(&name, first, false),
            '#' | '%' => self.trim(&name, first),
            '/' => self.replace(&name),
            other => Err(ExpandError::Operator { name, operator: other.to_string() }),
        }
    }

    /// `${name-word}` and its relatives; with a colon an empty value counts as unset.
    fn default(&mut self, name: &str, operator: char, colon: bool) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), false, None)?;
        let value = self.value(name);
        if value.is_none() && self.rules.keep_unset {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        // A variable with a default is not missed.
        if operator != '?' {
            self.unset.retain(|unset| unset != name);
        }
        let present = value.filter(|value| !(colon && value.is_empty()));
        match (operator, present) {
            ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('+', Some(_)) => Ok(word),
            ('?', None) if !self.rules.form_only => {
                let message = match (word.is_empty(), self.variables.value(name)) {
                    (false, _) => word,
                    (true, None) => "it must be set".to_owned(),
                    (true, Some(_)) => "it must not be empty".to_owned(),
                };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            (_, present) => Ok(present.unwrap_or_default()),
        }
    }

    /// `${name#pattern}`, `##`, `%`, `%%`.
    fn trim(&mut self, name: &str, operator: char) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), true, None)?;
        let (pattern, most) = match word.strip_prefix(operator) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        let parsed = parse_pattern(pattern)?;
        let Some(value) = self.value(name) else {
            return Ok(if self.rules.keep_unset { format!("${{{name}{operator}{word}}}") } else { String::new() });
        };
        let chars: Vec<char> = value.chars().collect();
        self.budget.spend(parsed.cost_anchored(chars.len()))?;
        Ok(if operator == '#' {
            let matched = parsed.prefix(&chars, most).unwrap_or(0);
            chars[matched..].iter().collect()
        } else {
            let matched = parsed.suffix(&chars, most).unwrap_or(0);
            chars[..chars.len() - matched].iter().collect()
        })
    }

    /// `${name/pattern/replacement}`, `//` for every match.
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let every = self.peek() == Some('/');
        if every {
            self.next();
        }
        let pattern = self.until(Some('/'), true, None).map_err(|error| match error {
            ExpandError::Brace => ExpandError::Slash { name: name.to_owned() },
            other => other,
        })?;
        let replacement = self.until(Some('}'), true, None)?;
        let parsed = parse_pattern(&pattern)?;
        let Some(value) = self.value(name) else {
            return Ok(if self.rules.keep_unset {
                let slashes = if every { "//" } else { "/" };
                format!("${{{name}{slashes}{pattern}/{replacement}}}")
            } else {
                String::new()
            });
        };
        let chars: Vec<char> = value.chars().collect();
        self.budget.spend(parsed.cost(chars.len()))?;
        self.budget.spend((chars.len() as u64 + 1).saturating_mul(replacement.len() as u64))?;
        Ok(parsed.replace(&chars, &replacement, every))
    }

    /// A name: letters, digits and `_`; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let start = self.pos;
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.next();
                }
            }
        }
        self.text[start..self.pos].to_owned()
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, ExpandError> {
    Pattern::parse(text).map_err(|escaped| ExpandError::Pattern { pattern: text.to_owned(), escaped })
}
