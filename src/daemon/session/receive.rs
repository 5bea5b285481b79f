//! A directory of a client's, received: packets of fsutil come in, files beneath a directory and packets go out.
//!
//! ```text
//!   client  STAT a   STAT a/f   STAT (nothing: the end)   DATA 1 …   DATA 1 (nothing: its end)   FIN
//!   here                 REQ 1                                                      FIN
//! ```
//! The number of a file is its place in the list. The list is somebody else's word: paths are relative and plain, each
//! stands behind the one before it and in a directory that came, so none comes twice and none goes through a link; a file
//! has the size that was said. Whatever is not so ends the transfer. What the directory holds from the last time stays
//! where it is the same, and is not asked for; what does not come any more goes ([`before`]). Files are never changed, but
//! made anew, and get their time when they are whole: so a transfer that broke off leaves nothing that looks whole and is
//! not. Deliberately absent: the stream ([`super::files`]).

mod before;

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use api::fsutil::packet::PacketType;
use api::fsutil::{Packet, Stat};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use self::before::Before;
use super::mode;

/// Files that are on their way at once. The sender takes 128 requests before it has to wait for this side.
const OPEN_MAX: usize = 64;
/// More is no context; a list of so many takes hundreds of megabytes on the way alone.
const ENTRIES_MAX: u32 = 4_000_000;
/// A directory stays open per level.
const DEPTH_MAX: usize = 256;
/// PATH_MAX of Linux.
const PATH_MAX_BYTES: usize = 4096;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why a directory is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The path is none that a list has.
    #[error("the client sent the path `{}`, which {why}", path.escape_debug())]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The list is too long.
    #[error("the client's directory has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// A file that cannot be taken.
    #[error("the client sent `{}` as {what}, which no build context may hold", path.escape_debug())]
    Kind {
        /// Its path.
        path: String,
        /// What it is said to be.
        what: &'static str,
    },
    /// More or less came than was said.
    #[error("`{}` has not the size that the client said: {said} bytes", path.escape_debug())]
    Size {
        /// Its path.
        path: String,
        /// What was said.
        said: u64,
    },
    /// A packet that has no place here.
    #[error("the client sent a packet out of order: {what}")]
    Order {
        /// What it was.
        what: String,
    },
    /// The client gave up.
    #[error("the client cannot send its files: {}", words.escape_debug())]
    Client {
        /// Its words.
        words: String,
    },
    /// This machine's fault.
    #[error("cannot {act} `{}` of the client", path.escape_debug())]
    Io {
        /// What was tried.
        act: &'static str,
        /// Its path.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(act: &'static str, path: &str) -> impl FnOnce(E) -> ReceiveError {
    let path = path.to_owned();
    move |error| ReceiveError::Io { act, path, source: error.into() }
}

/// A file that is on its way.
struct Incoming {
    file: File,
    path: String,
    said: u64,
    left: u64,
    mode: u32,
    times: Timestamps,
}

/// A directory whose mode and time are set when nothing is made in it any more.
struct Made {
    path: String,
    mode: u32,
    times: Timestamps,
}

/// A directory that the next entry may be in.
struct Parent {
    path: String,
    fd: OwnedFd,
    before: Before,
}

/// Takes one directory.
pub struct Receiver {
    root: OwnedFd,
    /// What was in it before.
    before: Before,
    last: Option<String>,
    /// Outermost first.
    parents: Vec<Parent>,
    entries: u32,
    list_ended: bool,
    finished: bool,
    waiting: VecDeque<(u32, Wanted)>,
    files: HashMap<u32, Incoming>,
    made: Vec<Made>,
    bytes: u64,
}

/// A file that is not asked for yet.
struct Wanted {
    path: String,
    said: u64,
    mode: u32,
    times: Timestamps,
}

impl Receiver {
    /// Into a directory that is empty, or that one came into before.
    ///
    /// # Errors
    /// When it cannot be read, or there are no more descriptors.
    pub fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            root: root.try_clone_to_owned()?,
            before: Before::of(root)?,
            last: None,
            parents: Vec::new(),
            entries: 0,
            list_ended: false,
            finished: false,
            waiting: VecDeque::new(),
            files: HashMap::new(),
            made: Vec::new(),
            bytes: 0,
        })
    }

    /// Bytes of files so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a packet; what is to be said goes to `out`. True: all is there, and the client knows.
    ///
    /// # Errors
    /// When the directory is not taken; nothing more may be given then.
    pub fn take(&mut self, packet: Packet, out: &mut Vec<Packet>) -> Result<bool, ReceiveError> {
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketStat) if self.list_ended => {
                return Err(ReceiveError::Order { what: "an entry behind the end of the list".into() });
            }
            Ok(PacketType::PacketStat) => match packet.stat {
                Some(stat) => self.entry(stat, out)?,
                None => {
                    self.leave(|_| true)?;
                    self.before.end(self.root.as_fd()).map_err(io_error("clear", "."))?;
                    self.list_ended = true;
                }
            },
            Ok(PacketType::PacketData) => self.data(packet.id, &packet.data, out)?,
            Ok(PacketType::PacketFin) if self.finished => return Ok(true),
            Ok(PacketType::PacketFin) => {
                return Err(ReceiveError::Order { what: "the end, before everything had come".into() });
            }
            Ok(PacketType::PacketErr) => {
                return Err(ReceiveError::Client { words: String::from_utf8_lossy(&packet.data).into_owned() });
            }
            Ok(PacketType::PacketReq) => {
                return Err(ReceiveError::Order { what: "a request, where files are received".into() });
            }
            Err(_) => return Err(ReceiveError::Order { what: format!("type {}", packet.r#type) }),
        }
        if self.list_ended && self.files.is_empty() && self.waiting.is_empty() && !self.finished {
            self.finish_directories()?;
            self.finished = true;
            out.push(Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() });
        }
        Ok(false)
    }

    fn entry(&mut self, stat: Stat, out: &mut Vec<Packet>) -> Result<(), ReceiveError> {
        let id = self.entries;
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(ReceiveError::TooMany);
        }
        let wrong = |why| ReceiveError::Path { path: stat.path.clone(), why };
        check_path(&stat.path).map_err(wrong)?;
        if self.last.as_deref().is_some_and(|last| order(last, &stat.path) != Ordering::Less) {
            return Err(wrong("does not stand behind the one before it"));
        }
        let (parent, name) = stat.path.rsplit_once('/').unwrap_or(("", &stat.path));
        self.leave(|open| !is_in(parent, open))?;
        if self.parents.last().map_or("", |open| &open.path) != parent {
            return Err(wrong("is in no directory that came"));
        }
        let reached = match self.parents.last_mut() {
            Some(open) => open.before.reach(open.fd.as_fd(), name),
            None => self.before.reach(self.root.as_fd(), name),
        };
        let was_there = reached.map_err(io_error("clear what was in front of", &stat.path))?;
        let dir = self.parents.last().map_or(self.root.as_fd(), |open| open.fd.as_fd());
        let times = times(stat.mod_time);
        let kind = stat.mode & mode::TYPES;
        if kind != 0 && !stat.linkname.is_empty() && kind != mode::SYMLINK {
            return Err(ReceiveError::Kind { path: stat.path, what: "a link and something else" });
        }
        if was_there {
            let stays = match kind {
                0 if stat.linkname.is_empty() => before::is_same(dir, name, &stat),
                mode::DIR => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::Directory),
                _ => Ok(false),
            };
            let stays = stays.map_err(io_error("look at", &stat.path))?;
            if stays && kind == 0 {
                self.last = Some(stat.path);
                return Ok(());
            }
            if !stays {
                let old = CString::new(name).map_err(|_| wrong("has a zero byte"))?;
                before::remove(dir, &old).map_err(io_error("remove what was", &stat.path))?;
            }
        }
        match kind {
            0 if !stat.linkname.is_empty() => self.link(&stat, dir, name)?,
            0 => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
                let file = file.map_err(io_error("make", &stat.path))?;
                set_xattrs(file.as_fd(), &stat)?;
                let said =
                    u64::try_from(stat.size).map_err(|_| ReceiveError::Size { path: stat.path.clone(), said: 0 })?;
                let wanted = Wanted { path: stat.path.clone(), said, mode: stat.mode, times };
                if said == 0 {
                    settle(&File::from(file), &wanted.path, wanted.mode, &wanted.times)?;
                } else if self.files.len() < OPEN_MAX {
                    self.ask(id, File::from(file), wanted, out);
                } else {
                    self.waiting.push_back((id, wanted));
                }
            }
            mode::DIR => {
                let (made, before) = match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
                    Ok(()) => (open_directory(dir, name), Before::default()),
                    Err(Errno::EXIST) if was_there => {
                        // Whoever may not pass all doors opens this one first.
                        rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())
                            .map_err(io_error("open", &stat.path))?;
                        let kept = open_directory(dir, name).map_err(io_error("open", &stat.path))?;
                        for name in before::counted(kept.as_fd()).map_err(io_error("look at", &stat.path))? {
                            rustix::fs::fremovexattr(&kept, name).map_err(io_error("clear", &stat.path))?;
                        }
                        let before = Before::of(kept.as_fd()).map_err(io_error("list", &stat.path))?;
                        (Ok(kept), before)
                    }
                    Err(errno) => return Err(io_error("make", &stat.path)(errno)),
                };
                let made = made.map_err(io_error("open", &stat.path))?;
                set_xattrs(made.as_fd(), &stat)?;
                if self.parents.len() >= DEPTH_MAX {
                    return Err(wrong("is in too many directories"));
                }
                self.parents.push(Parent { path: stat.path.clone(), fd: made, before });
                self.made.push(Made { path: stat.path.clone(), mode: stat.mode, times });
            }
            mode::SYMLINK => {
                rustix::fs::symlinkat(stat.linkname.as_str(), dir, name).map_err(io_error("make", &stat.path))?;
                rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(io_error("set the time of", &stat.path))?;
            }
            mode::NAMED_PIPE | mode::SOCKET => {
                let kind = if kind == mode::SOCKET { FileType::Socket } else { FileType::Fifo };
                rustix::fs::mknodat(dir, name, kind, permissions(stat.mode), 0)
                    .map_err(io_error("make", &stat.path))?;
            }
            _ => return Err(ReceiveError::Kind { path: stat.path, what: "a device or something unknown" }),
        }
        self.last = Some(stat.path);
        Ok(())
    }

    /// Goes out of directories to which nothing more comes.
    fn leave(&mut self, is_done: impl Fn(&str) -> bool) -> Result<(), ReceiveError> {
        while let Some(mut done) = self.parents.pop_if(|open| is_done(&open.path)) {
            done.before.end(done.fd.as_fd()).map_err(io_error("clear", &done.path))?;
        }
        Ok(())
    }

    /// Another name of a file that came.
    fn link(&self, stat: &Stat, dir: BorrowedFd<'_>, name: &str) -> Result<(), ReceiveError> {
        let wrong = |why| ReceiveError::Path { path: stat.linkname.clone(), why };
        check_path(&stat.linkname).map_err(wrong)?;
        // What stands behind it may be there from the last time.
        if order(&stat.linkname, &stat.path) != Ordering::Less {
            return Err(wrong("is linked to and did not come"));
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat2(&self.root, stat.linkname.as_str(), flags, Mode::empty(), beneath)
            .map_err(|_| wrong("is linked to and did not come"))?;
        let facts = rustix::fs::fstat(&target).map_err(io_error("look at", &stat.linkname))?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
            return Err(wrong("is linked to and no file"));
        }
        let (above, last) = stat.linkname.rsplit_once('/').unwrap_or((".", &stat.linkname));
        let above = rustix::fs::openat2(&self.root, above, DIRECTORY, Mode::empty(), beneath)
            .map_err(io_error("open the directory of", &stat.linkname))?;
        rustix::fs::linkat(&above, last, dir, name, AtFlags::empty()).map_err(io_error("link", &stat.path))
    }

    fn ask(&mut self, id: u32, file: File, wanted: Wanted, out: &mut Vec<Packet>) {
        let Wanted { path, said, mode, times } = wanted;
        self.files.insert(id, Incoming { file, path, said, left: said, mode, times });
        out.push(Packet { r#type: PacketType::PacketReq.into(), id, ..Packet::default() });
    }

    fn data(&mut self, id: u32, data: &[u8], out: &mut Vec<Packet>) -> Result<(), ReceiveError> {
        let Some(incoming) = self.files.get_mut(&id) else {
            return Err(ReceiveError::Order { what: format!("bytes of file {id}, which nobody asked for") });
        };
        let length = data.len() as u64;
        if length > incoming.left || (length == 0 && incoming.left > 0) {
            return Err(ReceiveError::Size { path: incoming.path.clone(), said: incoming.said });
        }
        if length > 0 {
            incoming.left -= length;
            self.bytes += length;
            return incoming.file.write_all(data).map_err(io_error("write", &incoming.path));
        }
        let Some(Incoming { file, path, mode, times, .. }) = self.files.remove(&id) else { return Ok(()) };
        settle(&file, &path, mode, &times)?;
        if let Some((id, wanted)) = self.waiting.pop_front() {
            let file = rustix::fs::openat2(
                &self.root,
                wanted.path.as_str(),
                OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            );
            let file = file.map_err(io_error("open", &wanted.path))?;
            self.ask(id, File::from(file), wanted, out);
        }
        Ok(())
    }

    /// Modes and times of directories, the innermost first: making a file changes its directory's time.
    fn finish_directories(&mut self) -> Result<(), ReceiveError> {
        for Made { path, mode, times } in self.made.drain(..).rev() {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let dir = rustix::fs::openat2(&self.root, path.as_str(), DIRECTORY, Mode::empty(), beneath)
                .map_err(io_error("open", &path))?;
            settle(&File::from(dir), &path, mode, &times)?;
        }
        Ok(())
    }
}

/// The last words about a file or a directory.
fn settle(file: &File, path: &str, mode: u32, times: &Timestamps) -> Result<(), ReceiveError> {
    rustix::fs::fchmod(file, permissions(mode)).map_err(io_error("change the mode of", path))?;
    rustix::fs::futimens(file, times).map_err(io_error("set the time of", path))
}

/// Go's bits as the system's.
fn permissions(bits: u32) -> Mode {
    let mut raw = bits & 0o777;
    for (theirs, ours) in [(mode::SETUID, 0o4000), (mode::SETGID, 0o2000), (mode::STICKY, 0o1000)] {
        if bits & theirs != 0 {
            raw |= ours;
        }
    }
    Mode::from_raw_mode(raw)
}

fn times(nanoseconds: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: nanoseconds.div_euclid(1_000_000_000), tv_nsec: nanoseconds.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

/// Extended attributes that mean something in an image; no mark of an overlay, no label of this machine.
fn set_xattrs(file: BorrowedFd<'_>, stat: &Stat) -> Result<(), ReceiveError> {
    for (name, value) in &stat.xattrs {
        if !counts(name) {
            continue;
        }
        match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // A file system without them has no use for them.
            Err(Errno::OPNOTSUPP) => tracing::debug!(path = stat.path, name, "not kept"),
            Err(errno) => return Err(io_error("set an attribute of", &stat.path)(errno)),
        }
    }
    Ok(())
}

/// Whether an extended attribute means something in an image.
fn counts(name: &str) -> bool {
    name == "security.capability" || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

fn open_directory(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() >= PATH_MAX_BYTES {
        return Err("is too long");
    }
    if path.starts_with('/') {
        return Err("is absolute");
    }
    if path.contains('\0') {
        return Err("has a zero byte");
    }
    match path.split('/').find(|name| matches!(*name, "" | "." | "..")) {
        Some("..") => Err("leads out of the directory"),
        Some(_) => Err("is not plain"),
        None => Ok(()),
    }
}

/// The order of lists: names of directories and files are compared one by one, by their bytes.
pub fn order(one: &str, other: &str) -> Ordering {
    one.split('/').map(str::as_bytes).cmp(other.split('/').map(str::as_bytes))
}

/// Whether `path` is `dir` or lies in it.
fn is_in(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
