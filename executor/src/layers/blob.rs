//! Layers as compressed blobs, each made once.
//!
//! In: a layer and a codec. Out: a descriptor of a blob in the store, remembered by (diff_id, codec, level, encoder).
//! What came as a blob goes as it came, unless another codec is forced upon it: then the tar is that of its blob, whose
//! digest its image names, and not one that we would make of its tree. eStargz unpacks to more than the layer's tar, so
//! its descriptor says to what ([`DIFF_ID`]), until [`take_diff_id`] takes that out. Deliberately absent: which codec,
//! and when.

use std::io::{self, PipeWriter, Write};
use std::time::{Duration, Instant};

use oci::content::{BlobWriter, ContentStore};
use oci::layer::estargz::{self, EstargzError};
use oci::layer::{Codec, Compression, Dialect, Encoder, Hashing, Help};
use oci::model::{Descriptor, DiffId};
use solver::seam::ResultId;
use solver::work::{Work, WorkKind};
use store::{Layer, StoreError};

use super::digest::{Digesting, Pieces};
use super::{Layers, LayersError, TRUE_BLOB, copy_tar, is_broken_pipe};

/// On a descriptor of this store: what the blob unpacks to, where that is not the layer's own diff_id. containerd's label
/// for the same.
pub const DIFF_ID: &str = "containerd.io/uncompressed";

/// Takes [`DIFF_ID`] off a descriptor that is about to leave.
pub fn take_diff_id(blob: &mut Descriptor) -> Option<DiffId> {
    blob.annotations.remove(DIFF_ID)?.parse().ok().map(DiffId)
}

impl Layers {
    /// The layer as a blob in the store: as it was pulled if that blob is here and `force` does not ask for `codec`;
    /// as it was once encoded by this codec; else encoded now.
    pub fn ensure_blob(&self, id: &ResultId, codec: &Codec, force: bool) -> Result<Descriptor, LayersError> {
        self.ensure_blob_unless(id, codec, force, &|| false, &Help::default())
    }

    /// As [`Layers::ensure_blob`]; `stop` is asked all the time, and `help` may come.
    ///
    /// # Errors
    /// [`LayersError::Stopped`] soon after `stop` said so.
    pub fn ensure_blob_unless(
        &self,
        id: &ResultId,
        codec: &Codec,
        force: bool,
        stop: &(dyn Fn() -> bool + Sync),
        help: &Help,
    ) -> Result<Descriptor, LayersError> {
        let layer = self.layer(id)?;
        let verified = layer.diff_id.map(|diff_id| self.store.blob_variant(&diff_id, TRUE_BLOB)).transpose()?.flatten();
        let is_plain = codec.compression() == Compression::None;
        let came_as = verified.as_ref().or(layer.came_as()).or(layer.blob.as_ref().filter(|_| is_plain));
        if let Some(blob) = came_as.filter(|blob| !force || is_made_by(blob, codec)) {
            let content = |source| LayersError::Content { act: "look at", layer: id.clone(), source };
            if self.store.blobs().size(&blob.digest).map_err(content)? == Some(blob.size) {
                return Ok(blob.clone());
            }
        }
        let name = format!("{}-{}-{}", codec.compression(), codec.level(), codec.encoder_version());
        let known = layer.diff_id.map(|diff_id| self.store.blob_variant(&diff_id, &name)).transpose()?;
        if let Some(known) = known.flatten() {
            return Ok(known);
        }
        let (diff_id, blob) = match self.encode(&layer, came_as, codec, stop, help) {
            Err(_) if stop() => return Err(LayersError::Stopped { layer: id.clone() }),
            encoded => encoded?,
        };
        self.store.add_blob_variant(&diff_id, &name, &blob)?;
        Ok(blob)
    }

    /// Writes the tar that the layer's diff_id is of; it need not be a blob for that.
    ///
    /// # Errors
    /// When what was written was another tar, too: then the tree is no longer what the image says.
    pub fn write_exact_tar(&self, id: &ResultId, out: &mut dyn Write) -> Result<(), LayersError> {
        let layer = self.layer(id)?;
        let verified = layer.diff_id.map(|diff_id| self.store.blob_variant(&diff_id, TRUE_BLOB)).transpose()?.flatten();
        let mut tar = Hashing::new(out);
        self.write_own_tar(&layer, verified.as_ref().or(layer.blob.as_ref()), &mut tar)?;
        let (_, found, _) = tar.finish();
        match layer.diff_id.filter(|expected| expected.0 != found) {
            Some(_) if layer.pulled => Err(LayersError::NoTar { layer: id.clone() }),
            Some(expected) => Err(LayersError::WrongDiffId { layer: id.clone(), expected, found: DiffId(found) }),
            None => Ok(()),
        }
    }

    fn encode(
        &self,
        layer: &Layer,
        came_as: Option<&Descriptor>,
        codec: &Codec,
        stop: &(dyn Fn() -> bool + Sync),
        help: &Help,
    ) -> Result<(DiffId, Descriptor), LayersError> {
        let id = &layer.id;
        let content = |act| move |source| LayersError::Content { act, layer: id.clone(), source };
        let begun = Instant::now();
        let failed = |source| LayersError::Io { act: "compress", layer: id.clone(), source };
        // The blob's digest and the disk have a thread, the tar's digest another: who reads files feeds the encoder.
        let take = |writer: &mut Box<dyn BlobWriter>, piece: &[u8]| writer.write_all(piece);
        let mut blob = Pieces::new("rbuild-blob", self.store.blobs().writer().map_err(content("write"))?, take);
        let mut annotations = std::collections::BTreeMap::new();
        let (diff_id, tar_bytes) = if codec.compression() == Compression::Estargz {
            let facts = self.estargz(layer, came_as, codec, (stop, help), &mut blob)?;
            annotations.insert(DIFF_ID.to_owned(), facts.diff_id.to_string());
            annotations.insert(estargz::TOC_DIGEST.to_owned(), facts.toc.to_string());
            annotations.insert(estargz::UNCOMPRESSED_SIZE.to_owned(), facts.uncompressed_bytes.to_string());
            (facts.tar, facts.tar_bytes)
        } else {
            let encoder = codec.encoder_helped(&mut blob, help).map_err(failed)?;
            let mut tar = Encoding { digest: Digesting::new(), encoder, stop };
            self.write_own_tar(layer, came_as, &mut tar)?;
            let Encoding { digest, encoder, .. } = tar;
            encoder.finish().map_err(failed)?;
            digest.finish().map_err(failed)?
        };
        let (writer, _) = blob.finish().map_err(failed)?;
        // The tree must still be what the image says it is.
        match self.store.set_diff_id(id, diff_id, tar_bytes) {
            Err(StoreError::DiffIdDiffers { .. }) if layer.pulled => {
                return Err(LayersError::NoTar { layer: id.clone() });
            }
            set => set?,
        }
        let (digest, size) = writer.commit(None).map_err(content("write"))?;
        let work = Work {
            kind: WorkKind::Compress,
            files: 0,
            read_bytes: tar_bytes,
            // For the diff_id, and for the digest of the blob.
            hashed_bytes: tar_bytes + size,
            written_bytes: size,
            took: Duration::ZERO,
        };
        self.worked(layer, begun, work);
        let media_type = codec.compression().layer_media_type(Dialect::Oci);
        Ok((diff_id, Descriptor { annotations, ..Descriptor::new(media_type, digest, size) }))
    }

    /// eStargz has to read the tar that it is made of: one thread writes it, this one reads.
    fn estargz(
        &self,
        layer: &Layer,
        came_as: Option<&Descriptor>,
        codec: &Codec,
        (stop, help): (&(dyn Fn() -> bool + Sync), &Help),
        out: &mut dyn Write,
    ) -> Result<estargz::Facts, LayersError> {
        let failed = |source| LayersError::Io { act: "compress", layer: layer.id.clone(), source };
        let (reader, writer) = io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let written = scope.spawn(move || -> Result<(), LayersError> {
                let mut writer: PipeWriter = writer;
                self.write_own_tar(layer, came_as, &mut Stoppable { out: &mut writer, stop })
            });
            let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
            let made = estargz::write(reader, codec.level().unsigned_abs(), threads, help, out);
            let made = made.map_err(|source| match source {
                EstargzError::Io(source) => failed(source),
                source => LayersError::Estargz { layer: layer.id.clone(), source },
            });
            match written.join() {
                // Why the tar ended early is what is wrong; if it was cut because nobody read on, the reader knows.
                Ok(Err(error)) if made.is_ok() || !is_broken_pipe(&error) => Err(error),
                Ok(_) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The tar that the layer's diff_id is of: of what was pulled, the one that its blob holds.
    fn write_own_tar(
        &self,
        layer: &Layer,
        came_as: Option<&Descriptor>,
        out: &mut dyn Write,
    ) -> Result<(), LayersError> {
        let Some(blob) = came_as.filter(|_| layer.times.is_none()) else { return self.write_tar(layer, out) };
        // Without it the tree may give the same tar: the digest tells.
        let Some(tar) = self.open_blob(layer, blob)? else { return self.write_tar(layer, out) };
        copy_tar(layer, tar, out)
    }
}

/// Whether a blob is what the codec makes, whatever the level.
fn is_made_by(blob: &Descriptor, codec: &Codec) -> bool {
    let is_estargz = blob.annotations.contains_key(estargz::TOC_DIGEST);
    let types = [Dialect::Oci, Dialect::Docker].map(|dialect| codec.compression().layer_media_type(dialect));
    types.contains(&blob.media_type.as_str()) && (is_estargz || codec.compression() != Compression::Estargz)
}

/// Takes a tar for its digest and for an encoder, until it is told to stop.
struct Encoding<'a, W: Write> {
    digest: Digesting,
    encoder: Encoder<W>,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<W: Write> Write for Encoding<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check(self.stop)?;
        self.digest.write_all(bytes)?;
        self.encoder.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Stops taking bytes when it is told to.
struct Stoppable<'a> {
    out: &'a mut dyn Write,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check(self.stop)?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn check(stop: &(dyn Fn() -> bool + Sync)) -> io::Result<()> {
    if stop() { Err(io::Error::other("nobody wants the layer any more")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use jiff::Timestamp;
    use oci::layer::decompress_layer;
    use oci::model::Digest;
    use store::Store;

    use super::*;

    /// A store, and a layer in it with a file of 3 MB, half of it noise.
    fn large(dir: &std::path::Path) -> (Store, ResultId) {
        let store = Store::open(&dir.join("store")).unwrap();
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..3_000_000).map(|at| if at % 9000 < 4500 { noise() } else { at as u8 }).collect();
        let draft = store.draft().unwrap();
        std::fs::write(draft.fs().join("large"), bytes).unwrap();
        let id = store.add_built_layer(None, Some(draft), Timestamp::UNIX_EPOCH).unwrap();
        (store, id)
    }

    #[test]
    fn a_large_layer_becomes_the_blob_of_its_tar_whatever_the_codec() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = large(dir.path());
        let layers = Layers::new(store.clone());
        for compression in [Compression::None, Compression::Gzip, Compression::Estargz, Compression::Zstd] {
            let mut blob = layers.ensure_blob(&id, &Codec::new(compression), true).unwrap();
            let mut bytes = Vec::new();
            store.blobs().open(&blob.digest).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!((Digest::of(&bytes), bytes.len() as u64), (blob.digest, blob.size), "{compression}");
            let mut tar = Vec::new();
            decompress_layer(&blob.media_type, blob.size, &bytes[..]).unwrap().read_to_end(&mut tar).unwrap();
            let known = layers.ensure_diff_id(&id).unwrap();
            let promised = take_diff_id(&mut blob).unwrap_or(known.0);
            assert_eq!(DiffId(Digest::of(&tar)), promised, "{compression}");
        }
    }

    #[test]
    fn a_compression_that_is_stopped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = large(dir.path());
        let layers = Layers::new(store.clone());
        for compression in [Compression::Gzip, Compression::Estargz, Compression::Zstd] {
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Relaxed) > 9;
            let stopped = layers.ensure_blob_unless(&id, &Codec::new(compression), true, &stop, &Help::default());
            assert!(matches!(stopped, Err(LayersError::Stopped { .. })), "{compression}: {stopped:?}");
            let left = |folder: &str| std::fs::read_dir(store.root().join(folder)).unwrap().count();
            assert_eq!((left("tmp"), left("blobs/sha256")), (0, 0), "{compression}");
        }
    }
}
