//! What a freshly copied tree looks like, so that what was not touched since is known without reading it.
//!
//! In: the tree when its copying has ended, later its entries again. Out: whether an entry is the very one that was
//! copied, unchanged. The kernel moves the change time of a file with everything that is done to it, and nobody may set
//! it; so the same inode with the same change time at the same path is the same file. Only within one tick of the file
//! system's clock two changes have one time: the look ends in a later tick than the copying, and where that does not come
//! soon, what was copied last is not marked and has to be compared.
//!
//! A directory that was removed and made anew is told by its birth time, where the file system has one: numbers of inodes
//! are used again.
//!
//! Deliberately absent: the comparison ([`super::commit`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::tree::resolve::open_dir_at;
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, joined};

/// Name of the file whose change time is the present; no image can have it, as it would mean a deletion.
const CLOCK: &[u8] = b".wh.rbuild-clock";

/// So long the next tick is waited for: several of a kernel's, none of a file system that counts in seconds.
const TICK_MAX: Duration = Duration::from_millis(40);

/// Seconds since 1970, nanoseconds.
type Time = (i64, i64);

/// What was seen, by path.
#[derive(Debug, Default)]
pub struct Marks {
    /// Inode and change time of what is no directory.
    files: HashMap<Box<[u8]>, (u64, Time)>,
    /// Inode and birth time of directories.
    dirs: HashMap<Box<[u8]>, (u64, Time)>,
}

impl Marks {
    /// Looks at everything beneath `tree`, in which nobody writes any more.
    pub fn of(tree: &OwnedFd) -> Result<Self, TreeError> {
        let mut look = Look { marks: Self::default(), last: (i64::MIN, 0) };
        walk(open_dir_at(tree.as_fd(), b".").map_err(TreeError::io("open directory", b""))?, &mut look)?;
        let Look { mut marks, last } = look;
        let begun = Instant::now();
        let mut now = present(tree)?;
        while now <= last && begun.elapsed() < TICK_MAX {
            std::thread::yield_now();
            now = present(tree)?;
        }
        marks.files.retain(|_, (_, changed)| *changed < now);
        marks.dirs.retain(|_, (_, born)| *born < now);
        Ok(marks)
    }

    /// Whether the entry, which is no directory, is what was there, untouched.
    pub(super) fn know(&self, entry: &Entry<'_>) -> bool {
        self.files.get(entry.path) == Some(&(inode(entry.stat), changed(entry.stat)))
    }

    /// Whether the entry, a directory, is another one than was there.
    pub(super) fn is_replaced(&self, entry: &Entry<'_>) -> Result<bool, TreeError> {
        let Some(known) = self.dirs.get(entry.path) else { return Ok(false) };
        Ok(birth(entry).map_err(TreeError::io("look at", entry.path))? != Some(*known))
    }
}

struct Look {
    marks: Marks,
    /// The latest change.
    last: Time,
}

impl Visitor for Look {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        self.last = self.last.max(changed(entry.stat));
        if !entry.kind().is_dir() {
            self.marks.files.insert(entry.path.into(), (inode(entry.stat), changed(entry.stat)));
        } else if let Some(mark) = birth(entry).map_err(TreeError::io("look at", entry.path))? {
            self.marks.dirs.insert(entry.path.into(), mark);
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

// The types differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn inode(stat: &Stat) -> u64 {
    stat.st_ino as u64
}

#[allow(clippy::unnecessary_cast)]
fn changed(stat: &Stat) -> Time {
    (stat.st_ctime as i64, stat.st_ctime_nsec as i64)
}

/// Inode and birth time of an entry; `None` where the file system has no such time.
fn birth(entry: &Entry<'_>) -> Result<Option<(u64, Time)>, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = fs::statx(entry.dir, entry.name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let is_there = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    Ok(is_there.then(|| (found.stx_ino, (found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec)))))
}

/// The time by the clock of the tree's file system. The times of the tree's root are as before.
fn present(tree: &OwnedFd) -> Result<Time, TreeError> {
    let path = || joined(b"", CLOCK);
    let before = fs::fstat(tree).map_err(TreeError::io("look at", b""))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = fs::openat(tree, CLOCK, flags, Mode::RUSR).map_err(TreeError::io("make file", &path()))?;
    let now = changed(&fs::fstat(&file).map_err(TreeError::io("look at", &path()))?);
    fs::unlinkat(tree, CLOCK, AtFlags::empty()).map_err(TreeError::io("remove", &path()))?;
    fs::futimens(tree, &crate::tree::attrs::times_of(&before)).map_err(TreeError::io("set times of", b""))?;
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build, open, shell};

    /// Which of the files are known after `script`.
    fn known(script: &str) -> Vec<String> {
        struct Ask<'a>(&'a Marks, Vec<String>);
        impl Visitor for Ask<'_> {
            type Error = TreeError;
            fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
                if self.0.know(entry) {
                    self.1.push(String::from_utf8_lossy(entry.path).into_owned());
                }
                Ok(Descend::Enter)
            }
            fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = dir.path().join("tree");
        build(&tree, &["a=1", "b=2", "d/a=1", "e/a=2"]);
        let marks = Marks::of(&open(&tree)).expect("it can be read");
        shell(open(&tree).as_fd(), script);
        let mut ask = Ask(&marks, Vec::new());
        walk(open(&tree), &mut ask).expect("it can be read");
        ask.1
    }

    #[test]
    fn whatever_is_done_to_a_file_makes_it_unknown() {
        assert_eq!(known(":"), ["a", "b", "d/a", "e/a"]);
        for script in [
            "printf 9 > a",
            "touch -r b mark; printf 9 > a; touch -r b a; rm mark",
            "cp -p a x; mv x a",
            "chmod 600 a",
            "chown 7 a",
            "rm a",
            "mv a c; mv b a; mv c b",
            "ln a c",
            "setfattr -n user.x -v 1 a",
        ] {
            let found = known(script);
            assert!(!found.iter().any(|name| name == "a"), "{script}: {found:?}");
        }
        // What stands at another path than it was copied to was moved there with its directory.
        assert_eq!(known("mv d x; mv e d; mv x e"), ["a", "b"]);
    }

    #[test]
    fn a_directory_that_was_made_anew_is_another_one() {
        struct Ask<'a>(&'a Marks, Vec<String>);
        impl Visitor for Ask<'_> {
            type Error = TreeError;
            fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
                if entry.kind().is_dir() && self.0.is_replaced(entry)? {
                    self.1.push(String::from_utf8_lossy(entry.path).into_owned());
                }
                Ok(Descend::Enter)
            }
            fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
                Ok(())
            }
        }
        for (script, expected) in [
            (":", &[][..]),
            ("rm -r d; mkdir d", &["d"]),
            ("touch d/x; chmod 700 d; mv d x; mv x d", &[]),
            ("rm -r d; mv e d", &["d"]),
            ("rmdir d/in; mkdir d/in n", &["d/in"]),
        ] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let tree = dir.path().join("tree");
            build(&tree, &["d/in/", "e/"]);
            let marks = Marks::of(&open(&tree)).expect("it can be read");
            shell(open(&tree).as_fd(), script);
            let mut ask = Ask(&marks, Vec::new());
            walk(open(&tree), &mut ask).expect("it can be read");
            assert_eq!(ask.1, expected, "{script}");
        }
    }

    #[test]
    fn a_change_right_after_the_look_is_seen() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for round in 0..200 {
            let tree = dir.path().join(round.to_string());
            std::fs::create_dir(&tree).expect("it is new");
            std::fs::write(tree.join("a"), "1").expect("it is new");
            let marks = Marks::of(&open(&tree)).expect("it can be read");
            std::fs::write(tree.join("a"), "2").expect("it is there");
            let stat = fs::statat(open(&tree), "a", AtFlags::SYMLINK_NOFOLLOW).expect("it is there");
            let fd = open(&tree);
            assert!(!marks.know(&Entry { dir: fd.as_fd(), name: b"a", path: b"a", stat: &stat }), "round {round}");
        }
    }
}
