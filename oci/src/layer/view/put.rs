//! Puts members of an archive in their places.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, linkat, major, minor, mkdirat, openat};

use super::{Found, Implied, Place, View, readlink};
use crate::layer::error::LayerError;
use crate::layer::node::{self, Attributes};
use crate::layer::path::{Component, components, joined};
use crate::layer::tar::{Entry, Kind, TarReader, printable};
use crate::layer::walk::remove_tree;
use crate::layer::xattr::{self, Of};

impl View<'_> {
    /// Puts one member in its place: `name` in the directory `at`, where the descent stands. Whatever was there is
    /// replaced, but a directory by a directory, which only gets new attributes.
    pub fn put(
        &mut self,
        entry: &Entry,
        owner: (u32, u32),
        at: &[Component],
        name: &Component,
        data: &mut TarReader<impl Read>,
    ) -> Result<(), LayerError> {
        let path = &entry.path;
        if let Kind::HardLink { target } = &entry.kind {
            return self.put_link(path, target, at, name);
        }
        self.descent.touch();
        let attributes = Attributes::of_entry(entry, owner);
        if entry.kind == Kind::Directory {
            return self.put_directory(&attributes, name, path);
        }
        let (here, keep) = (self.descent.here(), self.keep);
        if let Kind::File { size, sparse } = &entry.kind {
            // Mostly nothing has the name, which making the file tells.
            let mut file = match node::create_file_unless(here, name, path)? {
                Some(file) => file,
                None => {
                    remove_tree(here, name, path)?;
                    node::create_file(here, name, path)?
                }
            };
            node::fill(&mut file, data, *size, sparse.as_deref(), path)?;
            self.xattrs_dropped += attributes.set(file.as_fd(), keep, path)?;
            return Ok(());
        }
        if self.look(name)? != Found::Absent {
            remove_tree(here, name, path)?;
        }
        let special = |device| node::create_special(here, name, device, &attributes, keep, path);
        let dropped = match &entry.kind {
            Kind::Symlink { target } => Some(node::create_symlink(here, name, target, &attributes, keep, path)?),
            Kind::CharDevice { major, minor } => special((FileType::CharacterDevice, *major, *minor))?,
            Kind::BlockDevice { major, minor } => special((FileType::BlockDevice, *major, *minor))?,
            Kind::Fifo => special((FileType::Fifo, 0, 0))?,
            Kind::Directory | Kind::File { .. } | Kind::HardLink { .. } => unreachable!("these were dealt with above"),
        };
        match dropped {
            Some(xattrs) => self.xattrs_dropped += xattrs,
            None => drop(self.devices_dropped.insert([joined(at).as_slice(), name].join(&b'/'))),
        }
        Ok(())
    }

    fn put_directory(&mut self, attributes: &Attributes<'_>, name: &Component, path: &[u8]) -> Result<(), LayerError> {
        let found = self.look(name)?;
        let here = self.descent.here();
        if !matches!(found, Found::Directory | Found::Absent) {
            remove_tree(here, name, path)?;
        }
        if found != Found::Directory {
            mkdirat(here, &**name, Mode::RWXU).map_err(LayerError::io("make the directory", path))?;
        }
        let made = node::open_directory(here, name, path)?;
        if let (Some(namespace), false) = (self.overlay, matches!(found, Found::Directory | Found::Absent)) {
            // What the file or whiteout in its place hid stays hidden.
            node::make_opaque(&made, namespace, path)?;
        }
        self.xattrs_dropped += attributes.set(made.as_fd(), self.keep, path)?;
        self.descent.list_child(name);
        Ok(())
    }

    fn put_link(&mut self, path: &[u8], target: &[u8], at: &[Component], name: &Component) -> Result<(), LayerError> {
        let missing = || LayerError::refused(path, format!("its target `{}` is not there", printable(target)));
        let mut target_parts = components(target)?;
        let target_name = target_parts.pop().ok_or_else(|| LayerError::refused(path, "its target is the root"))?;
        let place = self.find_directory(&target_parts, path)?.ok_or_else(missing)?;
        if (place.path.as_slice(), &target_name) == (at, name) {
            return Err(LayerError::refused(path, "it is a hard link to itself"));
        }
        if self.devices_dropped.contains(&[joined(&place.path).as_slice(), &target_name].join(&b'/')) {
            self.devices_dropped.insert([joined(at).as_slice(), name].join(&b'/'));
            return Ok(());
        }
        self.descent.enter(&place.path[..place.upper])?;
        let here = if place.upper == place.path.len() { self.look(&target_name)? } else { Found::Absent };
        match here {
            Found::Symlink | Found::Other => {}
            Found::Directory => return Err(LayerError::refused(path, "its target is a directory")),
            Found::Whiteout => return Err(missing()),
            Found::Absent => {
                let (dir, stat) = self.lower(&place.path, &target_name)?.ok_or_else(missing)?;
                self.copy_up(&place, &target_name, &dir, &stat, path)?;
            }
        }
        let from = self.descent.enter(&place.path)?.try_clone_to_owned();
        let from = from.map_err(LayerError::stdio("open the directory of the target of", path))?;
        self.descent.enter(at)?;
        self.descent.touch();
        let here = self.descent.here();
        remove_tree(here, name, path)?;
        linkat(&from, &*target_name, here, &**name, AtFlags::empty())
            .map_err(LayerError::io("create the hard link", path))
    }

    /// Copies a file that lies beneath into the tree being written, at the same place, so that it can get a new name.
    fn copy_up(
        &mut self,
        place: &Place,
        name: &Component,
        dir: &OwnedFd,
        stat: &Stat,
        entry: &[u8],
    ) -> Result<(), LayerError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Err(LayerError::refused(entry, "its target is a directory"));
        }
        // All of these exist beneath, so nothing is implied that would need an owner or a time.
        self.make_directory(&place.path, Implied { owner: (0, 0), mtime: None }, entry)?;
        self.descent.touch();
        let path = [joined(&place.path), name.to_vec()].join(&b'/');
        let failed = LayerError::stdio("read the xattrs of", &path);
        let xattrs = xattr::read(Of::Named(dir.as_fd(), name)).map_err(failed)?;
        let attributes = Attributes::of_stat(stat, &xattrs);
        let (here, keep) = (self.descent.here(), self.keep);
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = openat(dir, &**name, flags, Mode::empty()).map_err(LayerError::io("open", &path))?;
                let mut file = node::create_file(here, name, &path)?;
                node::copy_data(&mut File::from(from), &mut file, stat.st_size as u64, &path)?;
                attributes.set(file.as_fd(), keep, &path)?;
            }
            FileType::Symlink => {
                let target = readlink(dir.as_fd(), name)?;
                node::create_symlink(here, name, &target, &attributes, keep, &path)?;
            }
            kind => {
                let device = (kind, major(stat.st_rdev), minor(stat.st_rdev));
                node::create_special(here, name, device, &attributes, keep, &path)?;
            }
        }
        Ok(())
    }
}
