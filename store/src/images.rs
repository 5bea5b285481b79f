//! Images: manifests with their names.
//!
//! An image is known by the digest of its manifest; a tag is a name for one. Tagging moves a name; an image that loses
//! its last name stays until it is collected. `name:tag`, `name@digest` and `name:tag@digest` are three different names.

use jiff::Timestamp;
use oci::model::{Descriptor, Digest, Platform, Reference};
use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction, named_params};
use solver::seam::ResultId;

use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, ImageFile, image_file_name};
use crate::layers::descriptor_text;
use crate::{Kind, Store, StoreError};

/// Ids are shown with 12 digits; fewer than this many are taken for a name.
const ID_PREFIX_MIN_DIGITS: usize = 4;

/// What the store knows of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRecord {
    /// Its manifest, a blob in the store.
    pub manifest: Descriptor,
    /// Digest of its config, a blob in the store; this is the image id.
    pub config: Digest,
    /// Its topmost layer record; `None` if it has no layers.
    pub top: Option<ResultId>,
    /// For which machine it is.
    pub platform: Platform,
    /// When it got its name; without one, when it was added.
    pub created: Timestamp,
    /// Size of its layers in bytes, uncompressed.
    pub size_bytes: u64,
}

/// What [`Store::find_image`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundImage {
    /// The image.
    pub image: ImageRecord,
    /// The name it was found by; `None` if it was found by its id.
    pub name: Option<Reference>,
    /// All its names, sorted.
    pub names: Vec<Reference>,
}

const COLUMNS: &str = "images.descriptor, images.config, images.top, images.platform, images.size_bytes";

impl Store {
    /// Gives an image a name; the image that had it loses it. A name that the same image has already stays as it is,
    /// its `created` included, so that a build which changes nothing writes nothing. A `top` that is known stays known
    /// when `image` has none.
    pub fn tag(&self, name: &Reference, image: &ImageRecord) -> Result<(), StoreError> {
        let image = &self.with_known_top(image)?;
        if let Some(known) = self.image(name)?
            && known == (ImageRecord { created: known.created, ..image.clone() })
        {
            return Ok(());
        }
        self.write_image(Some(name.to_string()), image)
    }

    /// Remembers an image without giving it a name.
    pub fn add_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let image = &self.with_known_top(image)?;
        if let Some(known) = self.by_manifest(&image.manifest.digest)?
            && known == (ImageRecord { created: known.created, ..image.clone() })
        {
            return Ok(());
        }
        self.write_image(None, image)
    }

    /// A manifest always has the same layers: who does not know their records does not make the store forget them.
    fn with_known_top(&self, image: &ImageRecord) -> Result<ImageRecord, StoreError> {
        let known = match &image.top {
            Some(_) => None,
            None => self.by_manifest(&image.manifest.digest)?.and_then(|known| known.top),
        };
        Ok(ImageRecord { top: image.top.clone().or(known), ..image.clone() })
    }

    fn write_image(&self, tag: Option<String>, image: &ImageRecord) -> Result<(), StoreError> {
        self.touch(Kind::Image, &image.manifest.digest.hex())?;
        self.index().write("record an image", |transaction, stamp| {
            let file = ImageFile {
                tag,
                manifest: image.manifest.clone(),
                config: image.config,
                top: image.top.clone(),
                platform: image.platform.clone(),
                created: image.created.to_string(),
                size_bytes: image.size_bytes,
                stamp: stamp.clone(),
            };
            insert(transaction, &file)?;
            journal::write_image(self.layout(), &file)?;
            Ok(())
        })
    }

    /// Takes a name away; `false` if nothing had it.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let name = name.to_string();
        self.index().write("remove a name", |transaction, stamp| {
            let manifest: Option<[u8; 32]> = transaction
                .prepare_cached("DELETE FROM tags WHERE name = ?1 RETURNING manifest")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            let Some(manifest) = manifest else { return Ok(false) };
            let manifest = Digest::from_bytes(manifest);
            // The image itself stays known without this name's file.
            if let Some(image) = by_manifest(transaction, &manifest)? {
                let file = ImageFile {
                    tag: None,
                    manifest: image.manifest,
                    config: image.config,
                    top: image.top,
                    platform: image.platform,
                    created: image.created.to_string(),
                    size_bytes: image.size_bytes,
                    stamp: stamp.clone(),
                };
                journal::write_image(self.layout(), &file)?;
            }
            self.layout().images.remove_file(&image_file_name(Some(&name), &manifest))?;
            Ok(true)
        })
    }

    /// The image of exactly this name.
    pub fn image(&self, name: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, tags.created FROM tags JOIN images ON images.manifest = tags.manifest
             WHERE tags.name = ?1"
        );
        self.found(|connection| first(connection, &sql, [name.to_string()]))
    }

    /// The image that `look` gives, held from now on: found, touched and found again.
    fn found(
        &self,
        look: impl Fn(&Connection) -> Result<Option<ImageRecord>, Trouble>,
    ) -> Result<Option<ImageRecord>, StoreError> {
        let mut known = None;
        loop {
            let found = self.index().read("find an image", &look)?;
            let manifest = found.as_ref().map(|image| image.manifest.digest);
            match manifest {
                Some(manifest) if known != Some(manifest) => self.touch(Kind::Image, &manifest.hex())?,
                _ => return Ok(found),
            }
            known = manifest;
        }
    }

    /// All names and their images, sorted by name.
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

    /// Images that have no name, the last added first.
    pub fn nameless_images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, created FROM images WHERE manifest NOT IN (SELECT manifest FROM tags) ORDER BY rowid DESC"
        );
        self.index().read("list the images", |connection| {
            let mut query = connection.prepare_cached(&sql)?;
            let mut rows = query.query([])?;
            let mut images = Vec::new();
            while let Some(row) = rows.next()? {
                images.push(from_row(row)?);
            }
            Ok(images)
        })
    }

    /// Forgets an image and all its names, which are returned, sorted. Its blobs and layers stay until they are
    /// collected: other images and the cache may use them. Forgetting what is not there is fine.
    pub fn remove_image(&self, manifest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().write("remove an image", |transaction, _| {
            let names = names(transaction, manifest)?;
            transaction.prepare_cached("DELETE FROM tags WHERE manifest = ?1")?.execute([manifest.as_bytes()])?;
            transaction.prepare_cached("DELETE FROM images WHERE manifest = ?1")?.execute([manifest.as_bytes()])?;
            for tag in names.iter().map(|name| Some(name.to_string())).chain([None]) {
                self.layout().images.remove_file(&image_file_name(tag.as_deref(), manifest))?;
            }
            Ok(names)
        })
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

    /// All names of the image with this manifest, sorted.
    pub fn image_names(&self, manifest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().read("find an image", |connection| names(connection, manifest))
    }

    /// The image that a person means: by name (`debian:12`), by image id or manifest digest, or by the beginning of an
    /// image id (with or without `sha256:`, four digits at least). A name comes before an id.
    ///
    /// # Errors
    /// [`StoreError::AmbiguousId`] if several images' ids begin like this.
    pub fn find_image(&self, text: &str) -> Result<Option<FoundImage>, StoreError> {
        if let Ok(name) = text.parse::<Reference>()
            && let Some(image) = self.image(&name)?
        {
            let names = self.image_names(&image.manifest.digest)?;
            return Ok(Some(FoundImage { image, name: Some(name), names }));
        }
        let image = match text.parse::<Digest>() {
            Ok(digest) => self.image_by_digest(&digest)?,
            Err(_) => self.by_id_prefix(text)?,
        };
        let Some(image) = image else { return Ok(None) };
        let names = self.image_names(&image.manifest.digest)?;
        Ok(Some(FoundImage { image, name: None, names }))
    }

    fn by_manifest(&self, digest: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        self.found(|connection| by_manifest(connection, digest))
    }

    fn by_id_prefix(&self, text: &str) -> Result<Option<ImageRecord>, StoreError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || !(ID_PREFIX_MIN_DIGITS..=64).contains(&digits.len()) {
            return Ok(None);
        }
        // Images are few, and this is only asked by people: no index serves it.
        let ids: Vec<Digest> = self.index().read("find an image", |connection| {
            let sql = "SELECT DISTINCT config FROM images WHERE lower(hex(config)) LIKE ?1 || '%' ORDER BY config";
            let mut query = connection.prepare_cached(sql)?;
            let ids = query.query_map([digits], |row| row.get(0).map(Digest::from_bytes))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })?;
        match ids[..] {
            [] => Ok(None),
            [id] => self.image_by_digest(&id),
            _ => Err(StoreError::AmbiguousId {
                text: text.to_owned(),
                candidates: ids.iter().map(Digest::to_string).collect(),
            }),
        }
    }
}

fn by_manifest(connection: &Connection, digest: &Digest) -> Result<Option<ImageRecord>, Trouble> {
    let sql = format!("SELECT {COLUMNS}, created FROM images WHERE manifest = ?1");
    first(connection, &sql, [digest.as_bytes()])
}

fn names(connection: &Connection, manifest: &Digest) -> Result<Vec<Reference>, Trouble> {
    let mut query = connection.prepare_cached("SELECT name FROM tags WHERE manifest = ?1 ORDER BY name")?;
    let mut names = Vec::new();
    for name in query.query_map([manifest.as_bytes()], |row| row.get::<_, String>(0))? {
        let name = name?;
        names.push(name.parse().map_err(|_| StoreError::bad("image name", &name))?);
    }
    Ok(names)
}

fn first(connection: &Connection, sql: &str, params: impl Params) -> Result<Option<ImageRecord>, Trouble> {
    let mut query = connection.prepare_cached(sql)?;
    let mut rows = query.query(params)?;
    rows.next()?.map(from_row).transpose()
}

fn from_row(row: &Row<'_>) -> Result<ImageRecord, Trouble> {
    let (manifest, platform, created): (String, String, String) = (row.get(0)?, row.get(3)?, row.get(5)?);
    Ok(ImageRecord {
        manifest: serde_json::from_str(&manifest).map_err(|_| StoreError::bad("descriptor", &manifest))?,
        config: Digest::from_bytes(row.get(1)?),
        top: row.get::<_, Option<String>>(2)?.map(ResultId),
        platform: serde_json::from_str(&platform).map_err(|_| StoreError::bad("platform", &platform))?,
        created: created.parse::<Timestamp>().map_err(|_| StoreError::bad("time", &created))?,
        size_bytes: row.get::<_, i64>(4)?.cast_unsigned(),
    })
}

/// Inserts or replaces the image and, if it has one, its name.
pub(crate) fn insert(transaction: &Transaction<'_>, file: &ImageFile) -> Result<(), Trouble> {
    let Stamp { boot, generation } = &file.stamp;
    let platform = serde_json::to_string(&file.platform).expect("plain data becomes JSON");
    transaction
        .prepare_cached(
            "INSERT INTO images (manifest, descriptor, config, top, platform, size_bytes, created, boot, generation)
             VALUES (:manifest, :descriptor, :config, :top, :platform, :size_bytes, :created, :boot, :generation)
             ON CONFLICT (manifest) DO UPDATE SET descriptor = excluded.descriptor, config = excluded.config,
                 top = excluded.top, platform = excluded.platform, size_bytes = excluded.size_bytes,
                 boot = excluded.boot, generation = excluded.generation
             WHERE descriptor <> excluded.descriptor OR config <> excluded.config OR top IS NOT excluded.top
                 OR platform <> excluded.platform OR size_bytes <> excluded.size_bytes",
        )?
        .execute(named_params! {
            ":manifest": file.manifest.digest.as_bytes(),
            ":descriptor": descriptor_text(&file.manifest),
            ":config": file.config.as_bytes(),
            ":top": file.top.as_ref().map(ResultId::as_str),
            ":platform": platform,
            ":size_bytes": file.size_bytes.cast_signed(),
            ":created": file.created,
            ":boot": boot,
            ":generation": generation,
        })?;
    if let Some(tag) = &file.tag {
        transaction
            .prepare_cached(
                "INSERT INTO tags (name, manifest, created, boot, generation) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest, created = excluded.created,
                     boot = excluded.boot, generation = excluded.generation",
            )?
            .execute((tag, file.manifest.digest.as_bytes(), &file.created, boot, generation))?;
    }
    Ok(())
}
