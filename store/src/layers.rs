//! Layer records: one per step or pulled layer, each on top of its parent's.
//!
//! A record's id names the layer together with all that is beneath it. Built layers have random ids (`b-…`); pulled
//! ones are named by their chain of digests (`c-<hex of the chain id>`), so that adding one again gives the same. What
//! a record does not say at first it may learn: a pulled layer gets a tree when a step needs it, a built one its digest
//! when an exporter has made its tar. [`crate::derived`] ones (`d-…`) stand on another parent, or have other times, and
//! share all else with the record they come from.

use std::collections::HashSet;

use jiff::Timestamp;
use oci::model::{Descriptor, DiffId, Digest, Reference, chain_ids};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params};
use solver::seam::ResultId;

use crate::derived::{TimeRule, rule_text, tar_of_twins, twins};
use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, LayerLine, Line};
use crate::{Draft, Store, StoreError, trash};

/// What the store knows of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its name, and that of all beneath it.
    pub id: ResultId,
    /// The layer it stands on; `None` stands on nothing.
    pub parent: Option<ResultId>,
    /// Directory under [`Store::layers_dir`]; `None`: there is no tree.
    pub name: Option<String>,
    /// Whether it changes nothing: never mounted, never exported.
    pub empty: bool,
    /// Digest of its uncompressed tar, once known.
    pub diff_id: Option<DiffId>,
    /// Size of its uncompressed tar in bytes, once known.
    pub tar_bytes: Option<u64>,
    /// Digest of it and all beneath it, once all of theirs are known; of an empty layer, that of what is beneath it.
    /// image-spec config.md, "Layer ChainID".
    pub chain_id: Option<Digest>,
    /// The blob it was pulled as, whether or not that is in the store.
    pub blob: Option<Descriptor>,
    /// When it was made; a history entry says so.
    pub created: Timestamp,
    /// Whether it is a layer of a pulled, imported or loaded image, or derived from one.
    pub pulled: bool,
    /// The record whose tree it shares; `None`: the tree is its own.
    pub origin: Option<ResultId>,
    /// How the times of its tar differ from those of its tree.
    pub times: Option<TimeRule>,
    /// From when on a time in it may be of the build's making, see [`Made::started`].
    pub started: Timestamp,
    /// See [`Made::from_context`].
    pub from_context: bool,
    /// See [`Made::on_base`].
    pub on_base: bool,
}

/// How a layer was made: what decides which of its times are the build's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// When it was done.
    pub created: Timestamp,
    /// When its step began, or the first of the steps that made what it copied; by the clock that files have.
    pub started: Timestamp,
    /// Whether it may hold files with the times of a build context, whatever way they took.
    pub from_context: bool,
    /// Whether it stands on no step of the build that made it: on an image, or on nothing.
    pub on_base: bool,
}

impl From<Timestamp> for Made {
    /// Made at one moment, of nothing else.
    fn from(created: Timestamp) -> Self {
        Self { created, started: created, from_context: false, on_base: false }
    }
}

/// What is known of the digests up to some layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Not all of them yet.
    Unknown,
    /// There is no layer that is not empty.
    Nothing,
    /// All of them.
    Known(Digest),
}

impl Store {
    /// The layer's record, if it has one.
    pub fn layer(&self, id: &ResultId) -> Result<Option<Layer>, StoreError> {
        let layer = self.index().read("find a layer", |connection| find(connection, id))?;
        layer.map(|layer| self.looked_after(layer)).transpose()
    }

    /// The layer and all beneath it, bottom first.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`] names the first that is missing.
    pub fn chain(&self, id: &ResultId) -> Result<Vec<Layer>, StoreError> {
        let chain: Vec<Layer> = self.index().read("find a layer", |connection| {
            let mut seen = HashSet::new();
            let mut chain = Vec::new();
            let mut next = Some(id.clone());
            while let Some(id) = next {
                if !seen.insert(id.clone()) {
                    return Err(StoreError::bad("chain of layers without a circle", id.as_str()).into());
                }
                let layer = find(connection, &id)?.ok_or(StoreError::NoSuchLayer { id })?;
                next = layer.parent.clone();
                chain.push(layer);
            }
            chain.reverse();
            Ok(chain)
        })?;
        chain.into_iter().map(|layer| self.looked_after(layer)).collect()
    }

    /// The layer, without its tree if that has been taken from the store: what can be unpacked again then is, and what
    /// cannot is made again.
    fn looked_after(&self, mut layer: Layer) -> Result<Layer, StoreError> {
        if let Some(name) = &layer.name
            && !self.layout().layers.has(name)?
        {
            tracing::warn!(id = %layer.id, name, "the tree of a layer is gone from the store");
            layer.name = None;
        }
        Ok(layer)
    }

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
        let tree = draft.as_ref().map(Draft::publish).transpose()?;
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
                stamp: stamp.clone(),
            };
            insert(transaction, &line)?;
            journal::begin(self.layout(), line)?;
            if let Some(name) = tree {
                let name = name.to_owned();
                insert_tree(transaction, &id, &name, stamp)?;
                journal::append(self.layout(), &id, &Line::Tree { name, stamp: stamp.clone() })?;
            }
            Ok(())
        });
        if recorded.is_err() {
            // Before the draft goes, and with it what a sweep would know the tree by.
            self.layout().records.remove_file(&journal::record_file_name(&id))?;
            if let Some(name) = tree {
                trash::discard(self.layout(), &self.layout().layers, name)?;
            }
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
        let name = draft.publish()?.to_owned();
        let is_ours = self.index().write("record a tree", |transaction, stamp| {
            let known = find(transaction, id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
            if let Some(gone) = known.name
                && !self.layout().layers.has(&gone)?
            {
                transaction.execute("DELETE FROM trees WHERE layer = ?1", [id.as_str()])?;
            }
            if !insert_tree(transaction, id, &name, stamp)? {
                return Ok(false);
            }
            journal::append(self.layout(), id, &Line::Tree { name: name.clone(), stamp: stamp.clone() })?;
            Ok(true)
        });
        if !matches!(is_ours, Ok(true)) {
            trash::discard(self.layout(), &self.layout().layers, &name)?;
        }
        is_ours?;
        Ok(())
    }

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

    /// A layer that, with all beneath it, has this chain id; one with a tree before one without. An empty layer is
    /// never the answer.
    pub fn layer_by_chain(&self, chain_id: &Digest) -> Result<Option<ResultId>, StoreError> {
        self.index().read("find a layer", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT id FROM layers LEFT JOIN trees ON layer = iif(times IS NULL, coalesce(origin, id), id) WHERE chain_id = ?1 AND NOT empty
                 ORDER BY name IS NULL, layers.rowid LIMIT 1",
            )?;
            Ok(query.query_row([chain_id.as_bytes()], |row| row.get(0).map(ResultId)).optional()?)
        })
    }
}

/// One record.
pub(crate) fn find(connection: &Connection, id: &ResultId) -> Result<Option<Layer>, Trouble> {
    let mut query = connection.prepare_cached(
        "SELECT l.id, l.parent, name, l.empty, l.diff_id, l.tar_bytes, l.chain_id,
                CASE WHEN l.origin IS NULL THEN l.blob WHEN l.times IS NULL THEN o.blob END,
                l.created, l.pulled, l.origin, l.times, l.started, l.from_context, l.on_base
         FROM layers l LEFT JOIN layers o ON o.id = l.origin LEFT JOIN trees ON layer = iif(l.times IS NULL, coalesce(l.origin, l.id), l.id)
         WHERE l.id = ?1",
    )?;
    let mut rows = query.query([id.as_str()])?;
    rows.next()?.map(from_row).transpose()
}

fn from_row(row: &Row<'_>) -> Result<Layer, Trouble> {
    let blob: Option<String> = row.get(7)?;
    let blob = blob.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::bad("descriptor", &text)));
    let chain: Option<Vec<u8>> = row.get(6)?;
    let time = |text: String| text.parse::<Timestamp>().map_err(|_| StoreError::bad("time", &text));
    let created = time(row.get(8)?)?;
    let rule: Option<String> = row.get(11)?;
    let rule = rule.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::bad("rule for times", &text)));
    let diff_id: Option<[u8; 32]> = row.get(4)?;
    Ok(Layer {
        id: ResultId(row.get(0)?),
        parent: row.get::<_, Option<String>>(1)?.map(ResultId),
        name: row.get(2)?,
        empty: row.get(3)?,
        diff_id: diff_id.map(|bytes| DiffId(Digest::from_bytes(bytes))),
        tar_bytes: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
        chain_id: match Chain::from_column(chain)? {
            Chain::Known(digest) => Some(digest),
            Chain::Nothing | Chain::Unknown => None,
        },
        blob: blob.transpose()?,
        created,
        pulled: row.get(9)?,
        origin: row.get::<_, Option<String>>(10)?.map(ResultId),
        times: rule.transpose()?,
        started: row.get::<_, Option<String>>(12)?.map_or(Ok(created), time)?,
        from_context: row.get(13)?,
        on_base: row.get(14)?,
    })
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
                 started, from_context, on_base, boot, generation)
             VALUES (:id, :parent, :empty, :pulled, :diff_id, :tar_bytes, :chain_id, :blob, :created, :origin, :times,
                 :started, :from_context, :on_base, :boot, :generation)",
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
            ":boot": line.stamp.boot,
            ":generation": line.stamp.generation,
        })?;
    Ok(())
}

/// Gives a layer a tree; `false` if it has one.
pub(crate) fn insert_tree(
    transaction: &Transaction<'_>,
    id: &ResultId,
    name: &str,
    stamp: &Stamp,
) -> Result<bool, Trouble> {
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO trees (layer, name, boot, generation) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (layer) DO NOTHING",
        )?
        .execute((id.as_str(), name, &stamp.boot, stamp.generation))?;
    Ok(inserted == 1)
}

pub(crate) fn set_blob(transaction: &Transaction<'_>, id: &ResultId, blob: &Descriptor) -> Result<(), Trouble> {
    transaction
        .prepare_cached("UPDATE layers SET blob = ?2 WHERE id = ?1 AND blob IS NULL")?
        .execute((id.as_str(), descriptor_text(blob)))?;
    Ok(())
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
fn chain_below(connection: &Connection, parent: Option<&ResultId>) -> Result<Chain, Trouble> {
    let Some(parent) = parent else { return Ok(Chain::Nothing) };
    let mut query = connection.prepare_cached("SELECT chain_id FROM layers WHERE id = ?1")?;
    let column: Option<Option<Vec<u8>>> = query.query_row([parent.as_str()], |row| row.get(0)).optional()?;
    match column {
        None => Err(StoreError::NoSuchLayer { id: parent.clone() }.into()),
        Some(column) => Ok(Chain::from_column(column)?),
    }
}

/// The chain id of a layer on top of others, if theirs is known.
fn on_top_of(below: Chain, diff_id: DiffId) -> Option<Digest> {
    match below {
        Chain::Unknown => None,
        Chain::Nothing => Some(diff_id.0),
        // What `chain_ids` does for two layers is what it does for any two neighbours.
        Chain::Known(below) => chain_ids(&[DiffId(below), diff_id]).last().copied(),
    }
}

impl Chain {
    fn grown(below: Chain, diff_id: DiffId) -> Chain {
        on_top_of(below, diff_id).map_or(Chain::Unknown, Chain::Known)
    }

    fn from_column(column: Option<Vec<u8>>) -> Result<Self, StoreError> {
        match column {
            None => Ok(Self::Unknown),
            Some(bytes) if bytes.is_empty() => Ok(Self::Nothing),
            Some(bytes) => match <[u8; 32]>::try_from(bytes) {
                Ok(bytes) => Ok(Self::Known(Digest::from_bytes(bytes))),
                Err(bytes) => Err(StoreError::bad("chain id", format!("{bytes:?}"))),
            },
        }
    }

    fn column(&self) -> Option<&[u8]> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(&[]),
            Self::Known(digest) => Some(digest.as_bytes()),
        }
    }
}

pub(crate) fn descriptor_text(descriptor: &Descriptor) -> String {
    serde_json::to_string(descriptor).expect("plain data becomes JSON")
}
