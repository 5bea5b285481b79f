//! Files of a result: read, listed and looked at beneath its root.
//!
//! In: the root of a tree and a path of somebody's. Out: bytes and [`Stat`]s. The tree is anybody's too: links are followed
//! as the tree's own processes would follow them, so none leads out, whatever it says; nothing but a file is opened to be
//! read. Blocking. Deliberately absent: where the tree comes from ([`super::evaluated`]).

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use api::fsutil::Stat;
use api::gateway::FileRange;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use solver::pattern::{Dialect, Glob};
use tonic::Status;

use crate::daemon::MESSAGE_MAX_BYTES;
use crate::daemon::session::send::stat;

/// A message has room for this much of a file.
const READ_MAX_BYTES: usize = MESSAGE_MAX_BYTES - (64 << 10);
/// A list of so many entries still fits into a message, names and all, and larger ones are no source of anything.
const ENTRIES_MAX: usize = 100_000;

/// What of a file.
///
/// # Errors
/// When it is not there, no file, or too large to be sent.
pub fn read(root: BorrowedFd<'_>, path: &str, range: Option<FileRange>) -> Result<Vec<u8>, Status> {
    // A pipe or a device must not be waited for.
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let facts = rustix::fs::fstat(&file).map_err(|error| failed("look at", path, error))?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
        return Err(Status::invalid_argument(format!("`{}` is no file", path.escape_debug())));
    }
    let number = |what: &str, number: i64| {
        let wrong = |_| Status::invalid_argument(format!("the {what} of what is read is {number}"));
        u64::try_from(number).map_err(wrong)
    };
    let range = range.unwrap_or_default();
    let (offset, length) = (number("offset", range.offset)?, number("length", range.length)?);
    let size = u64::try_from(facts.st_size).unwrap_or(0).saturating_sub(offset);
    let length = if length == 0 { size } else { length.min(size) };
    if length > READ_MAX_BYTES as u64 {
        return Err(Status::resource_exhausted(format!(
            "`{}` has {length} bytes, and {READ_MAX_BYTES} can be read at once",
            path.escape_debug()
        )));
    }
    let mut file = std::fs::File::from(file);
    let mut bytes = Vec::new();
    let io = |error: std::io::Error| Status::internal(format!("cannot read `{}`: {error}", path.escape_debug()));
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    file.take(length).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The entries of a directory, by name; with a pattern those that match.
///
/// # Errors
/// When it is not there, no directory, or has too many.
pub fn list(root: BorrowedFd<'_>, path: &str, pattern: &str) -> Result<Vec<Stat>, Status> {
    let glob = match pattern {
        "" => None,
        pattern => {
            Some(Glob::new(pattern, Dialect::Match).map_err(|error| Status::invalid_argument(error.to_string()))?)
        }
    };
    let dir = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir.as_fd()).map_err(|error| failed("read", path, error))? {
        let entry = entry.map_err(|error| failed("read", path, error))?;
        let name = entry.file_name();
        let is_wanted = glob.as_ref().is_none_or(|glob| glob.matches(name.to_bytes()));
        if name == c"." || name == c".." || !is_wanted {
            continue;
        }
        let Ok(name) = name.to_str() else {
            return Err(Status::failed_precondition(format!(
                "`{}` has an entry that is not UTF-8, which the protocol needs",
                path.escape_debug()
            )));
        };
        if entries.len() >= ENTRIES_MAX {
            return Err(Status::resource_exhausted(format!(
                "`{}` has more than {ENTRIES_MAX} entries",
                path.escape_debug()
            )));
        }
        let facts = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let facts = facts.map_err(|error| failed("look at", name, error))?;
        let link = match FileType::from_raw_mode(facts.st_mode) {
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&dir, name, Vec::new());
                link.map_err(|error| failed("read", name, error))?.to_string_lossy().into_owned()
            }
            _ => String::new(),
        };
        entries.push(stat(name.to_owned(), &facts, link));
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// What is at a path, links followed.
///
/// # Errors
/// When nothing is.
pub fn look(root: BorrowedFd<'_>, path: &str) -> Result<Stat, Status> {
    let found = open(root, path, OFlags::PATH)?;
    let facts = rustix::fs::fstat(&found).map_err(|error| failed("look at", path, error))?;
    let name = path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/");
    Ok(stat(name.to_owned(), &facts, String::new()))
}

/// Opens a path beneath the root, as a process would whose root that is.
fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Status> {
    if path.contains('\0') {
        return Err(Status::invalid_argument("the path holds a zero byte"));
    }
    let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path_or_root = if path.is_empty() { "/" } else { path };
    rustix::fs::openat2(root, path_or_root, flags | OFlags::CLOEXEC, Mode::empty(), beneath)
        .map_err(|error| failed("open", path, error))
}

/// Clients look for the system's own words.
fn failed(act: &str, path: &str, error: Errno) -> Status {
    let words = match error {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        error => std::io::Error::from(error).to_string(),
    };
    let message = format!("{act} {}: {words}", path.escape_debug());
    match error {
        Errno::NOENT => Status::not_found(message),
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => Status::invalid_argument(message),
        _ => Status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tonic::Code;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("d/e")).expect("it is new");
        std::fs::write(dir.path().join("secret"), "of this machine").expect("it is new");
        std::fs::write(tree.join("d/f"), "0123456789").expect("it is new");
        std::fs::write(tree.join("d/g.txt"), "").expect("it is new");
        for (link, to) in [
            ("absolute", "/d/f"),
            ("up", "../../../../../d/f"),
            ("out", "../secret"),
            ("machine", "/etc/passwd"),
            ("circle", "circle"),
            ("d/e/over", "/"),
        ] {
            symlink(to, tree.join(link)).expect("it is new");
        }
        let large = std::fs::File::create(tree.join("large")).expect("it is new");
        large.set_len(1 << 40).expect("it has holes");
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("pipe"), FileType::Fifo, Mode::RWXU, 0).expect("it is new");
        let fd = rustix::fs::open(&tree, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        (dir, fd.expect("it is there"))
    }

    #[test]
    fn what_is_read_is_beneath_the_root_whatever_links_say() {
        let (_dir, root) = root();
        let text = |path: &str, range: Option<(i64, i64)>| {
            let range = range.map(|(offset, length)| FileRange { offset, length });
            read(root.as_fd(), path, range).map(|bytes| String::from_utf8(bytes).expect("it is text"))
        };
        for path in ["d/f", "/d/f", "../../d/f", "absolute", "up", "d/e/over/d/e/over/absolute"] {
            assert_eq!(text(path, None).expect(path), "0123456789", "{path}");
        }
        assert_eq!(text("d/f", Some((2, 3))).expect("a range"), "234");
        assert_eq!(text("d/f", Some((8, 100))).expect("a range"), "89");
        assert_eq!(text("d/f", Some((50, 1))).expect("a range"), "");
        assert_eq!(text("large", Some((1 << 39, 4))).expect("a range"), "\0\0\0\0");
        for (path, range, code) in [
            ("out", None, Code::NotFound),
            ("machine", None, Code::NotFound),
            ("../secret", None, Code::NotFound),
            ("circle", None, Code::InvalidArgument),
            ("d", None, Code::InvalidArgument),
            ("d/f/x", None, Code::InvalidArgument),
            ("pipe", None, Code::InvalidArgument),
            ("d/\0", None, Code::InvalidArgument),
            ("large", None, Code::ResourceExhausted),
            ("d/f", Some((-1, 1)), Code::InvalidArgument),
            ("d/f", Some((0, i64::MIN)), Code::InvalidArgument),
        ] {
            assert_eq!(text(path, range).expect_err(path).code(), code, "{path} {range:?}");
        }
    }

    #[test]
    fn directories_are_listed_and_entries_looked_at() {
        let (_dir, root) = root();
        let names = |path: &str, pattern: &str| -> Vec<String> {
            list(root.as_fd(), path, pattern).expect(path).into_iter().map(|stat| stat.path).collect()
        };
        assert_eq!(names("d", ""), ["e", "f", "g.txt"]);
        assert_eq!(names("d", "*.txt"), ["g.txt"]);
        assert_eq!(names("d/e/over/d", "?"), ["e", "f"]);
        let link = list(root.as_fd(), "/", "out").expect("it is there").remove(0);
        assert_eq!((link.linkname.as_str(), link.size), ("../secret", 0));
        for (path, pattern) in [("absent", ""), ("d/f", ""), ("d", "[")] {
            list(root.as_fd(), path, pattern).expect_err(path);
        }
        let found = look(root.as_fd(), "up").expect("it is there");
        assert_eq!((found.path.as_str(), found.size), ("up", 10));
        assert_eq!(look(root.as_fd(), "/").expect("it is there").path, "/");
        assert_eq!(look(root.as_fd(), "machine").expect_err("it leads nowhere").code(), Code::NotFound);
    }
}
