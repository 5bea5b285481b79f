//! Where the bytes of two files part, and what stands there.
//!
//! In: the tar of a layer once more, and the paths of a few files. Out: of each its beginning, and digests of the rest
//! by mebibytes, so that memory does not grow with what a layer holds. Two samples give an offset and an excerpt.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use oci::layer::tar::{EndMarker, Kind, Limits, TarError, TarReader};
use oci::model::Digest;

use super::difference::Excerpt;
use super::document::cut;
use super::{entries, hints};

/// What is held of a file; the rest is known by blocks of this length.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes of a file that is no text, around where it differs.
const BYTES_SHOWN: usize = 16;

/// What is known of a file's bytes.
#[derive(Debug, Default)]
pub struct Sample {
    /// The first block.
    beginning: Vec<u8>,
    /// Digests of the others.
    blocks: Vec<Digest>,
    length: u64,
}

/// Reads the files at these paths; of several of one name the last, as whoever unpacks the layer has it.
///
/// # Errors
/// As [`entries::read`].
pub fn read(tar: impl Read, wanted: &BTreeSet<Vec<u8>>) -> Result<BTreeMap<Vec<u8>, Sample>, TarError> {
    let mut reader = TarReader::new(tar, Limits::default(), EndMarker::Optional);
    let mut samples = BTreeMap::new();
    while let Some(entry) = reader.next()? {
        let path = entries::plain(&entry.path);
        if wanted.contains(path) && matches!(entry.kind, Kind::File { .. }) {
            let sample = take(&mut reader).map_err(|source| TarError::Io { act: "read", offset: 0, source })?;
            samples.insert(path.to_vec(), sample);
        }
    }
    Ok(samples)
}

fn take(from: &mut impl Read) -> std::io::Result<Sample> {
    let mut sample = Sample::default();
    loop {
        let mut block = Vec::new();
        let count = from.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if count == 0 {
            return Ok(sample);
        }
        match sample.length {
            0 => sample.beginning = block,
            _ => sample.blocks.push(Digest::of(&block)),
        }
        sample.length += count as u64;
    }
}

/// Where two files part: the offset, what stands there, and why that usually is. `None` if nothing parts them.
pub fn part(path: &str, one: &Sample, two: &Sample) -> Option<(u64, Option<Excerpt>, Vec<String>)> {
    let (first, second) = (&one.beginning[..], &two.beginning[..]);
    let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    if common == first.len() && common == second.len() {
        let same = one.blocks.iter().zip(&two.blocks).take_while(|(a, b)| a == b).count();
        if one.length == two.length && same == one.blocks.len() {
            return None;
        }
        let offset = BLOCK_BYTES as u64 * (1 + same as u64);
        return Some((offset.min(one.length.min(two.length)), None, hints::of_bytes(path, first, second, offset)));
    }
    let mut hints = hints::of_bytes(path, first, second, common as u64);
    let excerpt = match (is_text(first), is_text(second)) {
        (true, true) => {
            let excerpt = lines(first, second, common);
            hints.extend(hints::of_texts(&excerpt.first, &excerpt.second));
            Excerpt { first: cut(excerpt.first), second: cut(excerpt.second), ..excerpt }
        }
        _ => Excerpt { line: None, first: bytes(first, common), second: bytes(second, common) },
    };
    Some((common as u64, Some(excerpt), hints))
}

fn is_text(bytes: &[u8]) -> bool {
    // The last character may be cut.
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    valid && !bytes.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\n' | b'\t' | b'\r' | 0x1b))
}

/// The lines in which two texts part.
fn lines(first: &[u8], second: &[u8], common: usize) -> Excerpt {
    let begin = first[..common].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = |text: &[u8]| {
        let end = text[begin..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| begin + at);
        String::from_utf8_lossy(&text[begin..end]).into_owned()
    };
    let number = first[..begin].iter().filter(|byte| **byte == b'\n').count() + 1;
    Excerpt { line: Some(number), first: line(first), second: line(second) }
}

/// Some bytes from where two files part.
fn bytes(all: &[u8], at: usize) -> String {
    let shown = &all[at..all.len().min(at + BYTES_SHOWN)];
    match shown {
        [] => "the end of the file".into(),
        shown => shown.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: &[u8]) -> Sample {
        take(&mut &bytes[..]).expect("memory can be read")
    }

    #[test]
    fn files_part_at_their_first_byte_that_differs() {
        /// The offset; and there the line, and what either has.
        type Parted<'a> = Option<(u64, Option<(Option<usize>, &'a str, &'a str)>)>;
        let check = |one: &[u8], two: &[u8], expected: Parted<'_>| {
            let found = part("f", &sample(one), &sample(two));
            let shown = found.as_ref().map(|(at, excerpt, _)| {
                (*at, excerpt.as_ref().map(|at| (at.line, at.first.as_str(), at.second.as_str())))
            });
            assert_eq!(shown, expected);
        };
        check(b"a\nb\n", b"a\nb\n", None);
        check(b"a\nbc\nd", b"a\nbx\nd", Some((3, Some((Some(2), "bc", "bx")))));
        check(b"a\n", b"a\nb", Some((2, Some((Some(2), "", "b")))));
        check(b"\0\x01", b"\0\x02", Some((1, Some((None, "01", "02")))));
        check(b"\0", b"\0\x02", Some((1, Some((None, "the end of the file", "02")))));
        let mut long = vec![7; 3 << 20];
        let same = long.clone();
        long[(2 << 20) + 5] = 8;
        check(&same, &long, Some((2 << 20, None)));
        check(&same, &same, None);
        check(&same, &same[..(2 << 20) + 1], Some((2 << 20, None)));
    }
}
