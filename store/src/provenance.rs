//! What is known of blobs beside their bytes: which compressed form a layer has, and where a blob can be had.
//!
//! All of it can be found out again, so it bears no stamp: a form counts only while its blob is here, and a place is a
//! hint that a registry may refuse.

use oci::content::ContentError;
use oci::model::{Descriptor, DiffId, Digest, Reference};
use rusqlite::{OptionalExtension, Transaction};

use crate::index::Trouble;
use crate::layers::descriptor_text;
use crate::{Store, StoreError};

impl Store {
    /// The blob that a layer's tar was once compressed to by this codec (`gzip-6-<encoder version>`), if it is still
    /// in the store.
    pub fn blob_variant(&self, diff_id: &DiffId, codec: &str) -> Result<Option<Descriptor>, StoreError> {
        let text: Option<String> = self.index().read("find a compressed layer", |connection| {
            let mut query =
                connection.prepare_cached("SELECT descriptor FROM blob_variants WHERE diff_id = ?1 AND codec = ?2")?;
            Ok(query.query_row((diff_id.0.as_bytes(), codec), |row| row.get(0)).optional()?)
        })?;
        let Some(text) = text else { return Ok(None) };
        let descriptor: Descriptor = serde_json::from_str(&text).map_err(|_| StoreError::bad("descriptor", &text))?;
        let size = self.blobs().size(&descriptor.digest).map_err(|error| match error {
            ContentError::Io { source, .. } => StoreError::io("look at", self.blobs().path(&descriptor.digest), source),
            other => StoreError::io("look at", self.blobs().path(&descriptor.digest), std::io::Error::other(other)),
        })?;
        Ok((size == Some(descriptor.size)).then_some(descriptor))
    }

    /// Remembers what a layer's tar was compressed to. Remembering twice keeps the later.
    pub fn add_blob_variant(&self, diff_id: &DiffId, codec: &str, blob: &Descriptor) -> Result<(), StoreError> {
        self.index().transaction("record a compressed layer", |transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO blob_variants (diff_id, codec, descriptor) VALUES (?1, ?2, ?3)",
                )?
                .execute((diff_id.0.as_bytes(), codec, descriptor_text(blob)))?;
            Ok(())
        })
    }

    /// Remembers that the repository of `name` has a blob; one name per repository is kept. `false` if that was known.
    pub fn add_blob_source(&self, digest: &Digest, name: &Reference) -> Result<bool, StoreError> {
        if self.blob_sources(digest)?.iter().any(|known| repository(known) == repository(name)) {
            return Ok(false);
        }
        self.index().transaction("record where a blob is", |transaction| remember_source(transaction, digest, name))
    }

    /// Names of images whose repositories had the blob, the first remembered first: where it can be fetched again, or
    /// mounted from.
    pub fn blob_sources(&self, digest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().read("find where a blob is", |connection| {
            let mut query =
                connection.prepare_cached("SELECT name FROM blob_sources WHERE digest = ?1 ORDER BY rowid")?;
            let mut names = Vec::new();
            for name in query.query_map([digest.as_bytes()], |row| row.get::<_, String>(0))? {
                let name = name?;
                names.push(name.parse().map_err(|_| StoreError::bad("image name", &name))?);
            }
            Ok(names)
        })
    }
}

pub(crate) fn remember_source(
    transaction: &Transaction<'_>,
    digest: &Digest,
    name: &Reference,
) -> Result<bool, Trouble> {
    let inserted = transaction
        .prepare_cached("INSERT OR IGNORE INTO blob_sources (digest, repository, name) VALUES (?1, ?2, ?3)")?
        .execute((digest.as_bytes(), repository(name), name.to_string()))?;
    Ok(inserted == 1)
}

fn repository(name: &Reference) -> String {
    format!("{}/{}", name.registry(), name.repository())
}
