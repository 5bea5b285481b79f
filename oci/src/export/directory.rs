//! OCI layouts that are directories: images are added, and what stands there stays.
//!
//! ```text
//!   <dir>/oci-layout              made if there is none
//!   <dir>/index.json              one entry per name, or per manifest without one; others' entries stay. Renamed last
//!   <dir>/blobs/sha256/<hex>      written aside (`.rbuild-<pid>-<n>`), synced, renamed; never removed
//! ```
//! So whoever reads sees the old layout or the new one, after a crash too. Who adds holds a lock on the directory, and
//! takes away what a crash has left aside. Links in the layout are not followed: all of it lies in that directory.
//! Deliberately absent: removing blobs that no entry names any more; opening the directory itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::ahead;
use super::archive::{check_layout, small};
use super::blobs::{Blobs, path_of};
use super::error::ExportError;
use super::{IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME, oci_layout};
use crate::content::{ContentError, ContentStore, open_whole};
use crate::json;
use crate::model::{Descriptor, Index, Reference};

/// What begins the names of files that are not whole yet.
const ASIDE: &str = ".rbuild-";

/// Adds images with all their blobs to a layout, or makes one of the directory. Each may have several names, or none; a
/// name that is there already now means this image.
///
/// # Errors
/// When what is there is a layout of another version, or no index. Then, and whenever adding fails, the entries are
/// what they were.
pub fn add(
    dir: BorrowedFd<'_>,
    store: &dyn ContentStore,
    images: &[(Vec<Reference>, Descriptor)],
) -> Result<(), ExportError> {
    let mut blobs = Blobs::default();
    for (_, descriptor) in images {
        blobs.add(store, descriptor)?;
    }
    // Goes with the descriptor.
    let lock = open_in(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", "."))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed("lock", "."))?;
    let known = known(dir)?;
    let sha256 = directory(&directory(&lock, "blobs")?, "sha256")?;
    for place in [&lock, &sha256] {
        sweep(place)?;
    }
    for descriptor in blobs.iter() {
        put_blob(&sha256, store, descriptor)?;
    }
    sync(&sha256, "blobs/sha256")?;
    if known.is_none() {
        put(&lock, LAYOUT_FILE, LAYOUT_FILE, oci_layout::LAYOUT, oci_layout::LAYOUT.len() as u64)?;
    }
    let index = merged(known, oci_layout::index_of(images));
    let bytes = serde_json::to_vec(&index).expect("an index holds nothing that JSON cannot say");
    put(&lock, INDEX_FILE, INDEX_FILE, &*bytes, bytes.len() as u64)?;
    sync(&lock, ".")
}

/// The index that is there; `None`: this is no layout yet.
fn known(dir: BorrowedFd<'_>) -> Result<Option<Index>, ExportError> {
    let layout = match small(dir, LAYOUT_FILE) {
        Ok(layout) => layout,
        Err(ExportError::Unknown) => return Ok(None),
        Err(error) => return Err(error),
    };
    check_layout(&layout)?;
    match small(dir, INDEX_FILE) {
        Ok(bytes) => {
            json::parse(&bytes).map(Some).map_err(|error| ExportError::malformed(INDEX_FILE, error.to_string()))
        }
        Err(ExportError::Unknown) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of both; where they mean the same name, the new one.
fn merged(known: Option<Index>, new: Index) -> Index {
    let Some(mut index) = known else { return new };
    let name = |entry: &Descriptor, key: &str| entry.annotations.get(key).cloned();
    index.manifests.retain(|old| {
        !new.manifests.iter().any(|entry| match (name(old, IMAGE_NAME), name(entry, IMAGE_NAME)) {
            (Some(old), Some(new)) => old == new,
            (None, None) if name(old, REF_NAME).is_none() && name(entry, REF_NAME).is_none() => {
                old.digest == entry.digest
            }
            // Other programs write the tag alone.
            _ => name(old, REF_NAME).is_some() && name(old, REF_NAME) == name(entry, REF_NAME),
        })
    });
    index.manifests.extend(new.manifests);
    index
}

fn put_blob(sha256: &OwnedFd, store: &dyn ContentStore, descriptor: &Descriptor) -> Result<(), ExportError> {
    let path = path_of(&descriptor.digest);
    let name = descriptor.digest.hex();
    match rustix::fs::statat(sha256, &*name, AtFlags::SYMLINK_NOFOLLOW) {
        // Only whole blobs have such names.
        Ok(stat) if is_file(stat.st_mode) && u64::try_from(stat.st_size) == Ok(descriptor.size) => return Ok(()),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed("look at", &path)(errno)),
    }
    put(sha256, &name, &path, open_whole(store, descriptor)?, descriptor.size)
}

/// Writes a file of `size` bytes aside, syncs and renames it.
fn put(dir: &OwnedFd, name: &str, path: &str, bytes: impl Read + Send, size: u64) -> Result<(), ExportError> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let aside = format!("{ASIDE}{}-{number}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, &*aside, flags, Mode::from_raw_mode(0o644)).map_err(failed("make", path))?;
    let written = fill(File::from(file), path, bytes, size)
        .and_then(|()| rustix::fs::renameat(dir, &*aside, dir, name).map_err(failed("rename", path)));
    if written.is_err()
        && let Err(errno) = rustix::fs::unlinkat(dir, &*aside, AtFlags::empty())
    {
        tracing::debug!(%errno, aside, "a part of a layout is left");
    }
    written
}

fn fill(mut file: File, path: &str, bytes: impl Read + Send, size: u64) -> Result<(), ExportError> {
    let failed = |source: io::Error| ExportError::Io { act: "write", path: path.to_owned(), source };
    ahead::copy(bytes, size, &mut file).map_err(|source| match source.downcast::<ContentError>() {
        Ok(content) => ExportError::Content(content),
        Err(source) => failed(source),
    })?;
    file.flush().and_then(|()| file.sync_all()).map_err(failed)
}

/// Opens a directory of the layout, which is made when it is missing.
fn directory(dir: &OwnedFd, name: &'static str) -> Result<OwnedFd, ExportError> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make", name)(errno)),
    }
    open_in(dir.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", name))
}

fn open_in(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Takes away what was left aside. Nobody else writes: the lock is held.
fn sweep(dir: &OwnedFd) -> Result<(), ExportError> {
    for entry in Dir::read_from(dir).map_err(failed("list", "blobs"))? {
        let entry = entry.map_err(failed("list", "blobs"))?;
        if entry.file_name().to_bytes().starts_with(ASIDE.as_bytes()) {
            rustix::fs::unlinkat(dir, entry.file_name(), AtFlags::empty())
                .map_err(failed("remove a part of", "blobs"))?;
        }
    }
    Ok(())
}

fn sync(dir: &OwnedFd, path: &str) -> Result<(), ExportError> {
    rustix::fs::fsync(dir).map_err(failed("sync", path))
}

// The types differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn is_file(mode: rustix::fs::RawMode) -> bool {
    rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile
}

fn failed(act: &'static str, path: &str) -> impl Fn(Errno) -> ExportError {
    let path = path.to_owned();
    move |errno| ExportError::Io { act, path: path.clone(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use super::*;
    use crate::content::{MemoryStore, put_bytes};
    use crate::export::archive::{Input, read};
    use crate::layer::Dialect;
    use crate::model::{Digest, media_type};

    fn open(dir: &Path) -> OwnedFd {
        fs::File::open(dir).unwrap().into()
    }

    /// An image of one layer with these bytes.
    fn image(store: &MemoryStore, bytes: &[u8]) -> Descriptor {
        let (digest, size) = put_bytes(store, bytes).unwrap();
        let config = format!(
            "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{digest}\"]}}}}"
        );
        put_bytes(store, config.as_bytes()).unwrap();
        let layer = Descriptor::new(media_type::OCI_LAYER, digest, size);
        let made = crate::image::assemble(config.as_bytes(), vec![layer], BTreeMap::new(), Dialect::Oci).unwrap();
        put_bytes(store, &made.manifest_bytes).unwrap();
        made.descriptor
    }

    /// Names and digests of what the layout holds, in order.
    fn entries(dir: &Path) -> Vec<(Vec<String>, Digest)> {
        let loaded = read(Input::Directory(open(dir).as_fd()), &MemoryStore::default()).unwrap();
        let names = |names: &[Reference]| names.iter().map(Reference::familiar).collect();
        loaded.iter().map(|image| (names(&image.names), image.manifest.digest)).collect()
    }

    #[test]
    fn images_are_added_and_names_move() {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let (one, two) = (image(&store, b"one"), image(&store, b"two"));
        let put = |names: &[&str], image: &Descriptor| {
            let names = names.iter().map(|name| name.parse().unwrap()).collect();
            add(open(dir.path()).as_fd(), &store, &[(names, image.clone())]).unwrap();
        };
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        put(&["app:1"], &one);
        put(&["app:2", "other:2"], &two);
        assert_eq!(entries(dir.path()), [(named(&["app:1"]), one.digest), (named(&["app:2", "other:2"]), two.digest)]);
        put(&["app:1"], &two);
        assert_eq!(entries(dir.path()), [(named(&["app:2", "other:2", "app:1"]), two.digest)]);
        put(&[], &one);
        put(&[], &one);
        assert_eq!(entries(dir.path()).last().unwrap(), &(Vec::new(), one.digest));
        assert_eq!(entries(dir.path()).len(), 2);
    }

    #[test]
    fn a_failure_leaves_the_old_layout_readable_and_nothing_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let (one, two) = (image(&store, b"one"), image(&store, b"two"));
        let names: Vec<Reference> = vec!["app:1".parse().unwrap()];
        add(open(dir.path()).as_fd(), &store, &[(names.clone(), one.clone())]).unwrap();
        let before = entries(dir.path());
        // What a crash leaves.
        fs::write(dir.path().join("blobs/sha256/.rbuild-1-1"), "half").unwrap();
        store.remove(&Digest::of(b"two"));
        assert!(add(open(dir.path()).as_fd(), &store, &[(names, two)]).is_err());
        assert_eq!(entries(dir.path()), before);
        let aside = |dir: &Path| {
            let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with('.')).count()
        };
        assert_eq!((aside(dir.path()), aside(&dir.path().join("blobs/sha256"))), (0, 0));
    }

    #[test]
    fn links_in_the_layout_lead_nowhere() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = MemoryStore::default();
        let one = image(&store, b"one");
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("blobs")).unwrap();
        let error = add(open(dir.path()).as_fd(), &store, &[(Vec::new(), one)]).unwrap_err();
        assert!(error.to_string().contains("cannot open `blobs`"), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
