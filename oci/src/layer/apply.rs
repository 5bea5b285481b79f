//! An image layer becomes a directory in overlayfs form.
//!
//! The layer's tar comes in with the trees beneath it, topmost first; the directory then holds what overlayfs needs as
//! one more lower directory: whiteouts are character devices 0:0, opaque directories carry overlayfs's xattr. What the
//! archive says of files that it does not hold (directories on the way, targets of hard links) is taken from the trees
//! beneath, as if the layer were unpacked on top of them. image-spec layer.md, "Applying Changesets".
//!
//! A whiteout hides only what lies beneath the layer, wherever it stands in the archive; one that hides nothing leaves
//! no trace. So `parents` must be all the trees beneath, or deletions are lost. Deliberately absent: decompression and
//! digests; the archive is read to its very end so that a verifying reader beneath sees all of it.

use std::io::{BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Timespec, fstat};

use super::descent::{Descent, Times};
use super::error::LayerError;
use super::node::{self, Attributes, Keep};
use super::path::{Component, components};
use super::tar::{EndMarker, Entry, Kind, Limits, TarReader};
use super::view::{Beneath, Found, Implied, View};
use super::walk;
use super::xattr::{self, Of, XattrNamespace};
use super::{AUFS_PREFIX, OPAQUE_NAME, WHITEOUT_PREFIX};

/// How a layer is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions {
    /// Where overlayfs will look for its marks. With [`XattrNamespace::User`], `trusted.*` of the archive is left out.
    pub xattr_namespace: XattrNamespace,
    /// How much is taken.
    pub limits: Limits,
}

impl ApplyOptions {
    /// The usual limits.
    pub fn new(xattr_namespace: XattrNamespace) -> Self {
        Self { xattr_namespace, limits: Limits::default() }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyFacts {
    /// Members of the archive.
    pub entries: u64,
    /// Length of the archive in bytes, with whatever followed its end marker.
    pub tar_bytes: u64,
    /// Whiteouts and opaque marks that hide something.
    pub whiteouts: u64,
    /// Xattrs that are no part of an image, or cannot be kept here.
    pub xattrs_dropped: u64,
    /// Devices, with [`XattrNamespace::User`]: only the machine's first user namespace may make them.
    pub devices_dropped: u64,
}

/// Unpacks a layer into an empty directory. `parents` are the trees beneath in overlayfs form, topmost first, all of
/// them. After an error the directory holds a part of the layer and is to be thrown away.
pub fn apply_layer(
    tar: impl Read,
    into: BorrowedFd<'_>,
    parents: &[BorrowedFd<'_>],
    options: &ApplyOptions,
) -> Result<ApplyFacts, LayerError> {
    apply_layer_on(tar, into, &parents, options)
}

/// The same on trees that may still be in the making: they are asked for only where the archive does not say everything
/// itself. An archive with an entry for every directory, the root included, that deletes nothing waits for nobody.
pub fn apply_layer_on(
    tar: impl Read,
    into: BorrowedFd<'_>,
    beneath: &dyn Beneath,
    options: &ApplyOptions,
) -> Result<ApplyFacts, LayerError> {
    let namespace = options.xattr_namespace;
    let keep = Keep::with(namespace);
    let root = walk::open_root(into)?;
    let descent = Descent::new(root.as_fd(), Times::Keep, Some(namespace))?;
    let mut layer = Layer {
        view: View::new(descent, beneath, Some(namespace), keep),
        namespace,
        keep,
        facts: ApplyFacts::default(),
        has_root: false,
    };
    // A digest says whether a layer is whole.
    let mut reader = TarReader::new(BufReader::with_capacity(128 * 1024, tar), options.limits, EndMarker::Optional);
    while let Some(entry) = reader.next()? {
        layer.facts.entries += 1;
        layer.member(&entry, &mut reader)?;
    }
    reader.drain()?;
    layer.facts.tar_bytes = reader.offset();
    layer.facts.xattrs_dropped += layer.view.xattrs_dropped;
    layer.facts.devices_dropped = layer.view.devices_dropped.len() as u64;
    layer.view.descent.finish()?;
    if !layer.has_root {
        let trees = beneath.trees().map_err(LayerError::stdio("look beneath the layer at", b""))?;
        prepare_root(root.as_fd(), trees.first().copied(), keep)?;
    }
    Ok(layer.facts)
}

/// Unless the archive says otherwise, the root is as it is beneath, or 0755 and root's.
fn prepare_root(root: BorrowedFd<'_>, beneath: Option<BorrowedFd<'_>>, keep: Keep) -> Result<(), LayerError> {
    let (stat, xattrs) = match beneath {
        Some(beneath) => {
            let beneath = walk::open_root(beneath)?;
            let stat = fstat(&beneath).map_err(LayerError::io("examine", b""))?;
            let failed = LayerError::stdio("read the xattrs of", b"");
            (stat, xattr::read(Of::Open(beneath.as_fd())).map_err(failed)?)
        }
        None => {
            let mut stat = fstat(root).map_err(LayerError::io("examine", b""))?;
            (stat.st_uid, stat.st_gid) = (0, 0);
            stat.st_mode = stat.st_mode & !0o7777 | 0o755;
            (stat, Vec::new())
        }
    };
    Attributes::of_stat(&stat, &xattrs).set(root, keep, b"").map(drop)
}

struct Layer<'a> {
    view: View<'a>,
    namespace: XattrNamespace,
    keep: Keep,
    facts: ApplyFacts,
    /// Whether the archive says what the root is.
    has_root: bool,
}

impl Layer<'_> {
    fn member(&mut self, entry: &Entry, data: &mut TarReader<impl Read>) -> Result<(), LayerError> {
        let path = entry.path.as_slice();
        let mut parents = components(path)?;
        let Some(name) = parents.pop() else { return self.root(entry) };
        if let Some(marked) = parents.iter().find(|part| part.starts_with(WHITEOUT_PREFIX)) {
            if marked.starts_with(AUFS_PREFIX) {
                return Ok(());
            }
            return Err(LayerError::refused(path, "a whiteout is no directory"));
        }
        let implied = Implied { owner: (0, 0), mtime: Some(entry.mtime) };
        let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else {
            let at = self.view.make_directory(&parents, implied, path)?;
            return self.view.put(entry, (entry.uid, entry.gid), &at, &name, data);
        };
        if *name != *OPAQUE_NAME && name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        if !matches!(entry.kind, Kind::File { .. } | Kind::HardLink { .. }) {
            return Err(LayerError::refused(path, "a whiteout is an empty file"));
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::refused(path, "a whiteout must name what it hides"));
        }
        let at = self.view.make_directory(&parents, implied, path)?;
        if *name == *OPAQUE_NAME { self.opaque(path) } else { self.whiteout(&at, hidden, path) }
    }

    /// The entry `./`: the root's own attributes.
    fn root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::Directory {
            return Err(LayerError::refused(&entry.path, "the root is a directory"));
        }
        self.has_root = true;
        self.view.descent.enter(&[])?;
        let attributes = Attributes::of_entry(entry, (entry.uid, entry.gid));
        self.facts.xattrs_dropped += attributes.set(self.view.descent.here(), self.keep, b"")?;
        let mtime: Timespec = attributes.mtime;
        self.view.descent.set_mtime(mtime);
        Ok(())
    }

    /// Everything beneath the directory where the descent stands is hidden; what this layer puts there is not.
    fn opaque(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let here = self.view.descent.here().try_clone_to_owned();
        let here = here.map_err(LayerError::stdio("open the directory of", path))?;
        node::make_opaque(&here, self.namespace, path)?;
        self.view.descent.set_opaque();
        self.facts.whiteouts += 1;
        Ok(())
    }

    fn whiteout(&mut self, at: &[Component], hidden: &[u8], path: &[u8]) -> Result<(), LayerError> {
        match self.view.look(hidden)? {
            // The layer has a directory of this name: it stays, and what lies beneath it is hidden.
            Found::Directory => {
                let directory = node::open_directory(self.view.descent.here(), hidden, path)?;
                node::make_opaque(&directory, self.namespace, path)?;
            }
            // A file of this layer hides it already.
            Found::Symlink | Found::Other | Found::Whiteout => return Ok(()),
            Found::Absent if !self.view.hides_something(at, hidden)? => return Ok(()),
            Found::Absent => {
                self.view.descent.touch();
                node::create_whiteout(self.view.descent.here(), hidden, path)?;
            }
        }
        self.facts.whiteouts += 1;
        Ok(())
    }
}
