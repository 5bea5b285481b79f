//! Reads images from archives: OCI layouts (directory or tar) and docker archives, old and new, compressed or not.
//!
//! A tar is read once, front to back, whatever the order of its files: small ones that may be lists are held, every
//! other goes into the store as it streams by, under the digest it turns out to have. A file named after a digest must
//! have it. Then the lists are followed, and everything they name must be there. Names in the archive are keys here and
//! never become paths on a disk.
//!
//! What an archive holds beside its images stays in the store as blobs that nothing refers to.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::blobs::path_of;
use super::docker_archive::Item;
use super::error::ExportError;
use super::{IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, MANIFEST_FILE, REF_NAME};
use crate::content::{ContentError, ContentStore, VerifiedReader, put_bytes, read_bytes};
use crate::image::{self, CONFIG_MAX_BYTES, Document, Image, MANIFEST_MAX_BYTES, read_document, verify_layer};
use crate::json;
use crate::layer::tar::{EndMarker, Kind, Limits, TarReader, printable};
use crate::layer::{Dialect, Format, decompress, detect};
use crate::model::{Descriptor, Digest, ImageConfig, Index, Manifest, Reference, ReferenceError, media_type};

/// Where images come from.
pub enum Input<'a> {
    /// A tar, compressed or not.
    Tar(Box<dyn Read + 'a>),
    /// An OCI layout.
    Directory(BorrowedFd<'a>),
}

/// An image, or an index of several, that is in the store now.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its names in the archive.
    pub names: Vec<Reference>,
    /// Its manifest or index. Of an index, some platforms' images may be missing, but not all.
    pub manifest: Descriptor,
}

/// Indexes in indexes.
const NESTING_MAX: usize = 4;
/// What attestations are made of.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Links to links, which docker never made.
const LINKS_MAX: usize = 16;

/// Puts all images of an archive into a store. Every byte is checked against its digest; after an error some blobs may
/// be in the store, all of them what their digests say.
pub fn read(input: Input<'_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
    let loaded = match input {
        Input::Tar(stream) => read_tar(stream, into)?,
        Input::Directory(root) => read_directory(root, into)?,
    };
    if loaded.is_empty() {
        return Err(ExportError::malformed(INDEX_FILE, "it lists no image that rbuild knows"));
    }
    Ok(loaded)
}

// ---------------------------------------------------------------------------------------------- OCI layout, directory

fn read_directory(root: BorrowedFd<'_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
    let small = |path: &'static str| -> Result<Vec<u8>, ExportError> {
        let Some((file, _)) = open_beneath(root, path)? else { return Err(ExportError::Unknown) };
        let mut bytes = Vec::new();
        let read = file.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| ExportError::Io { act: "read", path: path.into(), source })?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(ExportError::malformed(path, "it is longer than 4 MiB"));
        }
        Ok(bytes)
    };
    let layout = small(LAYOUT_FILE)?;
    check_layout(&layout)?;
    let index = small(INDEX_FILE)?;
    read_index(&index, into, &mut |descriptor| copy_blob(root, descriptor, into))
}

/// Brings one blob from a layout into the store, unless it is there. `false` if the layout has none.
fn copy_blob(root: BorrowedFd<'_>, descriptor: &Descriptor, into: &dyn ContentStore) -> Result<bool, ExportError> {
    if into.open(&descriptor.digest)?.is_some() {
        return Ok(true);
    }
    let path = path_of(&descriptor.digest);
    let Some((file, _)) = open_beneath(root, &path)? else { return Ok(false) };
    let mut blob = VerifiedReader::new(file, descriptor.digest, Some(descriptor.size));
    let mut writer = into.writer()?;
    io::copy(&mut blob, &mut writer).map_err(ContentError::io(format!("copy `{path}`")))?;
    writer.commit(Some(&descriptor.digest))?;
    Ok(true)
}

/// Opens a regular file of the layout. Links are not followed, and a pipe in its place does not block.
fn open_beneath(root: BorrowedFd<'_>, path: &str) -> Result<Option<(std::fs::File, u64)>, ExportError> {
    let failed = |source: io::Error| ExportError::Io { act: "open", path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(ExportError::malformed(path, "it is no regular file"));
    }
    Ok(Some((file, facts.len())))
}

// ------------------------------------------------------------------------------------------------------------- any tar

/// A file of the archive that is in the store.
struct Stored {
    digest: Digest,
    size: u64,
    format: Format,
}

/// What an archive holds, by name.
#[derive(Default)]
struct Contents {
    files: BTreeMap<String, Stored>,
    /// Old versions of docker save a layer that two images share once, and link to it.
    links: BTreeMap<String, String>,
    /// Lists that are read after all else.
    lists: BTreeMap<String, Vec<u8>>,
}

fn read_tar(stream: Box<dyn Read + '_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
    let failed = |source| ExportError::Io { act: "decompress", path: "archive".into(), source };
    let buffered = BufReader::with_capacity(128 * 1024, stream);
    let (_, plain) = decompress(buffered).map_err(failed)?;
    // Archives hold several images; each layer of these may be as long as a layer may be.
    let limits = Limits { total_bytes: 16 * Limits::default().total_bytes, ..Limits::default() };
    let mut reader = TarReader::new(BufReader::with_capacity(128 * 1024, plain), limits, EndMarker::Required);
    let mut contents = Contents::default();
    while let Some(entry) = reader.next()? {
        let path = key(&entry.path)?;
        let taken = match entry.kind {
            Kind::Directory => continue,
            Kind::File { size, sparse: None } => contents.take_file(path, size, &mut reader, into)?,
            Kind::Symlink { target } => {
                let target = beside(&path, &target)?;
                contents.links.insert(path, target).is_none()
            }
            Kind::HardLink { target } => {
                let target = key(&target)?;
                contents.links.insert(path, target).is_none()
            }
            _ => return Err(ExportError::malformed(path, "an archive of images holds files and directories")),
        };
        if !taken {
            return Err(ExportError::malformed(printable(&entry.path), "it stands twice in the archive"));
        }
    }
    let list = |name: &str| contents.lists.get(name);
    match (list(LAYOUT_FILE), list(INDEX_FILE), list(MANIFEST_FILE)) {
        (Some(layout), Some(index), _) => {
            check_layout(layout)?;
            read_index(index, into, &mut |descriptor| Ok(into.open(&descriptor.digest)?.is_some()))
        }
        (_, _, Some(manifest)) => contents.read_docker(manifest, into),
        _ => Err(ExportError::Unknown),
    }
}

impl Contents {
    /// Holds a list or stores a file. `false` if the name was there before.
    fn take_file(
        &mut self,
        path: String,
        size: u64,
        data: &mut dyn Read,
        into: &dyn ContentStore,
    ) -> Result<bool, ExportError> {
        if [LAYOUT_FILE, INDEX_FILE, MANIFEST_FILE].contains(&path.as_str()) {
            if size > MANIFEST_MAX_BYTES {
                return Err(ExportError::malformed(path, "it is longer than 4 MiB"));
            }
            let mut bytes = Vec::new();
            let read = data.read_to_end(&mut bytes);
            read.map_err(|source| ExportError::Io { act: "read", path: path.clone(), source })?;
            return Ok(self.lists.insert(path, bytes).is_none());
        }
        let expected = match path.strip_prefix("blobs/sha256/") {
            Some(hex) => {
                let digest: Result<Digest, _> = format!("sha256:{hex}").parse();
                Some(digest.map_err(|error| ExportError::malformed(path.clone(), error.to_string()))?)
            }
            None => None,
        };
        let mut first = First::default();
        let mut writer = into.writer()?;
        let mut tee = Tee { first: &mut first, out: &mut *writer };
        io::copy(data, &mut tee).map_err(ContentError::io(format!("store `{path}`")))?;
        let (digest, size) = writer.commit(expected.as_ref())?;
        let stored = Stored { digest, size, format: detect(&first.bytes[..first.count]) };
        Ok(self.files.insert(path, stored).is_none())
    }

    fn find(&self, path: &str) -> Result<&Stored, ExportError> {
        let mut current = key(path.as_bytes())?;
        for _ in 0..LINKS_MAX {
            if let Some(stored) = self.files.get(&current) {
                return Ok(stored);
            }
            match self.links.get(&current) {
                Some(target) => current.clone_from(target),
                None => break,
            }
        }
        let reason = format!("it names `{}`, which is not in the archive", printable(path.as_bytes()));
        Err(ExportError::malformed(MANIFEST_FILE, reason))
    }

    /// Docker's own form has no manifests: they are made here, over the layers' files as they are.
    fn read_docker(&self, list: &[u8], into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
        let items: Vec<Item> =
            json::parse(list).map_err(|error| ExportError::malformed(MANIFEST_FILE, error.to_string()))?;
        items.iter().map(|item| self.read_item(item, into)).collect()
    }

    fn read_item(&self, item: &Item, into: &dyn ContentStore) -> Result<Loaded, ExportError> {
        let config = self.find(&item.config)?;
        let config = Descriptor::new(media_type::OCI_CONFIG, config.digest, config.size);
        let config_bytes = read_bytes(into, &config, CONFIG_MAX_BYTES)?;
        let mut layers = Vec::with_capacity(item.layers.len());
        for path in &item.layers {
            let stored = self.find(path)?;
            let media_type = match stored.format {
                Format::Plain => media_type::OCI_LAYER,
                Format::Gzip => media_type::OCI_LAYER_GZIP,
                Format::Zstd => media_type::OCI_LAYER_ZSTD,
                format => {
                    let reason = format!("a layer is compressed with gzip or zstd, this one with {format:?}");
                    return Err(ExportError::malformed(printable(path.as_bytes()), reason));
                }
            };
            layers.push(Descriptor::new(media_type, stored.digest, stored.size));
        }
        let assembled = image::assemble(&config_bytes, layers, BTreeMap::new(), Dialect::Oci)?;
        // Nobody else vouched for these layers: no manifest came with them.
        let parsed: ImageConfig =
            json::parse(&config_bytes).map_err(|error| ExportError::malformed(&item.config, error.to_string()))?;
        for (layer, diff_id) in assembled.manifest.layers.iter().zip(parsed.rootfs.diff_ids) {
            verify_layer(into, layer, diff_id)?;
        }
        put_bytes(into, &assembled.manifest_bytes)?;
        let mut names = Vec::new();
        for tag in item.repo_tags.iter().flatten() {
            let name = tag.parse();
            names.push(name.map_err(|error: ReferenceError| ExportError::malformed(MANIFEST_FILE, error.to_string()))?);
        }
        Ok(Loaded { names, manifest: assembled.descriptor })
    }
}

/// A name in the archive as a key: relative, without `.`; `..` is refused.
fn key(path: &[u8]) -> Result<String, ExportError> {
    let refused = |reason: &str| ExportError::malformed(printable(path), reason);
    let text = std::str::from_utf8(path).map_err(|_| refused("its name is no UTF-8"))?;
    if text.starts_with('/') {
        return Err(refused("its name is absolute"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(refused("its name leaves the archive"));
    }
    Ok(parts.join("/"))
}

/// Where a symlink leads, by its text alone.
fn beside(link: &str, target: &[u8]) -> Result<String, ExportError> {
    let refused = || ExportError::malformed(link, "it is a link that leaves the archive");
    let text = std::str::from_utf8(target).ok().filter(|text| !text.starts_with('/')).ok_or_else(refused)?;
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(refused)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The first bytes of a stream.
#[derive(Default)]
struct First {
    bytes: [u8; 6],
    count: usize,
}

struct Tee<'a> {
    first: &'a mut First,
    out: &'a mut dyn Write,
}

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        for byte in &bytes[..count.min(self.first.bytes.len() - self.first.count)] {
            self.first.bytes[self.first.count] = *byte;
            self.first.count += 1;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

// ------------------------------------------------------------------------------------------------- OCI layout, any form

fn check_layout(bytes: &[u8]) -> Result<(), ExportError> {
    let layout: serde_json::Value =
        json::parse(bytes).map_err(|error| ExportError::malformed(LAYOUT_FILE, error.to_string()))?;
    match layout.get("imageLayoutVersion").and_then(serde_json::Value::as_str) {
        Some(version) if version.starts_with("1.") => Ok(()),
        other => {
            let version = other.unwrap_or("none").escape_debug().to_string();
            Err(ExportError::malformed(LAYOUT_FILE, format!("its version is `{version}`, not 1.0.0")))
        }
    }
}

/// Follows `index.json`. `bring` gets a blob into the store and tells whether there is one.
fn read_index(
    bytes: &[u8],
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
) -> Result<Vec<Loaded>, ExportError> {
    // It is an index like any other, so it is read like one.
    let (digest, size) = put_bytes(into, bytes)?;
    let (document, _) = read_document(into, &Descriptor::new(media_type::OCI_INDEX, digest, size))?;
    let Document::Index(Index { manifests, .. }) = document else {
        return Err(ExportError::malformed(INDEX_FILE, "it is no index"));
    };
    let mut loaded: Vec<Loaded> = Vec::new();
    for entry in &manifests {
        let names = name_of(entry)?;
        if let Some(known) = loaded.iter_mut().find(|known| known.manifest.digest == entry.digest) {
            known.names.extend(names);
            continue;
        }
        match bring_all(entry, into, bring, &mut HashSet::new(), NESTING_MAX)? {
            Brought::Image => {}
            Brought::Other => {
                tracing::debug!(digest = %entry.digest, "an entry of the archive is no image");
                continue;
            }
            Brought::Nothing => return Err(ContentError::Missing { digest: entry.digest }.into()),
        }
        let plain = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        loaded.push(Loaded { names: names.into_iter().collect(), manifest: plain });
    }
    Ok(loaded)
}

/// What a descriptor led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// At least one image.
    Image,
    /// Something else: an attestation, an artifact.
    Other,
    /// Nothing is there.
    Nothing,
}

/// Brings a manifest with its blobs, or an index with those of its manifests that are there.
fn bring_all(
    descriptor: &Descriptor,
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
    seen: &mut HashSet<Digest>,
    nesting_left: usize,
) -> Result<Brought, ExportError> {
    if !bring(descriptor)? {
        return Ok(Brought::Nothing);
    }
    let index = match read_document(into, descriptor)?.0 {
        Document::Manifest(manifest) => return bring_manifest(descriptor, &manifest, into, bring),
        Document::Index(index) => index,
    };
    let Some(nesting_left) = nesting_left.checked_sub(1) else {
        return Err(ExportError::malformed(INDEX_FILE, "its indexes are nested too deep"));
    };
    let mut brought = Brought::Nothing;
    for entry in index.manifests.iter().filter(|entry| seen.insert(entry.digest)).collect::<Vec<_>>() {
        match bring_all(entry, into, bring, seen, nesting_left)? {
            Brought::Image => brought = Brought::Image,
            Brought::Other if brought == Brought::Nothing => brought = Brought::Other,
            Brought::Other | Brought::Nothing => {}
        }
    }
    Ok(brought)
}

fn bring_manifest(
    descriptor: &Descriptor,
    manifest: &Manifest,
    into: &dyn ContentStore,
    bring: &mut dyn FnMut(&Descriptor) -> Result<bool, ExportError>,
) -> Result<Brought, ExportError> {
    for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
        if !bring(blob)? {
            return Err(ContentError::Missing { digest: blob.digest }.into());
        }
        // The size in the manifest must be right too, here where it can be said which blob it is about.
        let actual = into.open(&blob.digest)?.map_or(0, |reader| reader.size());
        if actual != blob.size {
            return Err(ContentError::WrongSize { digest: blob.digest, expected: blob.size, actual }.into());
        }
    }
    let config = manifest.config.media_type.as_str();
    // An attestation has an image's config and layers that are none.
    let is_image = matches!(config, media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        && !manifest.layers.iter().any(|layer| layer.media_type == IN_TOTO);
    if !is_image {
        return Ok(Brought::Other);
    }
    Image::open(into, descriptor)?;
    Ok(Brought::Image)
}

/// The name of an entry of `index.json`. containerd writes a whole one; others put either a tag, which says nothing
/// without a repository, or a whole name into the specification's annotation.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>, ExportError> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    if let Some(name) = annotation(IMAGE_NAME) {
        let parsed = name.parse().map(Some);
        return parsed.map_err(|error: ReferenceError| ExportError::malformed(INDEX_FILE, error.to_string()));
    }
    // Any text is allowed here, so one that is no name is none.
    Ok(annotation(REF_NAME).filter(|name| name.contains(['/', ':'])).and_then(|name| name.parse().ok()))
}
