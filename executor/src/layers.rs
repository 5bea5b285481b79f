//! Layers between their two forms: a tree in the store, a blob. Each is made from the other on demand.
//!
//! A layer that is derived with other times ([`store::TimeRule`]) has its origin's tree for its tar; its own tree is
//! made of that tar when something is to stand on it, so that it is what it is wherever the image was pulled to.
//!
//! In: layer records of the store. Out: trees for mounting, diff ids and blobs for images. Everything here blocks and
//! streams: memory does not grow with a layer. Blobs that are still on their way ([`arriving`]) are unpacked side by side
//! as they come ([`parallel`]). What a result is stacked of is told by [`stacks`]. Deliberately absent: fetching blobs ([`crate::source::image`]), mounting
//! ([`crate::snapshot`]).

pub mod arriving;
mod blob;
mod check;
mod digest;
pub(crate) mod packing;
mod parallel;
mod stacks;

pub use blob::{DIFF_ID, take_diff_id};
pub use check::TreeState;

use std::io::{BufReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use oci::content::{ContentError, open_verified};
use oci::layer::estargz::EstargzError;
use oci::layer::{
    ApplyOptions, Beneath, Hashing, LayerError, WriteOptions, XattrNamespace, apply_layer_on, decompress_layer,
    write_layer_with,
};
use oci::model::{Descriptor, DiffId, Digest};
use solver::seam::ResultId;
use solver::work::{Work, WorkKind};
use store::{Layer, Store, StoreError};

use crate::meter::Meter;
use crate::snapshot::{SnapshotError, Snapshotter, open_directory};
use crate::times::BuildTimes;
use crate::tree::usage::usage;
use digest::Digesting;
use stacks::Stacks;

/// The result that is the empty tree: an image without layers, `FROM scratch`.
pub const SCRATCH: &str = "scratch";

/// Under this name a layer's second blob is remembered, when two images disagree about it.
pub(crate) const OTHER_BLOB: &str = "pulled";
/// Under this name the blob is remembered that really unpacks to the layer, when the recorded one does not.
const TRUE_BLOB: &str = "pulled-verified";

/// Why a layer could not be had in the form that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree could not be prepared.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A blob could not be read or written.
    #[error("cannot {act} the blob of layer `{layer}`")]
    Content {
        /// What was tried.
        act: &'static str,
        /// Which layer.
        layer: ResultId,
        /// Why not.
        source: ContentError,
    },
    /// The tar of a layer could not be written.
    #[error("cannot {act} layer `{layer}`")]
    Codec {
        /// What was tried.
        act: &'static str,
        /// Which layer.
        layer: ResultId,
        /// Why not.
        source: LayerError,
    },
    /// The tar of a layer could not be unpacked.
    #[error("cannot unpack layer `{layer}`{}", shown(*.blob))]
    Unpack {
        /// Which layer.
        layer: ResultId,
        /// What it came as.
        blob: Option<Digest>,
        /// Why not.
        source: Box<LayerError>,
    },
    /// A stream failed.
    #[error("cannot {act} layer `{layer}`")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Which layer.
        layer: ResultId,
        /// Why not.
        source: std::io::Error,
    },
    /// Neither tree nor blob is there.
    #[error("layer `{layer}` has neither a tree nor a blob in the store; build or pull its image again")]
    Gone {
        /// Which layer.
        layer: ResultId,
    },
    /// A blob that unpacks to something else than its image says.
    #[error("layer `{layer}` unpacks to `{found}`, but its image's config says `{expected}`")]
    WrongDiffId {
        /// Which layer.
        layer: ResultId,
        /// What the config says.
        expected: DiffId,
        /// What came out.
        found: DiffId,
    },
    /// A tree could not be read.
    #[error("cannot read the tree of layer `{layer}`")]
    Tree {
        /// Which layer.
        layer: ResultId,
        /// Why not.
        source: crate::tree::TreeError,
    },
    /// A layer cannot have the form that was asked for.
    #[error("layer `{layer}` cannot become eStargz")]
    Estargz {
        /// Which layer.
        layer: ResultId,
        /// Why not.
        source: EstargzError,
    },
    /// A pulled layer is to be compressed otherwise, and the bytes that its digest is of are not here.
    #[error(
        "layer `{layer}` cannot be compressed otherwise: its blob is not in the store any more, and another tar of its \
         tree would be another layer; pull its image again, or leave out `force-compression`"
    )]
    NoTar {
        /// Which layer.
        layer: ResultId,
    },
    /// Nobody wants it any more.
    #[error("the compression of layer `{layer}` was stopped")]
    Stopped {
        /// Which layer.
        layer: ResultId,
    },
    /// A layer that is no change has no blob.
    #[error("layer `{layer}` is empty and has no blob")]
    Empty {
        /// Which layer.
        layer: ResultId,
    },
}

/// Behind the name of a layer.
fn shown(blob: Option<Digest>) -> String {
    blob.map(|digest| format!(", the blob `{digest}`")).unwrap_or_default()
}

impl LayersError {
    /// Whose layer it is about, if it is about one.
    pub fn layer(&self) -> Option<&ResultId> {
        match self {
            Self::Store(_) | Self::Snapshot(_) => None,
            Self::Content { layer, .. }
            | Self::Codec { layer, .. }
            | Self::Io { layer, .. }
            | Self::Unpack { layer, .. }
            | Self::Gone { layer }
            | Self::WrongDiffId { layer, .. }
            | Self::Tree { layer, .. }
            | Self::Estargz { layer, .. }
            | Self::NoTar { layer }
            | Self::Stopped { layer }
            | Self::Empty { layer } => Some(layer),
        }
    }
}

/// Layers of one store.
#[derive(Clone, Debug)]
pub struct Layers {
    store: Store,
    /// Devices that were left out of trees since somebody asked.
    devices_left_out: Arc<AtomicU64>,
    /// Told of what was unpacked, archived and compressed.
    meter: Arc<Meter>,
    /// What results are stacked of.
    stacks: Arc<Stacks>,
}

/// Read of a blob or a tar at a time.
const READ_BYTES: usize = 128 << 10;

impl Layers {
    /// Layers of `store`.
    pub fn new(store: Store) -> Self {
        Self::metered(store, Arc::default())
    }

    /// The same; `meter` is told of the work.
    pub(crate) fn metered(store: Store, meter: Arc<Meter>) -> Self {
        Self { store, devices_left_out: Arc::default(), meter, stacks: Arc::default() }
    }

    /// The same for who has `snapshots` mount what they are stacked of: of many small layers, several are stacked as one.
    pub(crate) fn stacked_together(self, snapshots: Arc<dyn Snapshotter>) -> Self {
        Self { stacks: Arc::new(Stacks::together(snapshots)), ..self }
    }

    /// Tells of work that began at `begun` and was done for a layer.
    fn worked(&self, layer: &Layer, begun: Instant, work: Work) {
        // Of derived layers the origin is known.
        let name = layer.origin.as_ref().unwrap_or(&layer.id);
        self.meter.tell(name.as_str(), Work { took: begun.elapsed(), ..work });
    }

    /// What is to be said of trees made since the last call: a user namespace cannot make devices.
    pub fn left_out(&self) -> Option<String> {
        devices_left_out(self.devices_left_out.swap(0, Relaxed))
    }

    /// All layers of a result, bottom first; none of [`SCRATCH`].
    pub fn chain(&self, result: &ResultId) -> Result<Vec<Layer>, LayersError> {
        if result.as_str() == SCRATCH { Ok(Vec::new()) } else { Ok(self.store.chain(result)?) }
    }

    /// Makes the tree of a layer that has none yet, on top of `lowers`, and returns its name.
    fn unpack(&self, layer: &Layer, lowers: &[String]) -> Result<String, LayersError> {
        let id = &layer.id;
        let gone = || LayersError::Gone { layer: id.clone() };
        if layer.times.is_some() {
            self.unpack_derived(layer, lowers)?;
            return self.store.layer(id)?.and_then(|layer| layer.name).ok_or_else(gone);
        }
        if let Some(origin) = &layer.origin {
            // What a layer deletes, it deletes of what its image has beneath it.
            self.lowers(origin)?;
            return self.store.layer(id)?.and_then(|layer| layer.name).ok_or_else(gone);
        }
        let recorded = layer.blob.as_ref().ok_or_else(gone)?;
        match (self.unpack_blob(layer, recorded, lowers), layer.diff_id) {
            (Err(error @ LayersError::WrongDiffId { .. }), Some(diff_id)) => {
                // Whoever was first to name this layer named a blob that is another: see whether somebody named a
                // better one.
                let other = self.store.blob_variant(&diff_id, OTHER_BLOB)?.ok_or(error)?;
                self.unpack_blob(layer, &other, lowers)?;
                self.store.add_blob_variant(&diff_id, TRUE_BLOB, &other)?;
            }
            (result, _) => result?,
        }
        self.store.layer(id)?.and_then(|layer| layer.name).ok_or_else(gone)
    }

    fn unpack_blob(&self, layer: &Layer, blob: &Descriptor, lowers: &[String]) -> Result<(), LayersError> {
        let tar = self.open_blob(layer, blob)?.ok_or_else(|| LayersError::Gone { layer: layer.id.clone() })?;
        self.unpack_on(layer, tar, lowers)
    }

    fn unpack_on(&self, layer: &Layer, tar: Box<dyn Read>, lowers: &[String]) -> Result<(), LayersError> {
        let parents = self.trees(lowers)?;
        let parents: Vec<_> = parents.iter().map(AsFd::as_fd).collect();
        self.unpack_tar(layer, tar, &parents.as_slice(), || true)
    }

    /// The trees of these names.
    fn trees(&self, names: &[String]) -> Result<Vec<OwnedFd>, LayersError> {
        let open = |name| open_directory(&self.store.layers_dir().join(name));
        Ok(names.iter().map(open).collect::<Result<_, SnapshotError>>()?)
    }

    /// Makes the tree of a layer whose times are others than its origin's.
    fn unpack_derived(&self, layer: &Layer, lowers: &[String]) -> Result<(), LayersError> {
        let failed = |source| LayersError::Io { act: "copy", layer: layer.id.clone(), source };
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let written = scope.spawn(move || -> Result<(), LayersError> {
                let mut writer: PipeWriter = writer;
                self.write_tar(layer, &mut writer)
            });
            let unpacked = self.unpack_on(layer, Box::new(reader), lowers);
            match written.join() {
                // Why the tar ended early is what is wrong; if it was cut because nobody read on, the reader knows.
                Ok(Err(error)) if unpacked.is_ok() || !is_broken_pipe(&error) => Err(error),
                Ok(_) => unpacked,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Makes the tree of a layer of its tar. `is_whole` is asked when everything was read: whether it was all what it
    /// should have been.
    fn unpack_tar(
        &self,
        layer: &Layer,
        tar: Box<dyn Read>,
        beneath: &dyn Beneath,
        is_whole: impl FnOnce() -> bool,
    ) -> Result<(), LayersError> {
        let id = &layer.id;
        let begun = Instant::now();
        let draft = self.store.draft()?;
        let mut tar = Unpacking { tar: Hashing::new(tar), store: &self.store };
        let blob = layer.blob.as_ref().map(|blob| blob.digest);
        let failed = |source| LayersError::Unpack { layer: id.clone(), blob, source: Box::new(source) };
        let options = ApplyOptions::new(XattrNamespace::here());
        let facts = apply_layer_on(&mut tar, draft.fs_fd(), beneath, &options).map_err(failed)?;
        self.devices_left_out.fetch_add(facts.devices_dropped, Relaxed);
        // Whatever stands after the archive's end belongs to the digest.
        std::io::copy(&mut tar, &mut std::io::sink()).map_err(|source| LayersError::Io {
            act: "read",
            layer: id.clone(),
            source,
        })?;
        let (_, digest, tar_bytes) = tar.tar.finish();
        let found = DiffId(digest);
        if !is_whole() {
            return Err(LayersError::Gone { layer: id.clone() });
        }
        if let Some(expected) = layer.diff_id.filter(|expected| *expected != found) {
            return Err(LayersError::WrongDiffId { layer: id.clone(), expected, found });
        }
        self.store.set_diff_id(id, found, tar_bytes)?;
        let bytes = disk_usage(draft.fs_fd())?;
        self.store.attach_tree(id, draft.with_bytes(bytes))?;
        let work = Work {
            kind: WorkKind::Unpack,
            files: facts.entries,
            read_bytes: layer.blob.as_ref().map_or(tar_bytes, |blob| blob.size),
            hashed_bytes: tar_bytes,
            written_bytes: bytes,
            took: Duration::ZERO,
        };
        self.worked(layer, begun, work);
        Ok(())
    }

    /// The tar of a pulled layer; its blob is checked against its digest as it is read to the end.
    fn open_blob(&self, layer: &Layer, blob: &Descriptor) -> Result<Option<Box<dyn Read>>, LayersError> {
        let content = |source| LayersError::Content { act: "read", layer: layer.id.clone(), source };
        let reader = match open_verified(self.store.blobs(), blob) {
            Ok(reader) => reader,
            Err(ContentError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(content(error)),
        };
        decompressed(layer, blob, reader).map(Some)
    }

    /// The layer's tar, from its blob or its tree, and its length when that is known.
    pub fn write_tar(&self, layer: &Layer, out: &mut dyn Write) -> Result<(), LayersError> {
        let origin = match &layer.origin {
            Some(id) => Some(self.store.layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?),
            None => None,
        };
        // A derived layer's tar is its origin's but for times: neither depends on what the derived one stands on.
        let mut owner = origin.as_ref().unwrap_or(layer).clone();
        if layer.times.is_some() && owner.name.is_none() {
            // Times are those of a tree.
            self.lowers(&owner.id)?;
            owner = self.layer(&owner.id)?;
        }
        let owner = &owner;
        match &owner.name {
            Some(name) => {
                let tree = open_directory(&self.store.layers_dir().join(name))?;
                let codec = |source| LayersError::Codec { act: "archive", layer: layer.id.clone(), source };
                let times = match layer.times {
                    Some(rule) => Some(BuildTimes::new(&self.store, owner, &self.store.chain(&owner.id)?, rule.epoch)?),
                    None => None,
                };
                let mtime = times.as_ref().map(|times| |seconds, nanoseconds| times.written(seconds, nanoseconds));
                let options = WriteOptions {
                    mtime: mtime.as_ref().map(|mtime| mtime as &dyn Fn(i64, i64) -> i64),
                    root_entry: self.changes_root(owner, &tree)?,
                    ..WriteOptions::default()
                };
                write_layer_with(tree.as_fd(), options, out).map(drop).map_err(codec)
            }
            None => {
                let gone = || LayersError::Gone { layer: layer.id.clone() };
                let blob = layer.blob.as_ref().filter(|_| layer.times.is_none()).ok_or_else(gone)?;
                copy_tar(layer, self.open_blob(layer, blob)?.ok_or_else(gone)?, out)
            }
        }
    }

    /// The layer's diff id; its tar is streamed once if it was not known.
    pub fn ensure_diff_id(&self, id: &ResultId) -> Result<(DiffId, u64), LayersError> {
        let layer = self.layer(id)?;
        if let (Some(diff_id), Some(tar_bytes)) = (layer.diff_id, layer.tar_bytes) {
            return Ok((diff_id, tar_bytes));
        }
        let begun = Instant::now();
        let failed = |source| LayersError::Io { act: "digest", layer: id.clone(), source };
        let mut tar = Digesting::new();
        self.write_tar(&layer, &mut tar)?;
        let (found, tar_bytes) = tar.finish().map_err(failed)?;
        let (kind, took) = (WorkKind::Archive, Duration::ZERO);
        let work = Work { kind, files: 0, read_bytes: tar_bytes, hashed_bytes: tar_bytes, written_bytes: 0, took };
        self.worked(&layer, begun, work);
        if let Some(expected) = layer.diff_id.filter(|expected| *expected != found) {
            return Err(LayersError::WrongDiffId { layer: id.clone(), expected, found });
        }
        self.store.set_diff_id(id, found, tar_bytes)?;
        Ok((found, tar_bytes))
    }

    /// Whether mode or owner of `/` are others with this layer than beneath it.
    fn changes_root(&self, layer: &Layer, tree: &OwnedFd) -> Result<bool, LayersError> {
        let mut below = layer.parent.clone();
        while let Some(id) = below {
            let beneath = self.store.layer(&id)?.ok_or_else(|| StoreError::NoSuchLayer { id })?;
            // Without a tree it was never mounted, so nothing was made on top of it here.
            if let (false, Some(name)) = (beneath.empty, &beneath.name) {
                let path = self.store.layers_dir().join(name);
                let look = |fd: &OwnedFd| rustix::fs::fstat(fd).map_err(SnapshotError::io("examine", &path));
                let (mine, theirs) = (look(tree)?, look(&open_directory(&path)?)?);
                return Ok((mine.st_mode, mine.st_uid, mine.st_gid) != (theirs.st_mode, theirs.st_uid, theirs.st_gid));
            }
            below = beneath.parent;
        }
        Ok(false)
    }

    fn layer(&self, id: &ResultId) -> Result<Layer, LayersError> {
        let layer = self.store.layer(id)?.ok_or_else(|| StoreError::NoSuchLayer { id: id.clone() })?;
        if layer.empty { Err(LayersError::Empty { layer: id.clone() }) } else { Ok(layer) }
    }
}

/// Copies a layer's tar.
fn copy_tar(layer: &Layer, tar: Box<dyn Read>, out: &mut dyn Write) -> Result<(), LayersError> {
    let mut tar = BufReader::with_capacity(READ_BYTES, tar);
    let failed = |source| LayersError::Io { act: "read", layer: layer.id.clone(), source };
    std::io::copy(&mut tar, out).map(drop).map_err(failed)
}

/// A tar that becomes files on the store's file system, which are written to the disk beside what goes on.
struct Unpacking<'a> {
    tar: Hashing<Box<dyn Read>>,
    store: &'a Store,
}

impl Read for Unpacking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.store.wrote(count as u64);
        Ok(count)
    }
}

/// The tar in a layer's blob.
fn decompressed(layer: &Layer, blob: &Descriptor, reader: impl Read + 'static) -> Result<Box<dyn Read>, LayersError> {
    let reader = BufReader::with_capacity(READ_BYTES, reader);
    decompress_layer(&blob.media_type, blob.size, reader).map_err(|source| LayersError::Io {
        act: "decompress",
        layer: layer.id.clone(),
        source,
    })
}

/// Says that so many devices were left out of a tree.
pub fn devices_left_out(count: u64) -> Option<String> {
    let nodes = if count == 1 { "device was" } else { "devices were" };
    (count > 0).then(|| {
        format!(
            "{count} {nodes} left out of an unpacked image: only root can make them; steps get the usual ones in `/dev`"
        )
    })
}

/// What a tree takes on disk, in bytes; a file with several names once. For [`store::Draft::with_bytes`].
pub fn disk_usage(tree: BorrowedFd<'_>) -> Result<u64, SnapshotError> {
    Ok(usage(tree)?)
}

/// Whether writing failed because nobody reads on.
fn is_broken_pipe(error: &LayersError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
            return true;
        }
        source = error.source();
    }
    false
}
