//! What a step writes, searched for the secrets that it has seen.
//!
//! In: the tree of what a step changed, and its secrets. Out: the first file that holds one: in its bytes, its name, or
//! where it links to. Files are read once, in order, with one buffer; holes are passed over, and a file of several names
//! is read under the first. Only a value as it is can be recognised: an encoded or compressed one cannot.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::Secret;
use super::matcher::{Found, Matcher, Position};
use crate::tree::data::read_some;
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, shown};

/// Shorter values stand in many files by chance.
const SECRET_MIN_BYTES: usize = 8;
/// Large enough to amortise the call, small enough for the cache.
const BUFFER_BYTES: usize = 128 << 10;

/// A file that holds a secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    /// Its path in the tree.
    pub path: String,
    /// Which secret.
    pub id: String,
}

/// Looks for `secrets` in everything beneath `tree`.
///
/// # Errors
/// When something cannot be read, or the build was stopped.
pub(crate) fn search(tree: OwnedFd, secrets: &[Secret], cancel: &CancellationToken) -> Result<Option<Leak>, TreeError> {
    let secrets: Vec<&Secret> = secrets.iter().filter(|secret| secret.trimmed().len() >= SECRET_MIN_BYTES).collect();
    let Some(matcher) = Matcher::new(secrets.iter().map(|secret| secret.trimmed())) else { return Ok(None) };
    let mut search = Search { matcher, cancel, buffer: vec![0; BUFFER_BYTES], read: HashSet::new(), found: None };
    walk(tree, &mut search)?;
    Ok(search.found.map(|(path, pattern)| Leak { path, id: secrets[pattern].id().to_owned() }))
}

struct Search<'a> {
    matcher: Matcher,
    cancel: &'a CancellationToken,
    buffer: Vec<u8>,
    /// Files of several names that were read, by their numbers.
    read: HashSet<(u64, u64)>,
    found: Option<(String, usize)>,
}

impl Visitor for Search<'_> {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if self.found.is_some() {
            return Ok(Descend::Skip);
        }
        if self.cancel.is_cancelled() {
            return Err(TreeError::Stopped);
        }
        if let Some(found) = self.text(entry.name) {
            // The name is what must not be told.
            let parent = &entry.path[..entry.path.len() - entry.name.len()];
            self.found =
                Some((format!("/{}***", if parent.is_empty() { String::new() } else { shown(parent) }), found.pattern));
            return Ok(Descend::Skip);
        }
        let found = match entry.kind() {
            FileType::RegularFile => self.file(entry)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(entry.dir, entry.name, Vec::new());
                self.text(target.map_err(TreeError::io("read link", entry.path))?.as_bytes())
            }
            _ => None,
        };
        self.found = found.map(|found| (format!("/{}", shown(entry.path)), found.pattern));
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

impl Search<'_> {
    fn text(&self, text: &[u8]) -> Option<Found> {
        let mut position = self.matcher.begin();
        text.iter().find_map(|byte| self.matcher.step(&mut position, *byte))
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<Option<Found>, TreeError> {
        let failed = |act: &'static str| TreeError::io(act, entry.path);
        if entry.stat.st_size == 0
            || (entry.stat.st_nlink > 1 && !self.read.insert((entry.stat.st_dev, entry.stat.st_ino)))
        {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty()).map_err(failed("open"))?;
        let mut at = 0;
        loop {
            // A hole is zeros, which are in no secret that is worth finding: what stands before it ends there.
            at = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(None),
                Err(errno) => return Err(failed("read")(errno)),
            };
            let end = rustix::fs::seek(&file, SeekFrom::Hole(at)).map_err(failed("read"))?;
            let mut position = self.matcher.begin();
            while at < end {
                if self.cancel.is_cancelled() {
                    return Err(TreeError::Stopped);
                }
                let most = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let got = read_some(file.as_fd(), &mut self.buffer[..most], at).map_err(failed("read"))?;
                if got == 0 {
                    return Ok(None);
                }
                if let Some(found) = scan(&self.matcher, &mut position, &self.buffer[..got]) {
                    return Ok(Some(found));
                }
                at += got as u64;
            }
        }
    }
}

fn scan(matcher: &Matcher, position: &mut Position, bytes: &[u8]) -> Option<Found> {
    bytes.iter().find_map(|byte| matcher.step(position, *byte))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt as _, symlink};
    use std::path::Path;

    use super::*;

    fn found(fill: impl FnOnce(&Path)) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        fill(dir.path());
        let secrets =
            [Secret::new("key", b"line one\nline two\n".to_vec()), Secret::new("token", b"hunter22".to_vec())];
        let short = Secret::new("pin", b"1234567".to_vec());
        let tree = fs::File::open(dir.path()).expect("a directory").into();
        let all = [&secrets[..], &[short]].concat();
        let leak = search(tree, &all, &CancellationToken::new()).expect("readable");
        leak.map(|leak| format!("{} {}", leak.path, leak.id))
    }

    #[test]
    fn a_secret_is_found_wherever_a_layer_can_hold_it() {
        let write = |path: &'static str, bytes: &[u8]| {
            let bytes = bytes.to_vec();
            move |dir: &Path| {
                fs::create_dir_all(dir.join(path).parent().expect("a parent")).expect("made");
                fs::write(dir.join(path), &bytes).expect("written");
            }
        };
        let check = |fill: &dyn Fn(&Path), expected: Option<&str>| assert_eq!(found(fill).as_deref(), expected);
        check(&write("a", b"nothing"), None);
        check(&write("etc/deep/conf", b"password=hunter22;"), Some("/etc/deep/conf token"));
        check(&write("a", b"> line one\nline two"), Some("/a key"));
        check(&write("a", b"line one of another text"), None);
        check(&write("a", b"1234567"), None);
        check(&write("name-hunter22", b""), Some("/*** token"));
        check(&|dir| symlink("/x/hunter22", dir.join("l")).expect("made"), Some("/l token"));
        let far = |dir: &Path| {
            let file = fs::File::create(dir.join("sparse")).expect("made");
            file.set_len(1 << 40).expect("a hole");
            file.write_all_at(b"hunter22", (1 << 40) - 9).expect("written");
        };
        check(&far, Some("/sparse token"));
        let across = |dir: &Path| {
            let mut bytes = vec![b'x'; BUFFER_BYTES - 4];
            bytes.extend_from_slice(b"hunter22");
            fs::write(dir.join("across"), bytes).expect("written");
        };
        check(&across, Some("/across token"));
        let pipe = |dir: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .expect("made");
        };
        check(&pipe, None);
    }
}
