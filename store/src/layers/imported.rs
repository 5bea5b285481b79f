//! Layers that another machine's step made: known by their digests before their bytes are here.
//!
//! In: what a cache says of a layer. Out: a record like that of a built one, with a blob and without a tree. Its id
//! (`i-<hex>`) is the digest of what stands beneath it, what its tar is and how it was made: adding it again, from
//! whatever cache, is adding nothing. The blob is brought when something wants it, and checked when it is unpacked.
//!
//! A packed layer (`p-<hex>`) is the same of this machine: a copy whose tree nothing is going to look into is written as
//! its tar, uncompressed, and has a tree once something wants that.
//! Deliberately absent: where blobs are.

use jiff::Timestamp;
use oci::model::{Descriptor, DiffId, Digest};
use rusqlite::OptionalExtension as _;
use solver::key::ContentDigest;
use solver::seam::ResultId;

use super::{Made, descriptor_text, find, insert};
use crate::journal::{self, LayerLine, Line};
use crate::{Store, StoreError};

/// First line of what the id is the digest of.
const FORM: &str = "imported layer 1";

/// What the ids of packed layers begin with.
pub(super) const PACKED: &str = "p-";
/// What those of others begin with.
const IMPORTED: &str = "i-";

/// A layer of a cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// Digest of its tar, and the blob; `None`: it changes nothing.
    pub tar: Option<(DiffId, Descriptor)>,
    /// What it holds, see [`Store::set_content`].
    pub content: Option<ContentDigest>,
    /// How it was made.
    pub made: Made,
}

impl Store {
    /// Records a layer of a cache, on top of `parent`, which has a record. Adding it again returns the same id; another
    /// blob for it is taken while the known one is not here and was never unpacked.
    pub fn add_imported_layer(&self, parent: Option<&ResultId>, layer: &Imported) -> Result<ResultId, StoreError> {
        let id = ResultId(imported_id(parent, layer.tar.as_ref().map(|(diff_id, _)| diff_id), &layer.made));
        match self.layer(&id)? {
            Some(known) => self.take_other_blob(&known, layer)?,
            None => self.insert_imported(&id, parent, layer)?,
        }
        Ok(id)
    }

    /// Records a layer that a step made as a tar, which is in the store: `tar` is that blob, and no compressed one.
    pub fn add_packed_layer(
        &self,
        parent: Option<&ResultId>,
        tar: &Descriptor,
        made: Made,
    ) -> Result<ResultId, StoreError> {
        let diff_id = DiffId(tar.digest);
        let id = ResultId(id(PACKED, parent, Some(&diff_id), &made));
        let layer = Imported { tar: Some((diff_id, tar.clone())), content: None, made };
        if self.layer(&id)?.is_none() {
            self.insert_imported(&id, parent, &layer)?;
        }
        self.set_diff_id(&id, diff_id, tar.size)?;
        Ok(id)
    }

    fn insert_imported(&self, id: &ResultId, parent: Option<&ResultId>, layer: &Imported) -> Result<(), StoreError> {
        let Imported { tar, content, made } = layer;
        self.index().write("record a layer", |transaction, stamp| {
            if find(transaction, id)?.is_some() {
                // Another process was faster; it has said the same.
                return Ok(());
            }
            let line = LayerLine {
                id: id.clone(),
                parent: parent.cloned(),
                empty: tar.is_none(),
                pulled: false,
                diff_id: tar.as_ref().map(|(diff_id, _)| *diff_id),
                blob: tar.as_ref().map(|(_, blob)| blob.clone()),
                created: made.created.to_string(),
                origin: None,
                times: None,
                started: Some(made.started.to_string()),
                from_context: made.from_context,
                on_base: made.on_base,
                content: content.filter(|_| tar.is_some()).map(|content| content.to_string()),
                stamp: stamp.clone(),
            };
            insert(transaction, &line)?;
            journal::begin(self.layout(), line)?;
            Ok(())
        })
    }

    fn take_other_blob(&self, known: &super::Layer, layer: &Imported) -> Result<(), StoreError> {
        let (Some((_, blob)), Some(old)) = (&layer.tar, &known.blob) else { return Ok(()) };
        let here = self.blobs().size(&old.digest).is_ok_and(|size| size == Some(old.size));
        if old.digest == blob.digest || known.name.is_some() || here {
            return Ok(());
        }
        self.index().transaction("record a blob", |transaction| {
            let mut update = transaction.prepare_cached("UPDATE layers SET blob = ?2 WHERE id = ?1")?;
            update.execute((known.id.as_str(), descriptor_text(blob)))?;
            Ok(())
        })?;
        journal::append(self.layout(), &known.id, &Line::Blob(blob.clone()))?;
        Ok(())
    }

    /// Forgets every key that led to a layer or to what stands on it: its bytes are not to be had, or not what they
    /// should be. The records stay until they are collected. Returns how many keys went.
    pub fn forget_keys_of(&self, id: &ResultId) -> Result<usize, StoreError> {
        self.index().transaction("forget keys", |transaction| {
            let known: Option<i64> = transaction
                .query_row("SELECT 1 FROM layers WHERE id = ?1", [id.as_str()], |row| row.get(0))
                .optional()?;
            if known.is_none() {
                return Ok(0);
            }
            // Rare, so the keys are looked through.
            Ok(transaction.execute(
                "WITH RECURSIVE up (id) AS (
                     SELECT ?1 UNION SELECT l.id FROM layers l JOIN up ON l.parent = up.id OR l.origin = up.id)
                 DELETE FROM keys WHERE EXISTS (SELECT 1 FROM up WHERE instr(keys.results, '\"' || up.id || '\"'))",
                [id.as_str()],
            )?)
        })
    }
}

/// The id of an imported layer: the same on every machine.
pub(crate) fn imported_id(parent: Option<&ResultId>, diff_id: Option<&DiffId>, made: &Made) -> String {
    id(IMPORTED, parent, diff_id, made)
}

fn id(kind: &str, parent: Option<&ResultId>, diff_id: Option<&DiffId>, made: &Made) -> String {
    let parent = parent.map_or("-", ResultId::as_str);
    let tar = diff_id.map_or_else(|| "empty".to_owned(), DiffId::to_string);
    let Made { created, started, from_context, on_base } = made;
    let time = |time: &Timestamp| time.to_string();
    let text = format!("{FORM}\n{parent}\n{tar}\n{}\n{}\n{from_context}\n{on_base}\n", time(created), time(started));
    format!("{kind}{}", Digest::of(text.as_bytes()).hex())
}
