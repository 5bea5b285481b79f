//! Notes, what is remembered of contexts, and the directories of cache mounts: whatever has a file of its own and no
//! digest.
//!
//! Notes and contexts may be lost at any time, so a damaged one is dropped and found out again. Of a cache mount only what
//! is ours can be checked: that its directory is there, and that it says of itself what the index says; what steps keep
//! in it, their programs understand. Deliberately absent: git repositories, which git checks (the executor).

use std::io::Read as _;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Damage;
use crate::gc::{Place, files};
use crate::{Kind, Store, StoreError, contexts, mounts, notes};

const FOUND_OUT_AGAIN: &str = "dropped; it is found out again when it is needed";

impl Store {
    /// Checks notes, contexts and cache mounts.
    pub(super) fn verify_files(&self) -> Result<Vec<Damage>, StoreError> {
        let layout = self.layout();
        let mut damages = Vec::new();
        for (folder, name) in files::notes(layout)? {
            let kind = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = read(&folder, &name, notes::NOTE_MAX_BYTES)?;
            if bytes.is_some_and(|bytes| !notes::is_note(&bytes)) {
                damages.push(self.dropped(Kind::Note, format!("{kind}/{name}"), "it says nothing that can be read")?);
            }
        }
        for (folder, name) in files::list(layout, Kind::Context)? {
            let bytes = read(&folder, &name, contexts::FILE_MAX_BYTES)?;
            if bytes.is_some_and(|bytes| !contexts::is_whole(&bytes, &name)) {
                damages.push(self.dropped(Kind::Context, name, "its bytes are not those that were written")?);
            }
        }
        damages.extend(self.verify_mounts()?);
        Ok(damages)
    }

    fn dropped(&self, kind: Kind, name: String, what: &str) -> Result<Damage, StoreError> {
        files::remove(self.layout(), kind, &name)?;
        Ok(Damage { kind, name, what: what.into(), used_by: Vec::new(), healed: Some(FOUND_OUT_AGAIN.into()) })
    }

    fn verify_mounts(&self) -> Result<Vec<Damage>, StoreError> {
        let mut damages = Vec::new();
        for mount in self.mounts()? {
            let (what, healed) = match self.check_mount(&mount)? {
                mounts::State::Whole => continue,
                mounts::State::Gone => {
                    ("its directory is gone", "forgotten; the next step that wants it has a new one")
                }
                mounts::State::SaysOtherwise => ("it does not say of itself what it is", "that was written anew"),
            };
            damages.push(Damage {
                kind: Kind::Mount,
                used_by: vec![format!("cache mount {}", mounts::shown_mount_id(&mount.key.id))],
                name: mount.name,
                what: what.into(),
                healed: Some(healed.into()),
            });
        }
        Ok(damages)
    }
}

/// What a file holds, as far as `max_bytes` and a little; `None` if it is gone.
fn read(folder: &impl Place, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let path = folder.path().join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        // A link is none of ours.
        Err(Errno::LOOP) => return Ok(Some(Vec::new())),
        Err(source) => return Err(StoreError::io("open", path, source)),
    };
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|source| StoreError::io("read", path, source))?;
    Ok(Some(bytes))
}
