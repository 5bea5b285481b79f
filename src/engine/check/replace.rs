//! A file of the user is replaced by another text, whole or not at all.
//!
//! The new text is written beside the file under another name, which then takes its place; so whoever reads the file
//! sees the old text or the new one. Mode and owner stay; a link stays, and what it leads to is replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::engine::Failure;

/// Names beside the file that are tried.
const NAMES_TRIED: u32 = 100;

/// Makes `new` of the file at `path`, which was read as `old`.
///
/// # Errors
/// When it is no regular file, has changed since it was read, or cannot be replaced; it is untouched then.
pub fn replace(path: &Path, old: &str, new: &str) -> Result<(), Failure> {
    let shown = path.display();
    let failed = |act: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("`{shown}` cannot be written back: {act}"))
            .note(error.to_string())
            .help("the mended text goes to standard output with `rbuild check --fix -f - CONTEXT < FILE`")
    };
    let path = fs::canonicalize(path).map_err(|error| failed("it cannot be found any more", &error))?;
    let facts = fs::metadata(&path).map_err(|error| failed("it cannot be looked at", &error))?;
    if !facts.is_file() {
        return Err(failed("it is not a regular file", &"only files are written back"));
    }
    let now = fs::read(&path).map_err(|error| failed("it cannot be read again", &error))?;
    if now != old.as_bytes() {
        return Err(Failure::new(format!("`{shown}` was changed while it was checked; it is left as it is"))
            .help("check it again"));
    }
    let (beside, file) = create_beside(&path).map_err(|error| failed("no file can be made beside it", &error))?;
    let written = fill(&file, new, &facts).and_then(|()| fs::rename(&beside, &path));
    written.map_err(|error| {
        if let Err(error) = fs::remove_file(&beside) {
            tracing::debug!(%error, path = %beside.display(), "left behind");
        }
        failed("the new text cannot be put in its place", &error)
    })
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut last = io::Error::from(ErrorKind::AlreadyExists);
    for number in 0..NAMES_TRIED {
        let beside = path.with_file_name(format!(".{name}.rbuild-{}-{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn fill(mut file: &File, text: &str, facts: &fs::Metadata) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (facts.uid(), facts.gid()) {
        let owner = rustix::fs::Uid::from_raw(facts.uid());
        let group = rustix::fs::Gid::from_raw(facts.gid());
        rustix::fs::fchown(file.as_fd(), Some(owner), Some(group))?;
    }
    // After the owner: changing that takes away set-id bits.
    file.set_permissions(fs::Permissions::from_mode(facts.mode() & 0o7777))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("the folder is ours");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("the folder is ours").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_text_is_replaced_and_mode_and_links_stay() {
        let folder = folder();
        let (file, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&file, "old").expect("the folder is ours");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("the file is ours");
        std::os::unix::fs::symlink("real", &link).expect("the folder is ours");
        replace(&link, "old", "\u{feff}new\r\n").expect("the file can be replaced");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "\u{feff}new\r\n");
        assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o7777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(names(folder.path()), ["link", "real"]);
    }

    #[test]
    fn owners_stay() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = folder();
        let file = folder.path().join("f");
        fs::write(&file, "old").expect("the folder is ours");
        std::os::unix::fs::chown(&file, Some(12), Some(34)).expect("root may");
        replace(&file, "old", "new").expect("the file can be replaced");
        let facts = fs::metadata(&file).expect("it is there");
        assert_eq!((facts.uid(), facts.gid()), (12, 34));
    }

    #[test]
    fn what_cannot_be_replaced_is_left_as_it_is() {
        let folder = folder();
        let file = folder.path().join("f");
        fs::write(&file, "changed meanwhile").expect("the folder is ours");
        let check = |path: &Path, expected: &str| {
            let failure = replace(path, "old", "new").expect_err(expected);
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
            assert_eq!(names(folder.path()), ["f"]);
            assert_eq!(fs::read_to_string(&file).expect("it is there"), "changed meanwhile");
        };
        check(&file, "was changed while it was checked");
        check(&folder.path().join("gone"), "cannot be found any more");
        check(folder.path(), "is not a regular file");
    }
}
