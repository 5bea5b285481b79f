//! A whole selection in a tree: a path or wildcard, and beneath it what include, exclude and ignore patterns leave.
//!
//! In: a tree's root and a [`Wanted`]. Out: the [`Match`]es of its path, and by [`walk_selected`] every entry beneath
//! a matched directory that is meant. A directory that is not meant itself but holds something that is comes when that
//! something does; a directory that cannot hold anything is not entered.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;

use crate::tree::walk::{Descend, Entry, Visitor, names, walk};
use crate::tree::{Found, Place, Root, TreeError, joined};
use solver::pattern::glob::{Dialect, Glob, GlobError, has_wildcard};
use solver::pattern::{Marks, Patterns};

/// What a path or pattern leads to.
pub(crate) struct Match {
    /// The last name of the path as it was asked for: what a copy is called.
    pub base: Vec<u8>,
    /// Where it is, links resolved as asked for. Not held open: a wildcard may match more than a process may open.
    pub place: Found,
}

/// How a path is meant.
pub(crate) struct Wanted<'a> {
    /// Absolute path or pattern.
    pub path: &'a str,
    /// Whether it may hold wildcards.
    pub wildcard: bool,
    /// Whether a link at its end stands for what it points to.
    pub follow_symlinks: bool,
}

/// Why a selection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A malformed pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// The tree refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The entries that `wanted` names, in byte order. Those of a wildcard exist; without one, the place may be empty.
pub(crate) fn find(root: &Root, wanted: &Wanted<'_>) -> Result<Vec<Match>, SelectError> {
    let resolve = |path: &[u8]| if wanted.follow_symlinks { root.resolve(path) } else { root.resolve_no_follow(path) };
    let one = |path: Vec<u8>, place: Place| {
        let base = path.split(|b| *b == b'/').rfind(|name| !name.is_empty() && *name != b"." && *name != b"..");
        Match { base: base.unwrap_or_default().to_vec(), place: place.let_go() }
    };
    if !wanted.wildcard || !has_wildcard(wanted.path) {
        // A pattern without wildcards may still hold escapes.
        let path = if wanted.wildcard { unescaped(wanted.path) } else { wanted.path.to_owned() };
        let place = resolve(path.as_bytes())?;
        return Ok(vec![one(path.into_bytes(), place)]);
    }
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    for component in wanted.path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        let glob = has_wildcard(component).then(|| Glob::new(component, Dialect::Match)).transpose()?;
        let mut next = Vec::new();
        for parent in found {
            match &glob {
                None => next.push(joined(&parent, unescaped(component).as_bytes())),
                Some(glob) => {
                    let dir = match root.resolve(&parent) {
                        Ok(place) if place.is_dir() => place,
                        Ok(_) | Err(TreeError::NotFound { .. } | TreeError::NotADirectory { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    let mut names = names(dir.open_dir()?.as_fd(), &dir.path)?;
                    names.retain(|name| glob.matches(name));
                    next.extend(names.into_iter().map(|name| joined(&parent, &name)));
                }
            }
        }
        found = next;
    }
    let mut matches = Vec::new();
    for path in found {
        match resolve(&path) {
            Ok(place) if place.stat.is_some() => matches.push(one(path, place)),
            // `*/a` where some directories have no `a`; a link that leads nowhere.
            Ok(_) | Err(TreeError::NotFound { .. } | TreeError::NotADirectory { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(matches)
}

/// The text without its escapes.
pub(crate) fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or(letter) } else { letter });
    }
    plain
}

/// Which entries are meant: those that every rule leaves.
#[derive(Default)]
pub(crate) struct Filter<'a> {
    /// In any order.
    pub rules: Vec<Rule<'a>>,
}

/// One list of patterns and what it does.
pub(crate) struct Rule<'a> {
    /// The list.
    pub patterns: &'a Patterns,
    /// What it does.
    pub effect: Effect,
    /// What its paths are relative to.
    pub scope: RuleScope,
}

/// What a list of patterns does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// What matches is not meant.
    LeaveOut,
    /// Only what matches is meant.
    KeepOnly,
}

/// What the paths of a list are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleScope {
    /// The source's root: an ignore file.
    Source,
    /// The matched directory; a match that is no directory has its name only. `--exclude`.
    Match,
}

/// What a filter says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It is meant.
    Meant,
    /// Not itself, but perhaps something beneath it.
    Beneath,
    /// Neither it nor anything beneath it.
    Not,
}

impl Filter<'_> {
    /// Whether a matched entry that is no directory is meant; `base` is its name, `path` its path in the source.
    pub fn takes_leaf(&self, base: &[u8], path: &[u8]) -> bool {
        self.rules.iter().all(|rule| {
            let path = if rule.scope == RuleScope::Source { path } else { base };
            rule.patterns.matches(path) == (rule.effect == Effect::KeepOnly)
        })
    }

    /// Marks of the matched directory `base`, per rule.
    pub fn marks_of(&self, base: &[u8]) -> Vec<Marks> {
        let marks = self.rules.iter().map(|rule| match rule.scope {
            RuleScope::Source => rule.patterns.marks_of(base),
            RuleScope::Match => rule.patterns.no_marks(),
        });
        marks.collect()
    }

    /// What all rules say of an entry, and the marks of it if it is a directory; `full` is its path in the source,
    /// `path` that beneath the matched directory, `above` the marks of the directory that it is in.
    pub fn judge(&self, full: &[u8], path: &[u8], is_dir: bool, above: &[Marks]) -> (Verdict, Vec<Marks>) {
        let mut worst = Verdict::Meant;
        let mut below = Vec::new();
        for (rule, parent) in self.rules.iter().zip(above) {
            let path = if rule.scope == RuleScope::Source { full } else { path };
            let marks = if is_dir { rule.patterns.marks_beneath(path, parent) } else { Marks::default() };
            worst = worst.max(rule.verdict(path, is_dir, parent, &marks));
            if worst == Verdict::Not {
                break;
            }
            if is_dir {
                below.push(marks);
            }
        }
        (worst, below)
    }
}

impl Rule<'_> {
    fn verdict(&self, path: &[u8], is_dir: bool, parent: &Marks, marks: &Marks) -> Verdict {
        let matched = self.patterns.matches_in(path, parent);
        let perhaps = |there_may_be: bool| if is_dir && there_may_be { Verdict::Beneath } else { Verdict::Not };
        match (self.effect, matched) {
            (Effect::LeaveOut, false) | (Effect::KeepOnly, true) => Verdict::Meant,
            (Effect::LeaveOut, true) => perhaps(self.patterns.may_take_back_beneath(path, marks)),
            (Effect::KeepOnly, false) => perhaps(self.patterns.may_match_beneath(path)),
        }
    }
}

/// Takes the entries of a selection: a directory before and after its entries.
pub(crate) trait Sink {
    /// Why it stops.
    type Error: From<TreeError>;

    /// A directory that is meant, or that holds something that is.
    fn enter(&mut self, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), Self::Error>;
    /// The same directory after its entries.
    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), Self::Error>;
    /// Anything else that is meant.
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), Self::Error>;
}

/// Walks what `filter` leaves of the directory `dir`, whose path in the source is `base`. Paths are relative to `dir`.
pub(crate) fn walk_selected<S: Sink>(
    dir: OwnedFd,
    base: &[u8],
    filter: &Filter<'_>,
    sink: &mut S,
) -> Result<(), S::Error> {
    let root = Scope { marks: filter.marks_of(base), waiting: None, entered: true };
    walk(dir, &mut Selecting { base, filter, sink, scopes: vec![root] })
}

struct Selecting<'a, S> {
    base: &'a [u8],
    filter: &'a Filter<'a>,
    sink: &'a mut S,
    scopes: Vec<Scope>,
}

/// A directory that the walk is in.
struct Scope {
    /// Per rule.
    marks: Vec<Marks>,
    /// Name, path and look of a directory that the sink has not seen yet.
    waiting: Option<(Vec<u8>, Vec<u8>, Stat)>,
    entered: bool,
}

impl<S: Sink> Selecting<'_, S> {
    fn verdict(&self, entry: &Entry<'_>) -> (Verdict, Vec<Marks>) {
        let scope = self.scopes.last().expect("the root's scope stays");
        self.filter.judge(&joined(self.base, entry.path), entry.path, entry.kind().is_dir(), &scope.marks)
    }

    /// Shows the sink the directories that waited for something in them.
    fn flush(&mut self) -> Result<(), S::Error> {
        for scope in self.scopes.iter_mut().filter(|scope| !scope.entered) {
            if let Some((name, path, stat)) = scope.waiting.take() {
                self.sink.enter(&name, &path, &stat)?;
            }
            scope.entered = true;
        }
        Ok(())
    }
}

impl<S: Sink> Visitor for Selecting<'_, S> {
    type Error = S::Error;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, S::Error> {
        let (verdict, marks) = self.verdict(entry);
        if verdict == Verdict::Not {
            return Ok(Descend::Skip);
        }
        if !entry.kind().is_dir() {
            self.flush()?;
            self.sink.leaf(entry)?;
            return Ok(Descend::Skip);
        }
        let waiting = Some((entry.name.to_vec(), entry.path.to_vec(), *entry.stat));
        self.scopes.push(Scope { marks, waiting, entered: false });
        if verdict == Verdict::Meant {
            self.flush()?;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), S::Error> {
        let scope = self.scopes.pop().expect("every leave has its visit");
        if scope.entered { self.sink.leave(entry) } else { Ok(()) }
    }
}
