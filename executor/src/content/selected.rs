//! The digest of what an operation selects of a merged tree: what it copies from there, or mounts.
//!
//! In: a result and a [`Selection`], which means what it means to a copy. Out: one digest of the selected entries with
//! their owners. The tree is mounted for that; a whole image counts by its chain id instead, unpacked or not. Whether it
//! is an image counts too, as its times are content and those of a build's own layers are not.
//!
//! A selection that leads to nothing has no digest: the operation itself says what is wrong.

use std::time::Instant;

use rustix::fs::Stat;
use sha2::{Digest as _, Sha256};
use solver::key::ContentDigest;
use solver::seam::{ResultId, Selection};
use tokio_util::sync::CancellationToken;

use super::chain::stopped;
use super::entries::{Counted, Entries};
use super::locked;
use crate::error::ExecError;
use crate::ops::file::FileError;
use crate::ops::file::copy::find_in_result;
use crate::select::tree::{Match, Sink, walk_selected};
use crate::source::SourceError;
use crate::source::local::CopyPatterns;
use crate::tree::walk::Entry;
use crate::tree::{Root, TreeError};
use crate::worker::{Silent, Worker};

const FORM: &[u8] = b"rbuild selected content 1";
const WHOLE_IMAGE_FORM: &[u8] = b"rbuild whole image content 1";

impl Worker {
    pub(super) async fn selected_content(
        &self,
        result: &ResultId,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        let _alone = self.alone(format!("{selection:?} of {result}"), cancel).await?;
        let key = (result.clone(), selection.clone());
        if let Some(known) = locked(&self.contents().selected).get(&key) {
            return Ok(Some(*known));
        }
        self.ensure_blobs(result, &Silent, cancel).await?;
        let (result, selection, token) = (result.clone(), selection.clone(), cancel.clone());
        let made = self.on_core(cancel, move |worker| worker.digest_result(&result, &selection, &token)).await?;
        if let Some(made) = made {
            locked(&self.contents().selected).insert(key, made);
        }
        Ok(made)
    }

    /// Blocking.
    fn digest_result(
        &self,
        result: &ResultId,
        selection: &Selection,
        cancel: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ExecError> {
        let chain = self.layers().chain(result)?;
        let top = chain.last().and_then(|top| top.chain_id);
        let is_image = chain.iter().all(|layer| layer.pulled) || self.is_image(top.as_ref())?;
        if let (true, true, Some(chain_id)) = (is_image, is_whole(selection), &top) {
            let digest = Sha256::new().chain_update(WHOLE_IMAGE_FORM).chain_update(chain_id.as_bytes());
            return Ok(Some(ContentDigest(digest.finalize().into())));
        }
        let mounted = self.view(result)?;
        let (root, found) = match find_in_result(selection, &mounted) {
            Ok(found) => found,
            Err(error) if leads_nowhere(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let begun = Instant::now();
        let made = digest_matches(&root, &found, selection, is_image, cancel)?;
        Ok(made.map(|(digest, counted)| {
            self.meter().tell(result.as_str(), counted.work(begun));
            digest
        }))
    }
}

/// Whether everything is selected.
fn is_whole(selection: &Selection) -> bool {
    let Selection { path, include_patterns, exclude_patterns, required_paths, .. } = selection;
    let patterns = [include_patterns, exclude_patterns, required_paths];
    matches!(path.as_str(), "" | "/") && selection.dir_contents_only && patterns.iter().all(|list| list.is_empty())
}

fn leads_nowhere(error: &FileError) -> bool {
    match error {
        FileError::Glob(_) => true,
        FileError::Source(error) => match error {
            SourceError::NotFound { .. }
            | SourceError::NothingMatches { .. }
            | SourceError::ThroughLink { .. }
            | SourceError::Glob(_) => true,
            SourceError::Tree { source, .. } => {
                source.is_not_found() || matches!(source, TreeError::NotADirectory { .. } | TreeError::LinkLoop { .. })
            }
            _ => false,
        },
        _ => false,
    }
}

fn digest_matches(
    root: &Root,
    found: &[Match],
    selection: &Selection,
    is_image: bool,
    cancel: &CancellationToken,
) -> Result<Option<(ContentDigest, Counted)>, ExecError> {
    let Ok(patterns) = CopyPatterns::new(&selection.include_patterns, &selection.exclude_patterns) else {
        return Ok(None);
    };
    let filter = patterns.filter(None);
    let mut entries = Entries::new(FORM, cancel);
    entries.mark("from", if is_image { b"image" } else { b"build" }).map_err(stopped)?;
    for one in found {
        let Some(stat) = &one.place.stat else { return Ok(None) };
        let place = root.reopen(&one.place).map_err(stopped)?;
        if !place.is_dir() {
            if filter.takes_leaf(&one.base, &place.path) {
                let entry =
                    Entry { dir: std::os::fd::AsFd::as_fd(&place.dir), name: &place.name, path: &place.path, stat };
                entries.leaf(&entry, &one.base).map_err(stopped)?;
            }
            continue;
        }
        // Under which name a directory's contents come does not count.
        entries.mark("match", if selection.dir_contents_only { b"" } else { &one.base }).map_err(stopped)?;
        let dir = place.open_dir().map_err(stopped)?;
        entries.root(std::os::fd::AsFd::as_fd(&dir)).map_err(stopped)?;
        walk_selected(dir, &place.path, &filter, &mut entries).map_err(stopped)?;
    }
    let counted = entries.counted;
    Ok(Some((entries.finish().map_err(stopped)?, counted)))
}

impl Sink for Entries<'_> {
    type Error = TreeError;

    fn enter(&mut self, name: &[u8], _path: &[u8], _stat: &Stat) -> Result<(), TreeError> {
        Entries::enter(self, name)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.directory(entry)
    }

    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        Entries::leaf(self, entry, entry.name)
    }
}
