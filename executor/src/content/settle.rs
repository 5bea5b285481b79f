//! A fresh result that is what the same operation made before gives way to it.
//!
//! In: what an operation has just made, and what it made on any inputs. Out: the known results, if each stands on the same
//! parent as its fresh one and holds the same, and else the fresh ones. All outputs are exchanged or none. So whatever
//! stood on the known results still stands on them, on the very trees, with the very times, that it was made on.
//!
//! The known record keeps its own times and what it knows of its making ([`store::Made`]), and that is right also with
//! `SOURCE_DATE_EPOCH`: which times in a tree are the build's own is told by when that tree was made, and what the tar
//! says is the epoch for those, in the one record as in the other. Both must be of one kind, though, on an image or not,
//! with files of a context or not, as other rules hold for these.
//!
//! Of copies from a context that changed nothing on their way it is noted what they took ([`Worker::note_selected`]): who
//! took something else made something else, and nobody has to read both.
//!
//! Results of merges have the same ids whenever they are made: nothing is to be exchanged.

use solver::key::ContentDigest;
use solver::seam::ResultId;
use store::Layer;
use tokio_util::sync::CancellationToken;

use crate::error::ExecError;
use crate::layers::LayersError;
use crate::worker::Worker;

/// Notes of what a copy took, by its result.
const NOTES: &str = "copied";

impl Worker {
    /// Notes what a copy took from a context, by the digests of its selections. Blocking.
    pub(crate) fn note_selected(&self, result: &ResultId, selected: &[ContentDigest]) -> Result<(), ExecError> {
        Ok(self.store().set_note(NOTES, result.as_str(), &selected_text(selected))?)
    }

    /// Whether two results of one operation took the same, if that is noted of both. Blocking.
    fn took_same(&self, one: &ResultId, other: &ResultId) -> Result<Option<bool>, ExecError> {
        let (one, other) = (self.store().note(NOTES, one.as_str())?, self.store().note(NOTES, other.as_str())?);
        Ok(one.zip(other).map(|(one, other)| one == other))
    }

    /// As [`solver::seam::Executor::settle`] says.
    pub(crate) async fn settled(
        &self,
        fresh: Vec<ResultId>,
        known: &[Vec<ResultId>],
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        for candidates in known.iter().filter(|known| known.len() == fresh.len()) {
            if *candidates == fresh {
                break;
            }
            if self.are_same(&fresh, candidates, cancel).await? {
                return self.exchange(fresh, candidates).await;
            }
        }
        Ok(fresh)
    }

    async fn are_same(
        &self,
        fresh: &[ResultId],
        known: &[ResultId],
        cancel: &CancellationToken,
    ) -> Result<bool, ExecError> {
        let pairs: Vec<_> =
            fresh.iter().cloned().zip(known.iter().cloned()).filter(|(one, other)| one != other).collect();
        // What is cheap comes first, for all of them.
        let comparable = self.blocking(move |worker| {
            let mut comparable = Vec::new();
            for (fresh, known) in &pairs {
                match worker.comparable(fresh, known)? {
                    Some(pair) => comparable.push(pair),
                    None => return Ok(None),
                }
            }
            Ok(Some(comparable))
        });
        let Some(pairs) = comparable.await? else { return Ok(false) };
        for (fresh, known) in pairs.into_iter().flatten() {
            if self.layer_content(fresh, cancel).await? != self.layer_content(known, cancel).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The two records, if all but their content is the same, unless that is known to be the same too. Blocking.
    fn comparable(&self, fresh: &ResultId, known: &ResultId) -> Result<Option<Option<(Layer, Layer)>>, ExecError> {
        let (Some(fresh), Some(known)) = (self.store().layer(fresh)?, self.store().layer(known)?) else {
            return Ok(None);
        };
        let look = |layer: &Layer| (layer.parent.clone(), layer.empty, layer.pulled, layer.times);
        let made = |layer: &Layer| (layer.on_base, layer.from_context);
        if look(&fresh) != look(&known) || made(&fresh) != made(&known) {
            return Ok(None);
        }
        // Without a tree it would have to be fetched, and the fresh one is here; unless it is a tar that is here as well.
        let is_here = known.empty || known.name.is_some();
        let is_tar = !is_here && known.blob.is_some() && known.came_as().is_none();
        Ok(match self.took_same(&fresh.id, &known.id)? {
            Some(false) => None,
            Some(true) if is_tar && self.is_whole(&known)? => Some(None),
            _ if is_here => Some(Some((fresh, known))),
            _ => None,
        })
    }

    /// Whether the blob of a layer is here. Blocking.
    fn is_whole(&self, layer: &Layer) -> Result<bool, ExecError> {
        let Some(blob) = &layer.blob else { return Ok(false) };
        let act = "look at";
        let failed = |source| LayersError::Content { act, layer: layer.id.clone(), source };
        Ok(self.store().blobs().size(&blob.digest).map_err(failed)? == Some(blob.size))
    }

    async fn exchange(&self, fresh: Vec<ResultId>, known: &[ResultId]) -> Result<Vec<ResultId>, ExecError> {
        let known = known.to_vec();
        self.blocking(move |worker| {
            for (fresh, known) in fresh.iter().zip(&known).filter(|(fresh, known)| fresh != known) {
                tracing::debug!(%fresh, %known, "a step made what it made before");
                if !worker.store().drop_fresh_layer(fresh)? {
                    tracing::debug!(%fresh, "somebody has come to use it, so it stays");
                }
            }
            Ok(known)
        })
        .await
    }
}

/// A list of digests as JSON.
fn selected_text(selected: &[ContentDigest]) -> String {
    let digests: Vec<String> = selected.iter().map(|digest| format!("\"{digest}\"")).collect();
    format!("[{}]", digests.join(","))
}
