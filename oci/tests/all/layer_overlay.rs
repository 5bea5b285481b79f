//! Whiteouts, opaque directories, and what a layer takes from the layers beneath.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rbuild_oci::layer::{ApplyOptions, XattrNamespace, apply_layer};

use crate::layer_round_trip::names;
use crate::support::{RawTar, Tree, applied, apply_on, layer_of, xattrs};

const OPAQUE: &str = "trusted.overlay.opaque";

/// name and first word of the description, `!` for a whiteout, `*` for an opaque directory.
fn shape(tree: &Tree) -> Vec<String> {
    tree.describe()
        .iter()
        .map(|(name, line)| match line {
            line if line.starts_with("c 0:0") => format!("!{name}"),
            line if line.contains("trusted.overlay.opaque=y") => format!("*{name}"),
            line if line.contains(" bytes ") => format!("{name}={}", line.split(' ').next().unwrap()),
            _ => name.clone(),
        })
        .collect()
}

#[test]
fn whiteouts_and_opaque_marks_are_written_before_their_siblings() {
    let tree = Tree::new();
    tree.file("a", b"").whiteout("gone").whiteout("z").dir("d").file("d/new", b"").whiteout("d/old");
    tree.xattr("d", OPAQUE, b"y").dir("plain").xattr("plain", OPAQUE, b"x").xattr("plain", "user.overlay.origin", b"o");
    let tar = layer_of(&tree);
    assert_eq!(names(&tar), [".wh.gone", ".wh.z", "a", "d/", "d/.wh..wh..opq", "d/.wh.old", "d/new", "plain/"]);
    let text = String::from_utf8_lossy(&tar);
    assert!(!text.contains("overlay"), "overlayfs's own xattrs stay at home");
}

#[test]
fn machine_labels_and_foreign_xattrs_stay_at_home() {
    let tree = Tree::new();
    tree.file("f", b"").xattr("f", "user.kept", b"k").xattr("f", "trusted.overlay.redirect", b"/etc");
    tree.xattr("f", "user.overlay.metacopy", b"");
    let back = applied(&layer_of(&tree), &[]);
    assert_eq!(xattrs(&back.at("f")).into_keys().collect::<Vec<_>>(), ["user.kept"]);
}

fn base() -> Tree {
    let base = Tree::new();
    base.file("etc/passwd", b"root").mode("etc", 0o751).owner("etc", 3, 4).xattr("etc", "user.e", b"e");
    base.file("d/one", b"1").file("d/two", b"2").file("d/sub/deep", b"3").file("f", b"f");
    base.dir("usr/lib").file("usr/lib/libc", b"c").link("lib", "/usr/lib").mtime("etc", 12345);
    base
}

#[track_caller]
fn check(tar: Vec<u8>, want: &[&str]) -> Tree {
    let base = base();
    let before = base.describe();
    let layer = applied(&tar, &[&base]);
    assert_eq!(shape(&layer), want);
    assert_eq!(base.describe(), before, "the trees beneath are only read");
    layer
}

#[test]
fn deletions_become_what_overlayfs_understands() {
    check(RawTar::default().file(b".wh.f", b"").end(), &["!f"]);
    check(RawTar::default().file(b"d/.wh.one", b"").end(), &["d", "!d/one"]);
    check(RawTar::default().file(b"d/.wh..wh..opq", b"").end(), &["*d"]);
    // Any order of the mark and what the layer adds.
    let new = |tar: &mut RawTar| tar.file(b"d/new", b"n").end();
    check(new(RawTar::default().file(b"d/.wh..wh..opq", b"")), &["*d", "d/new=1"]);
    check(RawTar::default().file(b"d/new", b"n").file(b"d/.wh..wh..opq", b"").end(), &["*d", "d/new=1"]);
    // A whiteout hides what lies beneath, never what the same layer brings.
    check(RawTar::default().file(b".wh.f", b"").file(b"f", b"ab").end(), &["f=2"]);
    check(RawTar::default().file(b"f", b"ab").file(b".wh.f", b"").end(), &["f=2"]);
    check(RawTar::default().file(b".wh.d", b"").file(b"d/new", b"n").end(), &["*d", "d/new=1"]);
    check(RawTar::default().file(b"d/new", b"n").file(b".wh.d", b"").end(), &["*d", "d/new=1"]);
    check(RawTar::default().file(b".wh.d", b"").member(b"d/", b'5', b"").end(), &["*d"]);
    // What hides nothing leaves no trace.
    check(RawTar::default().file(b".wh.absent", b"").file(b"d/.wh.absent", b"").end(), &["d"]);
    check(RawTar::default().member(b"fresh/", b'5', b"").file(b"fresh/.wh.x", b"").end(), &["fresh"]);
    // Within an opaque directory nothing beneath is left to hide.
    check(RawTar::default().file(b"d/.wh..wh..opq", b"").file(b"d/.wh.one", b"").end(), &["*d"]);
    // A file in place of a directory, and back.
    check(RawTar::default().file(b"d", b"x").end(), &["d=1"]);
    check(RawTar::default().file(b"d", b"x").member(b"d/", b'5', b"").end(), &["*d"]);
    // AUFS's own files.
    check(RawTar::default().file(b".wh..wh.aufs", b"").file(b".wh..wh.plnk/1.2", b"").end(), &[]);
}

#[test]
fn implied_directories_look_as_they_do_beneath() {
    let layer = check(
        RawTar::default().file(b"etc/new", b"n").file(b"no/where/new", b"n").end(),
        &["etc", "etc/new=1", "no", "no/where", "no/where/new=1"],
    );
    let stat = std::fs::metadata(layer.at("etc")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime()), (0o751, 3, 4, 12345));
    assert_eq!(xattrs(&layer.at("etc"))["user.e"], b"e");
    let stat = std::fs::metadata(layer.at("no/where")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o755, 0, 0));
}

#[test]
fn names_below_a_link_of_a_lower_layer_lead_where_it_leads() {
    check(RawTar::default().file(b"lib/new", b"n").end(), &["usr", "usr/lib", "usr/lib/new=1"]);
    check(RawTar::default().file(b"lib/.wh.libc", b"").end(), &["usr", "usr/lib", "!usr/lib/libc"]);
    // Explicit entries replace the link itself.
    check(RawTar::default().member(b"lib/", b'5', b"").file(b"lib/new", b"n").end(), &["lib", "lib/new=1"]);
    check(RawTar::default().file(b".wh.lib", b"").file(b"lib/new", b"n").end(), &["*lib", "lib/new=1"]);
}

#[test]
fn a_hard_link_to_a_file_beneath_copies_it_up() {
    let layer = check(RawTar::default().member(b"new", b'1', b"d/one").end(), &["d", "d/one=1", "new=1"]);
    let ino = |path: &str| std::fs::metadata(layer.at(path)).unwrap().ino();
    assert_eq!(ino("d/one"), ino("new"));
    check(RawTar::default().member(b"new", b'1', b"lib/libc").end(), &["new=1", "usr", "usr/lib", "usr/lib/libc=1"]);
    for (tar, words) in [
        (RawTar::default().member(b"new", b'1', b"d").end(), "is a directory"),
        (RawTar::default().member(b"new", b'1', b"absent").end(), "`absent` is not there"),
        (RawTar::default().file(b".wh.f", b"").member(b"new", b'1', b"f").end(), "`f` is not there"),
        (RawTar::default().file(b"a", b"").member(b"a", b'1', b"a").end(), "hard link to itself"),
    ] {
        let error = apply_on(&tar, &Tree::new(), &[&base()]).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_topmost_tree_beneath_decides() {
    let bottom = base();
    let middle = Tree::new();
    middle.whiteout("f").dir("d").xattr("d", OPAQUE, b"y").file("d/three", b"3").mode("d", 0o700);
    middle.dir("etc").mode("etc", 0o711);
    let tar = RawTar::default()
        .file(b"etc/new", b"")
        .file(b"d/.wh.one", b"")
        .file(b"d/.wh.three", b"")
        .file(b".wh.f", b"")
        .end();
    let layer = applied(&tar, &[&middle, &bottom]);
    assert_eq!(shape(&layer), ["d", "!d/three", "etc", "etc/new=0"]);
    let mode = |path: &str| std::fs::metadata(layer.at(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d"), mode("etc")), (0o700, 0o711));
}

#[test]
fn the_user_namespace_gets_its_own_marks() {
    let base = base();
    let into = Tree::new();
    let tar = RawTar::default()
        .file(b"d/.wh..wh..opq", b"")
        .pax(&[("SCHILY.xattr.trusted.x", b"t"), ("SCHILY.xattr.user.x", b"u")])
        .file(b"x", b"")
        .end();
    let options = ApplyOptions::new(XattrNamespace::User);
    let base_fd = base.fd();
    let facts = apply_layer(&tar[..], into.fd().as_fd(), &[base_fd.as_fd()], &options).unwrap();
    assert_eq!((facts.whiteouts, facts.xattrs_dropped), (1, 1));
    assert_eq!(xattrs(&into.at("d"))["user.overlay.opaque"], b"y");
    assert_eq!(xattrs(&into.at("x")).into_keys().collect::<Vec<_>>(), ["user.x"]);
}

#[test]
fn the_root_looks_as_it_does_beneath() {
    let base = base();
    base.mode(".", 0o711).owner(".", 9, 9);
    let layer = applied(&RawTar::default().file(b"x", b"").end(), &[&base]);
    let stat = std::fs::metadata(layer.path()).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o711, 9, 9));
}

#[test]
fn times_keep_their_nanoseconds_whatever_comes_later() {
    let tar = RawTar::default()
        .pax(&[("mtime", b"-1.25")])
        .member(b"d/", b'5', b"")
        .pax(&[("mtime", b"1700000000.000000007")])
        .file(b"d/f", b"")
        .file(b"other/f", b"")
        .file(b"d/late", b"")
        .member(b"d/link", b'1', b"other/f")
        .end();
    let layer = applied(&tar, &[]);
    let time = |path: &str| {
        let stat = std::fs::metadata(layer.at(path)).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!((time("d"), time("d/f")), ((-2, 750_000_000), (1_700_000_000, 7)));
}
