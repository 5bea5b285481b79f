//! Reads a word character by character: the state machine behind [`super::expand`].
//!
//! Recursion happens only at `$`, whose depth is bounded.

use super::pattern::Pattern;
use super::{Budget, DEPTH_MAX, ExpandError, Lookup, Rules, WORD_MAX_BYTES};
use crate::meter;

/// Collects words while a value is put together.
#[derive(Default)]
pub(super) struct Words {
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

    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

pub(super) struct Reader<'a> {
    text: &'a str,
    pos: usize,
    rules: Rules,
    variables: &'a dyn Lookup,
    budget: &'a Budget,
    depth: usize,
    pub(super) unset: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, rules: Rules, variables: &'a dyn Lookup, budget: &'a Budget) -> Self {
        Self { text, pos: 0, rules, variables, budget, depth: 0, unset: Vec::new() }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.pos..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        meter::tick(1);
        self.pos += c.len_utf8();
        Some(c)
    }

    /// The characters up to one that means something, at least one of them.
    fn plain(&mut self, stop: Option<char>) -> &'a str {
        let rest = &self.text[self.pos..];
        let special = |b: u8| {
            let c = char::from(b);
            b.is_ascii() && (matches!(c, '$' | '\'' | '"') || c == self.rules.escape || Some(c) == stop)
        };
        // Everything special is ASCII, and no byte of any other character is.
        let end = rest.bytes().skip(1).position(special).map_or(rest.len(), |at| at + 1);
        meter::tick(end);
        self.pos += end;
        &rest[..end]
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.value(name).map(str::to_owned);
        if value.is_none() && !self.unset.iter().any(|known| known == name) && self.unset.len() < 100 {
            self.unset.push(name.to_owned());
        }
        value
    }

    /// Reads up to `stop` (consumed), or to the end when that is `None`.
    pub(super) fn until(
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
                    let plain = self.plain(stop);
                    value.push_str(plain);
                    if let Some(words) = words.as_deref_mut() {
                        plain.chars().for_each(|c| words.push(c));
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
                _ => value.push_str(self.plain(None)),
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
