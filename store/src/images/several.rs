//! Names that mean an index: images for several platforms.
//!
//! In: the exact text of an OCI index, and those of its images that are here. Out: the same, and the image for a
//! platform. Deliberately absent: the index as a blob; who sends it somewhere makes one of the text.

use std::collections::HashSet;

use oci::image::choose;
use oci::model::{Descriptor, Digest, Index, Platform, Reference};
use rusqlite::OptionalExtension as _;

use super::name::{image_file, insert};
use super::{COLUMNS, ImageRecord, all, by_manifest};
use crate::journal::{self, IndexFile};
use crate::{Kind, Store, StoreError};

/// As much as an index of a registry may have.
const DOCUMENT_MAX_BYTES: usize = 4 << 20;

/// An index that a name means.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredIndex {
    /// Its exact text; its digest is that of these bytes.
    pub document: String,
    /// The images of it that are here, in the order in which they were given. Never empty. `created` is when the name
    /// came.
    pub members: Vec<ImageRecord>,
}

impl StoredIndex {
    /// The digest of the document.
    pub fn digest(&self) -> Digest {
        Digest::of(self.document.as_bytes())
    }

    /// What the document says.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] if it is no index.
    pub fn index(&self) -> Result<Index, StoreError> {
        parse(&self.document)
    }
}

impl Store {
    /// Gives an index a name; what had it loses it. `members` are those of its images that are here, in the order in
    /// which they are to be told; all stay as long as the name does. The same index with the same members again changes
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] if `document` is no index or a large one, or if there are no members.
    pub fn tag_index(&self, name: &Reference, document: &str, members: &[ImageRecord]) -> Result<(), StoreError> {
        if document.len() > DOCUMENT_MAX_BYTES {
            return Err(StoreError::bad("image index", document));
        }
        let index = parse(document)?;
        let members: Vec<ImageRecord> =
            members.iter().map(|member| self.with_known_top(member)).collect::<Result<_, _>>()?;
        let Some(main) = chosen(&index, &members, &Platform::native()).or(members.first()) else {
            return Err(StoreError::bad("image index without an image that is here", document));
        };
        if let Some(known) = self.index_of(name)?
            && known.document == document
            && known.members.len() == members.len()
            && known
                .members
                .iter()
                .zip(&members)
                .all(|(known, new)| *known == ImageRecord { created: known.created, ..new.clone() })
        {
            return Ok(());
        }
        for member in &members {
            self.touch(Kind::Image, &member.manifest.digest.hex())?;
        }
        self.index().write("record an index", |transaction, stamp| {
            // Each member has a file of its own, so that no other name takes with it what this one needs.
            for member in &members {
                let file = image_file(None, member, None, stamp);
                // What is known and written down already keeps its stamp: it may be on disk for certain.
                let known = by_manifest(transaction, &member.manifest.digest)?;
                let is_known =
                    known.is_some_and(|known| known == ImageRecord { created: known.created, ..member.clone() });
                if !is_known || !self.layout().images.has(&file.file_name())? {
                    insert(transaction, &file)?;
                    journal::write_image(self.layout(), &file)?;
                }
            }
            let members = members.iter().map(|member| member.manifest.digest).collect();
            let index = IndexFile { document: document.to_owned(), members };
            let file = image_file(Some(name.to_string()), main, Some(index), stamp);
            insert(transaction, &file)?;
            Ok(journal::write_image(self.layout(), &file)?)
        })
    }

    /// The index that this name means; `None` if it means one image, or nothing.
    pub fn index_of(&self, name: &Reference) -> Result<Option<StoredIndex>, StoreError> {
        let name = name.to_string();
        let sql = format!(
            "SELECT {COLUMNS}, tags.created FROM members JOIN images ON images.manifest = members.manifest
             JOIN tags ON tags.name = members.name WHERE members.name = ?1 ORDER BY position"
        );
        self.held(
            |connection| {
                let mut query = connection.prepare_cached("SELECT document FROM tags WHERE name = ?1")?;
                let document: Option<String> = query.query_row([&name], |row| row.get(0)).optional()?.flatten();
                let Some(document) = document else { return Ok(None) };
                Ok(Some(StoredIndex { document, members: all(connection, &sql, [&name])? }))
            },
            |found| found.iter().flat_map(|index| &index.members).map(|image| image.manifest.digest).collect(),
        )
    }

    /// Of what a name means, the image for a platform, in the order of [`oci::image::choose`]; `None` if there is none
    /// here that runs there.
    pub fn image_for(&self, name: &Reference, wanted: &Platform) -> Result<Option<ImageRecord>, StoreError> {
        let (index, members) = match self.index_of(name)? {
            Some(index) => (index.index()?, index.members),
            None => (Index::new(Vec::new()), self.image(name)?.into_iter().collect()),
        };
        Ok(chosen(&index, &members, wanted).cloned())
    }

    /// The names that mean the index with this digest, sorted.
    pub fn index_names(&self, digest: &Digest) -> Result<Vec<Reference>, StoreError> {
        self.index().read("find an index", |connection| {
            let sql = "SELECT name FROM tags WHERE index_digest = ?1 ORDER BY name";
            let mut query = connection.prepare_cached(sql)?;
            let mut names = Vec::new();
            for name in query.query_map([digest.as_bytes()], |row| row.get::<_, String>(0))? {
                let name = name?;
                names.push(name.parse().map_err(|_| StoreError::bad("image name", &name))?);
            }
            Ok(names)
        })
    }
}

/// The member for a platform. What the index says of it counts; what it does not name (it stands in an index within)
/// is for what its own config says.
fn chosen<'a>(index: &Index, members: &'a [ImageRecord], wanted: &Platform) -> Option<&'a ImageRecord> {
    let here: HashSet<Digest> = members.iter().map(|member| member.manifest.digest).collect();
    let named: HashSet<Digest> = index.manifests.iter().map(|entry| entry.digest).collect();
    let entries = index.manifests.iter().filter(|entry| here.contains(&entry.digest)).cloned();
    let others = members.iter().filter(|member| !named.contains(&member.manifest.digest));
    let others = others.map(|member| member.manifest.clone());
    let platform_of = |entry: &Descriptor| {
        let member = members.iter().find(|member| member.manifest.digest == entry.digest);
        entry.platform.clone().or_else(|| member.map(|member| member.platform.clone()))
    };
    let entries = entries.chain(others).map(|entry| Descriptor { platform: platform_of(&entry), ..entry });
    let here = Index::new(entries.collect());
    let entry = choose(&here, wanted)?;
    members.iter().find(|member| member.manifest.digest == entry.digest)
}

fn parse(document: &str) -> Result<Index, StoreError> {
    serde_json::from_str(document).map_err(|_| StoreError::bad("image index", document))
}
