//! Images: manifests with their names.
//!
//! An image is known by the digest of its manifest; a tag is a name for one. Tagging moves a name; an image that loses
//! its last name stays until it is collected. `name:tag`, `name@digest` and `name:tag@digest` are three different names.
//!
//! A name may mean an **index** ([`several`]): its text, and those of its images that are here, the *members*. Such a
//! name still answers with one image where one is asked for: the member that serves this machine, else the first. All
//! members stand and fall with the name: what takes one takes the name.
//!
//! [`name`] gives names and takes them, [`find`] looks.

mod find;
mod name;
mod several;

use jiff::Timestamp;
use oci::model::{Descriptor, Digest, Platform, Reference};
use rusqlite::{Connection, Params, Row};
use solver::seam::ResultId;

use crate::StoreError;
use crate::index::Trouble;

pub(crate) use name::insert;
pub use several::StoredIndex;

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

/// What [`Store::find_image`](crate::Store::find_image) found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundImage {
    /// The image; of an index, the one that stands for it.
    pub image: ImageRecord,
    /// The name it was found by; `None` if it was found by its id.
    pub name: Option<Reference>,
    /// All its names, sorted.
    pub names: Vec<Reference>,
    /// The index that was meant: the name means one, or the text was an index's own digest.
    pub index: Option<StoredIndex>,
}

const COLUMNS: &str = "images.descriptor, images.config, images.top, images.platform, images.size_bytes";

fn by_manifest(connection: &Connection, digest: &Digest) -> Result<Option<ImageRecord>, Trouble> {
    let sql = format!("SELECT {COLUMNS}, created FROM images WHERE manifest = ?1");
    first(connection, &sql, [digest.as_bytes()])
}

/// The names that lead to an image, sorted: its own, and those of indexes that it is a member of.
fn names(connection: &Connection, manifest: &Digest) -> Result<Vec<Reference>, Trouble> {
    let mut query = connection.prepare_cached("SELECT name FROM names WHERE manifest = ?1 ORDER BY name")?;
    let mut names = Vec::new();
    for name in query.query_map([manifest.as_bytes()], |row| row.get::<_, String>(0))? {
        let name = name?;
        names.push(name.parse().map_err(|_| StoreError::bad("image name", &name))?);
    }
    Ok(names)
}

fn first(connection: &Connection, sql: &str, params: impl Params) -> Result<Option<ImageRecord>, Trouble> {
    Ok(all(connection, sql, params)?.into_iter().next())
}

fn all(connection: &Connection, sql: &str, params: impl Params) -> Result<Vec<ImageRecord>, Trouble> {
    let mut query = connection.prepare_cached(sql)?;
    let mut rows = query.query(params)?;
    let mut images = Vec::new();
    while let Some(row) = rows.next()? {
        images.push(from_row(row)?);
    }
    Ok(images)
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
