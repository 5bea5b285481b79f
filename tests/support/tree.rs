//! A file tree as text, everything about it that an image keeps: one entry a line, sorted, to be compared.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::archive;

/// Lists what is below `root`, itself excluded:
/// `path kind mode uid:gid mtime [size sha256-prefix | -> target | major:minor] [= first name] [name=hex…]`.
/// Directories' times are left out: making an entry changes them.
#[track_caller]
pub fn list(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut first_names = HashMap::new();
    walk(root, root, &mut first_names, &mut lines);
    lines.join("\n")
}

fn walk(root: &Path, dir: &Path, first_names: &mut HashMap<(u64, u64), String>, lines: &mut Vec<String>) {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{dir:?}: {error}"))
        .map(|entry| entry.expect("the directory can be read").file_name())
        .collect();
    names.sort();
    for name in names {
        let path = dir.join(name);
        let meta = path.symlink_metadata().unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let shown = path.strip_prefix(root).expect("it is below").as_os_str().as_bytes().escape_ascii().to_string();
        let mut line = format!("{shown} {}", describe(&path, &meta));
        if meta.nlink() > 1 && !meta.is_dir() {
            let first = first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| shown.clone());
            if *first != shown {
                write!(line, " = {first}").expect("a string takes everything");
            }
        }
        line += &xattrs(&path);
        lines.push(line);
        if meta.is_dir() {
            walk(root, &path, first_names, lines);
        }
    }
}

fn describe(path: &Path, meta: &Metadata) -> String {
    let kind = meta.file_type();
    let facts = format!("{:04o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
    let time = meta.mtime();
    if kind.is_dir() {
        return format!("d {facts}");
    }
    if kind.is_symlink() {
        let target = std::fs::read_link(path).expect("it is a link");
        return format!("l {}:{} {time} -> {}", meta.uid(), meta.gid(), target.as_os_str().as_bytes().escape_ascii());
    }
    if kind.is_char_device() || kind.is_block_device() {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        return format!("{letter} {facts} {time} {major}:{minor}");
    }
    if kind.is_fifo() {
        return format!("p {facts} {time}");
    }
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    format!("- {facts} {time} {} {}", bytes.len(), &archive::hex(&bytes)[..12])
}

/// Extended attributes but those of the security modules of this machine, sorted.
fn xattrs(path: &Path) -> String {
    let mut names = vec![0u8; 64 * 1024];
    let size = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(size) => size,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => panic!("{path:?}: {error}"),
    };
    let mut found: Vec<String> = names[..size]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| {
            let mut value = vec![0u8; 64 * 1024];
            let size = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("it was just listed");
            format!(" {}={}", name.escape_ascii(), value[..size].iter().map(|b| format!("{b:02x}")).collect::<String>())
        })
        .collect();
    found.sort();
    found.concat()
}
