//! Trees that are made, described and compared, and archives made by hand.

#[path = "../support/raw_tar.rs"]
mod raw_tar;

pub use raw_tar::{RawHeader, RawTar, record};

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rbuild_oci::layer::{ApplyFacts, ApplyOptions, LayerError, XattrNamespace, apply_layer, write_layer};
use rbuild_oci::model::Digest;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat};

/// A directory that vanishes with its value.
pub struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { root }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn at(&self, path: impl AsRef<OsStr>) -> PathBuf {
        self.root.path().join(Path::new(path.as_ref()))
    }

    pub fn fd(&self) -> OwnedFd {
        File::open(self.root.path()).unwrap().into()
    }

    pub fn dir(&self, path: &str) -> &Self {
        fs::create_dir_all(self.at(path)).unwrap();
        self
    }

    pub fn file(&self, path: impl AsRef<OsStr>, content: &[u8]) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.at(path)).unwrap();
        self
    }

    pub fn hard(&self, path: &str, target: &str) -> &Self {
        fs::hard_link(self.at(target), self.at(path)).unwrap();
        self
    }

    pub fn node(&self, path: &str, kind: FileType, device: (u32, u32)) -> &Self {
        mknodat(CWD, self.at(path), kind, Mode::from_raw_mode(0o600), makedev(device.0, device.1)).unwrap();
        self
    }

    pub fn whiteout(&self, path: &str) -> &Self {
        self.node(path, FileType::CharacterDevice, (0, 0))
    }

    pub fn xattr(&self, path: &str, name: &str, value: &[u8]) -> &Self {
        rustix::fs::lsetxattr(self.at(path), name, value, XattrFlags::empty()).unwrap();
        self
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.at(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    pub fn owner(&self, path: &str, uid: u32, gid: u32) -> &Self {
        std::os::unix::fs::lchown(self.at(path), Some(uid), Some(gid)).unwrap();
        self
    }

    pub fn mtime(&self, path: &str, seconds: i64) -> &Self {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, self.at(path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        self
    }

    /// Every file beneath, one line each: kind, mode, owner, time in whole seconds, content, names of the same inode,
    /// xattrs.
    pub fn describe(&self) -> BTreeMap<String, String> {
        describe(self.path())
    }
}

pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let (mut lines, mut inodes) = (BTreeMap::new(), HashMap::new());
    describe_into(root, root, &mut lines, &mut inodes);
    lines
}

fn describe_into(root: &Path, dir: &Path, lines: &mut BTreeMap<String, String>, inodes: &mut HashMap<u64, String>) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_file() {
            format!("{} bytes {}", stat.len(), &Digest::of(&fs::read(&path).unwrap()).hex()[..8])
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().as_os_str().as_bytes().escape_ascii())
        } else if kind.is_char_device() || kind.is_block_device() {
            let letter = if kind.is_char_device() { 'c' } else { 'b' };
            format!("{letter} {}:{}", rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()))
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else if kind.is_socket() {
            "socket".to_owned()
        } else {
            "dir".to_owned()
        };
        let mut line = format!("{content} {:o} {}:{} @{}", stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime());
        if kind.is_file() && stat.nlink() > 1 {
            let first = inodes.entry(stat.ino()).or_insert_with(|| name.clone());
            line += &format!(" ={first}");
        }
        for (xattr, value) in xattrs(&path) {
            line += &format!(" {xattr}={}", value.escape_ascii());
        }
        lines.insert(name, line);
        if kind.is_dir() {
            describe_into(root, &path, lines, inodes);
        }
    }
}

pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

pub fn layer_of(tree: &Tree) -> Vec<u8> {
    let mut tar = Vec::new();
    let facts = write_layer(tree.fd().as_fd(), &mut tar).unwrap();
    assert_eq!(facts.bytes, tar.len() as u64);
    tar
}

pub fn apply_on(tar: &[u8], into: &Tree, parents: &[&Tree]) -> Result<ApplyFacts, LayerError> {
    let fds: Vec<OwnedFd> = parents.iter().map(|tree| tree.fd()).collect();
    let parents: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    apply_layer(tar, into.fd().as_fd(), &parents, &ApplyOptions::new(XattrNamespace::Trusted))
}

pub fn applied(tar: &[u8], parents: &[&Tree]) -> Tree {
    let into = Tree::new();
    apply_on(tar, &into, parents).unwrap();
    into
}

/// Runs a program with bytes on its standard input and returns its standard output.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that stops reading early makes this fail; its exit status tells.
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
