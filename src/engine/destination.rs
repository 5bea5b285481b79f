//! Where bytes land outside the store: files of the user, standard output.
//!
//! In come a path and something that writes; a regular file is written aside and renamed, so nobody sees half of one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::options::theirs::Outlet;

/// Written at once: few calls, little memory. Blobs come in larger pieces, which are written as they are.
const BUFFER_BYTES: usize = 256 << 10;

/// Runs `write` on a buffered file that appears as `dest` when all went well, or on standard output. What is there and
/// no regular file (a pipe, a terminal, `/dev/stdout`) is written to as it is.
pub fn write_to<E: std::error::Error + 'static>(
    dest: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), Failure> {
    let Some(dest) = dest else {
        return fill(io::stdout().lock(), write, "standard output");
    };
    let name = format!("`{}`", dest.display());
    let failed = |error: io::Error| Failure::new(format!("cannot write {name}")).note(error.to_string());
    if fs::metadata(dest).is_ok_and(|facts| !facts.is_file()) {
        let file = fs::OpenOptions::new().write(true).open(dest).map_err(failed)?;
        return fill(file, write, &name);
    }
    let aside = beside(dest).ok_or_else(|| Failure::new(format!("{name} is no name for a file")))?;
    let file = fs::File::create(&aside).map_err(failed)?;
    let written = fill(file, write, &name).and_then(|()| fs::rename(&aside, dest).map_err(failed));
    if written.is_err()
        && let Err(error) = fs::remove_file(&aside)
    {
        tracing::debug!(%error, path = %aside.display(), "a part of an archive could not be removed");
    }
    written
}

/// Runs `write` on a buffered stream to whoever asked for the build, and ends it when all went well.
pub fn send_to<E: std::error::Error + 'static>(
    outlet: &Outlet,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), Failure> {
    let sink = outlet.0.stream().map_err(|error| not_sent(&error))?;
    let mut out = io::BufWriter::with_capacity(BUFFER_BYTES, sink);
    write(&mut out).map_err(|error| Failure::from_error(&error))?;
    let sink = out.into_inner().map_err(|error| not_sent(error.error()))?;
    sink.finish().map_err(|error| not_sent(&error))
}

/// Whoever asked for the build does not take its result.
pub fn not_sent(error: &io::Error) -> Failure {
    Failure::new("the result cannot be sent to the client").note(error.to_string())
}

fn fill<E: std::error::Error + 'static>(
    out: impl Write,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    name: &str,
) -> Result<(), Failure> {
    let mut out = io::BufWriter::with_capacity(BUFFER_BYTES, out);
    write(&mut out).map_err(|error| Failure::from_error(&error))?;
    out.flush().map_err(|error| Failure::new(format!("cannot write {name}")).note(error.to_string()))
}

/// A hidden name in the same directory, so that a rename is all that is left to do.
fn beside(dest: &Path) -> Option<PathBuf> {
    let mut aside = std::ffi::OsString::from(".");
    aside.push(dest.file_name()?);
    aside.push(format!(".{}.part", std::process::id()));
    Some(dest.with_file_name(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static [u8]) -> impl FnOnce(&mut dyn Write) -> io::Result<()> {
        move |out| out.write_all(text)
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dest = dir.path().join("out.tar");
        write_to(Some(&dest), bytes(b"one")).expect("it can be written");
        assert_eq!(fs::read(&dest).expect("it is there"), b"one");
        let failed = write_to(Some(&dest), |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("the middle"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&dest).expect("the old one is still there"), b"one");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_regular_file_stays_what_it_is() {
        use std::os::unix::fs::FileTypeExt as _;
        write_to(Some(Path::new("/dev/null")), bytes(b"x")).expect("the null device takes everything");
        assert!(fs::metadata("/dev/null").expect("it is there").file_type().is_char_device());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let failure = write_to(Some(Path::new("/nonexistent/out.tar")), bytes(b"")).expect_err("no such directory");
        assert!(failure.problems[0].message.contains("/nonexistent/out.tar"), "{failure:?}");
    }
}
