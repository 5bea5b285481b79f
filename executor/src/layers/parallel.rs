//! Layers of an image that are unpacked side by side: as their blobs come, or of blobs that are in the store.
//!
//! A layer's tree is one of its own, but where its archive says nothing (a directory on the way, the target of a hard
//! link) or deletes, what lies beneath has the say. So a layer begins when its first bytes are there, and waits for those
//! beneath only when it must look at them: [`Beneath`]. Layers are taken bottom first, by as many threads as there are
//! cores; whoever waits waits for layers that somebody has taken, so nobody waits for ever.
//!
//! What fails here leaves nothing and says nothing: the blob is there, and whoever needs the tree makes it or says why
//! not ([`Layers::lowers`]).

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use oci::layer::Beneath;
use oci::model::Descriptor;
use solver::seam::ResultId;
use store::Layer;

use super::arriving::Arrivals;
use super::{Layers, LayersError, decompressed};

/// Where blobs are.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// On their way.
    Arrivals(&'a Arrivals),
    /// In the store.
    Store,
}

/// A layer's tar, and what tells in the end whether it was whole.
type Tar<'a> = (Box<dyn Read>, Box<dyn FnOnce() -> bool + 'a>);

/// How far a layer is.
#[derive(Clone)]
enum Stage {
    /// It has no tree yet.
    Awaited,
    /// The name of its tree.
    Tree(String),
    /// It gets none here.
    Failed,
}

/// All layers of an image that have a directory, bottom first.
struct Stack<'a> {
    layers: &'a Layers,
    stages: Mutex<Vec<Stage>>,
    moved: Condvar,
}

impl Layers {
    /// Makes the trees of an image's layers whose blobs are on their way, each as it comes, and ends when all have come
    /// or been given up. Blocks.
    pub fn unpack_arriving(&self, result: &ResultId, arrivals: &Arrivals) -> Result<(), LayersError> {
        let chain = self.chain(result)?;
        let chain: Vec<&Layer> = chain.iter().filter(|layer| !layer.empty).collect();
        self.unpack_all(&chain, Source::Arrivals(arrivals));
        Ok(())
    }

    /// Makes the trees of those of these layers, bottom first, that have none and whose blobs are in the store, if there
    /// are several; whether there were. Blocks.
    pub(super) fn unpack_side_by_side(&self, chain: &[Layer]) -> Result<bool, LayersError> {
        let mut waiting = HashSet::new();
        for layer in chain.iter().filter(|layer| is_packed(layer)) {
            let content = |source| LayersError::Content { act: "look at", layer: layer.id.clone(), source };
            let Some(blob) = &layer.blob else { continue };
            let is_here = self.store.blobs().size(&blob.digest).map_err(content)? == Some(blob.size);
            // A merged tree may hold a layer twice, which is one tree.
            if is_here && !waiting.insert(&layer.id) {
                return Ok(false);
            }
        }
        if waiting.len() > 1 {
            self.unpack_all(&chain.iter().collect::<Vec<_>>(), Source::Store);
        }
        Ok(waiting.len() > 1)
    }

    fn unpack_all(&self, chain: &[&Layer], from: Source<'_>) {
        let comes = |layer: &Layer| {
            let is_there = |blob: &Descriptor| match from {
                Source::Arrivals(arrivals) => arrivals.get(&blob.digest).is_some(),
                Source::Store => true,
            };
            is_packed(layer) && layer.blob.as_ref().is_some_and(is_there)
        };
        let stages = chain.iter().map(|layer| match &layer.name {
            Some(name) => Stage::Tree(name.clone()),
            None if comes(layer) => Stage::Awaited,
            None => Stage::Failed,
        });
        let stack = Stack { layers: self, stages: Mutex::new(stages.collect()), moved: Condvar::new() };
        let coming: Vec<usize> = (0..chain.len()).filter(|index| comes(chain[*index])).collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(coming.len());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(index) = coming.get(next.fetch_add(1, Relaxed)) {
                        stack.unpack(*index, chain[*index], from);
                    }
                });
            }
        });
    }
}

/// Whether a layer has no tree and gets it from its own blob.
fn is_packed(layer: &Layer) -> bool {
    layer.name.is_none() && layer.origin.is_none() && layer.times.is_none()
}

impl Stack<'_> {
    /// Makes one tree and says how that went; also when it panics, for others wait for it.
    fn unpack(&self, index: usize, layer: &Layer, from: Source<'_>) {
        let mut ended = Ended { stack: self, index, stage: Stage::Failed };
        match self.try_unpack(index, layer, from) {
            Ok(Some(name)) => ended.stage = Stage::Tree(name),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, layer = %layer.id, "not unpacked as it came"),
        }
    }

    fn try_unpack(&self, index: usize, layer: &Layer, from: Source<'_>) -> Result<Option<String>, LayersError> {
        let Some(blob) = &layer.blob else { return Ok(None) };
        let (tar, is_whole): Tar<'_> = match from {
            Source::Arrivals(arrivals) => {
                let Some(arriving) = arrivals.get(&blob.digest) else { return Ok(None) };
                let Some(reader) = arriving.reader() else { return Ok(None) };
                (decompressed(layer, blob, reader)?, Box::new(move || arriving.settled()))
            }
            Source::Store => {
                let Some(tar) = self.layers.open_blob(layer, blob)? else { return Ok(None) };
                (tar, Box::new(|| true))
            }
        };
        let beneath = Below { stack: self, index, trees: OnceLock::new() };
        self.layers.unpack_tar(layer, tar, &beneath, is_whole)?;
        Ok(self.layers.store.layer(&layer.id)?.and_then(|layer| layer.name))
    }

    /// Names of the trees beneath, topmost first, once all are there; `None` when one will not be.
    fn beneath(&self, index: usize) -> Option<Vec<String>> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let awaited = |stages: &mut Vec<Stage>| {
            let below = &stages[..index];
            let fails = below.iter().any(|stage| matches!(stage, Stage::Failed));
            !fails && below.iter().any(|stage| matches!(stage, Stage::Awaited))
        };
        let stages = self.moved.wait_while(stages, awaited).unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = Vec::with_capacity(index);
        for stage in &stages[..index] {
            let Stage::Tree(name) = stage else { return None };
            names.retain(|known| known != name);
            names.insert(0, name.clone());
        }
        Some(names)
    }
}

/// Tells how one layer ended, whatever happens.
struct Ended<'a> {
    stack: &'a Stack<'a>,
    index: usize,
    stage: Stage,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.stack.stages.lock().unwrap_or_else(PoisonError::into_inner)[self.index] = self.stage.clone();
        self.stack.moved.notify_all();
    }
}

/// What lies beneath one layer, opened when it is first looked at.
struct Below<'a> {
    stack: &'a Stack<'a>,
    index: usize,
    trees: OnceLock<Vec<OwnedFd>>,
}

impl Beneath for Below<'_> {
    fn trees(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        if self.trees.get().is_none() {
            let names = self.stack.beneath(self.index);
            let names = names.ok_or_else(|| io::Error::other("a layer beneath has no tree"))?;
            let trees = self.stack.layers.trees(&names).map_err(io::Error::other)?;
            // One thread alone unpacks a layer.
            self.trees.get_or_init(|| trees);
        }
        Ok(self.trees.get().into_iter().flatten().map(|tree| tree.as_fd()).collect())
    }
}
