//! Archives and texts told apart by their first bytes, and archives unpacked.
//!
//! In comes a stream; out comes a [`Draft`] of the store that holds the tree, or the stream of a text. The tree belongs
//! to whoever builds: a context's owners count as 0:0 anyway. It lives as long as its draft does, and the next start
//! sweeps what a dead process left. See `oci::layer::extract_archive` for what a hostile archive cannot do.

use std::io::{self, BufReader, Read};

use oci::layer::tar::{BLOCK_BYTES, is_header};
use oci::layer::{ExtractOptions, Format, XattrNamespace, decompress, detect, extract_archive};
use store::{Draft, Store};
use tokio_util::sync::CancellationToken;

use crate::engine::{Failure, words};

/// Bytes that are read from an archive at once.
const BUFFER_BYTES: usize = 1 << 17;

/// What a stream is.
pub enum Stream<R> {
    /// An archive, compressed or not.
    Archive(Whole<R>),
    /// Something else.
    Text(Whole<R>),
}

/// A stream whose first bytes were looked at; they come again.
pub type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// Tells what a stream is: compressed bytes are an archive, and so is what begins with a tar's header or, since an
/// empty archive is one too, with zeros.
pub fn sniff<R: Read>(mut stream: R) -> io::Result<Stream<R>> {
    let mut first = Vec::with_capacity(BLOCK_BYTES);
    stream.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut first)?;
    let zeros = first.len() == BLOCK_BYTES && first.iter().all(|byte| *byte == 0);
    let archive = detect(&first) != Format::Plain || is_header(&first) || zeros;
    let whole = io::Cursor::new(first).chain(stream);
    Ok(if archive { Stream::Archive(whole) } else { Stream::Text(whole) })
}

/// An archive's tree.
pub struct Unpacked {
    /// Holds it.
    pub draft: Draft,
    /// The latest time in it, in seconds since 1970.
    pub newest: Option<i64>,
}

/// Unpacks an archive, which is called `shown` in messages. Blocking.
pub fn unpack(store: &Store, archive: impl Read, shown: &str, cancel: &CancellationToken) -> Result<Unpacked, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| match cancel.is_cancelled() {
        true => words::canceled(),
        false => {
            let mut failure = Failure::from_error(error);
            let reason = std::mem::replace(&mut failure.problems[0].message, format!("cannot unpack {shown}"));
            failure.problems[0].notes.insert(0, reason);
            failure
        }
    };
    let draft = store.draft().map_err(|error| words::store(&error))?;
    let (format, tar) = decompress(BufReader::with_capacity(BUFFER_BYTES, archive)).map_err(|error| failed(&error))?;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Without the rights of root there is no owner but oneself, and nothing of `trusted.*`.
    let namespace = if own.0 == 0 { XattrNamespace::here() } else { XattrNamespace::User };
    let options = ExtractOptions { owner: Some(own), ..ExtractOptions::new(namespace) };
    let facts = extract_archive(tar, draft.fs_fd(), "/", &options).map_err(|error| failed(&error))?;
    tracing::debug!(?format, ?facts, "unpacked {shown}");
    Ok(Unpacked { draft, newest: facts.newest })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn archives_are_told_from_texts_by_their_first_bytes() {
        let check = |bytes: &[u8], archive: bool| {
            let (found, mut whole) = match sniff(bytes).expect("memory is readable") {
                Stream::Archive(whole) => (true, whole),
                Stream::Text(whole) => (false, whole),
            };
            let mut all = Vec::new();
            whole.read_to_end(&mut all).expect("memory is readable");
            assert_eq!((found, all.as_slice()), (archive, bytes));
        };
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_cksum();
        tar.append_data(&mut header, "a", &b"x"[..]).expect("memory takes everything");
        let tar = tar.into_inner().expect("memory takes everything");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).expect("memory takes everything");
        check(&tar, true);
        check(&gzip.finish().expect("memory takes everything"), true);
        check(&[0; 1024], true);
        check(b"FROM scratch\n", false);
        check(b"", false);
        check(&b"# a long text\n".repeat(100), false);
        check(&[0; 100], false);
        check(b"BZh9", true);
    }
}
