//! The build context, read in place: no upload, no copy.
//!
//! In: a directory of the user, ignore patterns, a [`Selection`]. Out: the digest of exactly what is selected (made in
//! [`super::digest`]), and the same entries for a copy.
//!
//! A context belongs to somebody who may change it at any time. What was digested is remembered by its looks (inode,
//! size, times), and a copy that meets another look stops: no result is ever recorded under the key of other content.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, Mode, OFlags};
use solver::op::{SourceOp, attr};
use solver::seam::Selection;

use super::SourceError;
use super::digest::{Digested, Digesting, Looks};
use crate::select::Patterns;
use crate::select::required::{Unmet, first_unmet, is_left};
use crate::select::tree::{self, Effect, Filter, Match, Rule, RuleScope, Wanted};
use crate::tree::{Root, TreeError, shown};

/// A directory of the user.
#[derive(Debug)]
pub struct LocalSource {
    /// How it is called in messages: `the build context`.
    context: String,
    root: Root,
    /// What was digested, by selection and patterns.
    seen: Mutex<HashMap<SeenKey, Arc<Looks>>>,
}

type SeenKey = (Selection, Vec<String>, Vec<String>);

/// The ignore and include patterns of a source operation.
#[derive(Debug, Default)]
pub struct LocalPatterns {
    exclude_lines: Vec<String>,
    include_lines: Vec<String>,
    exclude: Patterns,
    include: Option<Patterns>,
}

impl LocalPatterns {
    /// Reads [`attr::EXCLUDE_PATTERNS`] and [`attr::INCLUDE_PATTERNS`].
    pub fn of(source: &SourceOp) -> Result<Self, SourceError> {
        let list = |name: &'static str| -> Result<Option<Vec<String>>, SourceError> {
            let Some(text) = source.attrs.get(name) else { return Ok(None) };
            let bad = |error: serde_json::Error| SourceError::Attribute {
                name,
                identifier: source.identifier.clone(),
                reason: error.to_string(),
            };
            serde_json::from_str(text).map(Some).map_err(bad)
        };
        let exclude_lines = list(attr::EXCLUDE_PATTERNS)?.unwrap_or_default();
        let include_lines = list(attr::INCLUDE_PATTERNS)?;
        Ok(Self {
            exclude: Patterns::new(&exclude_lines)?,
            include: include_lines.as_deref().map(Patterns::new).transpose()?,
            exclude_lines,
            include_lines: include_lines.unwrap_or_default(),
        })
    }

    /// The ignore pattern by which `path`, relative to the source, is left out: its position in the list (from 0) and
    /// its text.
    pub fn excluded_by(&self, path: &str) -> Option<(usize, &str)> {
        self.exclude.matched_by(path.trim_matches('/').as_bytes())
    }
}

/// `--exclude` and the like of one operation.
#[derive(Debug, Default)]
pub(crate) struct CopyPatterns {
    pub include: Option<Patterns>,
    pub exclude: Option<Patterns>,
}

impl CopyPatterns {
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, SourceError> {
        let some = |lines: &[String]| (!lines.is_empty()).then(|| Patterns::new(lines)).transpose();
        Ok(Self { include: some(include)?, exclude: some(exclude)? })
    }

    /// The filter of these and of the source's own patterns.
    pub fn filter<'a>(&'a self, source: Option<&'a LocalPatterns>) -> Filter<'a> {
        let rule = |patterns, effect, scope| Rule { patterns, effect, scope };
        let mut rules = Vec::new();
        if let Some(source) = source {
            rules.push(rule(&source.exclude, Effect::LeaveOut, RuleScope::Source));
            rules.extend(source.include.as_ref().map(|only| rule(only, Effect::KeepOnly, RuleScope::Source)));
        }
        rules.extend(self.exclude.as_ref().map(|out| rule(out, Effect::LeaveOut, RuleScope::Match)));
        rules.extend(self.include.as_ref().map(|only| rule(only, Effect::KeepOnly, RuleScope::Match)));
        Filter { rules }
    }
}

impl LocalSource {
    /// Opens a directory; `name` is the source's name in the graph.
    pub fn open(name: &str, path: &Path) -> Result<Self, SourceError> {
        let context = if name == "context" { "the build context".to_owned() } else { format!("the context `{name}`") };
        // The user's own path: links in it are the user's.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|errno| SourceError::Open {
            path: path.display().to_string(),
            context: context.clone(),
            source: errno.into(),
        })?;
        Ok(Self { context, root: Root::new(fd), seen: Mutex::default() })
    }

    /// How it is called in messages.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Its root directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// Digest of what `selection` selects. Blocks; reads every selected byte, on all cores.
    ///
    /// # Errors
    /// When nothing is there (naming the ignore pattern, when one leaves it out), when something cannot be read, and
    /// when something changes meanwhile.
    pub(crate) fn digest_selected(
        &self,
        patterns: &LocalPatterns,
        selection: &Selection,
    ) -> Result<Digested, SourceError> {
        let copy = CopyPatterns::new(&selection.include_patterns, &selection.exclude_patterns)?;
        let filter = copy.filter(Some(patterns));
        let mut digesting = Digesting::default();
        for found in self.find(patterns, selection, &filter)? {
            digesting.add_match(&found, selection, &filter).map_err(|error| self.tree_error(error))?;
        }
        let mut made = digesting.finish();
        let key = self.key(patterns, selection);
        let looks = std::mem::take(&mut made.looks);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(looks));
        Ok(made)
    }

    /// What was digested for this selection, if it was.
    pub(crate) fn looks(&self, patterns: &LocalPatterns, selection: &Selection) -> Option<Arc<Looks>> {
        let key = self.key(patterns, selection);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn key(&self, patterns: &LocalPatterns, selection: &Selection) -> SeenKey {
        (selection.clone(), patterns.exclude_lines.clone(), patterns.include_lines.clone())
    }

    fn tree_error(&self, source: TreeError) -> SourceError {
        SourceError::Tree { context: self.context.clone(), source }
    }

    /// What the selection's path leads to, what is left out taken away.
    pub(crate) fn find(
        &self,
        patterns: &LocalPatterns,
        selection: &Selection,
        filter: &Filter<'_>,
    ) -> Result<Vec<Match>, SourceError> {
        let wanted =
            Wanted { path: &selection.path, wildcard: selection.wildcard, follow_symlinks: selection.follow_symlinks };
        let found = tree::find(&self.root, &wanted).map_err(|error| match error {
            tree::SelectError::Tree(TreeError::NotFound { .. } | TreeError::NotADirectory { .. }) => {
                self.not_found(selection)
            }
            error => SourceError::in_context(&self.context)(error),
        })?;
        let is_pattern = selection.wildcard && solver::pattern::glob::has_wildcard(&selection.path);
        if !is_pattern {
            for one in &found {
                if one.place.stat.is_none() {
                    return Err(self.not_found(selection));
                }
                if !is_left(filter, &one.place).map_err(|error| self.tree_error(error))? {
                    let ignored = self.ignored(patterns, &one.place.path, &selection.path);
                    return Err(ignored.unwrap_or_else(|| self.not_found(selection)));
                }
            }
            self.check_required(patterns, selection, filter, &found)?;
            return Ok(found);
        }
        let mut visible = Vec::new();
        for one in found {
            if is_left(filter, &one.place).map_err(|error| self.tree_error(error))? {
                visible.push(one);
            }
        }
        if visible.is_empty() && !selection.allow_empty_wildcard {
            return Err(SourceError::NothingMatches {
                pattern: selection.path.trim_start_matches('/').to_owned(),
                context: self.context.clone(),
            });
        }
        self.check_required(patterns, selection, filter, &visible)?;
        Ok(visible)
    }

    /// Every path that the copy names one by one must be there.
    fn check_required(
        &self,
        patterns: &LocalPatterns,
        selection: &Selection,
        filter: &Filter<'_>,
        found: &[Match],
    ) -> Result<(), SourceError> {
        let (names, allow_empty) = (&selection.required_paths, selection.allow_empty_wildcard);
        let unmet = first_unmet(&self.root, found, names, allow_empty, filter);
        match unmet.map_err(SourceError::in_context(&self.context))? {
            None => Ok(()),
            Some(Unmet::LeftOut(path)) => {
                let ignored = self.ignored(patterns, &path, &shown(&path));
                Err(ignored.unwrap_or(SourceError::NotFound { path: shown(&path), context: self.context.clone() }))
            }
            Some(unmet) => Err(SourceError::unmet(unmet, &self.context)),
        }
    }

    fn not_found(&self, selection: &Selection) -> SourceError {
        let path = solver::pattern::patterns::clean(&selection.path);
        let path = path.trim_start_matches('/').to_owned();
        SourceError::NotFound { path: shown(path.as_bytes()), context: self.context.clone() }
    }

    fn ignored(&self, patterns: &LocalPatterns, path: &[u8], asked: &str) -> Option<SourceError> {
        let (position, pattern) = patterns.exclude.matched_by(path)?;
        Some(SourceError::Ignored {
            path: shown(solver::pattern::patterns::clean(asked).trim_start_matches('/').as_bytes()),
            context: self.context.clone(),
            pattern: pattern.to_owned(),
            position,
        })
    }
}
