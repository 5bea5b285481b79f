//! What a result is stacked of: names of trees for a mount, of many small layers few.
//!
//! In: a result. Out: directories under [`Store::layers_dir`], topmost first; what was only pulled is unpacked on the way.
//! The next step stands on a result that was asked for lately, so a chain is not followed down again for every step.
//!
//! A mount costs what it has layers, and a build of *n* steps would pay for *n*² of them. So small layers that lie upon
//! each other are put together, [`TOGETHER`] at a time, into one tree that lives as long as the build
//! ([`store::LentTree`]): what a layer holds is copied once more, and there are never many more to mount than the chain
//! has large layers. It is what one step would have left that did all of theirs, reduced as a step's changes are to what
//! differs from all beneath: overlayfs heeds a deletion only where there is something to delete. A tree for a mount is all
//! that it is: records, digests and tars know nothing of it. Few Dockerfiles have as many steps as that; for all others
//! nothing is copied.
//!
//! ```text
//!   base ◄ s1 ◄ … ◄ s64 ◄ s65 ◄ … ◄ s128 ◄ s129 ◄ s130      a chain, s: a small layer
//!   base ,  s1…s64      ,  s65…s128       , s129 , s130      what is mounted
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use solver::seam::ResultId;
use store::{Kind, Layer, LentTree, Store};

use super::{Layers, LayersError, SCRATCH};
use crate::snapshot::overlay::check_layer_count;
use crate::snapshot::stack::{Beneath, put_over};
use crate::snapshot::{SnapshotError, Snapshotter, open_directory};

/// As many steps as may be under way at once, and more.
const KEPT: usize = 64;
/// How many small layers become one tree: more than nearly all Dockerfiles have steps, and few enough that what is not yet
/// together is mounted in no time.
pub(crate) const TOGETHER: usize = 64;
/// What a small layer takes on disk at most: copied in the time in which a step begins.
const SMALL_TREE_BYTES: u64 = 256 * 1024;

/// What results are stacked of.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    /// The last results that were asked for. What is leased keeps its trees, and so does what it stands on.
    known: Mutex<VecDeque<(ResultId, Stack)>>,
    /// `None`: every layer is its own.
    together: Option<Together>,
}

/// Trees of several layers.
#[derive(Debug)]
struct Together {
    snapshots: Arc<dyn Snapshotter>,
    /// By the names of these and of all beneath.
    made: Mutex<HashMap<Vec<Arc<str>>, LentTree>>,
}

/// What one result is stacked of.
#[derive(Clone, Debug, Default)]
struct Stack {
    /// Names of trees, topmost first.
    names: Vec<Arc<str>>,
    /// How many of the topmost are small layers that are not put together yet.
    small: usize,
    /// How many layers these are.
    layers: usize,
}

impl Stacks {
    /// Those that put small layers together, as `snapshots` stacks them.
    pub fn together(snapshots: Arc<dyn Snapshotter>) -> Self {
        Self { together: Some(Together { snapshots, made: Mutex::default() }), ..Self::default() }
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<(ResultId, Stack)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, result: &ResultId) -> Option<Stack> {
        self.known().iter().find(|(known, _)| known == result).map(|(_, stack)| stack.clone())
    }

    fn keep(&self, result: &ResultId, stack: &Stack) {
        let mut known = self.known();
        known.truncate(KEPT - 1);
        known.push_front((result.clone(), stack.clone()));
    }

    /// Puts a layer's tree on top of a stack.
    fn put(&self, stack: &mut Stack, name: &str, is_small: bool, store: &Store) -> Result<(), SnapshotError> {
        // A merged tree may hold a layer twice, which no overlay does; the upper one says all that the lower does.
        if let Some(at) = stack.names.iter().position(|known| **known == *name) {
            stack.names.remove(at);
            stack.small -= usize::from(at < stack.small);
        }
        stack.names.insert(0, name.into());
        stack.layers += 1;
        stack.small = if is_small { stack.small + 1 } else { 0 };
        if let (TOGETHER.., Some(together)) = (stack.small, &self.together) {
            // Whoever needs the same waits for it.
            let mut made = together.made.lock().unwrap_or_else(PoisonError::into_inner);
            let one = match made.get(&stack.names) {
                Some(tree) => tree.name().into(),
                None => {
                    let (several, beneath) = stack.names.split_at(TOGETHER);
                    let tree = put_together(several, beneath, store, &*together.snapshots)?;
                    let name = tree.name().into();
                    made.insert(stack.names.clone(), tree);
                    name
                }
            };
            stack.names.splice(..TOGETHER, [one]);
            stack.small = 0;
        }
        Ok(())
    }
}

/// One tree of `several` that means upon `beneath` what they mean upon each other; all topmost first.
fn put_together(
    several: &[Arc<str>],
    beneath: &[Arc<str>],
    store: &Store,
    snapshots: &dyn Snapshotter,
) -> Result<LentTree, SnapshotError> {
    let failed = |error| SnapshotError::io("make a tree in", store.root())(std::io::Error::other(error));
    let draft = store.draft().map_err(failed)?;
    for name in several.iter().rev() {
        let layer = open_directory(&store.layers_dir().join(&**name))?;
        put_over(layer, open_directory(draft.fs())?, Beneath::Layer)?;
    }
    snapshots.commit(&texts(beneath), draft.fs())?;
    tracing::debug!(layers = several.len(), beneath = beneath.len(), "layers are put together");
    draft.lend().map_err(failed)
}

fn texts(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn is_small(layer: &Layer) -> bool {
    layer.tree_bytes.is_some_and(|bytes| bytes <= SMALL_TREE_BYTES)
}

impl Layers {
    /// Directories under [`Store::layers_dir`] that make the tree of a result, topmost first, as a mount wants them: of a
    /// layer its own, or one that it shares with its neighbours. What was only pulled so far is unpacked.
    ///
    /// # Errors
    /// Before any work when there are more layers than can be stacked; when a blob is gone or not what it should be.
    pub fn lowers(&self, result: &ResultId) -> Result<Vec<String>, LayersError> {
        if result.as_str() == SCRATCH {
            return Ok(Vec::new());
        }
        self.store.touch(Kind::Layer, result.as_str())?;
        let stack = match self.stacks.find(result) {
            Some(stack) => stack,
            None => {
                let stack = match self.stack_on_parent(result)? {
                    Some(stack) => stack,
                    None => self.stack_of_chain(result)?,
                };
                self.stacks.keep(result, &stack);
                stack
            }
        };
        Ok(texts(&stack.names))
    }

    /// That of a result with a tree on one whose stack is known.
    fn stack_on_parent(&self, result: &ResultId) -> Result<Option<Stack>, LayersError> {
        let Some(layer) = self.store.layer(result)? else { return Ok(None) };
        let known = layer.parent.as_ref().and_then(|parent| self.stacks.find(parent));
        let Some(mut stack) = known else { return Ok(None) };
        match &layer.name {
            _ if layer.empty => {}
            None => return Ok(None),
            Some(name) => self.stacks.put(&mut stack, name, is_small(&layer), &self.store)?,
        }
        check_layer_count(stack.layers)?;
        Ok(Some(stack))
    }

    fn stack_of_chain(&self, result: &ResultId) -> Result<Stack, LayersError> {
        let mut chain = self.chain(result)?;
        chain.retain(|layer| !layer.empty);
        check_layer_count(chain.len())?;
        if self.unpack_side_by_side(&chain)? {
            chain = self.chain(result)?;
            chain.retain(|layer| !layer.empty);
        }
        let mut stack = Stack::default();
        for layer in &chain {
            let name = match &layer.name {
                Some(name) => name.clone(),
                None => self.unpack(layer, &texts(&stack.names))?,
            };
            self.stacks.put(&mut stack, &name, is_small(layer), &self.store)?;
        }
        Ok(stack)
    }
}

#[cfg(test)]
mod tests;
