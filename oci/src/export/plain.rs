//! One image for an engine that unpacks it at once: its layers as plain tars, but for those that the engine has.
//!
//! ```text
//!    oci-layout  index.json      as in a layout: one entry, without a name
//!    manifest.json               as in a docker archive: one item, without a name
//!    blobs/sha256/<hex>          config and manifest; a layer by its diff_id, if it is sent
//! ```
//! Docker reads `manifest.json` and asks itself for a layer before it opens that layer's file; podman reads
//! `index.json` and does likewise. So the files of layers that they have may be missing. Nothing needs to lie on a disk:
//! the caller writes the bytes of a layer when its turn comes. Deliberately absent: which layers an engine has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::blobs::{entry, path_of, write_file};
use super::docker_archive::Item;
use super::error::ExportError;
use super::{MANIFEST_FILE, oci_layout};
use crate::layer::Dialect;
use crate::layer::tar::{Kind, TarWriter};
use crate::model::{Descriptor, DiffId, media_type};

/// A layer as a plain tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainLayer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Whether its bytes are in the archive.
    pub is_sent: bool,
}

/// What an image is put together of.
#[derive(Clone, Copy, Debug)]
pub struct PlainImage<'a> {
    /// Its config: one diff_id per layer.
    pub config_bytes: &'a [u8],
    /// Its layers, bottom first.
    pub layers: &'a [PlainLayer],
    /// Annotations of its manifest.
    pub annotations: &'a BTreeMap<String, String>,
}

impl PlainImage<'_> {
    /// The length of the archive in bytes, a few kilobytes of lists aside.
    pub fn layer_bytes(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let sent = self.layers.iter().filter(|layer| layer.is_sent && seen.insert(layer.diff_id.0));
        sent.map(|layer| layer.size_bytes).sum()
    }

    /// Writes the archive. `layer` writes the bytes of the layer with that number, exactly as many as it should have; a
    /// layer that stands twice is written once.
    ///
    /// # Errors
    /// When config and layers do not fit together, and when `out` or `layer` fails.
    pub fn write(
        &self,
        out: &mut dyn Write,
        layer: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ExportError> {
        let described =
            self.layers.iter().map(|layer| Descriptor::new(media_type::OCI_LAYER, layer.diff_id.0, layer.size_bytes));
        let image =
            crate::image::assemble(self.config_bytes, described.collect(), self.annotations.clone(), Dialect::Oci)?;
        let config = path_of(&image.manifest.config.digest);
        let item = Item {
            config: config.clone(),
            repo_tags: None,
            layers: self.layers.iter().map(|layer| path_of(&layer.diff_id.0)).collect(),
        };
        let mut tar = TarWriter::new(out);
        oci_layout::write_head(&mut tar, &[(Vec::new(), image.descriptor.clone())])?;
        let items = serde_json::to_vec(&[item]).expect("a list of texts holds nothing that JSON cannot say");
        write_file(&mut tar, MANIFEST_FILE, &items)?;
        for path in ["blobs", "blobs/sha256"] {
            tar.begin(&entry(path, Kind::Directory))?;
        }
        write_file(&mut tar, &config, self.config_bytes)?;
        write_file(&mut tar, &path_of(&image.descriptor.digest), &image.manifest_bytes)?;
        let mut written = BTreeSet::new();
        for (at, one) in self.layers.iter().enumerate() {
            if !one.is_sent || !written.insert(one.diff_id.0) {
                continue;
            }
            let path = path_of(&one.diff_id.0);
            tar.begin(&entry(&path, Kind::File { size: one.size_bytes, sparse: None }))?;
            layer(at, &mut tar).map_err(|source| ExportError::Io { act: "write", path, source })?;
        }
        tar.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::MemoryStore;
    use crate::export::archive::{Input, read};
    use crate::model::Digest;

    const LAYERS: [&[u8]; 3] = [&[0; 1024], b"not a tar, but the bytes of a layer", &[0; 1024]];

    /// The archive without the layers with these numbers.
    fn archive(left_out: &[usize]) -> Vec<u8> {
        let diff_ids: Vec<String> = LAYERS.iter().map(|bytes| Digest::of(bytes).to_string()).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config_bytes = serde_json::to_vec(&config).expect("it is JSON");
        let layers: Vec<PlainLayer> = LAYERS
            .iter()
            .enumerate()
            .map(|(at, bytes)| PlainLayer {
                diff_id: DiffId(Digest::of(bytes)),
                size_bytes: bytes.len() as u64,
                is_sent: !left_out.contains(&at),
            })
            .collect();
        let annotations = BTreeMap::new();
        let image = PlainImage { config_bytes: &config_bytes, layers: &layers, annotations: &annotations };
        let mut out = Vec::new();
        image.write(&mut out, &mut |at, out| out.write_all(LAYERS[at])).expect("memory takes it");
        out
    }

    #[test]
    fn whole_archive_is_read_as_layout_and_a_layer_that_stands_twice_is_there_once() {
        let store = MemoryStore::default();
        let whole = archive(&[]);
        let loaded = read(Input::Tar(Box::new(&*whole)), &store).expect("it is an archive");
        assert_eq!((loaded.len(), loaded[0].names.len()), (1, 0));
        let blobs = names(&whole).into_iter().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 64);
        assert_eq!(blobs.count(), 4, "two layers, config, manifest");
        assert_eq!(archive(&[2]).len(), whole.len(), "the third is the first");
    }

    #[test]
    fn layers_that_are_left_out_are_named_and_have_no_file() {
        let (whole, without) = (archive(&[]), archive(&[1]));
        assert_eq!(whole.len() - without.len(), 2 * 512);
        let name = path_of(&Digest::of(LAYERS[1]));
        let text = String::from_utf8_lossy(&without).into_owned();
        assert_eq!(text.matches(&name).count(), 1, "in manifest.json alone");
        assert!(!names(&without).contains(&name));
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("a tar");
        entries.map(|entry| entry.expect("an entry").path().expect("a path").display().to_string()).collect()
    }
}
