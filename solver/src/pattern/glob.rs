//! One pattern: `*`, `?`, `[a-z]`, `\`, and in ignore files `**`.
//!
//! In: the text of a pattern. Out: whether a path matches. Two dialects, as in Docker: wildcards of `COPY` follow Go's
//! `filepath.Match`, ignore files follow moby's patternmatcher, which adds `**` and has a few habits of its own that
//! real ignore files rely on (they stand at [`Shape`]). Matching takes time proportional to pattern × path, whatever
//! the pattern: nobody can make it explode. Where patternmatcher takes a letter for a regular expression's sign by
//! accident, here it is a letter.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    shape: Shape,
}

/// Which language a pattern is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Go's `filepath.Match`: `**` is two `*`.
    Match,
    /// moby's patternmatcher.
    Ignore,
}

/// What a pattern comes down to.
#[derive(Clone, Debug)]
enum Shape {
    /// No wildcard: this path.
    Exact(Vec<u8>),
    /// `a/**`, `a**`: whatever begins so. `a/**` is not `a` itself.
    Prefix(Vec<u8>),
    /// `**/a`, `**a`: whatever ends so; `**/a` is also `a`, and `**a` is also `ba`.
    Suffix(Vec<u8>),
    /// Anything else.
    Tokens(Tokens),
}

#[derive(Clone, Debug)]
struct Tokens {
    tokens: Vec<Token>,
    /// Every match begins and ends so: nearly all paths are told by these alone.
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This letter.
    Letter(char),
    /// `?`: any letter but `/`.
    One,
    /// `*`: letters but `/`, or nothing.
    Star,
    /// `**/` and `**` before something: nothing, or anything up to a `/`.
    Folders,
    /// `**` at the end: anything.
    Rest,
    /// `[a-z]`, `[^a-z]`.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// A pattern that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{pattern}` is malformed: {reason}")]
pub struct GlobError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// For an unclosed or empty class and a trailing `\`, as `filepath.Match` has it.
    pub fn new(pattern: &str, dialect: Dialect) -> Result<Self, GlobError> {
        let bad = |reason| GlobError { pattern: pattern.to_owned(), reason };
        let tokens = tokens(pattern, dialect).map_err(bad)?;
        let letters = |tokens: &[Token]| -> Option<Vec<u8>> {
            let text: Option<String> = tokens
                .iter()
                .map(|token| match token {
                    Token::Letter(letter) => Some(*letter),
                    _ => None,
                })
                .collect();
            text.map(String::into_bytes)
        };
        // Escapes make moby compare by the general rules, which agree with these shapes but for `**a`.
        let plain = !pattern.contains('\\');
        let shape = match tokens.as_slice() {
            all if letters(all).is_some() => Shape::Exact(letters(all).unwrap_or_default()),
            [first @ .., Token::Rest] if plain && letters(first).is_some_and(|text| !text.is_empty()) => {
                Shape::Prefix(letters(first).unwrap_or_default())
            }
            [Token::Folders, rest @ ..] if plain && letters(rest).is_some() => {
                // With its slash, if it has one.
                Shape::Suffix(pattern.as_bytes()[2..].to_vec())
            }
            [Token::Rest] => Shape::Suffix(Vec::new()),
            _ => {
                let is_letter = |token: &&Token| matches!(token, Token::Letter(_));
                let lead = tokens.iter().take_while(is_letter).count();
                let trail = tokens.iter().rev().take_while(is_letter).count();
                let prefix = letters(&tokens[..lead]).unwrap_or_default();
                let suffix = letters(&tokens[tokens.len() - trail..]).unwrap_or_default();
                Shape::Tokens(Tokens { tokens, prefix, suffix })
            }
        };
        Ok(Self { shape })
    }

    /// Whether the whole of `path` matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(text) => path == text,
            Shape::Prefix(text) => path.starts_with(text),
            Shape::Suffix(text) => path.ends_with(text) || text.strip_prefix(b"/").is_some_and(|name| path == name),
            Shape::Tokens(tokens) => tokens.matches(path),
        }
    }

    /// Whether something beneath the directory `dir` may match; sometimes true when nothing does, never the reverse.
    pub fn may_match_beneath(&self, dir: &[u8]) -> bool {
        let overlap = |text: &[u8]| {
            let inside = [dir, b"/"].concat();
            text.starts_with(&inside) || inside.starts_with(text)
        };
        match &self.shape {
            Shape::Exact(text) => text.len() > dir.len() && text.starts_with(dir) && text[dir.len()] == b'/',
            Shape::Prefix(text) => overlap(text),
            Shape::Suffix(_) => true,
            Shape::Tokens(tokens) => tokens.may_match_beneath(dir),
        }
    }
}

/// Whether `text` holds a wildcard that is not escaped.
pub fn has_wildcard(text: &str) -> bool {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => _ = letters.next(),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

fn tokens(pattern: &str, dialect: Dialect) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        let token = match letter {
            '*' if dialect == Dialect::Ignore && letters.peek() == Some(&'*') => {
                letters.next();
                letters.next_if_eq(&'/');
                if letters.peek().is_none() { Token::Rest } else { Token::Folders }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '[' => class(&mut letters)?,
            '\\' => Token::Letter(letters.next().ok_or("it ends with `\\`")?),
            letter => Token::Letter(letter),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    const UNCLOSED: &str = "`[` is not closed";
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && letters.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let mut bound = || match letters.next() {
            None => Err(UNCLOSED),
            Some('-' | ']') => Err("`-` and `]` inside `[…]` are written `\\-` and `\\]`"),
            Some('\\') => letters.next().ok_or(UNCLOSED),
            Some(letter) => Ok(letter),
        };
        let low = bound()?;
        let high = if letters.next_if_eq(&'-').is_some() {
            match letters.next() {
                None => return Err(UNCLOSED),
                Some('-' | ']') => return Err("a range inside `[…]` has no end"),
                Some('\\') => letters.next().ok_or(UNCLOSED)?,
                Some(letter) => letter,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// The letters of a path; a byte that is no UTF-8 is one letter, as in Go.
fn path_letters(path: &[u8]) -> impl Iterator<Item = char> {
    path.utf8_chunks().flat_map(|chunk| {
        let invalid = std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len());
        chunk.valid().chars().chain(invalid)
    })
}

impl Tokens {
    fn matches(&self, path: &[u8]) -> bool {
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        let mut run = Run::new(&self.tokens);
        path_letters(path).all(|letter| run.step(letter)) && run.is_done()
    }

    /// Lets the pattern eat `dir/`: if it survives, something longer may match.
    fn may_match_beneath(&self, dir: &[u8]) -> bool {
        let mut run = Run::new(&self.tokens);
        path_letters(dir).chain(['/']).all(|letter| run.step(letter))
    }
}

/// All ways through a pattern at once: which tokens may come next.
struct Run<'a> {
    tokens: &'a [Token],
    /// Positions that the letters so far lead to; the last is the end.
    at: Vec<bool>,
    /// Positions of [`Token::Folders`] that are in the middle of a name.
    inside: Vec<bool>,
}

impl<'a> Run<'a> {
    fn new(tokens: &'a [Token]) -> Self {
        let mut run = Self { tokens, at: vec![false; tokens.len() + 1], inside: vec![false; tokens.len()] };
        run.at[0] = true;
        run.skip_empty();
        run
    }

    /// Wildcards that may stand for nothing.
    fn skip_empty(&mut self) {
        for (i, token) in self.tokens.iter().enumerate() {
            if self.at[i] && matches!(token, Token::Star | Token::Folders | Token::Rest) {
                self.at[i + 1] = true;
            }
        }
    }

    /// Takes one letter; false when no way is left.
    fn step(&mut self, letter: char) -> bool {
        let mut next = vec![false; self.at.len()];
        let mut alive = false;
        for (i, token) in self.tokens.iter().enumerate() {
            let here = self.at[i];
            let (stay, go) = match token {
                Token::Folders => {
                    let inside = here || self.inside[i];
                    self.inside[i] = inside;
                    (false, inside && letter == '/')
                }
                _ if !here => (false, false),
                Token::Letter(expected) => (false, letter == *expected),
                Token::One => (false, letter != '/'),
                Token::Star => (letter != '/', false),
                Token::Rest => (true, false),
                Token::Class { negated, ranges } => {
                    (false, *negated != ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter)))
                }
            };
            next[i] |= stay;
            next[i + 1] |= go;
            alive |= stay || go || self.inside[i];
        }
        self.at = next;
        self.skip_empty();
        alive
    }

    fn is_done(&self) -> bool {
        self.at[self.tokens.len()]
    }
}
