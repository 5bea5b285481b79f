//! Patterns of `${name#pattern}` and its relatives: `*`, `?`, and backslash before `*`, `?`, `\`, `}`, `/`.
//!
//! No brackets, and neither wildcard matches a line feed, as in other builders.

/// A pattern, ready to match.
pub struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The character after a backslash when it may not be escaped; `None` when there is none.
    pub fn parse(text: &str) -> Result<Self, Option<char>> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(escaped),
                    other => return Err(other),
                },
                other => Token::Char(other),
            });
        }
        Ok(Self { tokens })
    }

    /// An upper bound of the steps that any of the methods takes on a value of that many characters.
    pub fn cost(&self, value_chars: usize) -> u64 {
        let once = (value_chars as u64 + 1).saturating_mul(self.tokens.len() as u64 + 1);
        if self.tokens.contains(&Token::Star) { once.saturating_mul(value_chars as u64 + 1) } else { once }
    }

    /// As [`Self::cost`], for [`Self::prefix`] and [`Self::suffix`], which try one place only.
    pub fn cost_anchored(&self, value_chars: usize) -> u64 {
        (value_chars as u64 + 1).saturating_mul(self.tokens.len() as u64 + 1)
    }

    /// How many characters at the front match: the fewest, or the most.
    pub fn prefix(&self, value: &[char], most: bool) -> Option<usize> {
        // states[i]: the first i tokens have matched what was read so far.
        let mut states = vec![false; self.tokens.len() + 1];
        states[0] = true;
        self.skip_stars(&mut states);
        let mut found = None;
        for (read, c) in value.iter().map(Some).chain([None]).enumerate() {
            if states[self.tokens.len()] {
                found = Some(read);
                if !most {
                    break;
                }
            }
            let Some(c) = c else { break };
            let mut next = vec![false; states.len()];
            for (i, token) in self.tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                match token {
                    Token::Char(wanted) => next[i + 1] |= wanted == c,
                    Token::Any => next[i + 1] |= *c != '\n',
                    Token::Star => next[i] |= *c != '\n',
                }
            }
            self.skip_stars(&mut next);
            if !next.contains(&true) {
                break;
            }
            states = next;
        }
        found
    }

    /// How many characters at the end match: the fewest, or the most.
    pub fn suffix(&self, value: &[char], most: bool) -> Option<usize> {
        let reversed = Self { tokens: self.tokens.iter().rev().copied().collect() };
        let value: Vec<char> = value.iter().rev().copied().collect();
        reversed.prefix(&value, most)
    }

    /// The value with the first match replaced, or every one; matches are the leftmost and longest.
    pub fn replace(&self, value: &[char], replacement: &str, every: bool) -> String {
        let mut text = String::with_capacity(value.len());
        let mut at = 0;
        let mut after_match = false;
        while at <= value.len() {
            match self.prefix(&value[at..], true) {
                // An empty match right behind a match is none.
                Some(length) if length > 0 || !after_match => {
                    text.push_str(replacement);
                    at += length;
                    after_match = true;
                    if !every {
                        break;
                    }
                    if length > 0 {
                        continue;
                    }
                }
                _ => {}
            }
            text.extend(value.get(at));
            at += 1;
            after_match = false;
        }
        text.extend(value.get(at..).unwrap_or_default());
        text
    }

    fn skip_stars(&self, states: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if states[i] && *token == Token::Star {
                states[i + 1] = true;
            }
        }
    }
}
