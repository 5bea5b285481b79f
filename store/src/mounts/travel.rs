//! Cache mounts as tars, to other machines and from there.
//!
//! The tar is a layer's: sorted, owners as numbers, times in whole seconds, so that unchanged files give the same
//! bytes. What comes in is hostile: it is unpacked beneath a draft of its own, as layers are, and only where there is
//! no such mount yet. A mount that holds what layers cannot (names that begin with `.wh.`) does not travel.

use std::io::{Read, Write};

use jiff::Timestamp;
use oci::layer::{ApplyOptions, WriteOptions, XattrNamespace, apply_layer, write_layer_with};
use rustix::fs::Mode;
use solver::op::CacheSharing;

use super::{DIRECTORY, Dir, MountEntry, MountKey, MountSeed, TREE, is_known};
use crate::{Store, StoreError};

impl Store {
    /// Writes the files of one directory of [`Store::mounts`] as a tar. `false`: somebody uses it or it is gone, and
    /// nothing was written. It is held meanwhile.
    ///
    /// # Errors
    /// [`StoreError::MountTar`]; then a part was written.
    pub fn export_mount(&self, entry: &MountEntry, out: &mut dyn Write) -> Result<bool, StoreError> {
        let folder = &self.layout().mounts;
        let Some(dir) = Dir::open(folder, &entry.name)? else { return Ok(false) };
        // Not shared: files that somebody writes to are no state of anything.
        if !dir.try_alone(folder)? {
            return Ok(false);
        }
        let tree = rustix::fs::openat(&dir.fd, TREE, DIRECTORY, Mode::empty())
            .map_err(|source| StoreError::io("open", folder.join(&entry.name).join(TREE), source))?;
        let options = WriteOptions { root_entry: true, ..WriteOptions::default() };
        write_layer_with(std::os::fd::AsFd::as_fd(&tree), options, out).map_err(|source| StoreError::MountTar {
            act: "archive",
            id: entry.key.id.clone(),
            source,
        })?;
        Ok(true)
    }

    /// Makes a cache mount of a tar, if there is none of that key yet; `false`: there is one, and the tar was not read
    /// or not used. `created` is what the exporter's entry said.
    ///
    /// # Errors
    /// [`StoreError::MountTar`]; then nothing is left of it.
    pub fn import_mount(&self, key: &MountKey, created: Timestamp, tar: impl Read) -> Result<bool, StoreError> {
        if self.has_mount(key)? {
            return Ok(false);
        }
        let draft = self.draft()?;
        apply_layer(tar, draft.fs_fd(), &[], &ApplyOptions::new(XattrNamespace::here()))
            .map_err(|source| StoreError::MountTar { act: "unpack", id: key.id.clone(), source })?;
        let seed = MountSeed { created: created.min(draft.begun()), draft };
        // Held until its row is there, so that no sweep takes it for a dead one.
        let made = self.index().transaction("import a cache mount", |transaction| {
            if is_known(transaction, key)? {
                return Ok(None);
            }
            Ok(Some(self.make_mount(transaction, key, CacheSharing::Shared, seed)?))
        })?;
        Ok(made.is_some())
    }
}
