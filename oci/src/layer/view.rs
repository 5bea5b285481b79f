//! A tree being written, together with the trees beneath it: where an archive's names lead and what is found there.
//!
//! Names are resolved by us, one component at a time, in the merged view: first the tree being written, then the trees
//! beneath, topmost first, with whiteouts and opaque marks honoured. A symlink on the way (never at the end) is
//! replaced by its text and resolution goes on from there, `/` and `..` staying beneath the root, as a process would
//! see it that has this root. The kernel only ever opens plain directories by one name from a descriptor, so nothing
//! outside can be reached, whatever an archive holds.
//!
//! Directories on the way that exist only beneath are made anew with the attributes they have there; those that exist
//! nowhere are 0755 and root's. What is done at the end of the way stands in [`put`].

mod put;

use std::collections::HashSet;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, Stat, mkdirat, readlinkat, statat};
use rustix::io::Errno;

use super::descent::Descent;
use super::error::LayerError;
use super::node::{self, Attributes, Keep, timespec};
use super::path::{Component, Step, joined, steps};
use super::tar::Time;
use super::walk::{self, is_whiteout, remove_tree};
use super::xattr::{self, Of, XattrNamespace};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// What a name in the tree being written stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Whiteout,
    Directory,
    Symlink,
    Other,
}

/// The trees beneath a layer, which may still be in the making.
pub trait Beneath {
    /// All of them in overlayfs form, topmost first. Called when one must be looked at, and may wait until they are
    /// there.
    fn trees(&self) -> std::io::Result<Vec<BorrowedFd<'_>>>;
}

impl Beneath for &[BorrowedFd<'_>] {
    fn trees(&self) -> std::io::Result<Vec<BorrowedFd<'_>>> {
        Ok(self.to_vec())
    }
}

/// How implied parents are made.
#[derive(Clone, Copy)]
pub(super) struct Implied {
    pub owner: (u32, u32),
    /// `None` leaves the time of their making.
    pub mtime: Option<Time>,
}

/// A resolved directory.
pub(super) struct Place {
    /// The way to it, without links.
    pub path: Vec<Component>,
    /// How many of these exist in the tree being written; the others lie beneath only.
    upper: usize,
}

pub(super) struct View<'a> {
    pub descent: Descent,
    lowers: &'a dyn Beneath,
    /// `None`: a plain tree, in which nothing means a deletion.
    overlay: Option<XattrNamespace>,
    keep: Keep,
    /// Xattrs that were left out.
    pub xattrs_dropped: u64,
    /// Places of devices that cannot be made here, for hard links to them.
    pub devices_dropped: HashSet<Vec<u8>>,
}

impl<'a> View<'a> {
    pub fn new(descent: Descent, lowers: &'a dyn Beneath, overlay: Option<XattrNamespace>, keep: Keep) -> Self {
        Self { descent, lowers, overlay, keep, xattrs_dropped: 0, devices_dropped: HashSet::new() }
    }

    /// What `name` is in the directory where the descent stands.
    pub fn look(&self, name: &[u8]) -> Result<Found, LayerError> {
        let stat = match statat(self.descent.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Absent),
            Err(errno) => return Err(LayerError::io("examine", name)(errno)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::Symlink => Found::Symlink,
            _ if self.overlay.is_some() && is_whiteout(&stat) => Found::Whiteout,
            _ => Found::Other,
        })
    }

    /// What shines through at `name` in the directory where the descent stands and `further` beneath: the directory
    /// that holds it, and what it is.
    fn lower(&self, at: &[Component], name: &[u8]) -> Result<Option<(OwnedFd, Stat)>, LayerError> {
        let (Some(namespace), false) = (self.overlay, self.descent.is_opaque()) else { return Ok(None) };
        let lowers = self.lowers.trees().map_err(LayerError::stdio("look beneath the layer at", name))?;
        for root in lowers {
            match self.lower_in(root, namespace, at, name)? {
                Below::Here(dir, stat) => return Ok(Some((dir, stat))),
                Below::Hidden => return Ok(None),
                Below::Further => {}
            }
        }
        Ok(None)
    }

    fn lower_in(
        &self,
        root: BorrowedFd<'_>,
        namespace: XattrNamespace,
        at: &[Component],
        name: &[u8],
    ) -> Result<Below, LayerError> {
        let mut dir = walk::open_root(root)?;
        let mut opaque = false;
        let nothing = |opaque| if opaque { Below::Hidden } else { Below::Further };
        for part in at {
            match stat_here(dir.as_fd(), part)? {
                None => return Ok(nothing(opaque)),
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    dir = node::open_directory(dir.as_fd(), part, part)?;
                    let failed = LayerError::stdio("read the xattrs of", part);
                    opaque |= xattr::is_opaque(dir.as_fd(), &[namespace]).map_err(failed)?;
                }
                // A whiteout or another file hides what lies further down.
                Some(_) => return Ok(Below::Hidden),
            }
        }
        Ok(match stat_here(dir.as_fd(), name)? {
            None => nothing(opaque),
            Some(stat) if is_whiteout(&stat) => Below::Hidden,
            Some(stat) => Below::Here(dir, stat),
        })
    }

    /// Whether anything shines through at `name` in the directory where the descent stands.
    pub fn hides_something(&self, at: &[Component], name: &[u8]) -> Result<bool, LayerError> {
        Ok(self.lower(at, name)?.is_some())
    }

    /// Goes to the directory that `path` names and makes what is missing of it. `entry` is for messages.
    pub fn make_directory(
        &mut self,
        path: &[Component],
        implied: Implied,
        entry: &[u8],
    ) -> Result<Vec<Component>, LayerError> {
        let place = self.resolve(path.iter().map(|name| Hop::Down(name.clone())), Some(implied), entry)?;
        let place = place.ok_or_else(|| LayerError::refused(entry, "its directory cannot be made"))?;
        self.descent.enter(&place.path)?;
        Ok(place.path)
    }

    /// [`View::make_directory`] for a path in which `..` goes up, as in a Dockerfile.
    pub fn make_directory_by_steps(&mut self, path: &[u8], implied: Implied) -> Result<Vec<Component>, LayerError> {
        let hops: Vec<Hop> = steps(path).map(Hop::from).collect();
        let place = self.resolve(hops, Some(implied), path)?;
        let place = place.ok_or_else(|| LayerError::refused(path, "it cannot be made"))?;
        self.descent.enter(&place.path)?;
        Ok(place.path)
    }

    /// The directory that `path` names, if there is one. Makes nothing.
    fn find_directory(&mut self, path: &[Component], entry: &[u8]) -> Result<Option<Place>, LayerError> {
        self.resolve(path.iter().map(|name| Hop::Down(name.clone())), None, entry)
    }

    fn resolve(
        &mut self,
        path: impl IntoIterator<Item = Hop>,
        make: Option<Implied>,
        entry: &[u8],
    ) -> Result<Option<Place>, LayerError> {
        let mut hops: VecDeque<Hop> = path.into_iter().collect();
        // What is open already are plain directories: no need to look at them again.
        let ahead: Vec<Component> = hops.iter().map_while(Hop::name).cloned().collect();
        let shared = self.descent.shared(&ahead);
        let mut at: Vec<Component> = ahead[..shared].to_vec();
        hops.drain(..shared);
        let mut upper = at.len();
        let mut links = 0;
        while let Some(hop) = hops.pop_front() {
            let Hop::Down(name) = hop else {
                at.pop();
                upper = upper.min(at.len());
                continue;
            };
            self.descent.enter(&at[..upper])?;
            let here = if upper == at.len() { self.look(&name)? } else { Found::Absent };
            let target = match here {
                Found::Directory => {
                    at.push(name);
                    upper = at.len();
                    continue;
                }
                Found::Symlink => readlink(self.descent.here(), &name)?,
                Found::Other if make.is_some() => {
                    return Err(LayerError::refused(entry, format!("`{}` is no directory", shown(&at, &name))));
                }
                Found::Other => return Ok(None),
                Found::Whiteout if make.is_none() => return Ok(None),
                Found::Whiteout | Found::Absent => {
                    let below = if here == Found::Absent { self.lower(&at, &name)? } else { None };
                    let is = |kind| below.as_ref().filter(|(_, stat)| FileType::from_raw_mode(stat.st_mode) == kind);
                    if let Some((dir, _)) = is(FileType::Symlink) {
                        readlink(dir.as_fd(), &name)?
                    } else {
                        let lower_directory = is(FileType::Directory);
                        match make {
                            Some(implied) => {
                                self.make_one(&at, &name, implied, lower_directory, here == Found::Whiteout)?;
                                at.push(name);
                                upper = at.len();
                            }
                            None if lower_directory.is_some() => at.push(name),
                            None => return Ok(None),
                        }
                        continue;
                    }
                }
            };
            links += 1;
            if links > LINKS_MAX {
                return match make {
                    Some(_) => Err(LayerError::refused(entry, "too many levels of symbolic links")),
                    None => Ok(None),
                };
            }
            if target.first() == Some(&b'/') {
                at.clear();
                upper = 0;
            }
            steps(&target).rev().for_each(|step| hops.push_front(Hop::from(step)));
        }
        Ok(Some(Place { path: at, upper }))
    }

    /// Makes one implied directory where the descent stands.
    fn make_one(
        &mut self,
        at: &[Component],
        name: &Component,
        implied: Implied,
        lower: Option<&(OwnedFd, Stat)>,
        over_whiteout: bool,
    ) -> Result<(), LayerError> {
        let path = [joined(at), name.to_vec()].join(&b'/');
        self.descent.touch();
        let here = self.descent.here();
        if over_whiteout {
            remove_tree(here, name, &path)?;
        }
        mkdirat(here, &**name, Mode::RWXU).map_err(LayerError::io("make the directory", &path))?;
        let made = node::open_directory(here, name, &path)?;
        match lower {
            Some((dir, stat)) => {
                let lower = node::open_directory(dir.as_fd(), name, &path)?;
                let failed = LayerError::stdio("read the xattrs of", &path);
                let xattrs = xattr::read(Of::Open(lower.as_fd())).map_err(failed)?;
                Attributes::of_stat(stat, &xattrs).set(made.as_fd(), self.keep, &path)?;
            }
            None => {
                let (uid, gid) = implied.owner;
                let mtime = match implied.mtime {
                    Some(time) => timespec(time),
                    None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ },
                };
                Attributes { mode: 0o755, uid, gid, mtime, xattrs: &[] }.set(made.as_fd(), self.keep, &path)?;
            }
        }
        match self.overlay {
            Some(namespace) if over_whiteout => node::make_opaque(&made, namespace, &path),
            _ => Ok(()),
        }
    }
}

/// What one tree beneath says of a name.
enum Below {
    /// This is it.
    Here(OwnedFd, Stat),
    /// Nothing is there, and trees further down do not count.
    Hidden,
    /// Nothing is there; ask the next tree.
    Further,
}

/// A step that is still to be made.
#[derive(Clone)]
enum Hop {
    Up,
    Down(Component),
}

impl Hop {
    fn name(&self) -> Option<&Component> {
        match self {
            Self::Up => None,
            Self::Down(name) => Some(name),
        }
    }
}

impl From<Step<'_>> for Hop {
    fn from(step: Step<'_>) -> Self {
        match step {
            Step::Up => Self::Up,
            Step::Down(name) => Self::Down(name.into()),
        }
    }
}

fn stat_here(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, LayerError> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(LayerError::io("examine", name)(errno)),
    }
}

fn readlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, LayerError> {
    Ok(readlinkat(dir, name, Vec::new()).map_err(LayerError::io("read the link", name))?.into_bytes())
}

fn shown(at: &[Component], name: &Component) -> String {
    super::error::shown(&joined(at.iter().chain([name])))
}
