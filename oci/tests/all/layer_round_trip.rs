//! A tree that goes through a layer comes out the same.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use rbuild_oci::layer::{
    Codec, Compression, WriteOptions, decompress, encode, write_layer, write_layer_with, write_tree,
};
use rbuild_oci::model::{DiffId, Digest};
use rustix::fs::FileType;

use crate::support::{Tree, applied, layer_of};

/// `cap_net_raw+ep`, version 2: what setcap writes. It holds NULs, and its fifth byte is made a newline here.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 10, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of everything that a layer can hold.
pub fn menagerie() -> Tree {
    let tree = Tree::new();
    tree.file("bin/su", b"#!/bin/su").owner("bin/su", 0, 5).mode("bin/su", 0o6755);
    tree.file("bin/ping", b"ping").mode("bin/ping", 0o755).xattr("bin/ping", "security.capability", CAPABILITY);
    tree.file("empty", b"").mode("empty", 0o000).mtime("empty", 0);
    tree.file("owned", b"o").owner("owned", 4_000_000_000, 2_097_152).mode("owned", 0o640);
    tree.dir("tmp").mode("tmp", 0o1777);
    tree.file("a/one", b"shared").hard("a/two", "a/one").dir("z").hard("z/three", "a/one");
    tree.link("absolute", "/etc/passwd").link("dangling", "../../nowhere").link("a/up", "..");
    tree.link("owned-link", "x").owner("owned-link", 7, 8);
    tree.link(&"l".repeat(200), &"t/".repeat(300));
    tree.node("null", FileType::CharacterDevice, (1, 3)).mode("null", 0o666);
    tree.node("disk", FileType::BlockDevice, (259, 1_000_000)).mode("disk", 0o660);
    tree.node("pipe", FileType::Fifo, (0, 0)).mode("pipe", 0o622);
    tree.file("attr", b"x").xattr("attr", "user.lines", b"a\nb=\n\0c\n").xattr("attr", "user.empty", b"");
    tree.xattr("attr", "trusted.note", &[0xff; 2_000]);
    tree.dir("attrs").xattr("attrs", "user.dir", b"d");
    tree.link("attr-link", "attr").xattr("attr-link", "trusted.link", b"l");
    for name in [
        b"latin-\xe9".as_slice(),
        b"new\nline",
        b"tab\t",
        b"back\\slash",
        b"-leading",
        b"trailing ",
        b"\xf0\x9f\x90\x8b",
        b"nfc-\xc3\xa9",
        b"nfd-e\xcc\x81",
        b"Case",
        b"case",
        b"=equals",
        b"wh.harmless",
        b" ",
    ] {
        tree.file(std::ffi::OsStr::from_bytes(name), name);
    }
    let long = format!("{}/{}/{}", "p".repeat(80), "q".repeat(70), "r".repeat(90));
    let longer = format!("{}/{}", "s".repeat(200), "u".repeat(255));
    tree.file(&long, b"fits prefix").file(&longer, b"needs pax").dir(&"d".repeat(99)).dir(&"e".repeat(100));
    tree.file(format!("{}/x", "f".repeat(155)), b"");
    for (name, seconds) in [("t-before", -1), ("t-2038", 1 << 31), ("t-2242", (1 << 33) + 5), ("t-now", 1_700_000_000)]
    {
        tree.file(name, b"t").mtime(name, seconds);
    }
    // A directory's time is that of its last change, not of the unpacking.
    tree.mtime("a", 1_000_000).mtime("z", -1_000_000).mtime("attrs", 1_234_567_890);
    tree
}

#[test]
fn every_kind_of_file_survives() {
    let tree = menagerie();
    let tar = layer_of(&tree);
    let back = applied(&tar, &[]);
    assert_eq!(tree.describe(), back.describe());
    assert!(layer_of(&back) == tar, "the same tree gives the same bytes");
}

#[test]
fn an_unusual_root_survives_and_a_usual_one_is_not_mentioned() {
    let tree = Tree::new();
    tree.file("f", b"");
    assert!(!names(&layer_of(&tree)).contains(&"./".to_owned()));
    tree.mode(".", 0o1700).owner(".", 1, 2).xattr(".", "user.root", b"r").mtime(".", 77);
    let back = applied(&layer_of(&tree), &[]);
    let stat = std::fs::metadata(back.path()).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime()), (0o1700, 1, 2, 77));
    assert_eq!(crate::support::xattrs(back.path())["user.root"], b"r");
}

#[test]
fn times_are_whole_seconds_and_can_be_others() {
    let tree = Tree::new();
    tree.file("old", b"").mtime("old", 100).file("new", b"").mtime("new", 2_000_000_000);
    let mut tar = Vec::new();
    let mtime = |seconds: i64, _nanoseconds: i64| seconds.min(1000);
    write_layer_with(tree.fd().as_fd(), WriteOptions { mtime: Some(&mtime), ..WriteOptions::default() }, &mut tar)
        .unwrap();
    let back = applied(&tar, &[]);
    let time = |name: &str| std::fs::metadata(back.at(name)).unwrap().mtime();
    assert_eq!((time("old"), time("new")), (100, 1000));
}

#[test]
fn holes_survive_without_being_read_or_written() {
    let tree = Tree::new();
    let file = std::fs::File::create(tree.at("holes")).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 40 << 20).unwrap();
    file.set_len(80 << 20).unwrap();
    let tar = layer_of(&tree);
    assert!(tar.len() > 80 << 20);
    let back = applied(&tar, &[]);
    assert_eq!(tree.describe(), back.describe());
    let blocks = std::fs::metadata(back.at("holes")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
}

#[test]
fn depth_and_length_of_paths_have_no_limit() {
    let tree = Tree::new();
    // Longer names make the archive long, for every member holds its whole path: 2,000 of them 10 MB like this.
    let name = "name";
    let mut dir: std::os::fd::OwnedFd = tree.fd();
    for level in 0..2000 {
        rustix::fs::mkdirat(&dir, name, 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, name, flags, rustix::fs::Mode::empty()).unwrap();
        if level % 500 == 499 {
            rustix::fs::openat(&dir, "leaf", rustix::fs::OFlags::CREATE, 0o644.into()).unwrap();
        }
    }
    let tar = layer_of(&tree);
    assert_eq!(names(&tar).len(), 2004);
    let back = applied(&tar, &[]);
    assert!(layer_of(&back) == tar);
}

#[test]
fn a_socket_is_skipped_and_counted() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.at("s")).unwrap();
    tree.file("t", b"");
    let mut tar = Vec::new();
    let facts = write_layer(tree.fd().as_fd(), &mut tar).unwrap();
    assert_eq!((facts.sockets_skipped, names(&tar)), (1, vec!["t".to_owned()]));
}

#[test]
fn encoding_names_every_digest_and_all_codecs_hold_the_same_tar() {
    let tree = menagerie();
    let tar = layer_of(&tree);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut blob = Vec::new();
        let layer = encode(tree.fd().as_fd(), &Codec::new(compression), &mut blob).unwrap();
        assert_eq!(layer.diff_id, DiffId(Digest::of(&tar)));
        assert_eq!((layer.digest, layer.size), (Digest::of(&blob), blob.len() as u64));
        assert_eq!(layer.tar_bytes, tar.len() as u64);
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut decompress(&blob[..]).unwrap().1, &mut back).unwrap();
        assert!(back == tar, "{compression}");
    }
}

#[test]
fn a_plain_tree_is_written_as_it_is() {
    let tree = Tree::new();
    tree.file(".wh.file", b"content").file("d/x", b"").mtime("d", 5).mtime("d/x", 5).mtime(".wh.file", 5);
    let mut tar = Vec::new();
    write_tree(tree.fd().as_fd(), &mut tar).unwrap();
    assert_eq!(names(&tar), [".wh.file", "d/", "d/x"]);
    let error = write_layer(tree.fd().as_fd(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("`.wh.file` cannot be in an image layer"), "{error}");
}

pub fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries.map(|entry| entry.unwrap().path_bytes().escape_ascii().to_string()).collect()
}
