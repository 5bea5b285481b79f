//! Trees in a line per entry, for tests: built from text, shown as text.
//!
//! ```text
//! d/            directory, 0755, 0:0        d/ 700 1:2   with mode and owner
//! f=text        file, 0644, 0:0             f=text 4755 1:2
//! l -> d/f      link                        h == f       second name of f
//! p|            FIFO                        s$           socket
//! w!            whiteout                    o/!          opaque directory
//! f=text @user.x=1                          extended attribute
//! n:1:3         character device 1:3
//! ```

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::tree::attrs::{self, opaque, times};
use crate::tree::copy::is_whiteout;
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, shown};

/// Modification time of everything that [`build`] makes, in seconds since 1970.
pub(crate) const BUILT: i64 = 1_000_000_000;

/// Makes entries beneath `root`; missing directories on the way are made.
pub(crate) fn build(root: &Path, lines: &[&str]) {
    fs::create_dir_all(root).unwrap();
    for line in lines {
        make(root, line);
    }
    let mut set = SetTimes;
    walk(open(root), &mut set).unwrap();
    attrs::set_times_at(open(root).as_fd(), b".", &times(BUILT, 0)).unwrap();
}

fn make(root: &Path, line: &str) {
    let mut words = line.split(' ');
    let what = words.next().unwrap();
    let rest: Vec<&str> = words.collect();
    let at = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let device = |path: &Path, kind, device| mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device).unwrap();
    let path = match (what, rest.first()) {
        (name, Some(&"->")) => {
            symlink(rest[1], at(name)).unwrap();
            return;
        }
        (name, Some(&"==")) => {
            fs::hard_link(root.join(rest[1]), at(name)).unwrap();
            return;
        }
        (name, _) if name.ends_with("/!") => {
            let path = at(name.trim_end_matches("/!"));
            fs::create_dir_all(&path).unwrap();
            attrs::set_xattr(open(&path).as_fd(), b"", opaque().as_bytes(), b"y").unwrap();
            path
        }
        (name, _) if name.ends_with('/') => {
            let path = at(name.trim_end_matches('/'));
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }
        (name, _) if name.contains('=') => {
            let (name, text) = name.split_once('=').unwrap();
            let path = at(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            path
        }
        (name, _) if name.ends_with('|') => {
            let path = at(name.trim_end_matches('|'));
            device(&path, FileType::Fifo, 0);
            path
        }
        (name, _) if name.ends_with('$') => {
            let path = at(name.trim_end_matches('$'));
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            path
        }
        (name, _) if name.ends_with('!') => {
            let path = at(name.trim_end_matches('!'));
            device(&path, FileType::CharacterDevice, 0);
            path
        }
        (name, _) if name.contains(':') => {
            let mut parts = name.split(':');
            let path = at(parts.next().unwrap());
            let mut number = || parts.next().unwrap().parse().unwrap();
            device(&path, FileType::CharacterDevice, makedev(number(), number()));
            path
        }
        other => panic!("{other:?}"),
    };
    // An owner that changes takes set-user-id bits and capabilities along.
    let (owners, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|w| w.contains(':') && !w.starts_with('@'));
    for word in owners.into_iter().chain(others) {
        if let Some((name, value)) = word.strip_prefix('@').and_then(|word| word.split_once('=')) {
            let parent = open(path.parent().unwrap());
            let base = path.file_name().unwrap().as_bytes();
            attrs::set_xattr(parent.as_fd(), base, name.as_bytes(), value.as_bytes()).unwrap();
        } else if let Some((uid, gid)) = word.split_once(':') {
            lchown(&path, Some(uid.parse().unwrap()), Some(gid.parse().unwrap())).unwrap();
        } else {
            let mode = u32::from_str_radix(word, 8).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// A directory, open.
pub(crate) fn open(path: &Path) -> std::os::fd::OwnedFd {
    fs::File::open(path).unwrap().into()
}

struct SetTimes;

impl Visitor for SetTimes {
    type Error = TreeError;
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if !entry.kind().is_dir() {
            attrs::set_times_at(entry.dir, entry.name, &times(BUILT, 0)).unwrap();
        }
        Ok(Descend::Enter)
    }
    fn leave(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        attrs::set_times_at(entry.dir, entry.name, &times(BUILT, 0)).unwrap();
        Ok(())
    }
}

/// The tree in lines, sorted by path. Entries whose time is not `BUILT` end in `*` when `times` is set.
pub(crate) fn show(dir: BorrowedFd<'_>, times: bool) -> Vec<String> {
    let mut lines = Lines { lines: Vec::new(), first: Default::default(), times };
    walk(crate::tree::resolve::open_dir_at(dir, b".").unwrap(), &mut lines).unwrap();
    lines.lines
}

struct Lines {
    lines: Vec<String>,
    first: std::collections::HashMap<u64, String>,
    times: bool,
}

impl Visitor for Lines {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        let stat = entry.stat;
        let path = shown(entry.path);
        let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&entry.dir));
        let place = Path::new(&place).join(OsStr::from_bytes(entry.name));
        let mut usual = 0o644;
        let mut line = match entry.kind() {
            FileType::Directory => {
                usual = 0o755;
                let opaque = attrs::is_opaque(entry.dir, entry.name).unwrap();
                format!("{path}/{}", if opaque { "!" } else { "" })
            }
            FileType::Symlink => {
                usual = 0o777;
                format!("{path} -> {}", fs::read_link(&place).unwrap().display())
            }
            FileType::CharacterDevice if is_whiteout(stat) => {
                self.lines.push(format!("{path}!"));
                return Ok(Descend::Skip);
            }
            FileType::RegularFile => match self.first.get(&stat.st_ino).filter(|_| stat.st_nlink > 1) {
                Some(first) => {
                    self.lines.push(format!("{path} == {first}"));
                    return Ok(Descend::Skip);
                }
                None => {
                    self.first.insert(stat.st_ino, path.clone());
                    match stat.st_size {
                        0..=40 => format!("{path}={}", shown(&fs::read(&place).unwrap()).trim_start_matches('/')),
                        length => format!("{path}=<{length} bytes>"),
                    }
                }
            },
            FileType::Fifo => format!("{path}|"),
            FileType::Socket => format!("{path}$"),
            _ => format!("{path}:{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        };
        if stat.st_mode & 0o7777 != usual {
            line.push_str(&format!(" {:o}", stat.st_mode & 0o7777));
        }
        if (stat.st_uid, stat.st_gid) != (0, 0) {
            line.push_str(&format!(" {}:{}", stat.st_uid, stat.st_gid));
        }
        for (name, value) in attrs::xattrs(entry.dir, entry.name).unwrap() {
            line.push_str(&format!(" @{}={}", shown(&name), shown(&value)));
        }
        if self.times && attrs::times_of(stat).last_modification.tv_sec != BUILT {
            line.push('*');
        }
        self.lines.push(line);
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

/// Runs a shell script with `dir` as its working directory.
pub(crate) fn shell(dir: BorrowedFd<'_>, script: &str) {
    let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let output = Command::new("sh").args(["-euc", script]).current_dir(place).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Every mount of this process, to see that none is left.
pub(crate) fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// A tree that nobody may change: content, mode, owner, time and link count of everything in it.
pub(crate) fn fingerprint(path: &Path) -> Vec<String> {
    let mut found = vec![line(path)];
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let meta = fs::symlink_metadata(&entry).unwrap();
        if meta.is_dir() {
            found.extend(fingerprint(&entry));
        } else {
            let text = if meta.is_file() { fs::read(&entry).unwrap() } else { Vec::new() };
            found.push(format!("{} {text:?}", line(&entry)));
        }
    }
    found
}

fn line(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = if meta.file_type().is_fifo() { "fifo" } else { "" };
    format!(
        "{} {:o} {}:{} {}.{} {} {kind}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.nlink()
    )
}

/// A log that keeps its notices.
#[derive(Default)]
pub(crate) struct Log(pub std::sync::Mutex<Vec<String>>);

impl solver::seam::LogSink for Log {
    fn write(&self, _stream: solver::seam::Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}
