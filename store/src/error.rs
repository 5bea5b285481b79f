//! What can go wrong in the store. The hall turns these into words; hints stand with those that need one.

use std::io;
use std::path::{Path, PathBuf};

use solver::seam::ResultId;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call on one of the store's files failed.
    #[error("cannot {act} `{}`", path.display())]
    Io {
        /// What was tried: `open`, `rename`, ….
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database refused. A full disk and a lock held for too long come out here.
    #[error("the store's index could not {act}")]
    Index {
        /// What was tried: `find a layer`, ….
        act: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The index turned out to be damaged while it was used. The next [`crate::Store::open`] rebuilds it.
    #[error("the store's index `{}` is damaged; run the command again: the index is then rebuilt from the store's files", path.display())]
    IndexDamaged {
        /// The database.
        path: PathBuf,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// The index must be rebuilt, and other processes are using it.
    #[error(
        "the store's index `{}` must be rebuilt ({reason}), but other rbuild processes use this store; let them finish, then try again",
        path.display()
    )]
    IndexInUse {
        /// The database.
        path: PathBuf,
        /// Why it must be rebuilt.
        reason: String,
    },
    /// A newer rbuild made this store; it was not touched.
    #[error(
        "the store `{}` was made by a newer rbuild (schema {found}, this one knows {known}); it was left untouched: use that rbuild, or another `--root`",
        root.display()
    )]
    NewerSchema {
        /// The store.
        root: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// A directory with foreign contents was given as the store's root.
    #[error("`{}` is not empty and not a store of rbuild; give an empty or a new directory", root.display())]
    NotAStore {
        /// The directory.
        root: PathBuf,
    },
    /// The store's root belongs to somebody else, who could read and change everything in it.
    #[error("the store `{}` belongs to user {owner}, and this is user {user}", root.display())]
    ForeignOwner {
        /// The directory.
        root: PathBuf,
        /// Its owner.
        owner: u32,
        /// The effective user of this process.
        user: u32,
    },
    /// A record names a layer, or a caller does, that the store does not have.
    #[error("the store has no layer `{id}`")]
    NoSuchLayer {
        /// Which.
        id: ResultId,
    },
    /// A pulled layer was put on a layer whose own chain of digests is not known.
    #[error("the digests of layer `{id}` and what is beneath it are not known yet")]
    UnknownChain {
        /// The parent.
        id: ResultId,
    },
    /// A tree was given for a layer that has none: it is marked empty.
    #[error("layer `{id}` is empty and cannot have a tree")]
    EmptyLayer {
        /// Which.
        id: ResultId,
    },
    /// One tree gave two different tars: its files changed in the store, or the disk forgets.
    #[error(
        "layer `{id}` has the diff id `{known}`, but now its content gives `{found}`; its tree has changed in the store"
    )]
    DiffIdDiffers {
        /// Which.
        id: ResultId,
        /// The recorded one.
        known: oci::model::DiffId,
        /// The new one.
        found: oci::model::DiffId,
    },
    /// A short id stands for several images.
    #[error("`{text}` stands for several images: {}", candidates.join(", "))]
    AmbiguousId {
        /// What was asked for.
        text: String,
        /// Full ids.
        candidates: Vec<String>,
    },
    /// The files of a cache mount could not be put into a tar or taken from one.
    #[error("cannot {act} the cache mount `{}`", id.escape_debug())]
    MountTar {
        /// What was tried.
        act: &'static str,
        /// Its id.
        id: String,
        /// Why not.
        source: oci::layer::LayerError,
    },
    /// A value in the index or in a record file is not what this program writes there.
    #[error("a record of the store cannot be read: {what} `{value}`")]
    BadRecord {
        /// What it should be: `digest`, `descriptor`, ….
        what: &'static str,
        /// The value, shortened.
        value: String,
    },
}

impl StoreError {
    /// An io error with its act and path.
    pub(crate) fn io(act: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { act, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// A value that does not parse, shortened.
    pub(crate) fn bad(what: &'static str, value: impl AsRef<str>) -> Self {
        Self::BadRecord { what, value: value.as_ref().chars().take(200).collect() }
    }
}
