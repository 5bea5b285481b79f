//! Derived layer records: the tree of another record, on another parent or with other times.
//!
//! A record that was made by a step, or pulled, may be the *origin* of others. A derived record shares the origin's
//! tree directory, tar and blob; nothing is copied, and a directory belongs to the origin alone. Parent and rule are
//! all that a derived record adds:
//!
//! ```text
//!   b-1 ◄── b-2 ◄──────── b-3          what the steps made: trees ktq3…, xm2p…, a7bd…
//!
//!   b-9 ◄── d-b2 ◄─────── d-b3         merged onto another base: trees xm2p… and a7bd… again, digests and blobs too
//!   d-1 ◄── d-2 ◄──────── d-3          with an epoch: tars of their own, made of the same trees
//! ```
//!
//! With a [`TimeRule`] (of built layers: the times of others are content) the tar differs from the origin's, and so
//! would the tree. It is not made before something is to stand on it, and then it is the derived record's own.
//!
//! What two records with the same origin and the same rule (*twins*) know of their tar is the same, whatever they stand
//! on: what one learns, all do. Deriving from a derived record derives from its origin. A record whose origin is
//! dropped is dropped too, so no directory is ever named by a record that outlives its owner.
//!
//! Deliberately absent: what a rule does to a time; that is the business of whoever writes the tar.

use oci::model::{DiffId, Digest};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use solver::seam::ResultId;

use crate::index::Trouble;
use crate::journal::{self, LayerLine};
use crate::layers::{self, Layer};
use crate::{Store, StoreError};

/// First line of what a derived record's id is the digest of.
const FORM: &str = "derived layer 1";

/// How the times of a derived layer's tar differ from those of its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimeRule {
    /// What the build's own times become, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
}

impl Store {
    /// Records the layer `of` on another parent, with its times changed by `times`; `None` leaves them as they are in
    /// `of`. `on_base` is that of [`Layer::on_base`]. Deriving the same again returns the same id and writes nothing.
    ///
    /// # Errors
    /// [`StoreError::NoSuchLayer`] if `of` or the parent has no record.
    pub fn derive_layer(
        &self,
        parent: Option<&ResultId>,
        of: &ResultId,
        times: Option<TimeRule>,
        on_base: bool,
    ) -> Result<ResultId, StoreError> {
        let of = self.layer(of)?.ok_or_else(|| StoreError::NoSuchLayer { id: of.clone() })?;
        // Times of what is not there cannot change, those of an image are content.
        let times = if of.empty || of.pulled { None } else { times.or(of.times) };
        let origin = of.origin.as_ref().unwrap_or(&of.id);
        let id = derived_id(parent, origin, times, on_base);
        if self.layer(&id)?.is_some() {
            return Ok(id);
        }
        self.index().write("record a layer", |transaction, stamp| {
            if layers::find(transaction, &id)?.is_some() || layers::find(transaction, origin)?.is_none() {
                // Another process was faster, in making the one or in dropping the other.
                return Ok(());
            }
            let line = LayerLine {
                id: id.clone(),
                parent: parent.cloned(),
                empty: of.empty,
                pulled: of.pulled,
                diff_id: None,
                blob: None,
                created: of.created.to_string(),
                origin: Some(origin.clone()),
                times,
                started: Some(of.started.to_string()),
                from_context: of.from_context,
                on_base,
                content: None,
                stamp: stamp.clone(),
            };
            layers::insert(transaction, &line)?;
            journal::begin(self.layout(), line)?;
            Ok(())
        })?;
        self.layer(&id)?.ok_or_else(|| StoreError::NoSuchLayer { id: origin.clone() })?;
        Ok(id)
    }
}

/// The same for the same parent, origin and rule.
fn derived_id(parent: Option<&ResultId>, origin: &ResultId, times: Option<TimeRule>, on_base: bool) -> ResultId {
    let parent = parent.map_or("-", ResultId::as_str);
    let times = times.map_or_else(|| "-".to_owned(), |times| times.epoch.to_string());
    let text = format!("{FORM}\n{parent}\n{origin}\n{times}\n{on_base}\n");
    ResultId(format!("d-{}", Digest::of(text.as_bytes()).hex()))
}

/// Ids of all records with the layer's origin and rule, its own included.
pub(crate) fn twins(connection: &Connection, layer: &Layer) -> Result<Vec<ResultId>, Trouble> {
    let origin = layer.origin.as_ref().unwrap_or(&layer.id);
    let mut query = connection
        .prepare_cached("SELECT id FROM layers WHERE (id = ?1 OR origin = ?1) AND times IS ?2 ORDER BY id")?;
    let ids =
        query.query_map((origin.as_str(), layer.times.as_ref().map(rule_text)), |row| row.get(0).map(ResultId))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// What is known of the tar of a record that is about to be inserted, from its twins.
pub(crate) fn tar_of_twins(
    connection: &Connection,
    origin: &ResultId,
    times: Option<&TimeRule>,
) -> Result<(Option<DiffId>, Option<u64>), Trouble> {
    let mut query = connection.prepare_cached(
        "SELECT diff_id, tar_bytes FROM layers WHERE (id = ?1 OR origin = ?1) AND times IS ?2 AND diff_id IS NOT NULL
         ORDER BY tar_bytes IS NULL LIMIT 1",
    )?;
    let known = query
        .query_row((origin.as_str(), times.map(rule_text)), |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, Option<i64>>(1)?))
        })
        .optional()?;
    Ok(known.map_or((None, None), |(diff_id, bytes)| {
        (Some(DiffId(Digest::from_bytes(diff_id))), bytes.map(i64::cast_unsigned))
    }))
}

/// A rule as the index holds it.
pub(crate) fn rule_text(rule: &TimeRule) -> String {
    serde_json::to_string(rule).expect("plain data becomes JSON")
}
