//! What is learned of a layer's tar: its digest, and from that the chain ids of all that stand on it.

use oci::model::{DiffId, Digest, chain_ids};
use rusqlite::{Connection, OptionalExtension, Transaction};
use solver::seam::ResultId;

use super::find;
use crate::derived::twins;
use crate::index::Trouble;
use crate::journal::{self, Line};
use crate::{Store, StoreError};

/// What is known of the digests up to some layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// Not all of them yet.
    Unknown,
    /// There is no layer that is not empty.
    Nothing,
    /// All of them.
    Known(Digest),
}

impl Store {
    /// Remembers what the layer's tar is. Chain ids that become known by this, of the layer and of those above it,
    /// are remembered too. Saying the same again is fine.
    ///
    /// # Errors
    /// [`StoreError::DiffIdDiffers`] if another digest is known: the tree is not what it was.
    pub fn set_diff_id(&self, id: &ResultId, diff_id: DiffId, tar_bytes: u64) -> Result<(), StoreError> {
        let layer = self.layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
        if layer.empty {
            return Err(StoreError::EmptyLayer { id: id.clone() });
        }
        if let Some(known) = layer.diff_id.filter(|known| *known != diff_id) {
            return Err(StoreError::DiffIdDiffers { id: id.clone(), known, found: diff_id });
        }
        if layer.diff_id == Some(diff_id) && layer.tar_bytes == Some(tar_bytes) {
            return Ok(());
        }
        self.index().transaction("record a digest", |transaction| {
            set_tar(transaction, id, diff_id, tar_bytes)?;
            Ok(())
        })?;
        journal::append(self.layout(), id, &Line::Tar { diff_id, tar_bytes })?;
        Ok(())
    }
}

/// Sets what the tar of a layer and its twins is, and every chain id that follows.
pub(crate) fn set_tar(
    transaction: &Transaction<'_>,
    id: &ResultId,
    diff_id: DiffId,
    tar_bytes: u64,
) -> Result<(), Trouble> {
    let Some(layer) = find(transaction, id)? else { return Ok(()) };
    let mut todo = twins(transaction, &layer)?;
    for id in &todo {
        transaction.prepare_cached("UPDATE layers SET diff_id = ?2, tar_bytes = ?3 WHERE id = ?1")?.execute((
            id.as_str(),
            diff_id.0.as_bytes(),
            tar_bytes.cast_signed(),
        ))?;
    }
    // Upwards as long as chain ids become known. Every layer is reached once: a known one is not looked at again.
    while let Some(id) = todo.pop() {
        let Some(layer) = find(transaction, &id)? else { continue };
        let below = chain_below(transaction, layer.parent.as_ref())?;
        let chain = match layer.diff_id {
            _ if layer.empty => below,
            Some(diff_id) => Chain::grown(below, diff_id),
            None => Chain::Unknown,
        };
        if chain == Chain::Unknown {
            continue;
        }
        transaction
            .prepare_cached("UPDATE layers SET chain_id = ?2 WHERE id = ?1")?
            .execute((id.as_str(), chain.column()))?;
        let mut children =
            transaction.prepare_cached("SELECT id FROM layers WHERE parent = ?1 AND chain_id IS NULL")?;
        for child in children.query_map([id.as_str()], |row| row.get(0))? {
            todo.push(ResultId(child?));
        }
    }
    Ok(())
}

/// The chain of a parent; it must have a record.
pub(super) fn chain_below(connection: &Connection, parent: Option<&ResultId>) -> Result<Chain, Trouble> {
    let Some(parent) = parent else { return Ok(Chain::Nothing) };
    let mut query = connection.prepare_cached("SELECT chain_id FROM layers WHERE id = ?1")?;
    let column: Option<Option<Vec<u8>>> = query.query_row([parent.as_str()], |row| row.get(0)).optional()?;
    match column {
        None => Err(StoreError::NoSuchLayer { id: parent.clone() }.into()),
        Some(column) => Ok(Chain::from_column(column)?),
    }
}

/// The chain id of a layer on top of others, if theirs is known.
pub(super) fn on_top_of(below: Chain, diff_id: DiffId) -> Option<Digest> {
    match below {
        Chain::Unknown => None,
        Chain::Nothing => Some(diff_id.0),
        // What `chain_ids` does for two layers is what it does for any two neighbours.
        Chain::Known(below) => chain_ids(&[DiffId(below), diff_id]).last().copied(),
    }
}

impl Chain {
    pub(super) fn grown(below: Chain, diff_id: DiffId) -> Chain {
        on_top_of(below, diff_id).map_or(Chain::Unknown, Chain::Known)
    }

    pub(super) fn from_column(column: Option<Vec<u8>>) -> Result<Self, StoreError> {
        match column {
            None => Ok(Self::Unknown),
            Some(bytes) if bytes.is_empty() => Ok(Self::Nothing),
            Some(bytes) => match <[u8; 32]>::try_from(bytes) {
                Ok(bytes) => Ok(Self::Known(Digest::from_bytes(bytes))),
                Err(bytes) => Err(StoreError::bad("chain id", format!("{bytes:?}"))),
            },
        }
    }

    pub(super) fn column(&self) -> Option<&[u8]> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(&[]),
            Self::Known(digest) => Some(digest.as_bytes()),
        }
    }
}
