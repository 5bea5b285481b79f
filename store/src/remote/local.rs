//! A cache in a directory of the user: an OCI image layout, in which the cache is a manifest by its tag.
//!
//! ```text
//!   <dir>/oci-layout              { "imageLayoutVersion": "1.0.0" }
//!   <dir>/index.json              one entry per tag: `org.opencontainers.image.ref.name`; others' entries stay
//!   <dir>/blobs/sha256/<hex>      written aside, then renamed; never removed
//! ```
//! image-spec image-layout.md. Whatever stands there may be another's: names of blobs are made of digests, so nothing
//! outside `blobs/` is opened, and only files are. Deliberately absent: taking away what no entry names any more.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci::content::{ContentError, ContentStore as _, open_verified};
use oci::model::{Descriptor, Digest, Index, media_type};

use super::{Answer, Remote, RemoteError};
use crate::Blobs;
use crate::layout::fresh_name;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// An index of thousands of tags.
const INDEX_MAX_BYTES: u64 = 4 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// A directory.
#[derive(Clone, Debug)]
pub struct LocalCache {
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
}

impl LocalCache {
    /// The cache of a tag; with `digest`, exactly that manifest.
    pub fn new(path: PathBuf, tag: String, digest: Option<Digest>) -> Self {
        Self { path, tag, digest }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Runs what blocks on a thread that may.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RemoteError> + Send + 'static,
    ) -> Answer<'_, T> {
        let this = self.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || work(&this)).await {
                Ok(given) => given,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => Err(self.unreachable("read", io::Error::other(error))),
            }
        })
    }

    fn unreachable(
        &self,
        act: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> RemoteError {
        RemoteError::Unreachable { act, place: self.place(), source: source.into() }
    }

    fn malformed(&self, reason: impl Into<String>) -> RemoteError {
        RemoteError::Malformed { place: self.place(), reason: reason.into() }
    }

    /// A file's bytes, at most so many; `None`: there is no such file.
    fn small(&self, path: &Path, what: &'static str, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let Some(file) = open(path).map_err(|error| self.unreachable("read", error))? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| self.unreachable("read", error))?;
        if bytes.len() as u64 > most {
            return Err(RemoteError::TooLarge { what, place: self.place(), most });
        }
        Ok(Some(bytes))
    }

    fn index(&self) -> Result<Option<Index>, RemoteError> {
        let Some(bytes) = self.small(&self.path.join("index.json"), "index", INDEX_MAX_BYTES)? else { return Ok(None) };
        oci::json::parse(&bytes).map(Some).map_err(|error| self.malformed(error.to_string()))
    }

    fn read_manifest(&self, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let digest = match self.digest {
            Some(digest) => Some(digest),
            None => self.index()?.and_then(|index| {
                let named = index.manifests.iter().find(|entry| entry.annotations.get(REF_NAME) == Some(&self.tag));
                named.map(|entry| entry.digest)
            }),
        };
        let Some(digest) = digest else { return Ok(None) };
        let bytes = self.small(&self.blob(&digest), "manifest", most)?;
        let bytes = bytes.ok_or_else(|| RemoteError::NoBlob { place: self.place(), digest })?;
        if Digest::of(&bytes) != digest {
            return Err(self.malformed(format!("its manifest `{digest}` has other bytes")));
        }
        Ok(Some(bytes))
    }

    fn bring(&self, blob: &Descriptor, into: &Blobs) -> Result<(), RemoteError> {
        let Descriptor { digest, size, .. } = *blob;
        if into.size(&digest)? == Some(size) {
            return Ok(());
        }
        let file = open(&self.blob(&digest)).map_err(|error| self.unreachable("read", error))?;
        let mut file = file.ok_or_else(|| RemoteError::NoBlob { place: self.place(), digest })?;
        let actual = file.metadata().map_err(|error| self.unreachable("read", error))?.len();
        if actual != size {
            return Err(ContentError::WrongSize { digest, expected: size, actual }.into());
        }
        let mut writer = into.writer()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreachable("read", error)),
            };
            writer.write_all(&buffer[..count]).map_err(ContentError::io(format!("write blob `{digest}`")))?;
        }
        writer.commit(Some(&digest))?;
        Ok(())
    }

    /// Writes a file aside and renames it: nobody sees half of one.
    fn write(&self, path: &Path, mut bytes: impl io::Read) -> io::Result<()> {
        let folder = path.parent().expect("it lies in the cache");
        std::fs::create_dir_all(folder)?;
        let aside = folder.join(format!(".{}.tmp", fresh_name().map_err(io::Error::other)?));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&aside)?;
            io::copy(&mut bytes, &mut file)?;
            file.sync_all()?;
            std::fs::rename(&aside, path)
        };
        let mut written = written;
        written().inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(&aside) {
                tracing::debug!(path = %aside.display(), %error, "what was written of it is left");
            }
        })
    }

    fn keep_manifest(&self, bytes: &[u8]) -> Result<(), RemoteError> {
        let failed = |error: io::Error| self.unreachable("write to", error);
        let digest = Digest::of(bytes);
        self.write(&self.blob(&digest), bytes).map_err(failed)?;
        let mut index = self.index()?.unwrap_or(Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: Vec::new(),
            annotations: Default::default(),
            extra: Default::default(),
        });
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64);
        entry.annotations.insert(REF_NAME.into(), self.tag.clone());
        index.manifests.retain(|other| other.annotations.get(REF_NAME) != Some(&self.tag));
        index.manifests.push(entry);
        let index = serde_json::to_vec(&index).expect("plain data becomes JSON");
        self.write(&self.path.join("oci-layout"), LAYOUT).map_err(failed)?;
        self.write(&self.path.join("index.json"), &*index).map_err(failed)
    }
}

/// A file, and nothing that would keep the reader waiting; `None`: there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other(format!("`{}` is no file", path.display()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Remote for LocalCache {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>> {
        self.blocking(move |this| this.read_manifest(most))
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        let (wanted, into) = (blob.clone(), into.clone());
        let fetching = self.blocking(move |this| this.bring(&wanted, &into));
        Box::pin(async move {
            // A disk is not waited for as a network is.
            heard(blob.size);
            fetching.await
        })
    }

    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>> {
        let blobs = blobs.to_vec();
        self.blocking(move |this| {
            let has = |blob: &Descriptor| match std::fs::metadata(this.blob(&blob.digest)) {
                Ok(facts) => Ok(facts.is_file() && facts.len() == blob.size),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
                Err(error) => Err(this.unreachable("read", error)),
            };
            blobs.iter().map(has).collect()
        })
    }

    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()> {
        let (blob, from) = (blob.clone(), from.clone());
        self.blocking(move |this| {
            let reader = open_verified(&from, &blob)?;
            this.write(&this.blob(&blob.digest), reader).map_err(|error| match error.downcast::<ContentError>() {
                Ok(content) => content.into(),
                Err(error) => this.unreachable("write to", error),
            })
        })
    }

    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.blocking(move |this| this.keep_manifest(&bytes))
    }
}
