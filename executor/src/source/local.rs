//! The build context, read in place: no upload, no copy.
//!
//! In: a directory of the user, ignore patterns, a [`Selection`]. Out: the digest of exactly what is selected (made in
//! [`super::digest`]), and the same entries for a copy.
//!
//! A context belongs to somebody who may change it at any time. What was digested is remembered by its looks (inode,
//! size, times), and a copy that meets another look stops; what may have changed and look the same is compared once it is
//! copied. So no result is ever recorded under the key of other content.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, Mode, OFlags};
use solver::key::ContentDigest;
use solver::op::{SourceOp, attr};
use solver::seam::Selection;
use store::{Store, StoreError};

use super::SourceError;
use super::digest::{Digested, Digesting, Listing, Looks};
use super::look::Moment;
use super::stat_cache::StatCache;
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
    seen: Mutex<HashMap<SeenKey, Arc<Listing>>>,
    /// What is known of its files; whoever digests has it.
    cache: Mutex<StatCache>,
    /// How many wait for that.
    waiting: AtomicUsize,
    /// The clock that files get their times from.
    clock: fn() -> Moment,
}

type SeenKey = (Selection, Vec<String>, Vec<String>);

impl Drop for LocalSource {
    fn drop(&mut self) {
        self.keep();
    }
}

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
            if !source.exclude.is_empty() {
                rules.push(rule(&source.exclude, Effect::LeaveOut, RuleScope::Source));
            }
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
        let (seen, cache, waiting) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        Ok(Self { context, root: Root::new(fd), seen, cache, waiting, clock: Moment::now })
    }

    /// How it is called in messages.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The tree beneath it.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Its root directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// Remembers from build to build what its files contain. A context within the store itself is made anew by every
    /// build, and nothing of it is remembered.
    pub(crate) fn remember_in(&self, store: &Store) -> Result<(), SourceError> {
        let link = format!("/proc/self/fd/{}", self.root.fd().as_raw_fd());
        let path = std::fs::read_link(&link).map_err(|source| SourceError::Open {
            path: link,
            context: self.context.clone(),
            source,
        })?;
        if !path.starts_with(store.root()) {
            *self.lock_cache() = StatCache::load(store, path.as_os_str().as_bytes())?;
        }
        Ok(())
    }

    /// Digest of what `selection` selects. Blocks; looks at everything that is selected and reads what is not known of
    /// it, on all cores. Digests of one context wait for each other, so that nothing is read twice.
    ///
    /// # Errors
    /// When nothing is there (naming the ignore pattern, when one leaves it out), when something cannot be read, when
    /// something changes meanwhile, and soon after `stop` says so.
    pub(crate) fn digest_selected(
        &self,
        patterns: &LocalPatterns,
        selection: &Selection,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Digested, SourceError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut cache = self.lock_cache();
        let is_last = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
        let key = self.key(patterns, selection);
        if let Some(listing) = self.seen().get(&key) {
            return Ok(Digested::known(listing.digest()));
        }
        let copy = CopyPatterns::new(&selection.include_patterns, &selection.exclude_patterns)?;
        let filter = copy.filter(Some(patterns));
        // Before anything is looked at.
        let moment = (self.clock)();
        let found = self.find(patterns, selection, &filter)?;
        let made =
            Digesting { root: &self.root, filter: &filter, cache: &cache, moment, stop }.digest(&found, selection);
        let (digested, listing) = made.map_err(|error| self.tree_error(error))?;
        cache.learn(&listing.directories);
        self.seen().insert(key, listing);
        // Of several that are made one after the other, the last keeps what all have found; what little others add is kept
        // at the end.
        if is_last && cache.is_due() {
            self.save(&mut cache)?;
        }
        tracing::debug!(context = self.context, read = digested.read, "digested");
        Ok(digested)
    }

    /// Keeps what this build has learned of its files and has not kept yet. It may be lost: then the next build reads again.
    pub(crate) fn keep(&self) {
        if let Err(error) = self.save(&mut self.lock_cache()) {
            tracing::debug!(context = self.context, %error, "what is known of the files is not kept");
        }
    }

    fn save(&self, cache: &mut StatCache) -> Result<(), StoreError> {
        let seen = self.seen();
        let counted = seen.values().flat_map(|listing| &listing.directories);
        cache.save(counted.map(|directory| directory.path.as_slice()))
    }

    /// What was digested for this selection, if it was.
    pub(crate) fn looks(&self, patterns: &LocalPatterns, selection: &Selection) -> Option<Looks> {
        self.seen().get(&self.key(patterns, selection)).cloned().map(Looks::of)
    }

    /// The digest of this selection, if it was made.
    pub(crate) fn digest_of(&self, patterns: &LocalPatterns, selection: &Selection) -> Option<ContentDigest> {
        self.seen().get(&self.key(patterns, selection)).map(|listing| listing.digest())
    }

    /// With another clock.
    #[cfg(test)]
    pub(super) fn with_clock(mut self, clock: fn() -> Moment) -> Self {
        self.clock = clock;
        self
    }

    fn lock_cache(&self) -> MutexGuard<'_, StatCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<SeenKey, Arc<Listing>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
                if !is_left(&self.root, filter, &one.place).map_err(|error| self.tree_error(error))? {
                    let ignored = self.ignored(patterns, &one.place.path, &selection.path);
                    return Err(ignored.unwrap_or_else(|| self.not_found(selection)));
                }
            }
            self.check_required(patterns, selection, filter, &found)?;
            return Ok(found);
        }
        let mut visible = Vec::new();
        for one in found {
            if is_left(&self.root, filter, &one.place).map_err(|error| self.tree_error(error))? {
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
