//! Names come and go.
//!
//! Every change is written twice, in one transaction: the file that the index can be rebuilt from
//! ([`crate::journal`]), and the rows.

use oci::model::{Digest, Reference};
use rusqlite::{OptionalExtension, Transaction, named_params};
use solver::seam::ResultId;

use super::{ImageRecord, by_manifest, names};
use crate::durability::Stamp;
use crate::index::Trouble;
use crate::journal::{self, ImageFile, IndexFile, image_file_name};
use crate::layers::descriptor_text;
use crate::{Kind, Store, StoreError};

impl Store {
    /// Gives an image a name; what had it loses it, an index too. A name that the same image has already stays as it
    /// is, its `created` included, so that a build which changes nothing writes nothing. A `top` that is known stays
    /// known when `image` has none.
    pub fn tag(&self, name: &Reference, image: &ImageRecord) -> Result<(), StoreError> {
        let image = &self.with_known_top(image)?;
        if let Some(known) = self.image(name)?
            && known == (ImageRecord { created: known.created, ..image.clone() })
            && self.index_of(name)?.is_none()
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
    pub(super) fn with_known_top(&self, image: &ImageRecord) -> Result<ImageRecord, StoreError> {
        let known = match &image.top {
            Some(_) => None,
            None => self.by_manifest(&image.manifest.digest)?.and_then(|known| known.top),
        };
        Ok(ImageRecord { top: image.top.clone().or(known), ..image.clone() })
    }

    fn write_image(&self, tag: Option<String>, image: &ImageRecord) -> Result<(), StoreError> {
        self.touch(Kind::Image, &image.manifest.digest.hex())?;
        self.index().write("record an image", |transaction, stamp| {
            let file = image_file(tag, image, None, stamp);
            insert(transaction, &file)?;
            Ok(journal::write_image(self.layout(), &file)?)
        })
    }

    /// Takes a name away; `false` if nothing had it. The images that it meant stay known.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let name = name.to_string();
        self.index().write("remove a name", |transaction, stamp| {
            let manifest: Option<[u8; 32]> = transaction
                .prepare_cached("DELETE FROM tags WHERE name = ?1 RETURNING manifest")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            let Some(manifest) = manifest else { return Ok(false) };
            let manifest = Digest::from_bytes(manifest);
            // The image itself stays known without this name's file; an index's members have files of their own.
            if let Some(image) = by_manifest(transaction, &manifest)? {
                journal::write_image(self.layout(), &image_file(None, &image, None, stamp))?;
            }
            self.layout().images.remove_file(&image_file_name(Some(&name), &manifest))?;
            Ok(true)
        })
    }

    /// Forgets an image and all names that lead to it, which are returned, sorted: of an index that it is a member of,
    /// the other members lose the name as well. Its blobs and layers stay until they are collected: other images and
    /// the cache may use them. Forgetting what is not there is fine.
    pub fn remove_image(&self, manifest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().write("remove an image", |transaction, _| {
            let names = names(transaction, manifest)?;
            for name in &names {
                transaction.prepare_cached("DELETE FROM tags WHERE name = ?1")?.execute([name.to_string()])?;
            }
            transaction.prepare_cached("DELETE FROM images WHERE manifest = ?1")?.execute([manifest.as_bytes()])?;
            for tag in names.iter().map(|name| Some(name.to_string())).chain([None]) {
                self.layout().images.remove_file(&image_file_name(tag.as_deref(), manifest))?;
            }
            Ok(names)
        })
    }
}

/// What stands in the file of a name, or of an image without one.
pub(super) fn image_file(
    tag: Option<String>,
    image: &ImageRecord,
    index: Option<IndexFile>,
    stamp: &Stamp,
) -> ImageFile {
    ImageFile {
        tag,
        manifest: image.manifest.clone(),
        config: image.config,
        top: image.top.clone(),
        platform: image.platform.clone(),
        created: image.created.to_string(),
        size_bytes: image.size_bytes,
        index,
        stamp: stamp.clone(),
    }
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
    let Some(tag) = &file.tag else { return Ok(()) };
    let document = file.index.as_ref().map(|index| index.document.as_str());
    let index_digest = document.map(|text| Digest::of(text.as_bytes()));
    transaction
        .prepare_cached(
            "INSERT INTO tags (name, manifest, created, boot, generation, document, index_digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest, created = excluded.created,
                 boot = excluded.boot, generation = excluded.generation, document = excluded.document,
                 index_digest = excluded.index_digest",
        )?
        .execute((
            tag,
            file.manifest.digest.as_bytes(),
            &file.created,
            boot,
            generation,
            document,
            index_digest.as_ref().map(Digest::as_bytes),
        ))?;
    transaction.prepare_cached("DELETE FROM members WHERE name = ?1")?.execute([tag])?;
    for (position, member) in file.index.iter().flat_map(|index| &index.members).enumerate() {
        transaction.prepare_cached("INSERT INTO members (name, position, manifest) VALUES (?1, ?2, ?3)")?.execute((
            tag,
            position.cast_signed(),
            member.as_bytes(),
        ))?;
    }
    Ok(())
}
