//! What goes out: the records of a build that is over, to every `--cache-to`, or into the image itself.
//!
//! In: the keys that the build's vertices had, and its final result. Out: caches. Layers become blobs here, once, as a
//! push makes them; those that came from another cache and are not here go from there. Failing is a warning, unless
//! `ignore-error=false` says otherwise. Deliberately absent: what is sent and in which order
//! ([`store::remote::send`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use oci::layer::Dialect;
use oci::model::Descriptor;
use serde_json::Value;
use solver::graph::Graph;
use solver::key::Key;
use solver::op::Op;
use solver::seam::{Event, LogSink as _, Progress, ResultId, Stream};
use store::remote::{Document, Selection, Sent, send};
use store::{Layer, Store};
use tokio_util::sync::CancellationToken;

use super::import::in_words;
use super::{Place, Remotes, Watch, mounts};
use crate::engine::task::{Task, in_background};
use crate::engine::{Failure, words};
use crate::options::cache::{CacheMode, CacheTo};

/// Blobs that are sent at a time, to places that do not say.
const PARALLEL: usize = 4;

/// What an export is made of.
pub struct Exports<'a> {
    /// Where the records are.
    pub store: &'a Store,
    /// Makes blobs.
    pub worker: &'a Worker,
    /// Where it goes; what other caches have; which key every vertex has.
    pub remotes: &'a Remotes,
    /// What was built.
    pub graph: &'a Graph,
    /// The final results, one per platform; none of an image of nothing.
    pub tops: &'a [ResultId],
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

impl Exports<'_> {
    /// Writes all of them, one after another.
    ///
    /// # Errors
    /// Of those that may not fail, the first; and when the user stops it.
    pub async fn write(&self) -> Result<(), Failure> {
        for (to, place) in &self.remotes.to {
            self.write_one(to, place).await?;
        }
        Ok(())
    }

    async fn write_one(&self, to: &CacheTo, place: &Place) -> Result<(), Failure> {
        let name = format!("exporting cache to {} {}", place.kind, place.remote.place());
        let task = Task::start(&name, self.progress);
        let sent = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return task.end(Err(words::canceled())),
            sent = self.send(to, place, &task) => sent,
        };
        match sent {
            Ok(sent) => {
                let text = match sent {
                    Sent { unchanged: true, .. } => "the cache there is the same; nothing was sent".to_owned(),
                    Sent { blobs, bytes, .. } => format!("sent {blobs} blobs, {bytes} bytes"),
                };
                task.log().write(Stream::Stdout, (text + "\n").as_bytes());
                task.end(Ok(()))
            }
            Err(failure) if to.ignore_error == Some(false) => task.end(Err(failure)),
            Err(failure) => {
                let problem = &failure.problems[0];
                let text = format!("the cache was not sent: {}", problem.message);
                self.progress.event(Event::Notice { vertex: task.vertex, text });
                task.end(Ok(()))
            }
        }
    }

    async fn send(&self, to: &CacheTo, place: &Place, task: &Task<'_>) -> Result<Sent, Failure> {
        let selection = self.select(to.mode).await?;
        let blobs = self.blobs(&selection, to, task).await?;
        let (ids, codec) = (if to.mounts { mounts::ids(self.graph) } else { BTreeSet::new() }, to.codec);
        let mut cache = in_background(self.store, move |store| {
            selection.cache(store, &blobs).map_err(|error| words::store(&error))
        })
        .await?;
        if !ids.is_empty() {
            let archived =
                self.worker.on_all_cores(self.cancel, move |worker| Ok(mounts::archived(worker.store(), &ids, &codec)));
            cache.mounts = archived.await.map_err(|error| words::exec(&error))??;
        }
        let document = in_background(self.store, move |_| Ok(Document::of(&cache))).await?;
        let heard = |blob: &Descriptor, done: bool| {
            self.progress.event(Event::Progress {
                vertex: task.vertex,
                name: format!("sending {}", blob.digest),
                current_bytes: if done { blob.size } else { 0 },
                total_bytes: Some(blob.size),
                done,
            });
        };
        let sent = send(&*place.remote, self.store, &document, &*self.remotes.imports, PARALLEL, &heard).await;
        sent.map_err(|error| Failure::new(in_words(&error)))
    }

    /// The records that go. What only another cache knows goes on to this one.
    async fn select(&self, mode: CacheMode) -> Result<Selection, Failure> {
        let keys = keys(&self.remotes.watch, self.graph);
        if mode == CacheMode::Max {
            for key in &keys {
                if self.store.lookup(key).map_err(|error| words::store(&error))?.is_none() {
                    self.remotes.imports.find(key).await.map_err(|error| words::store(&error))?;
                }
            }
        }
        let tops = self.tops.to_vec();
        in_background(self.store, move |store| select(store, &keys, mode, &tops)).await
    }

    /// A blob for every layer: as it was brought, or as it is made now.
    async fn blobs(
        &self,
        selection: &Selection,
        to: &CacheTo,
        task: &Task<'_>,
    ) -> Result<HashMap<ResultId, Descriptor>, Failure> {
        let wanted = [Dialect::Oci, Dialect::Docker].map(|dialect| to.codec.compression().layer_media_type(dialect));
        let mut blobs = HashMap::new();
        for layer in selection.layers() {
            let known = layer.came_as().cloned().map(crate::engine::export::as_oci);
            let taken = known.filter(|blob| !to.force_compression || wanted.contains(&blob.media_type.as_str()));
            // A tree was made of it, so it is right; else it is checked when it is brought.
            if let Some(blob) = taken {
                blobs.insert(layer.id.clone(), blob);
                continue;
            }
            if layer.name.is_none() {
                let brought = self.worker.ensure_blobs(&layer.id, &task.log(), self.cancel).await;
                brought.map_err(|error| words::exec(&error))?;
            }
            let (id, codec, force) = (layer.id.clone(), to.codec, to.force_compression);
            let made = self
                .worker
                .on_all_cores(self.cancel, move |worker| Ok(worker.layers().ensure_blob(&id, &codec, force)?));
            let made = made.await.map_err(|error| words::exec(&error))?;
            blobs.insert(layer.id.clone(), crate::engine::export::as_oci(made));
        }
        Ok(blobs)
    }
}

/// The keys of what was made, and of what was fetched as a whole, but for what is to stay here.
fn keys(watch: &Watch, graph: &Graph) -> Vec<Key> {
    let is_made = |vertex: &solver::graph::VertexId| {
        graph.get(vertex).is_some_and(|vertex| match &vertex.op {
            // Who knows the key of an image has the image.
            Op::Source(source) => !matches!(source.scheme(), "docker-image" | "oci-layout" | "local"),
            _ => true,
        })
    };
    let stays =
        |vertex: &solver::graph::VertexId| graph.meta(vertex).is_some_and(|meta| meta.export_cache == Some(false));
    let goes = |vertex: &solver::graph::VertexId| is_made(vertex) && !stays(vertex);
    let mut keys: Vec<Key> = watch.keys().into_iter().filter(|(vertex, _)| goes(vertex)).map(|(_, key)| key).collect();
    keys.sort();
    keys
}

fn select(store: &Store, keys: &[Key], mode: CacheMode, tops: &[ResultId]) -> Result<Selection, Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let mut selection = Selection::of(store, keys).map_err(failed)?;
    if mode == CacheMode::Min {
        let tops: Vec<&ResultId> = tops.iter().filter(|top| top.as_str() != SCRATCH).collect();
        if tops.is_empty() {
            return Ok(Selection::default());
        }
        selection.only_beneath(store, &tops).map_err(failed)?;
    }
    Ok(selection)
}

/// The records of an image's own steps, for its config. `chain` is its result's, every record with its `diff_id`.
/// Blocking.
pub fn inline(
    store: &Store,
    watch: &Watch,
    graph: &Graph,
    top: Option<&ResultId>,
    chain: &[Layer],
) -> Result<Value, Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let tops: Vec<ResultId> = top.cloned().into_iter().collect();
    let selection = select(store, &keys(watch, graph), CacheMode::Min, &tops)?;
    // The manifest names the blobs; which they are is not known yet.
    let blob_of = |layer: &Layer| Some(Descriptor::new(oci::model::media_type::OCI_LAYER, layer.diff_id?.0, 0));
    let blobs = chain.iter().filter_map(|layer| Some((layer.id.clone(), blob_of(layer)?))).collect();
    Ok(selection.cache(store, &blobs).map_err(failed)?.to_inline())
}
