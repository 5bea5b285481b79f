//! A list of patterns: the last that matches wins, `!` takes back. An ignore file, or `--exclude`.
//!
//! In: the lines of an ignore file in order. Out: whether a path is matched and by which line, and whether a matched
//! directory may still hold something that a later `!` line takes back. A line matches a path when it matches the path
//! or any directory above it; so lines are tried once per directory and their answers handed down ([`Marks`]).

use super::glob::{Dialect, Glob, GlobError};

/// A list of patterns in order.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// As written, for messages.
    text: String,
    /// Position in the list that was given.
    position: usize,
    /// Whether it takes back.
    negated: bool,
    glob: Glob,
}

/// Which patterns match a directory or one above it.
#[derive(Clone, Debug, Default)]
pub struct Marks(Vec<bool>);

impl Patterns {
    /// Compiles a list; blank lines are skipped.
    ///
    /// # Errors
    /// For a line that is only `!` and for malformed patterns.
    pub fn new<S: AsRef<str>>(lines: &[S]) -> Result<Self, GlobError> {
        let mut patterns = Vec::new();
        for (position, line) in lines.iter().enumerate() {
            let text = line.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let cleaned = clean(text);
            let (negated, body) = match cleaned.strip_prefix('!') {
                Some("") => {
                    return Err(GlobError { pattern: text.to_owned(), reason: "nothing follows `!`" });
                }
                Some(body) => (true, body),
                None => (false, cleaned.as_str()),
            };
            let glob = Glob::new(body, Dialect::Ignore)?;
            patterns.push(Pattern { text: text.to_owned(), position, negated, glob });
        }
        Ok(Self { patterns })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path`, relative and without `.` or `..`, is matched.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.matched_by(path).is_some()
    }

    /// The position in the list of the pattern by which `path` is matched, with its text; `None` when it is not.
    pub fn matched_by(&self, path: &[u8]) -> Option<(usize, &str)> {
        let marks = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => self.marks_of(&path[..slash]),
            None => self.no_marks(),
        };
        self.decide(path, &marks).map(|i| (self.patterns[i].position, self.patterns[i].text.as_str()))
    }

    /// Marks of the root.
    pub fn no_marks(&self) -> Marks {
        Marks(vec![false; self.patterns.len()])
    }

    /// Marks of a directory.
    pub fn marks_of(&self, dir: &[u8]) -> Marks {
        let mut marks = self.no_marks();
        if dir.is_empty() {
            return marks;
        }
        let ends = dir.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([dir.len()]);
        for end in ends {
            marks = self.marks_beneath(&dir[..end], &marks);
        }
        marks
    }

    /// Marks of the directory `dir`, those of its parent being known.
    pub fn marks_beneath(&self, dir: &[u8], parent: &Marks) -> Marks {
        let mark = |(pattern, above): (&Pattern, &bool)| *above || pattern.glob.matches(dir);
        Marks(self.patterns.iter().zip(&parent.0).map(mark).collect())
    }

    /// Whether `path` is matched, the marks of its parent being known.
    pub fn matches_in(&self, path: &[u8], parent: &Marks) -> bool {
        self.decide(path, parent).is_some()
    }

    /// Index of the pattern that matched last, unless it was taken back.
    fn decide(&self, path: &[u8], parent: &Marks) -> Option<usize> {
        let mut decided = None;
        for (i, (pattern, above)) in self.patterns.iter().zip(&parent.0).enumerate() {
            // A pattern that would not change the answer is not asked.
            if pattern.negated == decided.is_some() && (*above || pattern.glob.matches(path)) {
                decided = if pattern.negated { None } else { Some(i) };
            }
        }
        decided
    }

    /// Whether something beneath a matched directory may not be matched: a later `!` line may take it back.
    pub fn may_take_back_beneath(&self, dir: &[u8], marks: &Marks) -> bool {
        // What stands before the last line that matches the directory itself is overruled by it.
        let last = self.patterns.iter().zip(&marks.0).rposition(|(pattern, marked)| *marked && !pattern.negated);
        let later = &self.patterns[last.map_or(0, |last| last + 1)..];
        later.iter().any(|pattern| pattern.negated && pattern.glob.may_match_beneath(dir))
    }

    /// Whether something beneath a directory that is not matched may be matched.
    pub fn may_match_beneath(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| !pattern.negated && pattern.glob.may_match_beneath(dir))
    }
}

/// Go's `filepath.Clean`: the shortest path that means the same; the empty one is `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => _ = names.pop(),
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".into(),
        (false, false) => names.join("/"),
    }
}
