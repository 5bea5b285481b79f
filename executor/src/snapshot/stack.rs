//! A layer over what lies beneath it, by copying: the rules by which overlayfs merges directories, done for good.
//!
//! In: a layer's directory in overlayfs form, and another directory. Out: what both come to, in the latter. Onto a
//! [whole tree](Beneath::Tree) deletions are done and leave nothing; of [another layer](Beneath::Layer) both become one
//! layer, in which they stay, because they also mean what lies beneath both. Of extended attributes those that count for
//! an image are kept ([`attrs::xattrs`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use crate::tree::copy::{Copier, Rules, clear, is_whiteout, remove};
use crate::tree::resolve::{open_dir_at, stat_at};
use crate::tree::walk::{Descend, DirStack, Entry, Visitor, walk};
use crate::tree::{TreeError, attrs};

/// What a layer is put over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beneath {
    /// A tree without marks.
    Tree,
    /// A layer, itself in overlayfs form.
    Layer,
}

/// Copies `layer` over `onto`, its root directory's attributes included.
pub(crate) fn put_over(layer: OwnedFd, onto: OwnedFd, beneath: Beneath) -> Result<(), TreeError> {
    let duplicate = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TreeError::io("duplicate", b""));
    let (root, top) = (duplicate(&onto)?, duplicate(&layer)?);
    let keep_layer_marks = beneath == Beneath::Layer;
    let copier = Copier::new(Rules { keep_hard_links: true, keep_layer_marks, ..Rules::default() });
    let mut stacking = Stacking { copier, to: DirStack::new(onto)?, root, beneath };
    walk(layer, &mut stacking)?;
    attrs::copy_dir_attributes(top.as_fd(), stacking.root.as_fd()).map_err(TreeError::io("set attributes of", b""))
}

struct Stacking<'a> {
    copier: Copier<'a>,
    to: DirStack,
    root: OwnedFd,
    beneath: Beneath,
}

fn is_dir(stat: Option<&Stat>) -> bool {
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

impl Visitor for Stacking<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let to: BorrowedFd<'_> = self.to.top();
        let there = stat_at(to, entry.name).map_err(TreeError::io("look at", entry.path))?;
        if !entry.kind().is_dir() {
            if is_whiteout(entry.stat) || is_dir(there.as_ref()) {
                remove(to, entry.name, entry.path)?;
            }
            if !is_whiteout(entry.stat) || self.beneath == Beneath::Layer {
                self.copier.copy_leaf(entry, self.root.as_fd(), to, entry.name, entry.path)?;
            }
            return Ok(Descend::Skip);
        }
        let hides = there.is_some() && !is_dir(there.as_ref());
        if hides {
            remove(to, entry.name, entry.path)?;
        }
        self.copier.make_directory(to, entry.name, entry.path)?;
        if hides && self.beneath == Beneath::Layer {
            // What was not to be seen through a file or a deletion is not to be seen through the directory either.
            attrs::set_xattr(to, entry.name, attrs::opaque().as_bytes(), b"y")
                .map_err(TreeError::io("mark", entry.path))?;
        }
        let opaque =
            attrs::is_opaque(entry.dir, entry.name).map_err(TreeError::io("read attributes of", entry.path))?;
        self.to.push(entry.name, entry.path)?;
        if opaque {
            clear(open_dir_at(self.to.top(), b".").map_err(TreeError::io("open directory", entry.path))?)?;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.to.pop(entry.path)?;
        // The layer's directory decides all of it, attributes that the one below had and it has not included.
        let old = attrs::xattrs(self.to.top(), entry.name).map_err(TreeError::io("read attributes of", entry.path))?;
        for name in old.keys() {
            attrs::remove_xattr(self.to.top(), entry.name, name)
                .map_err(TreeError::io("remove attributes of", entry.path))?;
        }
        self.copier.directory_attributes(entry, self.to.top(), entry.name, entry.path)
    }
}
