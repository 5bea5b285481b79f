//! What must be there: paths and patterns that a copy names one by one (`COPY --parents`).
//!
//! In: a tree, the matched directories in it, the names beneath these. Out: the first name that leads to nothing, and
//! why. Links are not followed on the way: a copy that keeps directories copies a link as one, and what is behind it is
//! not beneath it. `--exclude` does not count: what it leaves out, somebody wanted to be left out.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat};
use solver::pattern::Patterns;
use solver::pattern::glob::has_wildcard;
use solver::pattern::patterns::clean;

use super::tree::{Effect, Filter, Match, Rule, RuleScope, SelectError, Sink, unescaped, walk_selected};
use crate::tree::walk::Entry;
use crate::tree::{Found, Root, TreeError, joined};

/// A name that leads to nothing.
pub(crate) enum Unmet {
    /// A pattern that nothing matches.
    Pattern(String),
    /// A path, from the root, at which nothing is.
    Missing(Vec<u8>),
    /// A path on the way to which there is a link.
    Through { path: Vec<u8>, link: Vec<u8> },
    /// A path that the rules of the source leave out.
    LeftOut(Vec<u8>),
}

impl Unmet {
    /// With the paths of an image, which begin with `/`.
    pub fn absolute(self) -> Self {
        let absolute = |path: Vec<u8>| [&b"/"[..], &path].concat();
        match self {
            Self::Pattern(pattern) => Self::Pattern(format!("/{pattern}")),
            Self::Missing(path) => Self::Missing(absolute(path)),
            Self::Through { path, link } => Self::Through { path: absolute(path), link: absolute(link) },
            Self::LeftOut(path) => Self::LeftOut(absolute(path)),
        }
    }
}

/// The first of `names` that leads to nothing beneath any of the directories `found`. A pattern may do so if
/// `allow_empty`.
pub(crate) fn first_unmet(
    root: &Root,
    found: &[Match],
    names: &[String],
    allow_empty: bool,
    filter: &Filter<'_>,
) -> Result<Option<Unmet>, SelectError> {
    for name in names {
        if has_wildcard(name) {
            if !allow_empty && !is_met(root, found, name, filter)? {
                return Ok(Some(Unmet::Pattern(name.clone())));
            }
            continue;
        }
        let mut unmet = None;
        for one in found {
            match follow(root, one, name)? {
                Ok(place) if is_left(root, filter, &place)? => {
                    unmet = None;
                    break;
                }
                Ok(place) => unmet = Some(Unmet::LeftOut(place.path)),
                Err(why) => unmet = unmet.or(Some(why)),
            }
        }
        if unmet.is_some() {
            return Ok(unmet);
        }
    }
    Ok(None)
}

/// Follows a plain name from a matched directory, whose path is without links.
fn follow(root: &Root, from: &Match, name: &str) -> Result<Result<Found, Unmet>, TreeError> {
    let cleaned = clean(&format!("/{}", unescaped(name)));
    let whole = joined(&from.place.path, &cleaned.as_bytes()[1..]);
    let mut path = from.place.path.clone();
    let mut place = root.resolve_no_follow(&path)?;
    for component in cleaned.split('/').filter(|component| !component.is_empty()) {
        match &place.stat {
            Some(_) if place.is_dir() => {}
            Some(stat) if FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                return Ok(Err(Unmet::Through { path: whole, link: path }));
            }
            _ => return Ok(Err(Unmet::Missing(whole))),
        }
        path = joined(&path, component.as_bytes());
        place = root.resolve_no_follow(&path)?;
    }
    Ok(if place.stat.is_some() { Ok(place.let_go()) } else { Err(Unmet::Missing(whole)) })
}

/// Whether any of the directories holds something that the pattern matches and the rules of the source leave.
fn is_met(root: &Root, found: &[Match], pattern: &str, filter: &Filter<'_>) -> Result<bool, SelectError> {
    let only = Patterns::new(&[pattern])?;
    for one in found.iter().filter(|one| one.place.is_dir()) {
        let only = Rule { patterns: &only, effect: Effect::KeepOnly, scope: RuleScope::Match };
        let rules = source_rules(filter).chain([only]).collect();
        if holds_anything(root.reopen(&one.place)?.open_dir()?, &one.place.path, &Filter { rules })? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn source_rules<'a>(filter: &'a Filter<'a>) -> impl Iterator<Item = Rule<'a>> {
    let rules = filter.rules.iter().filter(|rule| rule.scope == RuleScope::Source);
    rules.map(|rule| Rule { patterns: rule.patterns, effect: rule.effect, scope: rule.scope })
}

/// Whether the rules of the source leave anything of what is there.
pub(crate) fn is_left(root: &Root, filter: &Filter<'_>, place: &Found) -> Result<bool, TreeError> {
    let path = &place.path;
    let hidden = source_rules(filter).any(|rule| rule.patterns.matches(path) != (rule.effect == Effect::KeepOnly));
    if !hidden || path.is_empty() || !place.is_dir() {
        return Ok(!hidden || path.is_empty());
    }
    // A directory that is left out is there all the same when a later pattern takes back something in it.
    holds_anything(root.reopen(place)?.open_dir()?, path, &Filter { rules: source_rules(filter).collect() })
}

/// Whether a filter leaves anything of a directory.
fn holds_anything(dir: OwnedFd, base: &[u8], filter: &Filter<'_>) -> Result<bool, TreeError> {
    match walk_selected(dir, base, filter, &mut First) {
        Ok(()) => Ok(false),
        Err(Stop::Found) => Ok(true),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Stops at whatever comes first.
struct First;

enum Stop {
    Found,
    Failed(TreeError),
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Self {
        Self::Failed(error)
    }
}

impl Sink for First {
    type Error = Stop;

    fn enter(&mut self, _name: &[u8], _path: &[u8], _stat: &Stat) -> Result<(), Stop> {
        Err(Stop::Found)
    }

    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn leaf(&mut self, _entry: &Entry<'_>) -> Result<(), Stop> {
        Err(Stop::Found)
    }
}
