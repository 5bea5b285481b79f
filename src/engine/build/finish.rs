//! From a solved graph to images: assembled, sent, kept and named.
//!
//! In: the results of every platform. Out: [`Finished`]. Images are put together one after another, in the order of the
//! platforms; everything goes out before the local store gives a name, and the registries before that give theirs.

use std::sync::Arc;

use oci::model::Digest;
use solver::graph::VertexId;
use solver::run::Solution;
use solver::seam::ResultId;
use store::ImageRecord;

use super::keep::{chain_with_diff_ids, keep, local_index, name};
use crate::engine::assemble::{Assembled, assemble};
use crate::engine::cache::{self, Remotes};
use crate::engine::export::{Ahead, Exporter, Sent, SentImage, Unsent};
use crate::engine::plans::{PlannedImage, Plans};
use crate::engine::task::in_background;
use crate::engine::{epoch, graph, words};
use crate::options::BuildOptions;
use crate::options::annotation::Level;

/// What finishes a build.
pub struct Finish<'a> {
    /// What was asked.
    pub options: &'a BuildOptions,
    /// What was planned.
    pub plans: &'a Plans,
    /// Knows which keys vertices have.
    pub remotes: &'a Remotes,
    /// Compresses; has to end first.
    pub ahead: Option<&'a Arc<Ahead>>,
    /// Sends, and knows the store and the worker.
    pub exporter: Exporter<'a>,
}

/// Images that are made.
pub struct Finished {
    /// What the local names of the build mean: the image's id, or the index's digest.
    pub id: Digest,
    /// One per platform.
    pub images: Vec<Assembled>,
    /// What is told of the build: what was sent first, else what the local store has.
    pub main: SentImage,
    /// Where it went, in words.
    pub wrote: Vec<String>,
}

impl Finish<'_> {
    /// Does all of it.
    pub async fn finish(&self, solution: &Solution, vertex: VertexId) -> Result<Finished, Unsent> {
        if let Some(ahead) = self.ahead {
            ahead.finish().await;
        }
        let mut images = Vec::with_capacity(self.plans.images.len());
        for image in &self.plans.images {
            images.push(self.image(image, top_of(image, solution)).await?);
        }
        let store = self.exporter.store;
        let index = local_index(self.options, &images);
        let assembled: Vec<Assembled> = images.iter().map(|(image, _)| image.clone()).collect();
        let Sent { image: sent, wrote } = self.exporter.export(self.options, &assembled, vertex).await?;
        name(store, self.options, &images, index.as_ref())?;
        in_background(store, |store| store.sync().map_err(|error| words::store(&error))).await?;
        let (first, record) = &images[0];
        let main = sent.unwrap_or_else(|| SentImage {
            manifest: index.as_ref().map_or_else(|| record.manifest.clone(), |index| index.descriptor.clone()),
            config: index.is_none().then(|| first.id()),
            names: self.options.tags.clone(),
        });
        let id = index.map_or_else(|| first.id(), |index| index.descriptor.digest);
        Ok(Finished { id, images: assembled, main, wrote })
    }

    /// The image of a platform, in the local store.
    async fn image(
        &self,
        planned: &PlannedImage,
        result: Option<ResultId>,
    ) -> Result<(Assembled, ImageRecord), Unsent> {
        let Exporter { store, worker, cancel, .. } = self.exporter;
        let PlannedImage { platform, output, is_fitted } = planned;
        let top = epoch::top(worker, result.clone(), output, *is_fitted).await?;
        let mut compressing = self.options.outputs.iter().filter(|output| output.compresses());
        let codec = compressing.find_map(|output| output.form()).map(|form| form.codec);
        let chain = chain_with_diff_ids(worker, top.as_ref(), codec, cancel).await?;
        let annotations = self.options.annotations.of(Level::Manifest, platform);
        let assembled = match is_fitted {
            true => graph::image::assemble(output, &chain)?,
            false => assemble(output, &chain)?,
        };
        let mut image = Assembled { annotations, platform: platform.clone(), ..assembled };
        if self.remotes.is_inline_wanted(self.options, output) {
            let graph = &self.plans.graph;
            let cache = cache::inline(store, &self.remotes.watch, graph, result.as_ref(), &chain)?;
            image = image.with_inline_cache(cache);
        }
        let record = keep(store, &image, top, output.platform.clone())?;
        Ok((image, record))
    }
}

/// The result of a platform.
pub fn top_of(image: &PlannedImage, solution: &Solution) -> Option<ResultId> {
    image.output.edge.and_then(|edge| solution.results.get(&edge).cloned())
}
