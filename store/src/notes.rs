//! Notes: small texts under a kind and a key, for what is dear to find out and cheap to lose.
//!
//! In: text. Out: the same text, or nothing: a note may be gone at any time, also after a power loss, and then is found
//! out again. Whoever reads one checks what it says. Deliberately absent: what the texts mean.
//!
//! ```text
//! notes/<kind>/<hex>.json   <hex> is the SHA-256 of the key; written in tmp/, renamed; may be deleted at any time
//! ```

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use oci::model::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::layout::{fresh_name, try_flock};
use crate::{Store, StoreError};

/// A note is a few lines; a longer file is none of ours.
pub(crate) const NOTE_MAX_BYTES: u64 = 1 << 20;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Store {
    /// What was noted under `key`. `kind` is a short word of ours (`http`).
    pub fn note(&self, kind: &str, key: &str) -> Result<Option<String>, StoreError> {
        let Some(folder) = self.notes(kind, false)? else { return Ok(None) };
        self.read_note(&folder, kind, &note_name(key))
    }

    fn read_note(&self, folder: &OwnedFd, kind: &str, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.root().join("notes").join(kind).join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(source) => return Err(StoreError::io("open", path, source)),
        };
        let mut bytes = Vec::new();
        file.take(NOTE_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::io("read", &path, source))?;
        if bytes.len() as u64 > NOTE_MAX_BYTES {
            tracing::debug!(path = %path.display(), "too long for a note");
            return Ok(None);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a damaged note");
                Ok(None)
            }
        }
    }

    /// Gives another store those notes of a kind that `wanted` says, in the place of what is noted there.
    pub fn give_notes<E: From<StoreError>>(
        &self,
        kind: &str,
        to: &Store,
        mut wanted: impl FnMut(&str) -> Result<bool, E>,
    ) -> Result<(), E> {
        let Some(folder) = self.notes(kind, false)? else { return Ok(()) };
        let path = self.root().join("notes").join(kind);
        let entries = rustix::fs::Dir::read_from(&folder).map_err(|source| StoreError::io("list", &path, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::io("list", &path, source))?;
            let Some(name) = entry.file_name().to_str().ok().filter(|name| name.ends_with(".json")) else { continue };
            if let Some(text) = self.read_note(&folder, kind, name)?
                && wanted(&text)?
            {
                to.write_note(kind, name, &text)?;
            }
        }
        Ok(())
    }

    /// Notes `text` under `key`, in the place of what was noted there.
    pub fn set_note(&self, kind: &str, key: &str, text: &str) -> Result<(), StoreError> {
        self.write_note(kind, &note_name(key), text)
    }

    fn write_note(&self, kind: &str, name: &str, text: &str) -> Result<(), StoreError> {
        let folder = self.notes(kind, true)?.expect("it was made");
        let tmp = &self.layout().tmp;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let aside = format!("{}.note", fresh_name()?);
            let path = tmp.join(&aside);
            let fd = rustix::fs::openat(tmp, aside.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(|source| StoreError::io("make", &path, source))?;
            let mut file = File::from(fd);
            // A sweep may have come between the two calls and taken it for a dead one's.
            if !try_flock(&file, &path)? || !tmp.has(&aside)? {
                continue;
            }
            let written = file.write_all(text.as_bytes()).map_err(|source| StoreError::io("write", &path, source));
            let written = written.and_then(|()| {
                rustix::fs::renameat(tmp, aside.as_str(), &folder, name)
                    .map_err(|source| StoreError::io("move to the notes", &path, source))
            });
            if written.is_err() {
                tmp.remove_file(&aside)?;
            }
            return written;
        }
    }

    /// The folder of a kind; `None` when it is not there and not to be made.
    fn notes(&self, kind: &str, make: bool) -> Result<Option<OwnedFd>, StoreError> {
        debug_assert!(!kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase()), "{kind}");
        let mut path = self.root().to_owned();
        let mut folder: Option<OwnedFd> = None;
        for name in ["notes", kind] {
            path.push(name);
            let above = folder
                .as_ref()
                .map_or_else(|| std::os::fd::AsFd::as_fd(&self.layout().root), |fd| std::os::fd::AsFd::as_fd(fd));
            if make {
                match rustix::fs::mkdirat(above, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(source) => return Err(StoreError::io("make", path, source)),
                }
            }
            folder = match rustix::fs::openat(above, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(source) => return Err(StoreError::io("open", path, source)),
            };
        }
        Ok(folder)
    }
}

/// Whether bytes may be a note: a digest, or JSON.
pub(crate) fn is_note(bytes: &[u8]) -> bool {
    let is_digest = |text: &str| text.trim_end().parse::<Digest>().is_ok();
    bytes.len() as u64 <= NOTE_MAX_BYTES
        && std::str::from_utf8(bytes)
            .is_ok_and(|text| is_digest(text) || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

fn note_name(key: &str) -> String {
    format!("{}.json", Digest::of(key.as_bytes()).hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_by_its_key_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.note("http", "a").unwrap(), None);
        store.set_note("http", "a", "one").unwrap();
        store.set_note("http", "../b", "other").unwrap();
        store.set_note("http", "a", "two").unwrap();
        let again = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(again.note("http", "a").unwrap().as_deref(), Some("two"));
        assert_eq!(again.note("http", "../b").unwrap().as_deref(), Some("other"));
        assert_eq!(again.note("git", "a").unwrap(), None);
        let other = Store::open(&dir.path().join("other")).unwrap();
        store.give_notes("git", &other, |_| Ok::<_, StoreError>(true)).unwrap();
        store.give_notes("http", &other, |text| Ok::<_, StoreError>(text == "two")).unwrap();
        assert_eq!(other.note("http", "a").unwrap().as_deref(), Some("two"));
        assert_eq!(other.note("http", "../b").unwrap(), None);
        let file = store.root().join("notes/http").join(note_name("a"));
        std::fs::write(&file, b"\xff").unwrap();
        assert_eq!(store.note("http", "a").unwrap(), None);
        std::fs::write(&file, vec![b'x'; (NOTE_MAX_BYTES + 1) as usize]).unwrap();
        assert_eq!(store.note("http", "a").unwrap(), None);
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "nothing is left aside");
    }
}
