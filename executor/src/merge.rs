//! Trees put together and taken apart by their layers alone: nothing is read, copied or mounted.
//!
//! In: results of the store. Out: a result whose chain is made of [derived](store::Store::derive_layer) records, so that
//! every layer keeps its tree, its digest and its blob whatever it stands on. Exactly one record for each of the
//! others' records, empty or not: history entries and records pair up.
//!
//! ```text
//!   merge [ base ◄ a , x ◄ y ]   =  base ◄ a ◄ x' ◄ y'
//!   diff  base ◄ a , base ◄ a ◄ b ◄ c   =  b' ◄ c'
//! ```
//! Deliberately absent: the difference of two trees of which one does not stand on the other; it would have to compare.

use solver::seam::ResultId;
use store::{Layer, StoreError};

use crate::error::ExecError;
use crate::layers::{Layers, SCRATCH};

/// All inputs on top of each other, the last on top. `on_base`: the first is an image. Blocking.
pub(crate) fn merge(
    layers: &Layers,
    store: &store::Store,
    inputs: &[ResultId],
    on_base: bool,
) -> Result<ResultId, ExecError> {
    let Some((first, others)) = inputs.split_first() else { return Ok(scratch()) };
    let mut top = (first.as_str() != SCRATCH).then(|| first.clone());
    // It must be a tree of the store.
    if let Some(id) = &top
        && store.layer(id)?.is_none()
    {
        return Err(StoreError::NoSuchLayer { id: id.clone() }.into());
    }
    let mut on_base = on_base || top.is_none();
    for input in others {
        for layer in layers.chain(input)? {
            top = Some(store.derive_layer(top.as_ref(), &layer.id, None, on_base)?);
            on_base = false;
        }
    }
    Ok(top.unwrap_or_else(scratch))
}

/// What `upper` has on top of `lower`. Blocking.
///
/// # Errors
/// [`ExecError::Unsupported`] unless `upper` stands on `lower`.
pub(crate) fn diff(
    layers: &Layers,
    store: &store::Store,
    lower: Option<&ResultId>,
    upper: Option<&ResultId>,
) -> Result<ResultId, ExecError> {
    let chain = |id: Option<&ResultId>| -> Result<Vec<Layer>, ExecError> {
        Ok(id.map(|id| layers.chain(id)).transpose()?.unwrap_or_default())
    };
    let (lower, upper) = (chain(lower)?, chain(upper)?);
    if lower.len() > upper.len() || lower.iter().zip(&upper).any(|(below, same)| below.id != same.id) {
        return Err(ExecError::Unsupported {
            operation: "the difference of two trees of which one does not stand on the other",
        });
    }
    let mut top = None;
    for layer in &upper[lower.len()..] {
        top = Some(store.derive_layer(top.as_ref(), &layer.id, None, top.is_none())?);
    }
    Ok(top.unwrap_or_else(scratch))
}

fn scratch() -> ResultId {
    ResultId(SCRATCH.into())
}
