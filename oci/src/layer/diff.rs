//! A tree becomes a tar.
//!
//! [`write_layer`] takes a directory in overlayfs form and writes an image layer (image-spec layer.md): a character
//! device 0:0 becomes the whiteout `.wh.<name>`, a directory marked opaque gets a `.wh..wh..opq`, what overlayfs noted
//! for itself is left out. In every directory the opaque mark comes first, then the whiteouts, then the rest by name.
//! [`write_tree`] writes a plain tree as it is, for `-o type=tar`. The same tree gives the same bytes, whatever the
//! machine: names are sorted, owners are numbers, times are whole seconds.
//!
//! Regular files with several names become hard links to the first of them. Holes are read as zeros without touching
//! the disk. Sockets mean nothing without their process and are skipped. Deliberately absent: compression and digests
//! (see [`super::encode`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, major, minor, openat, readlinkat, seek};
use rustix::io::Errno;

use super::error::{LayerError, shown};
use super::tar::{Entry, Kind, TarWriter, Time, Xattr, printable};
use super::walk::{self, Visit, is_whiteout};
use super::xattr::{self, Of, XattrNamespace};
use super::{OPAQUE_NAME, WHITEOUT_PREFIX};

/// How a tree is written.
#[derive(Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// The modification time that is written for a file's own (seconds since 1970, nanoseconds), in seconds:
    /// `SOURCE_DATE_EPOCH`. `None` writes the file's own. The same time must always give the same.
    pub mtime: Option<&'a dyn Fn(i64, i64) -> i64>,
    /// Whether the root has an entry even if it is an ordinary one: the layer made it so, over one that was not.
    pub root_entry: bool,
    /// A directory of the archive that everything lies in, root included; empty is the archive itself.
    pub beneath: &'a [u8],
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerFacts {
    /// Members of the archive.
    pub entries: u64,
    /// Length of the archive in bytes.
    pub bytes: u64,
    /// Sockets that were left out.
    pub sockets_skipped: u64,
}

/// Writes a directory in overlayfs form as an image layer. A file whose name begins with `.wh.` is an error.
pub fn write_layer(tree: BorrowedFd<'_>, out: &mut dyn Write) -> Result<LayerFacts, LayerError> {
    write_layer_with(tree, WriteOptions::default(), out)
}

/// [`write_layer`], with options.
pub fn write_layer_with(
    tree: BorrowedFd<'_>,
    options: WriteOptions<'_>,
    out: &mut dyn Write,
) -> Result<LayerFacts, LayerError> {
    Writer::new(Form::Overlay, options, out).write(tree)
}

/// Writes a plain tree as it is.
pub fn write_tree(root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<LayerFacts, LayerError> {
    write_trees([(root, WriteOptions::default())], out)
}

/// [`write_tree`] of several trees behind each other in one archive, each with its options. No file of one becomes a link
/// to one of another.
pub fn write_trees<'a>(
    trees: impl IntoIterator<Item = (BorrowedFd<'a>, WriteOptions<'a>)>,
    out: &'a mut dyn Write,
) -> Result<LayerFacts, LayerError> {
    let mut writer = Writer::new(Form::Plain, WriteOptions::default(), out);
    for (root, options) in trees {
        writer.options = options;
        writer.links.clear();
        writer.tree(root)?;
    }
    writer.finish()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Overlay,
    Plain,
}

struct Writer<'a> {
    form: Form,
    options: WriteOptions<'a>,
    tar: TarWriter<BufWriter<&'a mut dyn Write>>,
    /// (device, inode) of files with several names, and the first of these.
    links: HashMap<(u64, u64), Vec<u8>>,
    facts: LayerFacts,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(form: Form, options: WriteOptions<'a>, out: &'a mut dyn Write) -> Self {
        Self {
            form,
            options,
            tar: TarWriter::new(BufWriter::with_capacity(COPY_BYTES, out)),
            links: HashMap::new(),
            facts: LayerFacts::default(),
            buffer: vec![0; COPY_BYTES],
        }
    }

    fn write(mut self, tree: BorrowedFd<'_>) -> Result<LayerFacts, LayerError> {
        self.tree(tree)?;
        self.finish()
    }

    fn tree(&mut self, tree: BorrowedFd<'_>) -> Result<(), LayerError> {
        let root = walk::open_root(tree)?;
        self.root(root.as_fd())?;
        walk::walk(root.as_fd(), self.form == Form::Overlay, |visit| self.file(&visit))
    }

    fn finish(self) -> Result<LayerFacts, LayerError> {
        let (_, bytes) = self.tar.finish()?;
        Ok(LayerFacts { bytes, ..self.facts })
    }

    /// The root has an entry only if it is not what everyone takes for granted: 0755, root's, without xattrs; or if it
    /// is asked for. So the usual layer says nothing about it, as others' layers do, and an unusual root is not lost.
    fn root(&mut self, root: BorrowedFd<'_>) -> Result<(), LayerError> {
        let stat = fstat(root).map_err(LayerError::io("examine", b""))?;
        let xattrs = xattr::read(Of::Open(root)).map_err(LayerError::stdio("read the xattrs of", b""))?;
        let usual = stat.st_mode & 0o7777 == 0o755 && stat.st_uid == 0 && stat.st_gid == 0 && xattrs.is_empty();
        if !usual || self.options.root_entry || !self.options.beneath.is_empty() {
            let entry = self.entry(b".", &stat, Kind::Directory, xattrs);
            self.begin(&entry)?;
        }
        self.opaque_mark(root, b"")
    }

    fn file(&mut self, visit: &Visit<'_>) -> Result<(), LayerError> {
        let Visit { dir, name, path, ref stat } = *visit;
        if self.form == Form::Overlay {
            if is_whiteout(stat) {
                let parent = &path[..path.len() - name.len()];
                return self.mark(&[parent, WHITEOUT_PREFIX, name].concat());
            }
            if name.starts_with(WHITEOUT_PREFIX) {
                return Err(LayerError::ReservedName { path: printable(path) });
            }
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.regular(visit),
            FileType::Directory => return self.directory(visit),
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(LayerError::io("read the link", path))?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::CharacterDevice => Kind::CharDevice { major: major(stat.st_rdev), minor: minor(stat.st_rdev) },
            FileType::BlockDevice => Kind::BlockDevice { major: major(stat.st_rdev), minor: minor(stat.st_rdev) },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => {
                tracing::debug!(path = %printable(path), "a socket is left out of the archive");
                self.facts.sockets_skipped += 1;
                return Ok(());
            }
        };
        let xattrs = xattr::read(Of::Named(dir, name)).map_err(LayerError::stdio("read the xattrs of", path))?;
        let entry = self.entry(path, stat, kind, xattrs);
        self.begin(&entry)
    }

    fn directory(&mut self, visit: &Visit<'_>) -> Result<(), LayerError> {
        let path = visit.path;
        let fd = openat(visit.dir, visit.name, walk::DIRECTORY, Mode::empty()).map_err(LayerError::io("open", path))?;
        let xattrs = xattr::read(Of::Open(fd.as_fd())).map_err(LayerError::stdio("read the xattrs of", path))?;
        let entry = self.entry(path, &visit.stat, Kind::Directory, xattrs);
        self.begin(&entry)?;
        self.opaque_mark(fd.as_fd(), path)
    }

    fn opaque_mark(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        if self.form == Form::Plain {
            return Ok(());
        }
        const EITHER: [XattrNamespace; 2] = [XattrNamespace::Trusted, XattrNamespace::User];
        if !xattr::is_opaque(dir, &EITHER).map_err(LayerError::stdio("read the xattrs of", path))? {
            return Ok(());
        }
        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
        self.mark(&[path, slash, OPAQUE_NAME].concat())
    }

    fn regular(&mut self, visit: &Visit<'_>) -> Result<(), LayerError> {
        let Visit { dir, name, path, ref stat } = *visit;
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&identity)
        {
            let kind = Kind::HardLink { target: self.placed(first) };
            let entry = self.entry(path, stat, kind, Vec::new());
            return self.begin(&entry);
        }
        // A pipe in its place would block without NONBLOCK.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::empty()).map_err(LayerError::io("open", path))?;
        let stat = fstat(&file).map_err(LayerError::io("examine", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(LayerError::Changed { path: shown(path) });
        }
        if stat.st_nlink > 1 {
            self.links.insert(identity, path.to_vec());
        }
        let xattrs = xattr::read(Of::Open(file.as_fd())).map_err(LayerError::stdio("read the xattrs of", path))?;
        let size = stat.st_size as u64;
        let entry = self.entry(path, &stat, Kind::File { size, sparse: None }, xattrs);
        self.begin(&entry)?;
        let sparse = (stat.st_blocks as u64).saturating_mul(512) < size;
        self.data(File::from(file), size, sparse, path)
    }

    /// Streams `size` bytes of a file into the archive; where a sparse file has holes, zeros that are not read.
    fn data(&mut self, mut file: File, size: u64, sparse: bool, path: &[u8]) -> Result<(), LayerError> {
        let mut at = 0;
        while at < size {
            let (data_at, data_end) =
                if sparse { next_data(&file, at, size).map_err(LayerError::io("read", path))? } else { (at, size) };
            let hole = data_at - at;
            io::copy(&mut io::repeat(0).take(hole), &mut self.tar).map_err(|source| LayerError::Output { source })?;
            let mut left = data_end - data_at;
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let count = match file.read(&mut self.buffer[..wanted]) {
                    Ok(0) => return Err(LayerError::Changed { path: shown(path) }),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(LayerError::stdio("read", path)(error)),
                };
                self.tar.write_all(&self.buffer[..count]).map_err(|source| LayerError::Output { source })?;
                left -= count as u64;
            }
            if data_end == at {
                return Err(LayerError::Changed { path: shown(path) });
            }
            at = data_end;
        }
        Ok(())
    }

    /// An empty file that says something by its name. Its owner, mode and time say nothing and are always the same.
    fn mark(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.begin(&Entry {
            path: self.placed(path),
            kind: Kind::File { size: 0, sparse: None },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        })
    }

    // The types of times differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn entry(&self, path: &[u8], stat: &Stat, kind: Kind, xattrs: Vec<Xattr>) -> Entry {
        let (seconds, nanoseconds) = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
        Entry {
            path: self.placed(path),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time::at(self.options.mtime.map_or(seconds, |mtime| mtime(seconds, nanoseconds))),
            xattrs,
        }
    }

    /// A path as the archive has it.
    fn placed(&self, path: &[u8]) -> Vec<u8> {
        match self.options.beneath {
            b"" => path.to_vec(),
            beneath if path == b"." => beneath.to_vec(),
            beneath => [beneath, b"/", path].concat(),
        }
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.facts.entries += 1;
        Ok(self.tar.begin(entry)?)
    }
}

/// One read of a file.
const COPY_BYTES: usize = 128 * 1024;

/// Where the next data of a file begin and end, at or after `at`; the file stands at their beginning then.
fn next_data(file: &File, at: u64, size: u64) -> Result<(u64, u64), Errno> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        // A hole up to the end.
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that cannot say: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            seek(file, SeekFrom::Start(at))?;
            return Ok((at, size));
        }
        Err(errno) => return Err(errno),
    };
    let end = seek(file, SeekFrom::Hole(data))?.min(size);
    seek(file, SeekFrom::Start(data))?;
    Ok((data, end.max(data)))
}
