//! The files of an archive that is a tar, and docker's list of images among them.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};

use super::Loaded;
use super::index::{check_layout, read_index};
use crate::content::{ContentError, ContentStore, put_bytes, read_bytes};
use crate::export::docker_archive::Item;
use crate::export::error::ExportError;
use crate::export::{INDEX_FILE, LAYOUT_FILE, MANIFEST_FILE};
use crate::image::{self, CONFIG_MAX_BYTES, MANIFEST_MAX_BYTES, verify_layer};
use crate::json;
use crate::layer::tar::{EndMarker, Kind, Limits, TarReader, printable};
use crate::layer::{Dialect, Format, decompress, detect};
use crate::model::{Descriptor, Digest, ImageConfig, ReferenceError, media_type};

/// Links to links, which docker never made.
const LINKS_MAX: usize = 16;

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

pub(super) fn read_tar(stream: Box<dyn Read + '_>, into: &dyn ContentStore) -> Result<Vec<Loaded>, ExportError> {
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
