//! Images are found: by name, by digest, by what a person writes.

use oci::model::{Digest, Reference};
use rusqlite::Connection;

use super::{COLUMNS, FoundImage, ImageRecord, all, by_manifest, first, from_row, names};
use crate::index::Trouble;
use crate::{Kind, Store, StoreError};

/// Ids are shown with 12 digits; fewer than this many are taken for a name.
const ID_PREFIX_MIN_DIGITS: usize = 4;

impl Store {
    /// The image of exactly this name; of an index, the member that serves this machine, else the first.
    pub fn image(&self, name: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, tags.created FROM tags JOIN images ON images.manifest = tags.manifest
             WHERE tags.name = ?1"
        );
        self.found(|connection| first(connection, &sql, [name.to_string()]))
    }

    /// The image that `look` gives, held from now on.
    fn found(
        &self,
        look: impl Fn(&Connection) -> Result<Option<ImageRecord>, Trouble>,
    ) -> Result<Option<ImageRecord>, StoreError> {
        self.held(look, |found| found.iter().map(|image| image.manifest.digest).collect())
    }

    /// What `look` gives, its images held from now on: found, touched and found again.
    pub(super) fn held<T>(
        &self,
        look: impl Fn(&Connection) -> Result<T, Trouble>,
        manifests: impl Fn(&T) -> Vec<Digest>,
    ) -> Result<T, StoreError> {
        let mut known = Vec::new();
        loop {
            let found = self.index().read("find an image", &look)?;
            let now = manifests(&found);
            if now.iter().all(|manifest| known.contains(manifest)) {
                return Ok(found);
            }
            for manifest in &now {
                self.touch(Kind::Image, &manifest.hex())?;
            }
            known = now;
        }
    }

    /// All names and their images, sorted by name; of an index, the image that stands for it.
    pub fn images(&self) -> Result<Vec<(Reference, ImageRecord)>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, tags.created, tags.name FROM tags JOIN images ON images.manifest = tags.manifest
             ORDER BY tags.name"
        );
        self.index().read("list the images", |connection| {
            let mut query = connection.prepare_cached(&sql)?;
            let mut rows = query.query([])?;
            let mut images = Vec::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(6)?;
                let name = name.parse().map_err(|_| StoreError::bad("image name", &name))?;
                images.push((name, from_row(row)?));
            }
            Ok(images)
        })
    }

    /// Images that no name leads to, the last added first.
    pub fn nameless_images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, created FROM images WHERE manifest NOT IN (SELECT manifest FROM names)
             ORDER BY rowid DESC"
        );
        self.index().read("list the images", |connection| all(connection, &sql, []))
    }

    /// The image whose manifest or config has this digest, named or not. Several manifests may share a config: the one
    /// that was added last is the answer.
    pub fn image_by_digest(&self, digest: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        if let Some(image) = self.by_manifest(digest)? {
            return Ok(Some(image));
        }
        let sql = format!("SELECT {COLUMNS}, created FROM images WHERE config = ?1 ORDER BY rowid DESC LIMIT 1");
        self.found(|connection| first(connection, &sql, [digest.as_bytes()]))
    }

    /// All names that lead to the image with this manifest, sorted: its own, and those of indexes with it.
    pub fn image_names(&self, manifest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().read("find an image", |connection| names(connection, manifest))
    }

    /// The image or index that a person means: by name (`debian:12`), by image id, digest of manifest or index, or by
    /// the beginning of an image id or of an index's digest (with or without `sha256:`, four digits at least). A name
    /// comes before an id.
    ///
    /// # Errors
    /// [`StoreError::AmbiguousId`] if several ids begin like this.
    pub fn find_image(&self, text: &str) -> Result<Option<FoundImage>, StoreError> {
        if let Ok(name) = text.parse::<Reference>()
            && let Some(image) = self.image(&name)?
        {
            let index = self.index_of(&name)?;
            let names = self.image_names(&image.manifest.digest)?;
            return Ok(Some(FoundImage { image, name: Some(name), names, index }));
        }
        match text.parse::<Digest>() {
            Ok(digest) => self.found_by_digest(&digest),
            Err(_) => self.by_id_prefix(text),
        }
    }

    fn found_by_digest(&self, digest: &Digest) -> Result<Option<FoundImage>, StoreError> {
        if let Some(image) = self.image_by_digest(digest)? {
            let names = self.image_names(&image.manifest.digest)?;
            return Ok(Some(FoundImage { image, name: None, names, index: None }));
        }
        let names = self.index_names(digest)?;
        let Some(name) = names.first() else { return Ok(None) };
        let (image, index) = (self.image(name)?, self.index_of(name)?);
        Ok(image.map(|image| FoundImage { image, name: None, names, index }))
    }

    pub(super) fn by_manifest(&self, digest: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        self.found(|connection| by_manifest(connection, digest))
    }

    fn by_id_prefix(&self, text: &str) -> Result<Option<FoundImage>, StoreError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || !(ID_PREFIX_MIN_DIGITS..=64).contains(&digits.len()) {
            return Ok(None);
        }
        // Images are few, and this is only asked by people: no index serves it.
        let ids: Vec<Digest> = self.index().read("find an image", |connection| {
            let sql = "SELECT config FROM images WHERE lower(hex(config)) LIKE ?1 || '%'
                UNION SELECT index_digest FROM tags WHERE lower(hex(index_digest)) LIKE ?1 || '%' ORDER BY 1";
            let mut query = connection.prepare_cached(sql)?;
            let ids = query.query_map([digits], |row| row.get(0).map(Digest::from_bytes))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })?;
        match ids[..] {
            [] => Ok(None),
            [id] => self.found_by_digest(&id),
            _ => Err(StoreError::AmbiguousId {
                text: text.to_owned(),
                candidates: ids.iter().map(Digest::to_string).collect(),
            }),
        }
    }
}
