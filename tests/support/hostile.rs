//! Archives made to harm whoever unpacks them, and some that only look so. One per sub-case of what has gone wrong
//! elsewhere; every way by which an archive comes in must survive all of them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::raw_tar::{RawHeader, RawTar, record};

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// An error.
    Refused,
    /// An error, or an effect inside alone.
    Contained,
    /// It is harmless, and real images have it.
    Fine,
}

/// One archive.
pub struct Case {
    /// What it tries.
    pub name: String,
    /// Its bytes.
    pub tar: Vec<u8>,
    /// What must come of it.
    pub want: Want,
}

/// All of them, aimed at `canary`, a directory with the files `f` and `empty/`.
pub fn corpus(canary: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, want: Want, tar: Vec<u8>| cases.push(Case { name, tar, want });
    let absolute = canary.as_os_str().as_bytes();
    let up = [b"../".repeat(30), absolute[1..].to_vec()].concat();
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();

    // Names that leave the root.
    for name in [&b".."[..], b"../p", b"a/../../p", b"./../x", b"/../x", b"a/.."] {
        add(format!("a file `{}`", shown(name)), Want::Refused, RawTar::default().file(name, b"x").end());
        add(format!("a directory `{}`", shown(name)), Want::Refused, RawTar::default().member(name, b'5', b"").end());
        let pax = RawTar::default().pax(&[("path", name)]).file(b"x", b"x").end();
        add(format!("`{}` by PAX", shown(name)), Want::Refused, pax);
    }
    add("an absolute name".into(), Want::Fine, RawTar::default().file(b"/opt/x", b"x").end());

    // Through a link.
    for target in [absolute, &up, b"/", b".", b"..", b"/proc/self/root", b"/proc/self/cwd"] {
        for (name, flag) in [(&b"d/f"[..], b'0'), (b"d/", b'5'), (b"d/empty/x", b'0'), (b"d/f", b'6'), (b"d", b'0')] {
            let mut tar = RawTar::default();
            tar.member(b"d", b'2', target);
            tar.header(RawHeader { name, flag, mode: 0o777, ..Default::default() });
            let what = format!("`{}` through a link to `{}`", shown(name), shown(target));
            add(what, Want::Contained, tar.end());
        }
    }
    for name in [&b"/."[..], b".", b"./.", b"//"] {
        let tar = RawTar::default().member(name, b'2', absolute).file(b"f", b"").end();
        add(format!("a link named `{}`", shown(name)), Want::Refused, tar);
    }
    let mut circle = RawTar::default();
    circle.member(b"a", b'2', b"b").member(b"b", b'2', b"a").file(b"a/f", b"");
    add("links in a circle".into(), Want::Refused, circle.end());

    // Hard links.
    for target in [[absolute, b"/f"].concat(), [&up[..], b"/f"].concat(), b"d/f".to_vec(), b".env".to_vec()] {
        let mut tar = RawTar::default();
        tar.member(b"d", b'2', absolute).member(b"x", b'1', &target).file(b"x", b"overwritten");
        add(format!("a hard link to `{}`", shown(&target)), Want::Refused, tar.end());
    }

    // Modes through a link.
    let mut modes = RawTar::default();
    modes.member(b"s", b'2', absolute);
    modes.header(RawHeader { name: b"s", flag: b'5', mode: 0o777, ..Default::default() }).file(b"s/a/b", b"x");
    add("a mode through a link".into(), Want::Contained, modes.end());

    // Two readings.
    let inner = RawTar::default().file(b"smuggled", b"evil").0.clone();
    let mut smuggle = RawTar::default();
    smuggle.pax(&[("size", inner.len().to_string().as_bytes())]);
    smuggle.header(RawHeader { name: b"outer", ..Default::default() }).data(&inner);
    add("two sizes".into(), Want::Contained, smuggle.end());
    let pax_then = |records: &[u8]| RawTar::default().extension(b'x', records).file(b"f", b"").end();
    add("a PAX record of a wrong length".into(), Want::Refused, pax_then(b"9 path=a\n9 path=b"));
    add("a PAX record that is none".into(), Want::Refused, pax_then(b"junk"));
    add("an owner that is no number".into(), Want::Refused, pax_then(&record("uid", b"-1")));
    let mut both = RawTar::default();
    both.extension(b'L', b"long\0").pax(&[("path", b"pax")]).file(b"f", b"");
    add("two names".into(), Want::Refused, both.end());
    let mut checksum = RawTar::default().file(b"a", b"").end();
    checksum[0] ^= 1;
    // For ADD these are ordinary files.
    add("a wrong checksum".into(), Want::Contained, checksum);
    add("no archive at all".into(), Want::Contained, vec![b'x'; 2048]);

    // Sizes.
    for size in [1_u64 << 62, 1 << 63, u64::MAX] {
        let mut tar = RawTar::default();
        tar.header(RawHeader { size, ..Default::default() });
        add(format!("a file of {size} bytes"), Want::Refused, tar.end());
    }
    let mut header = RawTar::default();
    header.header(RawHeader { name: b"x", flag: b'x', size: 1 << 30, ..Default::default() });
    add("an extension header of a gibibyte".into(), Want::Refused, header.end());
    let long = [b'n'; 256];
    let longer = RawTar::default().pax(&[("path", &long[..])]).file(b"x", b"").end();
    add("a name of 256 bytes".into(), Want::Refused, longer);

    // Deletions and overlay marks.
    for name in [&b".wh."[..], b".wh..", b".wh...", b"d/.wh..", b".wh.d/f"] {
        add(format!("a whiteout `{}`", shown(name)), Want::Refused, RawTar::default().file(name, b"").end());
    }
    for mark in [&b"d/.wh.f"[..], b"d/.wh..wh..opq"] {
        let tar = RawTar::default().member(b"d", b'2', absolute).file(mark, b"").end();
        add(format!("`{}` through a link", shown(mark)), Want::Contained, tar);
    }
    let mut device = RawTar::default();
    device.header(RawHeader { name: b"etc", flag: b'3', ..Default::default() });
    add("a device that overlayfs takes for a deletion".into(), Want::Contained, device.end());
    let mut marks = RawTar::default();
    marks.pax(&[
        ("SCHILY.xattr.user.overlay.opaque", &b"y"[..]),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", absolute),
    ]);
    add("overlay's own marks".into(), Want::Contained, marks.member(b"d/", b'5', b"").end());

    // What real images have.
    let mut merged = RawTar::default();
    merged.member(b"usr/", b'5', b"").member(b"usr/lib/", b'5', b"").member(b"lib", b'2', b"/usr/lib");
    merged.file(b"lib/x", b"x").member(b"lib/y", b'1', b"lib/x").file(b"lib/implied/z", b"z");
    add("a merged /usr, and names through it".into(), Want::Fine, merged.end());
    let names: [&[u8]; 6] = [b"\xff\xfe", b"new\nline", b"-rf", b"trailing ", "é😀".as_bytes(), b"back\\slash"];
    let mut odd = RawTar::default();
    for name in names {
        odd.file(name, b"odd");
    }
    add("odd names".into(), Want::Fine, odd.end());
    let mut deep = RawTar::default();
    let path = [b"d/".repeat(600), b"f".to_vec()].concat();
    add("600 directories deep".into(), Want::Fine, deep.pax(&[("path", &path)]).file(b"f", b"x").end());
    add("a pipe".into(), Want::Fine, RawTar::default().member(b"pipe", b'6', b"").end());
    cases
}
