//! Things put into a tree for as long as a step runs, in place of mounts.
//!
//! In: what is put where, and the tree, which others filled. Out: [`Placed`], each of which can be taken back
//! ([`super::take`]). Every place is resolved beneath the tree by descriptor, links followed as a mount would. What is
//! there is moved aside; a directory whose entry was exchanged gets its time back, so that the step sees none of it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::devices;
use super::task::{Put, Thing};
use crate::sandbox::beneath::{Root, file_type, open_beneath};
use crate::sandbox::stub::{Stub, StubKind, modified, set_modified};
use crate::sandbox::trouble::{Trouble, with};
use crate::sandbox::{AgentSocket, BACKLOG, wire};
use crate::tree::TreeError;
use crate::tree::copy::{Rules, copy_tree};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Puts things into one tree.
pub(super) struct Placer<'a> {
    root: Root,
    /// The root's path as the kernel has it.
    path: OsString,
    aside: OwnedFd,
    count: usize,
    /// What travelled with the task.
    handed: &'a [OwnedFd],
    /// What was made to have places, oldest first.
    pub stubs: Vec<Stub>,
    /// What stands in the tree, oldest first.
    pub placed: Vec<Placed>,
}

/// Something that stands in the tree.
pub(super) struct Placed {
    /// The directory that it is in, wherever that may be moved.
    pub parent: OwnedFd,
    /// Its name there.
    pub name: OsString,
    /// The name, aside, of what was there.
    pub aside: String,
    /// Where it goes when it outlives the step.
    pub lent: Option<Lent>,
}

/// A directory that is lent to a tree.
pub(super) struct Lent {
    /// The directory itself, wherever it may be moved.
    pub directory: OwnedFd,
    /// The directory that it belongs in.
    pub home: OwnedFd,
    /// Its name there.
    pub name: OsString,
}

impl Lent {
    /// Leaves an empty directory where it belongs: others find that the cache is there, and in use. It is what is left of
    /// it should it never come home.
    fn stand_in(&self) -> Result<(), Errno> {
        let look = rustix::fs::fstat(&self.directory)?;
        rustix::fs::mkdirat(&self.home, &self.name, Mode::RWXU)?;
        let (uid, gid) = (Uid::from_raw(look.st_uid), Gid::from_raw(look.st_gid));
        rustix::fs::chownat(&self.home, &self.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(&self.home, &self.name, Mode::from_raw_mode(look.st_mode & 0o7777), AtFlags::empty())
    }
}

impl<'a> Placer<'a> {
    /// For the directory `tree`; what is there is moved into the empty directory `aside`.
    pub fn new(tree: &Path, aside: &Path, handed: &'a [OwnedFd]) -> Result<Self, Trouble> {
        let root = rustix::fs::open(tree, DIRECTORY, Mode::empty()).map_err(with("open the tree"))?;
        let path = path_of(&root)?;
        let aside = rustix::fs::open(aside, DIRECTORY, Mode::empty()).map_err(with("open the directory beside"))?;
        let root = Root::new(root)?;
        Ok(Self { root, path, aside, count: 0, handed, stubs: Vec::new(), placed: Vec::new() })
    }

    /// The tree.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The directory of what was moved aside.
    pub fn aside(&self) -> &OwnedFd {
        &self.aside
    }

    /// Puts one thing into the tree.
    pub fn put(&mut self, put: &Put) -> Result<(), Trouble> {
        let made = self.make(&put.thing)?;
        let (parent, name) = self.place(put, made.kind)?;
        let time = modified(&parent)?;
        let aside = self.next_name();
        rustix::fs::renameat(&parent, &name, &self.aside, &aside).map_err(with("move aside what is there"))?;
        // From here on it has to be taken back, whatever becomes of the rest.
        self.placed.push(Placed {
            parent: rustix::io::fcntl_dupfd_cloexec(&parent, 3)?,
            name: name.clone(),
            aside,
            lent: made.lent,
        });
        match &put.thing {
            Thing::Agent(socket) => self.listen(socket, &parent, &name)?,
            _ => {
                let from = made.from.as_ref().unwrap_or(&self.aside);
                rustix::fs::renameat(from, &made.name, &parent, &name).map_err(|errno| match errno {
                    Errno::XDEV => with("it is on another file system than the store's trees")(errno),
                    errno => with("move it to its place")(errno),
                })?;
            }
        }
        if let Some(lent) = self.placed.last().and_then(|placed| placed.lent.as_ref()) {
            lent.stand_in().map_err(with("leave a directory in place of the cache"))?;
        }
        Ok(set_modified(&parent, time)?)
    }

    /// Makes the thing, aside; or finds it where it is.
    fn make(&mut self, thing: &Thing) -> Result<Made, Trouble> {
        let name = self.next_name();
        let directory = |mode: u32| -> Result<OwnedFd, Trouble> {
            rustix::fs::mkdirat(&self.aside, &name, Mode::RWXU)?;
            let directory = rustix::fs::openat(&self.aside, &name, DIRECTORY, Mode::empty())?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
            Ok(directory)
        };
        let here = |kind| Made { kind, name: name.clone().into(), from: None, lent: None };
        Ok(match thing {
            Thing::Reserved => {
                directory(0o755)?;
                here(StubKind::Directory)
            }
            Thing::Devices => {
                devices::fill(directory(0o755)?.as_fd()).map_err(with("make devices"))?;
                here(StubKind::Directory)
            }
            Thing::Empty { mode } => {
                directory(*mode)?;
                here(StubKind::Directory)
            }
            Thing::Text(text) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&self.aside, &name, flags, Mode::RUSR)?;
                io::Write::write_all(&mut std::fs::File::from(file.try_clone()?), text.as_bytes())?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
                here(StubKind::File)
            }
            Thing::Copied { of, subpath } => {
                let from = part(of, subpath)?;
                let to = directory(0o755)?;
                let rules = Rules { keep_hard_links: true, ..Rules::default() };
                copy_tree(rustix::fs::openat(&from, ".", DIRECTORY, Mode::empty())?, to, rules).map_err(copying)?;
                here(StubKind::Directory)
            }
            Thing::Lent { home, subpath } => {
                let directory = part(home, subpath)?;
                // Where it is now: links on the way there were followed.
                let path = path_of(&directory)?;
                let (above, name) = Path::new(&path).parent().zip(Path::new(&path).file_name()).ok_or(Errno::INVAL)?;
                let home = rustix::fs::open(above, DIRECTORY, Mode::empty())?;
                let from = Some(rustix::io::fcntl_dupfd_cloexec(&home, 3)?);
                let name = name.to_owned();
                check_same(&directory, &home, &name)?;
                Made { kind: StubKind::Directory, name: name.clone(), from, lent: Some(Lent { directory, home, name }) }
            }
            Thing::Own(path) => {
                let (above, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
                let found = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_directory = FileType::from_raw_mode(found.st_mode).is_dir();
                let kind = if is_directory { StubKind::Directory } else { StubKind::File };
                let from = rustix::fs::open(above, DIRECTORY, Mode::empty())?;
                Made { kind, name: name.to_owned(), from: Some(from), lent: None }
            }
            Thing::Agent(_) => here(StubKind::File),
        })
    }

    /// Finds the place, or makes it, as a mount point would be found: the directory, and the name in it.
    fn place(&mut self, put: &Put, kind: StubKind) -> Result<(OwnedFd, OsString), Trouble> {
        let target = put.target.as_str();
        let reserved = matches!(put.thing, Thing::Reserved | Thing::Devices);
        if reserved && matches!(self.root.place_without_links(target), Err(Errno::LOOP)) {
            return Err(format!("`{target}` is a symbolic link in the image").into());
        }
        let place = self.root.place_or_make(target, kind, &mut self.stubs).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::ISDIR => with(format_args!("`{target}` in the image"))(errno),
            errno => errno.into(),
        })?;
        let path = path_of(&place)?;
        // What the kernel says is beneath the root was found beneath it; it is found again without a single link.
        let inside = path.as_bytes().strip_prefix(self.path.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let inside = Path::new(OsStr::from_bytes(inside.ok_or_else(|| format!("`{target}` is the root itself"))?));
        let (above, name) =
            inside.parent().zip(inside.file_name()).ok_or_else(|| format!("`{target}` is the root itself"))?;
        let above = if above.as_os_str().is_empty() { OsStr::new(".") } else { above.as_os_str() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = open_beneath(self.root.as_fd(), above, flags, ResolveFlags::NO_SYMLINKS)?;
        check_same(&place, &parent, name)?;
        if reserved && file_type(&place)? != FileType::Directory {
            return Err(format!("`{target}` is not a directory in the image").into());
        }
        Ok((parent, name.to_owned()))
    }

    /// Makes a socket at the place, listens on it and hands it to the builder.
    fn listen(&self, wanted: &AgentSocket, parent: &OwnedFd, name: &OsStr) -> Result<(), Trouble> {
        let to = wanted.to.among(self.handed).ok_or_else(|| "no socket came with the task".to_owned())?;
        // The address of a socket is a path, and a long one does not fit: this one is relative to here.
        rustix::process::fchdir(parent)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(name)?).map_err(with("bind a socket"))?;
        rustix::process::chdir("/")?;
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(with("change the owner"))?;
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(wanted.mode), AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(wire::send(to, &[0], &[socket.as_fd()])?)
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }
}

/// A thing before it is in its place.
struct Made {
    kind: StubKind,
    name: OsString,
    /// The directory that it is in, if that is not the one beside the tree.
    from: Option<OwnedFd>,
    lent: Option<Lent>,
}

/// A path within a directory of the store, which earlier steps filled.
fn part(directory: &Path, subpath: &str) -> Result<OwnedFd, Trouble> {
    let whole = rustix::fs::open(directory, DIRECTORY, Mode::empty())
        .map_err(with(format_args!("open `{}`", directory.display())))?;
    if matches!(subpath, "" | "/") {
        return Ok(whole);
    }
    let part = open_beneath(&whole, OsStr::new(subpath), OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::empty());
    part.map_err(with(format_args!("`{subpath}` in the cache mount")))
}

/// The path of an open file, as this process reaches it.
pub(super) fn path_of(file: impl AsFd) -> Result<OsString, Errno> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let bytes = rustix::fs::readlink(link, Vec::new())?.into_bytes();
    Ok(OsStr::from_bytes(&bytes).to_owned())
}

/// Whether `name` in `directory` is the open file: inode and disk.
pub(super) fn is_same(file: impl AsFd, directory: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    let one = rustix::fs::fstat(file)?;
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(other) => Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn check_same(file: impl AsFd, directory: impl AsFd, name: &OsStr) -> Result<(), Trouble> {
    if is_same(file, directory, name)? { Ok(()) } else { Err("it was moved meanwhile".to_owned().into()) }
}

pub(super) fn copying(error: TreeError) -> Trouble {
    error.to_string().into()
}
