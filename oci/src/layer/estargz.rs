//! eStargz: a gzip layer of which every file can be had alone, and checked alone.
//!
//! A tar comes in, a blob goes out that every reader of gzip takes for that tar. It is cut into gzip members, so that
//! each piece of a file's bytes begins one, and a table of contents says where. stargz-snapshotter's `docs/estargz.md`.
//!
//! ```text
//!  member      begins at the payload of a file, or at the next piece of it; padding and the headers of
//!  member      what follows go along, up to the next payload
//!  …
//!  member      the table: a tar entry `stargz.index.json`, and the tar's end marker
//!  footer      51 bytes: an empty member whose extra field says where the table begins
//! ```
//! The tar passes unchanged, end marker included, and the table stands behind that: who unpacks the layer meets no file
//! that the image does not have. The digest of the whole, uncompressed, covers the table too, so it is not the tar's:
//! [`Facts::diff_id`] belongs into the config. Members are deflated in parallel; the bytes depend on tar and level alone.
//!
//! Deliberately absent: landmark files, which would be files of the image; reading lazily; sparse members, whose bytes
//! are not the file's: [`EstargzError::Sparse`].

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};

use base64::Engine as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::encode::Hashing;
use super::gzip::{Block, Packing, Workers};
use super::help::Help;
use super::member::{Members, Packer};
use super::tar::{EndMarker, Entry, Kind, Limits, TarError, TarReader, TarWriter, Time, printable};
use crate::model::{DiffId, Digest};

/// The annotation of a layer's descriptor that pins its table. stargz-snapshotter, `docs/estargz.md`, "Content
/// Verification in eStargz".
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// How long the layer is uncompressed, which who reads it lazily cannot count.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// The table's name in the tar.
const TOC_NAME: &str = "stargz.index.json";
/// A file is cut into pieces of so many bytes, as other writers do: what is fetched and checked at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Pieces are large: more threads would hold more memory than they save time.
const THREADS_MAX: usize = 6;
/// An empty member, RFC 1952: no flags but FEXTRA, no time, unknown operating system; 26 bytes of extra field follow.
const FOOTER_HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0];
/// An empty stored block, and the checksum and the length of nothing.
const FOOTER_TAIL: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

/// Changes with whatever moves the bytes, beside the deflate library.
pub(super) const FORM: u32 = 3;
pub(super) const FORM_CHUNK_BYTES: usize = CHUNK_BYTES;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Digest of the tar that came in.
    pub tar: DiffId,
    /// Its length in bytes.
    pub tar_bytes: u64,
    /// Digest of all that the blob unpacks to: the tar, and the table behind it.
    pub diff_id: DiffId,
    /// The length of that in bytes.
    pub uncompressed_bytes: u64,
    /// Digest of the table, for [`TOC_DIGEST`].
    pub toc: Digest,
}

/// Why a layer cannot be written so.
#[derive(Debug, thiserror::Error)]
pub enum EstargzError {
    /// The tar is none.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file's holes are left out of the tar, so its bytes do not stand there as they are.
    #[error("`{path}` is a sparse member, which eStargz does not know; use another compression")]
    Sparse {
        /// Which.
        path: String,
    },
    /// A member has the table's name.
    #[error("the layer has a file `{TOC_NAME}`, which is the name of eStargz's own table; use another compression")]
    Reserved,
    /// Text that JSON cannot say.
    #[error(
        "`{path}` has a name, a target or an attribute that is not UTF-8, which eStargz's table cannot say; use another compression"
    )]
    NotText {
        /// Which.
        path: String,
    },
    /// Reading the tar or writing the blob failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the tar that `tar` holds, to its very end, as eStargz. `level` is 0 to 9; `threads` and `help` change speed only.
///
/// # Errors
/// For tars that cannot be written so; then part of it stands in `out`.
pub fn write(tar: impl Read, level: u32, threads: usize, help: &Help, out: impl Write) -> Result<Facts, EstargzError> {
    let mut members = Layout::new(BufWriter::with_capacity(1 << 17, out), level, threads, help)?;
    let tee = Tee { tar: Hashing::new(tar), whole: Sha256::new(), passed: Vec::with_capacity(CHUNK_BYTES / 4) };
    // Every archive may lack its end marker here: the digest says whether it is whole.
    let mut tar = TarReader::new(tee, Limits { total_bytes: u64::MAX, ..Limits::default() }, EndMarker::Optional);
    while let Some(entry) = tar.next()? {
        let (item, size) = item_of(&entry)?;
        if size == 0 {
            members.rows.push(item);
            // Headers alone must not pile up either.
            if tar.get_ref().passed.len() >= CHUNK_BYTES {
                members.seal(&mut tar.get_mut().passed)?;
            }
            continue;
        }
        members.file(item, size, &mut tar)?;
    }
    // What stands behind the end marker belongs to the digest.
    let mut tee = tar.into_inner();
    let mut buffer = vec![0; 64 << 10];
    while tee.read(&mut buffer)? > 0 {
        if tee.passed.len() >= CHUNK_BYTES {
            members.seal(&mut tee.passed)?;
        }
    }
    let Tee { tar, mut whole, mut passed } = tee;
    members.seal(&mut passed)?;
    let (_, tar, tar_bytes) = tar.finish();
    let (toc, table_bytes) = members.finish(&mut whole)?;
    Ok(Facts {
        tar: DiffId(tar),
        tar_bytes,
        diff_id: DiffId(Digest::from_bytes(whole.finalize().into())),
        uncompressed_bytes: tar_bytes + table_bytes,
        toc,
    })
}

/// Keeps what is read of the tar until it goes into a member.
struct Tee<R> {
    tar: Hashing<R>,
    whole: Sha256,
    passed: Vec<u8>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read(buffer)?;
        self.whole.update(&buffer[..count]);
        self.passed.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// A row of the table. "TOCEntry"; fields in the order of that document.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "is_zero_32")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_zero_32")]
    dev_minor: u32,
    /// Values in base64, as JSON has bytes elsewhere.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    xattrs: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero_32(number: &u32) -> bool {
    *number == 0
}

/// The row of a member, and how many bytes follow it.
fn item_of(entry: &Entry) -> Result<(Item, u64), EstargzError> {
    let not_text = || EstargzError::NotText { path: printable(&entry.path) };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| not_text());
    let mut item = Item {
        name: text(&entry.path)?,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modtime: rfc3339(entry.mtime),
        ..Item::default()
    };
    if item.name.trim_start_matches("./").trim_matches('/') == TOC_NAME {
        return Err(EstargzError::Reserved);
    }
    for xattr in &entry.xattrs {
        let value = base64::engine::general_purpose::STANDARD.encode(&xattr.value);
        item.xattrs.insert(text(&xattr.name)?, value);
    }
    let mut bytes = 0;
    item.r#type = match &entry.kind {
        Kind::File { sparse: Some(_), .. } => return Err(EstargzError::Sparse { path: printable(&entry.path) }),
        Kind::File { size, sparse: None } => {
            (item.size, bytes) = (*size, *size);
            "reg"
        }
        Kind::HardLink { target } => {
            item.link_name = text(target)?;
            "hardlink"
        }
        Kind::Symlink { target } => {
            item.link_name = text(target)?;
            "symlink"
        }
        Kind::Directory => {
            // As it stands in the tar.
            item.name.push('/');
            "dir"
        }
        Kind::CharDevice { major, minor } => {
            (item.dev_major, item.dev_minor) = (*major, *minor);
            "char"
        }
        Kind::BlockDevice { major, minor } => {
            (item.dev_major, item.dev_minor) = (*major, *minor);
            "block"
        }
        Kind::Fifo => "fifo",
    };
    Ok((item, bytes))
}

/// UTC, to the second; empty for 1970 itself and for what no calendar has ("Empty means zero or unknown").
fn rfc3339(time: Time) -> String {
    if time.seconds == 0 {
        return String::new();
    }
    jiff::Timestamp::from_second(time.seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// A member on its way, and the row whose payload it begins with.
struct Flying {
    member: Packing,
    starts: Option<usize>,
}

/// Members going out in order, and the table growing.
struct Layout<W: Write> {
    out: Counted<W>,
    threads: usize,
    /// Of the table, and with one thread of everything.
    packer: Packer,
    workers: Option<Workers>,
    in_flight: VecDeque<Flying>,
    /// Memory to be used again.
    spare: Vec<Block>,
    rows: Vec<Item>,
    /// The row whose payload the member being filled begins with.
    begun: Option<usize>,
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

impl<W: Write> Layout<W> {
    fn new(out: W, level: u32, threads: usize, help: &Help) -> io::Result<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
        let workers = if threads > 1 { Some(Workers::start(threads, level, Members::One, help)?) } else { None };
        Ok(Self {
            out: Counted { out, bytes: 0 },
            threads,
            packer: Packer::new(level),
            workers,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            rows: Vec::new(),
            begun: None,
        })
    }

    /// A file's bytes, piece by piece, each at the beginning of a member.
    fn file<R: Read>(&mut self, item: Item, size: u64, tar: &mut TarReader<Tee<R>>) -> Result<(), EstargzError> {
        let (first, name) = (self.rows.len(), item.name.clone());
        let (mut item, mut done, mut whole) = (Some(item), 0, Sha256::new());
        let mut buffer = vec![0; 64 << 10];
        while done < size {
            self.seal(&mut tar.get_mut().passed)?;
            let want = (size - done).min(CHUNK_BYTES as u64);
            let mut digest = Sha256::new();
            let mut left = want;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let count = tar.read(&mut buffer[..most])?;
                if count == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                digest.update(&buffer[..count]);
                whole.update(&buffer[..count]);
                left -= count as u64;
            }
            let row = item.take().unwrap_or_else(|| Item { name: name.clone(), r#type: "chunk", ..Item::default() });
            let is_last = done + want == size;
            self.begun = Some(self.rows.len());
            self.rows.push(Item {
                chunk_offset: done,
                chunk_size: if is_last { 0 } else { want },
                chunk_digest: Some(Digest::from_bytes(digest.finalize().into())),
                ..row
            });
            done += want;
        }
        self.rows[first].digest = Some(Digest::from_bytes(whole.finalize().into()));
        Ok(())
    }

    /// What has passed becomes a member; nothing becomes none.
    fn seal(&mut self, passed: &mut Vec<u8>) -> io::Result<()> {
        if passed.is_empty() {
            return Ok(());
        }
        let mut block = self.spare.pop().unwrap_or_default();
        std::mem::swap(passed, &mut block.bytes);
        let starts = self.begun.take();
        match &self.workers {
            None => {
                block.pack(&mut self.packer, Members::One)?;
                self.emit(block, starts)
            }
            Some(workers) => {
                let member = workers.pack(block)?;
                self.in_flight.push_back(Flying { member, starts });
                self.drain(self.threads + 1)
            }
        }
    }

    fn drain(&mut self, in_flight_max: usize) -> io::Result<()> {
        while self.in_flight.len() > in_flight_max {
            let Some(Flying { member, starts }) = self.in_flight.pop_front() else { break };
            let block = member.recv().map_err(|_| io::Error::other("a compression thread ended early"))??;
            self.emit(block, starts)?;
        }
        Ok(())
    }

    fn emit(&mut self, mut block: Block, starts: Option<usize>) -> io::Result<()> {
        if let Some(row) = starts {
            self.rows[row].offset = self.out.bytes;
        }
        self.out.put(&block.packed)?;
        block.bytes.clear();
        self.spare.push(block);
        Ok(())
    }

    /// The table and the footer; the digest of the one, and how long it is as a tar.
    fn finish(mut self, whole: &mut Sha256) -> Result<(Digest, u64), EstargzError> {
        #[derive(Serialize)]
        struct Table {
            version: u32,
            entries: Vec<Item>,
        }
        self.drain(0)?;
        let table = Table { version: 1, entries: std::mem::take(&mut self.rows) };
        let json = serde_json::to_vec(&table).expect("rows hold nothing that JSON cannot say");
        drop(table);
        let entry = Entry {
            path: TOC_NAME.into(),
            kind: Kind::File { size: json.len() as u64, sparse: None },
            mode: 0o444,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        };
        let mut tar = TarWriter::new(Vec::with_capacity(json.len() + 4096));
        tar.begin(&entry)?;
        tar.write_all(&json)?;
        let (bytes, table_bytes) = tar.finish()?;
        whole.update(&bytes);
        let starts_at = self.out.bytes;
        let mut block = Block { bytes, packed: Vec::new() };
        block.pack(&mut self.packer, Members::One)?;
        self.emit(block, None)?;
        self.out.put(&footer(starts_at))?;
        self.out.out.flush()?;
        Ok((Digest::of(&json), table_bytes))
    }
}

/// "Footer".
fn footer(toc_at: u64) -> Vec<u8> {
    let mut place = String::new();
    write!(place, "{toc_at:016x}STARGZ").expect("writing to a String cannot fail");
    [&FOOTER_HEAD[..], place.as_bytes(), &FOOTER_TAIL].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// A tar with every kind of member, a file of several pieces among them.
    fn sample() -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        let mut state = 1u64;
        let mut noise = |size: usize| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            (0..size).map(|at| if at / 3000 % 2 == 0 { b'x' } else { next() }).collect()
        };
        let mut put = |path: &str, kind: Kind, bytes: &[u8]| {
            let xattrs = if path == "dir/cap" {
                vec![super::super::tar::Xattr { name: b"security.capability".to_vec(), value: vec![1, 0, 10, 255] }]
            } else {
                Vec::new()
            };
            let mtime = Time::at(if path == "dir" { 0 } else { 1_600_000_000 });
            tar.begin(&Entry { path: path.into(), kind, mode: 0o4755, uid: 5, gid: 6, mtime, xattrs }).unwrap();
            tar.write_all(bytes).unwrap();
        };
        let mut file = |path: &str, size: usize| {
            put(path, Kind::File { size: size as u64, sparse: None }, &noise(size));
        };
        file("empty", 0);
        file("small", 10);
        file("whole", CHUNK_BYTES);
        file("large", 2 * CHUNK_BYTES + 12345);
        put("dir", Kind::Directory, b"");
        put("dir/link", Kind::Symlink { target: b"../small".to_vec() }, b"");
        put("dir/same", Kind::HardLink { target: b"small".to_vec() }, b"");
        put("dir/null", Kind::CharDevice { major: 1, minor: 3 }, b"");
        put("dir/pipe", Kind::Fifo, b"");
        put("dir/cap", Kind::File { size: 3, sparse: None }, b"cap");
        put("dir/.wh.gone", Kind::File { size: 0, sparse: None }, b"");
        tar.finish().unwrap().0
    }

    fn estargz(tar: &[u8], level: u32, threads: usize) -> (Vec<u8>, Facts) {
        let mut out = Vec::new();
        let facts = write(tar, level, threads, &Help::default(), &mut out).unwrap();
        (out, facts)
    }

    fn gunzip_all(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    /// The bytes of one member, and only of that.
    fn gunzip_one(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    /// Reads a layer by its footer and table alone, by the words of the document, and gives the bytes of every file.
    fn read_by_table(blob: &[u8], facts: &Facts) -> BTreeMap<String, Vec<u8>> {
        let footer = &blob[blob.len() - 51..];
        assert_eq!(&footer[..4], &[0x1f, 0x8b, 8, 4]);
        assert_eq!(&footer[10..16], &[26, 0, b'S', b'G', 22, 0]);
        assert_eq!(&footer[32..38], b"STARGZ");
        assert_eq!(gunzip_one(footer), b"");
        let at = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
        let table = gunzip_one(&blob[at..blob.len() - 51]);
        assert_eq!(&table[..TOC_NAME.len() + 1], b"stargz.index.json\0");
        let size = usize::from_str_radix(std::str::from_utf8(&table[124..135]).unwrap(), 8).unwrap();
        let json = &table[512..512 + size];
        assert_eq!(Digest::of(json), facts.toc);
        assert!(table[512 + size..].iter().all(|byte| *byte == 0));
        let table: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(table["version"], 1);
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for row in table["entries"].as_array().unwrap() {
            let name = row["name"].as_str().unwrap().to_owned();
            let number = |key: &str| row[key].as_u64().unwrap_or(0) as usize;
            match row["type"].as_str().unwrap() {
                "reg" if number("size") == 0 => drop(files.insert(name, Vec::new())),
                "reg" | "chunk" => {
                    let file = files.entry(name).or_default();
                    assert_eq!(file.len(), number("chunkOffset"));
                    let whole = gunzip_one(&blob[number("offset")..]);
                    let size = table["entries"].as_array().unwrap().iter();
                    let size = size.filter(|other| other["name"] == row["name"]).map(|other| &other["size"]);
                    let size = size.filter_map(Value::as_u64).next().unwrap() as usize;
                    let bytes = match number("chunkSize") {
                        0 => &whole[..size - file.len()],
                        piece => &whole[..piece],
                    };
                    assert_eq!(row["chunkDigest"], Digest::of(bytes).to_string());
                    file.extend_from_slice(bytes);
                }
                _ => {}
            }
        }
        for row in table["entries"].as_array().unwrap().iter().filter(|row| row["digest"].is_string()) {
            assert_eq!(row["digest"], Digest::of(&files[row["name"].as_str().unwrap()]).to_string());
        }
        files
    }

    #[test]
    fn it_is_the_same_tar_with_a_table_behind_it_by_which_every_file_is_found() {
        let tar = sample();
        let (blob, facts) = estargz(&tar, 6, 2);
        let plain = gunzip_all(&blob);
        assert_eq!(&plain[..tar.len()], &tar[..], "the tar is unchanged");
        assert_eq!((facts.tar, facts.tar_bytes), (DiffId(Digest::of(&tar)), tar.len() as u64));
        assert_eq!((facts.diff_id, facts.uncompressed_bytes), (DiffId(Digest::of(&plain)), plain.len() as u64));
        let files = read_by_table(&blob, &facts);
        let mut expected = BTreeMap::new();
        let mut reader = TarReader::new(&tar[..], Limits::default(), EndMarker::Required);
        while let Some(entry) = reader.next().unwrap() {
            if matches!(entry.kind, Kind::File { .. }) {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                expected.insert(String::from_utf8(entry.path).unwrap(), bytes);
            }
        }
        assert!(files == expected);
        assert!(files["large"].len() > 2 * CHUNK_BYTES);
    }

    #[test]
    fn bytes_depend_on_tar_and_level_alone() {
        let tar = sample();
        let (one, _) = estargz(&tar, 6, 1);
        for threads in [2, 8] {
            assert!(estargz(&tar, 6, threads).0 == one, "{threads} threads");
        }
        assert!(estargz(&tar, 9, 2).0 != one);
        let empty = TarWriter::new(Vec::new()).finish().unwrap().0;
        assert!(gunzip_all(&estargz(&empty, 6, 1).0).starts_with(&empty));
    }

    #[test]
    fn what_the_table_cannot_say_is_refused() {
        let check = |path: &[u8], kind: Kind, expected: &str| {
            let mut tar = TarWriter::new(Vec::new());
            let entry =
                Entry { path: path.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime: Time::default(), xattrs: vec![] };
            tar.begin(&entry).unwrap();
            let tar = tar.finish().unwrap().0;
            let error = write(&tar[..], 6, 1, &Help::default(), io::sink()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let empty = || Kind::File { size: 0, sparse: None };
        check(b"./stargz.index.json", empty(), "eStargz's own table");
        check(b"caf\xe9", empty(), "not UTF-8");
        check(b"link", Kind::Symlink { target: b"caf\xe9".to_vec() }, "not UTF-8");
    }
}
