//! Layer records: one per step or pulled layer, each on top of its parent's.
//!
//! A record's id names the layer together with all that is beneath it. Built layers have random ids (`b-…`); pulled
//! ones are named by their chain of digests (`c-<hex of the chain id>`), so that adding one again gives the same. What
//! a record does not say at first it may learn: a pulled layer gets a tree when a step needs it, a built one its digest
//! when an exporter has made its tar. [`crate::derived`] ones (`d-…`) stand on another parent, or have other times, and
//! share all else with the record they come from. [`imported`] ones (`i-…`) another machine's step made, packed ones (`p-…`)
//! one of this machine's whose tree nobody had a use for yet.
//!
//! Here: a record and how it is found. Next: [`add`] how records come and go, [`tar`] what is learned of their tars,
//! [`content`] what of their trees.

mod add;
mod content;
mod imported;
mod tar;

use std::collections::HashSet;

use jiff::Timestamp;
use oci::model::{Descriptor, DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, Row};
use solver::key::ContentDigest;
use solver::seam::ResultId;

pub(crate) use add::{insert, insert_tree, set_blob};
pub(crate) use content::{parse_content, store_content};
pub use imported::Imported;
pub(crate) use imported::imported_id;
pub(crate) use tar::set_tar;

use crate::derived::TimeRule;
use crate::index::Trouble;
use crate::{Kind, Store, StoreError};
use tar::Chain;

/// What the store knows of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its name, and that of all beneath it.
    pub id: ResultId,
    /// The layer it stands on; `None` stands on nothing.
    pub parent: Option<ResultId>,
    /// Directory under [`Store::layers_dir`]; `None`: there is no tree.
    pub name: Option<String>,
    /// What that tree takes on disk, in bytes, when it was measured.
    pub tree_bytes: Option<u64>,
    /// Whether it changes nothing: never mounted, never exported.
    pub empty: bool,
    /// Digest of its uncompressed tar, once known.
    pub diff_id: Option<DiffId>,
    /// Size of its uncompressed tar in bytes, once known.
    pub tar_bytes: Option<u64>,
    /// Digest of it and all beneath it, once all of theirs are known; of an empty layer, that of what is beneath it.
    /// image-spec config.md, "Layer ChainID".
    pub chain_id: Option<Digest>,
    /// Digest of what it holds, times aside, once known: layers of equal content change a tree in the same way. See
    /// [`Store::set_content`].
    pub content: Option<ContentDigest>,
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

impl Layer {
    /// The blob that it came as from elsewhere; the tar of a packed layer only stands for its tree.
    pub fn came_as(&self) -> Option<&Descriptor> {
        let maker = self.origin.as_ref().unwrap_or(&self.id);
        self.blob.as_ref().filter(|_| !maker.as_str().starts_with(imported::PACKED))
    }
}

impl From<Timestamp> for Made {
    /// Made at one moment, of nothing else.
    fn from(created: Timestamp) -> Self {
        Self { created, started: created, from_context: false, on_base: false }
    }
}

impl Store {
    /// The layer's record, if it has one.
    pub fn layer(&self, id: &ResultId) -> Result<Option<Layer>, StoreError> {
        self.touch(Kind::Layer, id.as_str())?;
        let layer = self.index().read("find a layer", |connection| find(connection, id))?;
        layer.map(|layer| self.looked_after(layer)).transpose()
    }

    /// The layer and all beneath it, bottom first.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`] names the first that is missing.
    pub fn chain(&self, id: &ResultId) -> Result<Vec<Layer>, StoreError> {
        self.touch(Kind::Layer, id.as_str())?;
        let chain: Vec<Layer> = self.index().read("find a layer", |connection| {
            // One look at the index, and not one per layer.
            let connection = connection.unchecked_transaction()?;
            let mut seen = HashSet::new();
            let mut chain = Vec::new();
            let mut next = Some(id.clone());
            while let Some(id) = next {
                if !seen.insert(id.clone()) {
                    return Err(StoreError::bad("chain of layers without a circle", id.as_str()).into());
                }
                let layer = find(&connection, &id)?.ok_or(StoreError::NoSuchLayer { id })?;
                next = layer.parent.clone();
                chain.push(layer);
            }
            chain.reverse();
            connection.commit()?;
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

    /// A layer that, with all beneath it, has this chain id; one with a tree before one without. An empty layer is
    /// never the answer.
    pub fn layer_by_chain(&self, chain_id: &Digest) -> Result<Option<ResultId>, StoreError> {
        loop {
            let found = self.index().read("find a layer", |connection| {
                let mut query = connection.prepare_cached(
                    "SELECT id FROM layers LEFT JOIN trees ON layer = iif(times IS NULL, coalesce(origin, id), id) WHERE chain_id = ?1 AND NOT empty
                     ORDER BY name IS NULL, layers.rowid LIMIT 1",
                )?;
                Ok(query.query_row([chain_id.as_bytes()], |row| row.get(0).map(ResultId)).optional()?)
            })?;
            // Touched by the second look; what is gone by then is not found again.
            match found {
                Some(id) if self.layer(&id)?.is_none() => tracing::debug!(%id, "collected while it was found"),
                found => return Ok(found),
            }
        }
    }
}

/// One record.
pub(crate) fn find(connection: &Connection, id: &ResultId) -> Result<Option<Layer>, Trouble> {
    let mut query = connection.prepare_cached(
        "SELECT l.id, l.parent, name, l.empty, l.diff_id, l.tar_bytes, l.chain_id,
                CASE WHEN l.origin IS NULL THEN l.blob WHEN l.times IS NULL THEN o.blob END,
                l.created, l.pulled, l.origin, l.times, l.started, l.from_context, l.on_base,
                CASE WHEN l.origin IS NULL OR l.times IS NOT NULL THEN l.tree_bytes ELSE o.tree_bytes END,
                CASE WHEN l.origin IS NULL THEN l.content ELSE o.content END
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
    let diff_id = diff_id.map(|bytes| DiffId(Digest::from_bytes(bytes)));
    let (times, empty, pulled) = (rule.transpose()?, row.get(3)?, row.get(9)?);
    let noted: Option<[u8; 32]> = row.get(16)?;
    Ok(Layer {
        id: ResultId(row.get(0)?),
        parent: row.get::<_, Option<String>>(1)?.map(ResultId),
        name: row.get(2)?,
        tree_bytes: row.get::<_, Option<i64>>(15)?.map(i64::cast_unsigned),
        empty,
        diff_id,
        tar_bytes: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
        chain_id: match Chain::from_column(chain)? {
            Chain::Known(digest) => Some(digest),
            Chain::Nothing | Chain::Unknown => None,
        },
        content: content::content_of(empty, pulled, noted.map(ContentDigest), diff_id, times.as_ref()),
        blob: blob.transpose()?,
        created,
        pulled,
        origin: row.get::<_, Option<String>>(10)?.map(ResultId),
        times,
        started: row.get::<_, Option<String>>(12)?.map_or(Ok(created), time)?,
        from_context: row.get(13)?,
        on_base: row.get(14)?,
    })
}

pub(crate) fn descriptor_text(descriptor: &Descriptor) -> String {
    serde_json::to_string(descriptor).expect("plain data becomes JSON")
}
