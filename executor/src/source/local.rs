//! The build context, read in place: no upload, no copy.
//!
//! In: a directory of the user, ignore patterns, a [`Selection`]. Out: the digest of exactly what is selected, and the
//! same entries for a copy. A digest covers names, types, modes, link targets, extended attributes and bytes; every
//! entry counts as owned by 0:0, and times never count. Which names share a file does not count either, and such names
//! become files of their own in a copy, so that equal digests give equal copies.
//!
//! A context belongs to somebody who may change it at any time. What was digested is remembered by its looks (inode,
//! size, times), and a copy that meets another look stops: no result is ever recorded under the key of other content.
//! FIFOs and devices are never opened; sockets are skipped.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::op::{SourceOp, attr};
use solver::seam::Selection;

use super::SourceError;
use crate::select::Patterns;
use crate::select::tree::{self, Effect, Filter, Match, Rule, RuleScope, Sink, Wanted, walk_selected};
use crate::tree::copy::{open_file, same_moment};
use crate::tree::walk::Entry;
use crate::tree::{Root, TreeError, attrs, data, joined, shown};

/// First field of every digest: another form of it has another version.
const FORM: &[u8] = b"rbuild selection 1";
/// Files that are open and hashed at once.
const WAVE_FILES: usize = 128;
/// Read at once per file.
const READ_BYTES: usize = 128 * 1024;

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

/// Looks of the entries of a selection by path, in the order of the walk.
pub(crate) type Looks = HashMap<Vec<u8>, [u8; 16]>;

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
    pub fn digest_selected(
        &self,
        patterns: &LocalPatterns,
        selection: &Selection,
    ) -> Result<(ContentDigest, Vec<String>), SourceError> {
        let copy = CopyPatterns::new(&selection.include_patterns, &selection.exclude_patterns)?;
        let filter = copy.filter(Some(patterns));
        let mut digesting = Digesting::default();
        for found in self.find(patterns, selection, &filter)? {
            self.digest_match(&found, selection, &filter, &mut digesting).map_err(|error| self.tree_error(error))?;
        }
        digesting.hash_files().map_err(|error| self.tree_error(error))?;
        let skipped = digesting.sockets.iter().map(|path| shown(path)).collect();
        let looks = Arc::new(std::mem::take(&mut digesting.looks));
        let key = self.key(patterns, selection);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key, looks);
        Ok((digesting.finish(), skipped))
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
        let is_pattern = selection.wildcard && crate::select::glob::has_wildcard(&selection.path);
        if !is_pattern {
            for one in &found {
                if one.place.stat.is_none() {
                    return Err(self.not_found(selection));
                }
                if !self.is_visible(one, filter).map_err(|error| self.tree_error(error))? {
                    let ignored = self.ignored(patterns, &one.place.path, &selection.path);
                    return Err(ignored.unwrap_or_else(|| self.not_found(selection)));
                }
            }
            return Ok(found);
        }
        let mut visible = Vec::new();
        for one in found {
            if self.is_visible(&one, filter).map_err(|error| self.tree_error(error))? {
                visible.push(one);
            }
        }
        if visible.is_empty() && !selection.allow_empty_wildcard {
            return Err(SourceError::NothingMatches {
                pattern: selection.path.trim_start_matches('/').to_owned(),
                context: self.context.clone(),
            });
        }
        Ok(visible)
    }

    /// Whether the source's patterns leave anything of a match.
    fn is_visible(&self, found: &Match, filter: &Filter<'_>) -> Result<bool, TreeError> {
        let source_rules = || filter.rules.iter().filter(|rule| rule.scope == RuleScope::Source);
        let path = &found.place.path;
        let hidden = source_rules().any(|rule| rule.patterns.matches(path) != (rule.effect == Effect::KeepOnly));
        if !hidden || path.is_empty() || !found.place.is_dir() {
            return Ok(!hidden || path.is_empty());
        }
        // A directory that is left out is there all the same when a later pattern takes back something in it.
        let rules = source_rules().map(|rule| Rule { patterns: rule.patterns, effect: rule.effect, scope: rule.scope });
        let mut first = FirstEntry(false);
        walk_selected(found.place.open_dir()?, path, &Filter { rules: rules.collect() }, &mut first)?;
        Ok(first.0)
    }

    fn not_found(&self, selection: &Selection) -> SourceError {
        let path = crate::select::patterns::clean(&selection.path);
        let path = path.trim_start_matches('/').to_owned();
        SourceError::NotFound { path: shown(path.as_bytes()), context: self.context.clone() }
    }

    fn ignored(&self, patterns: &LocalPatterns, path: &[u8], asked: &str) -> Option<SourceError> {
        let (position, pattern) = patterns.exclude.matched_by(path)?;
        Some(SourceError::Ignored {
            path: shown(crate::select::patterns::clean(asked).trim_start_matches('/').as_bytes()),
            context: self.context.clone(),
            pattern: pattern.to_owned(),
            position,
        })
    }

    fn digest_match(
        &self,
        found: &Match,
        selection: &Selection,
        filter: &Filter<'_>,
        digesting: &mut Digesting,
    ) -> Result<(), TreeError> {
        let place = &found.place;
        let Some(stat) = &place.stat else { return Ok(()) };
        digesting.base = place.path.clone();
        digesting.prefix = found.base.clone();
        if !place.is_dir() {
            if filter.takes_leaf(&found.base, &place.path) {
                digesting.prefix.clear();
                let entry = Entry { dir: place.dir.as_fd(), name: &place.name, path: &found.base, stat };
                digesting.base = parent(&place.path).to_vec();
                digesting.leaf_called(&entry, &place.path)?;
            }
            return Ok(());
        }
        if selection.dir_contents_only {
            digesting.prefix.clear();
        } else {
            let entry = Entry { dir: place.dir.as_fd(), name: &place.name, path: b"", stat };
            digesting.prefix = found.base.clone();
            digesting.add(&entry, &[], &[])?;
        }
        // That there is a directory at all counts, whatever is in it.
        digesting.matches.push((found.base.clone(), selection.dir_contents_only));
        walk_selected(place.open_dir()?, &place.path, filter, digesting)
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |slash| &path[..slash])
}

/// Whether anything comes.
struct FirstEntry(bool);

impl Sink for FirstEntry {
    type Error = TreeError;
    fn enter(&mut self, _name: &[u8], _path: &[u8], _stat: &Stat) -> Result<(), TreeError> {
        self.0 = true;
        Ok(())
    }
    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
    fn leaf(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        self.0 = true;
        Ok(())
    }
}

/// What a file looked like: enough to see that it was changed, short enough to keep for every file.
pub(crate) fn look(stat: &Stat) -> [u8; 16] {
    let mut hash = Sha256::new();
    for number in [stat.st_dev as i128, stat.st_ino as i128, i128::from(stat.st_mode), stat.st_size as i128] {
        hash.update(number.to_le_bytes());
    }
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    // A directory's time changes with entries that may not even be selected; its entries are looked at themselves.
    if !is_dir {
        for number in
            [stat.st_mtime as i128, stat.st_mtime_nsec as i128, stat.st_ctime as i128, stat.st_ctime_nsec as i128]
        {
            hash.update(number.to_le_bytes());
        }
    }
    let full: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| full[i])
}

/// The digest of a selection while it is made.
#[derive(Default)]
struct Digesting {
    /// Path in the source of the directory that is walked.
    base: Vec<u8>,
    /// What its entries' names begin with.
    prefix: Vec<u8>,
    /// Names of matched directories, and whether the name counts for nothing.
    matches: Vec<(Vec<u8>, bool)>,
    /// Digest of each entry by its name in the selection.
    entries: Vec<(Vec<u8>, [u8; 32])>,
    /// Files that are open and not hashed yet.
    wave: Vec<OpenFile>,
    looks: Looks,
    sockets: Vec<Vec<u8>>,
}

struct OpenFile {
    name: Vec<u8>,
    /// Path in the source, for messages.
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
    header: Sha256,
}

impl Digesting {
    /// Counts an entry whose content is `link`.
    fn add(&mut self, entry: &Entry<'_>, link: &[u8], rest: &[u8]) -> Result<(), TreeError> {
        let name = joined(&self.prefix, entry.path);
        let header = self.header(entry, &name, link, rest)?;
        self.entries.push((name, header.finalize().into()));
        Ok(())
    }

    /// Everything but bytes, every field with its length.
    fn header(&self, entry: &Entry<'_>, name: &[u8], link: &[u8], rest: &[u8]) -> Result<Sha256, TreeError> {
        let full = joined(&self.base, entry.path);
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(name);
        let is_link = entry.kind() == FileType::Symlink;
        // A link's own mode means nothing; some file systems say something else than 0777.
        let mode = if is_link { FileType::Symlink.as_raw_mode() | 0o777 } else { entry.stat.st_mode };
        field(&mode.to_le_bytes());
        field(link);
        field(rest);
        let xattrs = attrs::xattrs(entry.dir, entry.name).map_err(TreeError::io("read attributes of", &full))?;
        for (name, value) in &xattrs {
            field(name);
            field(value);
        }
        Ok(hash)
    }

    fn leaf_called(&mut self, entry: &Entry<'_>, full: &[u8]) -> Result<(), TreeError> {
        self.looks.insert(full.to_vec(), look(entry.stat));
        match entry.kind() {
            FileType::RegularFile => {
                let name = joined(&self.prefix, entry.path);
                let shown_entry = Entry { path: full, ..*entry };
                let fd = open_file(&shown_entry)?;
                let header = self.header(entry, &name, &[], &[])?;
                self.wave.push(OpenFile { name, path: full.to_vec(), fd, stat: *entry.stat, header });
                if self.wave.len() >= WAVE_FILES { self.hash_files() } else { Ok(()) }
            }
            FileType::Symlink => {
                let target =
                    fs::readlinkat(entry.dir, entry.name, Vec::new()).map_err(TreeError::io("read link", full))?;
                self.add(entry, target.as_bytes(), &[])
            }
            FileType::Socket => {
                self.sockets.push(full.to_vec());
                Ok(())
            }
            _ => self.add(entry, &[], &entry.stat.st_rdev.to_le_bytes()),
        }
    }

    fn hash_files(&mut self) -> Result<(), TreeError> {
        let hashed: Result<Vec<_>, TreeError> =
            std::mem::take(&mut self.wave).into_par_iter().map(OpenFile::digest).collect();
        self.entries.extend(hashed?);
        Ok(())
    }

    fn finish(mut self) -> ContentDigest {
        self.entries.sort_unstable();
        self.matches.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(FORM);
        hash.update((self.matches.len() as u64).to_le_bytes());
        for (name, contents_only) in &self.matches {
            let name: &[u8] = if *contents_only { b"" } else { name };
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
        }
        for (_, digest) in &self.entries {
            hash.update(digest);
        }
        ContentDigest(hash.finalize().into())
    }
}

impl Sink for Digesting {
    type Error = TreeError;

    fn enter(&mut self, _name: &[u8], path: &[u8], stat: &Stat) -> Result<(), TreeError> {
        self.looks.insert(joined(&self.base, path), look(stat));
        Ok(())
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.add(entry, &[], &[])
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.leaf_called(entry, &joined(&self.base, entry.path))
    }
}

impl OpenFile {
    fn digest(mut self) -> Result<(Vec<u8>, [u8; 32]), TreeError> {
        let changed = || TreeError::Changed { path: shown(&self.path) };
        let length = self.stat.st_size as u64;
        self.header.update(length.to_le_bytes());
        let mut buffer = vec![0; READ_BYTES.min(length.max(1) as usize)];
        let mut at = 0;
        while at < length {
            let got = data::read_some(self.fd.as_fd(), &mut buffer, at).map_err(TreeError::io("read", &self.path))?;
            if got == 0 {
                return Err(changed());
            }
            self.header.update(&buffer[..got]);
            at += got as u64;
        }
        let after = fs::fstat(&self.fd).map_err(TreeError::io("look at", &self.path))?;
        if at != length || !same_moment(&self.stat, &after) {
            return Err(changed());
        }
        Ok((self.name, self.header.finalize().into()))
    }
}
