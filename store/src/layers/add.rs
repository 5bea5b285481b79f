//! How layer records come and go: built, pulled, given a tree; thrown away while nobody has heard of them.
//!
//! In: drafts and what is known of them. Out: ids. Data stands before the index, and the record file before the row.
//! Deliberately absent: what is derived ([`crate::derived`]), what is thrown away after it was used.

use jiff::Timestamp;
use oci::model::{Descriptor, DiffId, Reference};
use rusqlite::{Transaction, named_params};
use solver::seam::ResultId;

use super::tar::{Chain, chain_below, on_top_of};
use super::{Made, descriptor_text, find, parse_content};
use crate::derived::{rule_text, tar_of_twins};
use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, LayerLine, Line};
use crate::{Draft, Kind, Store, StoreError, trash};

impl Store {
    /// Records a layer that a step made. `draft`'s tree becomes the layer's; `None` records an empty layer, which
    /// changes nothing. The tree must be complete: nothing is mounted on it or writes to it any more. A step did not
    /// begin after its draft was made, whatever `made` says.
    pub fn add_built_layer(
        &self,
        parent: Option<&ResultId>,
        draft: Option<Draft>,
        made: impl Into<Made>,
    ) -> Result<ResultId, StoreError> {
        let made: Made = made.into();
        let started = draft.as_ref().map_or(made.started, |draft| made.started.min(draft.begun()));
        let id = match &draft {
            Some(draft) => ResultId(draft.id().to_owned()),
            None => ResultId(self.layout().fresh_layer_id()?),
        };
        self.touch(Kind::Layer, id.as_str())?;
        let tree = draft.as_ref().map(|draft| Ok::<_, StoreError>((draft.publish()?, draft.bytes()))).transpose()?;
        let recorded = self.index().write("record a layer", |transaction, stamp| {
            let line = LayerLine {
                id: id.clone(),
                parent: parent.cloned(),
                empty: draft.is_none(),
                pulled: false,
                diff_id: None,
                blob: None,
                created: made.created.to_string(),
                origin: None,
                times: None,
                started: Some(started.to_string()),
                from_context: made.from_context,
                on_base: made.on_base,
                content: None,
                stamp: stamp.clone(),
            };
            insert(transaction, &line)?;
            journal::begin(self.layout(), line)?;
            if let Some((name, bytes)) = tree {
                let name = name.to_owned();
                insert_tree(transaction, &id, &name, bytes, stamp)?;
                journal::append(self.layout(), &id, &Line::Tree { name, bytes, stamp: stamp.clone() })?;
            }
            Ok(())
        });
        if recorded.is_err() {
            // Before the draft goes, and with it what a sweep would know the tree by.
            self.layout().records.remove_file(&journal::record_file_name(&id))?;
            if let Some((name, _)) = tree {
                trash::discard(self.layout(), &self.layout().layers, name)?;
            }
        }
        if let (Ok(()), Some((_, Some(bytes)))) = (&recorded, tree) {
            self.lease().add_bytes(bytes);
        }
        recorded.map(|()| id)
    }

    /// Records a layer of a pulled, imported or loaded image, without a tree. Recording it again returns the same id and
    /// adds what was not known yet. `blob` says as what it can be fetched, `source` where.
    ///
    /// # Errors
    /// [`StoreError::UnknownChain`] if the parent's digests are not known.
    pub fn add_pulled_layer(
        &self,
        parent: Option<&ResultId>,
        diff_id: DiffId,
        created: Timestamp,
        blob: Option<&Descriptor>,
        source: Option<&Reference>,
    ) -> Result<ResultId, StoreError> {
        let below = self.index().read("find a layer", |connection| chain_below(connection, parent))?;
        let unknown = || StoreError::UnknownChain { id: parent.cloned().expect("without a parent the chain is known") };
        let chain_id = on_top_of(below, diff_id).ok_or_else(unknown)?;
        let id = ResultId(format!("c-{}", chain_id.hex()));
        match self.layer(&id)? {
            None => self.insert_pulled(&id, parent, diff_id, created, blob)?,
            Some(known) if known.blob.is_none() && blob.is_some() => self.learn_blob(&id, blob)?,
            Some(_) => {}
        }
        if let (Some(blob), Some(source)) = (blob, source) {
            let is_new = self.add_blob_source(&blob.digest, source)?;
            if is_new {
                let line = Line::Source { digest: blob.digest, name: source.to_string() };
                journal::append(self.layout(), &id, &line)?;
            }
        }
        Ok(id)
    }

    fn insert_pulled(
        &self,
        id: &ResultId,
        parent: Option<&ResultId>,
        diff_id: DiffId,
        created: Timestamp,
        blob: Option<&Descriptor>,
    ) -> Result<(), StoreError> {
        self.index().write("record a layer", |transaction, stamp| {
            if find(transaction, id)?.is_some() {
                // Another process was faster; it has said the same.
                return Ok(());
            }
            let line = LayerLine {
                id: id.clone(),
                parent: parent.cloned(),
                empty: false,
                pulled: true,
                diff_id: Some(diff_id),
                blob: blob.cloned(),
                created: created.to_string(),
                origin: None,
                times: None,
                started: None,
                from_context: false,
                on_base: false,
                content: None,
                stamp: stamp.clone(),
            };
            insert(transaction, &line)?;
            journal::begin(self.layout(), line)?;
            Ok(())
        })
    }

    fn learn_blob(&self, id: &ResultId, blob: Option<&Descriptor>) -> Result<(), StoreError> {
        let Some(blob) = blob else { return Ok(()) };
        self.index().transaction("record a blob", |transaction| {
            set_blob(transaction, id, blob)?;
            Ok(())
        })?;
        journal::append(self.layout(), id, &Line::Blob(blob.clone()))?;
        Ok(())
    }

    /// Gives a layer without a tree the one that its tar was unpacked into; one that is derived without a rule for times
    /// shares it with its origin. If
    /// another process was faster, `draft` is discarded, and that is fine.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`], [`StoreError::EmptyLayer`].
    pub fn attach_tree(&self, id: &ResultId, draft: Draft) -> Result<(), StoreError> {
        let layer = self.layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
        if layer.empty {
            return Err(StoreError::EmptyLayer { id: id.clone() });
        }
        if layer.name.is_some() {
            return Ok(());
        }
        let id = layer.origin.as_ref().filter(|_| layer.times.is_none()).unwrap_or(id);
        let (name, bytes) = (draft.publish()?.to_owned(), draft.bytes());
        let is_ours = self.index().write("record a tree", |transaction, stamp| {
            let known = find(transaction, id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
            if let Some(gone) = known.name
                && !self.layout().layers.has(&gone)?
            {
                transaction.execute("DELETE FROM trees WHERE layer = ?1", [id.as_str()])?;
            }
            if !insert_tree(transaction, id, &name, bytes, stamp)? {
                return Ok(false);
            }
            journal::append(self.layout(), id, &Line::Tree { name: name.clone(), bytes, stamp: stamp.clone() })?;
            Ok(true)
        });
        if !matches!(is_ours, Ok(true)) {
            trash::discard(self.layout(), &self.layout().layers, &name)?;
        }
        is_ours?;
        self.lease().add_bytes(bytes.unwrap_or_default());
        Ok(())
    }

    /// Throws away a layer that was made just now, its tree and its record file, if nothing has come to stand on it or
    /// to name it; `false` if something has, and then it stays. One that has no record is fine.
    pub fn drop_fresh_layer(&self, id: &ResultId) -> Result<bool, StoreError> {
        self.index().transaction("drop a layer", |transaction| {
            let used = "SELECT EXISTS (SELECT 1 FROM layers WHERE parent = ?1 OR origin = ?1)
                OR EXISTS (SELECT 1 FROM images WHERE top = ?1)
                OR EXISTS (SELECT 1 FROM keys WHERE instr(results, ?2))";
            let named = serde_json::to_string(id).expect("plain data becomes JSON");
            let used: bool = transaction.prepare_cached(used)?.query_row((id.as_str(), named), |row| row.get(0))?;
            if used {
                return Ok(false);
            }
            let mut trees = transaction.prepare_cached("DELETE FROM trees WHERE layer = ?1 RETURNING name")?;
            let trees: Vec<String> = trees.query_map([id.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
            transaction.prepare_cached("DELETE FROM layers WHERE id = ?1")?.execute([id.as_str()])?;
            // The files go before the rows are gone for certain: what dies in between leaves a record without a tree,
            // which is no result of anything.
            self.layout().records.remove_file(&journal::record_file_name(id))?;
            for tree in &trees {
                trash::discard(self.layout(), &self.layout().layers, tree)?;
            }
            Ok(true)
        })
    }
}

/// Inserts a row, its chain id included when that follows from the parent's. An origin stands before what is derived
/// from it.
pub(crate) fn insert(transaction: &Transaction<'_>, line: &LayerLine) -> Result<(), Trouble> {
    let below = chain_below(transaction, line.parent.as_ref())?;
    let (diff_id, tar_bytes) = match &line.origin {
        Some(origin) => tar_of_twins(transaction, origin, line.times.as_ref())?,
        None => (line.diff_id, None),
    };
    let chain = if line.empty { below } else { diff_id.map_or(Chain::Unknown, |id| Chain::grown(below, id)) };
    transaction
        .prepare_cached(
            "INSERT INTO layers (id, parent, empty, pulled, diff_id, tar_bytes, chain_id, blob, created, origin, times,
                 started, from_context, on_base, content, boot, generation)
             VALUES (:id, :parent, :empty, :pulled, :diff_id, :tar_bytes, :chain_id, :blob, :created, :origin, :times,
                 :started, :from_context, :on_base, :content, :boot, :generation)",
        )?
        .execute(named_params! {
            ":id": line.id.as_str(),
            ":parent": line.parent.as_ref().map(ResultId::as_str),
            ":empty": line.empty,
            ":pulled": line.pulled,
            ":diff_id": diff_id.as_ref().map(|id| id.0.as_bytes()),
            ":tar_bytes": tar_bytes.map(u64::cast_signed),
            ":chain_id": chain.column(),
            ":blob": line.blob.as_ref().map(descriptor_text),
            ":created": line.created,
            ":origin": line.origin.as_ref().map(ResultId::as_str),
            ":times": line.times.as_ref().map(rule_text),
            ":started": line.started,
            ":from_context": line.from_context,
            ":on_base": line.on_base,
            ":content": line.content.as_deref().and_then(parse_content).map(|content| content.0),
            ":boot": line.stamp.boot,
            ":generation": line.stamp.generation,
        })?;
    Ok(())
}

/// Gives a layer a tree that takes `bytes` on disk, if that is known; `false` if it has one.
pub(crate) fn insert_tree(
    transaction: &Transaction<'_>,
    id: &ResultId,
    name: &str,
    bytes: Option<u64>,
    stamp: &Stamp,
) -> Result<bool, Trouble> {
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO trees (layer, name, boot, generation) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (layer) DO NOTHING",
        )?
        .execute((id.as_str(), name, &stamp.boot, stamp.generation))?;
    if inserted == 1 {
        transaction
            .prepare_cached("UPDATE layers SET tree_bytes = ?2 WHERE id = ?1")?
            .execute((id.as_str(), bytes.map(u64::cast_signed)))?;
    }
    Ok(inserted == 1)
}

pub(crate) fn set_blob(transaction: &Transaction<'_>, id: &ResultId, blob: &Descriptor) -> Result<(), Trouble> {
    transaction
        .prepare_cached("UPDATE layers SET blob = ?2 WHERE id = ?1 AND blob IS NULL")?
        .execute((id.as_str(), descriptor_text(blob)))?;
    Ok(())
}
