//! Archives made to harm: nothing outside the root changes, and every refusal says why.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rbuild_oci::layer::tar::{EndMarker, TarReader};
use rbuild_oci::layer::{
    ApplyOptions, ExtractFacts, ExtractOptions, LayerError, Limits, XattrNamespace, apply_layer, decompress,
    extract_archive,
};

use crate::support::{RawHeader, RawTar, Tree, applied, apply_on, record, run, xattrs};

/// A root beside a directory that nothing may touch.
struct Cage {
    all: Tree,
    before: Vec<(String, String, i64)>,
}

impl Cage {
    fn new() -> Self {
        let all = Tree::new();
        all.dir("root").dir("canary/empty").file("canary/f", b"canary").file("root-evil/secret", b"secret");
        all.mode("canary", 0o751).mode("canary/f", 0o640).hard("canary/g", "canary/f");
        let mut cage = Self { all, before: Vec::new() };
        cage.before = cage.outside();
        cage
    }

    /// Everything but the root, with change times to the nanosecond.
    fn outside(&self) -> Vec<(String, String, i64)> {
        let lines = self.all.describe();
        let outside = lines.into_iter().filter(|(path, _)| !path.starts_with("root/") && path != "root");
        outside
            .map(|(path, line)| {
                let stat = std::fs::symlink_metadata(self.all.at(&path)).unwrap();
                (path, line, stat.ctime_nsec())
            })
            .collect()
    }

    fn root(&self) -> std::os::fd::OwnedFd {
        std::fs::File::open(self.all.at("root")).unwrap().into()
    }

    fn canary(&self) -> String {
        self.all.at("canary").to_str().unwrap().to_owned()
    }

    #[track_caller]
    fn unharmed(&self) {
        assert_eq!(self.outside(), self.before);
    }
}

fn extract(tar: &[u8], cage: &Cage, dest: &str) -> Result<ExtractFacts, LayerError> {
    extract_archive(tar, cage.root().as_fd(), dest, &ExtractOptions::new(XattrNamespace::Trusted))
}

/// Unpacks an archive as a layer, as a layer on top of a layer, and as ADD does; each either fails with a reason or
/// leaves its effect inside the root. Returns the three outcomes.
#[track_caller]
fn everywhere(tar: &[u8]) -> [Result<(), String>; 3] {
    let cage = Cage::new();
    let options = ApplyOptions::new(XattrNamespace::Trusted);
    let layer = apply_layer(tar, cage.root().as_fd(), &[], &options);
    cage.unharmed();
    let (below, upper) = (Cage::new(), Cage::new());
    let on_top = match apply_layer(tar, below.root().as_fd(), &[], &options) {
        Ok(_) => apply_layer(tar, upper.root().as_fd(), &[below.root().as_fd()], &options),
        error => error,
    };
    below.unharmed();
    upper.unharmed();
    let added_cage = Cage::new();
    let added = extract(tar, &added_cage, "/");
    added_cage.unharmed();
    [layer.map(drop), on_top.map(drop), added.map(drop)].map(|result| result.map_err(|error| error.to_string()))
}

#[track_caller]
fn refused(tar: Vec<u8>, words: &str) {
    for outcome in everywhere(&tar) {
        let error = outcome.expect_err(words);
        assert!(error.contains(words), "{error}, but `{words}` was expected");
    }
}

#[test]
fn names_that_leave_the_root_are_refused() {
    for name in ["..", "../p", "a/../../p", "../root-evil/secret", "a/..", "./../x", "/../x", "../root/x"] {
        refused(RawTar::default().file(name.as_bytes(), b"x").end(), "leaves its directory");
        refused(RawTar::default().member(name.as_bytes(), b'5', b"").end(), "leaves its directory");
        refused(RawTar::default().pax(&[("path", name.as_bytes())]).file(b"x", b"x").end(), "leaves its directory");
    }
    refused(RawTar::default().file(b"./", b"").member(b"/", b'2', b"x").end(), "is a directory");
    let long = "n".repeat(256);
    refused(RawTar::default().pax(&[("path", long.as_bytes())]).file(b"x", b"").end(), "longer than 255 bytes");
}

#[test]
fn an_absolute_name_is_one_beneath_the_root() {
    let layer = applied(&RawTar::default().file(b"/etc/x", b"x").end(), &[]);
    assert!(layer.at("etc/x").is_file());
}

#[test]
fn writing_through_a_symlink_stays_inside() {
    let cage = Cage::new();
    let canary = cage.canary();
    for target in
        [canary.as_str(), "../canary", "/../canary", "../../../../../../../..", "/", ".", "..", "/proc/self/root"]
    {
        for (name, flag) in [("d/f", b'0'), ("d/", b'5'), ("d/empty/x", b'0'), ("d/f", b'6'), ("d", b'0')] {
            let mut tar = RawTar::default();
            tar.member(b"d", b'2', target.as_bytes());
            tar.header(RawHeader { name: name.as_bytes(), flag, mode: 0o777, ..Default::default() });
            let tar = tar.end();
            // Success or refusal: `everywhere` looks after the canary.
            drop(everywhere(&tar));
        }
    }
    // The next layer over such a link.
    let below = applied(&RawTar::default().member(b"d", b'2', canary.as_bytes()).end(), &[]);
    let upper = applied(&RawTar::default().file(b"d/f", b"mine").end(), &[&below]);
    cage.unharmed();
    let inside = upper.at(canary.trim_start_matches('/')).join("f");
    assert_eq!(std::fs::read(inside).unwrap(), b"mine", "the link leads where it leads in the root");
}

#[test]
fn links_with_odd_names_redirect_nothing() {
    for name in ["/.", ".", "./.", "//", "./"] {
        for outcome in everywhere(&RawTar::default().member(name.as_bytes(), b'2', b"/canary").file(b"f", b"").end()) {
            outcome.expect_err("the root cannot be a link");
        }
    }
    refused(RawTar::default().member(b"d/..", b'2', b"/canary").end(), "leaves its directory");
    refused(RawTar::default().header(RawHeader { name: b"", ..Default::default() }).end(), "name without NUL");
}

#[test]
fn hard_links_lead_to_nothing_outside() {
    for target in
        [".env", "../root-evil/secret", "../canary/f", "Cargo.toml", "/etc/hostname", "d/f", "d/../../canary/f"]
    {
        let mut tar = RawTar::default();
        tar.member(b"d", b'2', b"../canary").member(b"x", b'1', target.as_bytes());
        for outcome in everywhere(&tar.file(b"x", b"overwritten").end()) {
            let error = outcome.expect_err(target);
            assert!(error.contains("is not there") || error.contains("leaves its directory"), "{target}: {error}");
        }
    }
    // A link within the archive, then a file of that name: the file is new, the link's other name keeps its content.
    let tar = RawTar::default().file(b"a", b"old").member(b"b", b'1', b"a").file(b"b", b"new").end();
    let layer = applied(&tar, &[]);
    assert_eq!(
        (std::fs::read(layer.at("a")).unwrap(), std::fs::read(layer.at("b")).unwrap()),
        (b"old".into(), b"new".into())
    );
    // A link to a link is one to the link itself.
    let tar = RawTar::default().member(b"l", b'2', b"/canary").member(b"m", b'1', b"l").end();
    assert_eq!(std::fs::read_link(applied(&tar, &[]).at("m")).unwrap().to_str(), Some("/canary"));
}

#[test]
fn modes_are_not_set_through_links() {
    for target in ["../canary", "/canary"] {
        let mut tar = RawTar::default();
        tar.member(b"s", b'2', target.as_bytes());
        tar.header(RawHeader { name: b"s", flag: b'5', mode: 0o777, ..Default::default() });
        tar.file(b"s/a/b", b"x");
        assert!(everywhere(&tar.end()).iter().all(Result::is_ok));
    }
}

#[test]
fn overlayfs_notes_and_machine_labels_in_an_archive_are_dropped() {
    let tar = RawTar::default()
        .pax(&[
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.metacopy", b""),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.security.ima", b"x"),
            ("SCHILY.xattr.system.nfs4_acl", b"x"),
            ("SCHILY.xattr.user.fine", b"1"),
        ])
        .member(b"d/", b'5', b"")
        .end();
    let into = Tree::new();
    let facts = apply_on(&tar, &into, &[]).unwrap();
    assert_eq!(facts.xattrs_dropped, 7);
    assert_eq!(xattrs(&into.at("d")).into_keys().collect::<Vec<_>>(), ["user.fine"]);
}

#[test]
fn whiteouts_as_weapons_have_no_effect_outside() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        refused(RawTar::default().file(name.as_bytes(), b"").end(), "refusing the entry");
    }
    refused(RawTar::default().file(b".wh.d/f", b"").end(), "refusing the entry");
    refused(RawTar::default().member(b".wh.d", b'5', b"").end(), "refusing the entry");
    refused(RawTar::default().member(b".wh.d", b'2', b"/etc").end(), "refusing the entry");
    // Below a link to the outside.
    for mark in [".wh.f", ".wh..wh..opq"] {
        let name = format!("d/{mark}");
        drop(everywhere(&RawTar::default().member(b"d", b'2', b"../canary").file(name.as_bytes(), b"").end()));
    }
    // A device that overlayfs takes for a whiteout.
    let mut device = RawTar::default();
    device.header(RawHeader { name: b"etc", flag: b'3', ..Default::default() });
    refused(device.end(), "means a deletion");
    // In an ordinary archive such a name is no deletion.
    let cage = Cage::new();
    let error = extract(&RawTar::default().file(b"d/.wh.x", b"").end(), &cage, "/").unwrap_err().to_string();
    assert!(error.contains("means a deletion"), "{error}");
}

#[test]
fn add_follows_the_links_of_the_root_and_stays_inside() {
    let cage = Cage::new();
    cage.all.dir("root/usr/lib").dir("root/usr/lib64").link("root/lib", "/usr/lib").link("root/lib64", "usr/lib64");
    cage.all.link("root/out", &cage.canary()).link("root/up", "../../canary").file("root/usr/lib/old", b"old");
    cage.all.file("root/file", b"file").mode("root/usr/lib", 0o711);
    let tar = RawTar::default()
        .file(b"lib/x", b"x")
        .member(b"lib/y", b'1', b"lib/x")
        .member(b"lib/z", b'1', b"lib/old")
        .file(b"lib64/implied/deep", b"d")
        .file(b"file", b"replaced")
        .file(b"out/f", b"inside")
        .file(b"up/f", b"inside")
        .end();
    extract(&tar, &cage, "/").unwrap();
    let read = |path: &str| std::fs::read(cage.all.at(format!("root/{path}"))).unwrap();
    assert_eq!((read("usr/lib/x"), read("usr/lib64/implied/deep")), (b"x".to_vec(), b"d".to_vec()));
    assert_eq!(
        (read("usr/lib/y"), read("usr/lib/z"), read("file")),
        (b"x".to_vec(), b"old".to_vec(), b"replaced".to_vec())
    );
    assert_eq!(std::fs::read_link(cage.all.at("root/lib")).unwrap().to_str(), Some("/usr/lib"));
    assert_eq!(read("canary/f"), b"inside");
    assert_eq!(std::fs::metadata(cage.all.at("root/usr/lib")).unwrap().mode() & 0o7777, 0o711);
    // Only a member in its own place replaces a link.
    extract(&RawTar::default().member(b"lib64/", b'5', b"").file(b"lib64/x", b"own").end(), &cage, "/").unwrap();
    assert_eq!(read("lib64/x"), b"own");
    assert!(std::fs::symlink_metadata(cage.all.at("root/lib64")).unwrap().is_dir());
    let absolute = format!("{}/f", cage.canary().trim_start_matches('/'));
    assert_eq!(read(&absolute), b"inside");
    cage.unharmed();
}

#[test]
fn add_makes_its_destination_inside_whatever_it_says() {
    for (dest, at) in
        [("/", "f"), ("", "f"), ("a/b/", "a/b/f"), ("../../x", "x/f"), ("a/../c", "c/f"), ("link", "canary/f")]
    {
        let cage = Cage::new();
        cage.all.link("root/link", "../../canary");
        let options = ExtractOptions { owner: Some((7, 8)), ..ExtractOptions::new(XattrNamespace::Trusted) };
        let tar = RawTar::default().member(b"./", b'5', b"").file(b"./f", b"x").end();
        extract_archive(&tar[..], cage.root().as_fd(), dest, &options).unwrap();
        let stat = std::fs::metadata(cage.all.at(format!("root/{at}"))).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (7, 8), "{dest}");
        cage.unharmed();
    }
}

#[test]
fn add_keeps_the_times_that_the_archive_gives() {
    let source = Tree::new();
    source
        .dir("d/e")
        .file("d/e/f", b"")
        .file("d/z", b"")
        .mtime("d/e/f", 5)
        .mtime("d/e", 6)
        .mtime("d/z", 7)
        .mtime("d", 8);
    let mut tar = Vec::new();
    rbuild_oci::layer::write_tree(source.fd().as_fd(), &mut tar).unwrap();
    let cage = Cage::new();
    extract(&tar, &cage, "/into").unwrap();
    for (path, time) in [("d", 8), ("d/e", 6), ("d/e/f", 5), ("d/z", 7)] {
        assert_eq!(std::fs::metadata(cage.all.at(format!("root/into/{path}"))).unwrap().mtime(), time, "{path}");
    }
}

#[test]
fn links_in_circles_end() {
    let tar = RawTar::default().member(b"a", b'2', b"b").member(b"b", b'2', b"a").file(b"a/f", b"").end();
    refused(tar, "too many levels");
    let mut chain = RawTar::default();
    for i in 0..41 {
        chain.member(format!("l{i}").as_bytes(), b'2', format!("l{}", i + 1).as_bytes());
    }
    refused(chain.file(b"l0/f", b"").end(), "too many levels");
}

fn limited(tar: impl Read, limits: Limits) -> String {
    let options = ApplyOptions { limits, ..ApplyOptions::new(XattrNamespace::Trusted) };
    apply_layer(tar, Tree::new().fd().as_fd(), &[], &options).unwrap_err().to_string()
}

#[test]
fn limits_stop_what_would_never_end() {
    let small = Limits { total_bytes: 1 << 20, ..Limits::default() };
    // 4 GiB of zeros from a few kilobytes, by each decompressor.
    let mut bomb = RawTar::default();
    bomb.header(RawHeader { name: b"zeros", size: 4 << 30, ..Default::default() });
    let mut plain = bomb.0.clone();
    plain.resize(8 << 20, 0);
    for program in ["gzip", "zstd", "bzip2", "xz"] {
        let packed = run(program, &["-c"], &plain);
        let error = limited(decompress(&packed[..]).unwrap().1, small);
        assert!(error.contains("exceeds the limit of 1048576 bytes in all"), "{program}: {error}");
    }
    // What follows the end marker counts too, for it is read to the end.
    let error = limited(RawTar::default().end().as_slice().chain(std::io::repeat(7)), small);
    assert!(error.contains("bytes in all"), "{error}");

    let mut many = RawTar::default();
    for i in 0..100 {
        many.file(format!("{i}").as_bytes(), b"");
    }
    let error = limited(&many.end()[..], Limits { entries: 99, ..Limits::default() });
    assert!(error.contains("limit of 99 entries"), "{error}");

    for (flag, size) in [(b'x', 1u64 << 30), (b'g', 1 << 30), (b'L', 1 << 62), (b'K', 2 << 20)] {
        let mut tar = RawTar::default();
        tar.header(RawHeader { name: b"x", flag, size, magic: b"ustar  \0", ..Default::default() });
        let error = limited(tar.0.as_slice().chain(std::io::repeat(b'1')), Limits::default());
        assert!(error.contains("bytes of extension headers"), "{error}");
    }
    let huge = [0u8; 70_000];
    let error =
        limited(&RawTar::default().pax(&[("SCHILY.xattr.user.x", &huge)]).file(b"f", b"").end()[..], Limits::default());
    assert!(error.contains("bytes of an xattr"), "{error}");
    let error = limited(
        &RawTar::default().pax(&[("path", &[b'a'; 200])]).file(b"f", b"").end()[..],
        Limits { name_bytes: 100, ..Limits::default() },
    );
    assert!(error.contains("bytes of a name"), "{error}");
}

#[test]
fn sizes_that_no_file_has_are_refused() {
    for size in [1 << 62, i64::MAX as u64, 1 << 63, u64::MAX] {
        let mut tar = RawTar::default();
        tar.header(RawHeader { size, ..Default::default() });
        refused(tar.end(), "");
    }
    for size in ["9223372036854775808", "18446744073709551615", "18446744073709551616", "-1", "1e3", "", " 1"] {
        refused(RawTar::default().pax(&[("size", size.as_bytes())]).file(b"f", b"x").end(), "");
    }
}

#[test]
fn windows_that_need_too_much_memory_are_refused() {
    let packed = run("zstd", &["-c", "--ultra", "--long=31", "-19"], &vec![0; 1 << 20]);
    // The frame must ask for its whole window, so its content size must not be known: it comes from a pipe.
    let result = decompress(&packed[..]).and_then(|(_, mut reader)| std::io::copy(&mut reader, &mut std::io::sink()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
}

#[test]
fn a_stream_that_was_cut_is_an_error_wherever_it_was_cut() {
    let tree = crate::layer_round_trip::menagerie();
    let tar = crate::support::layer_of(&tree);
    for program in ["gzip", "zstd", "bzip2", "xz"] {
        let packed = run(program, &["-c"], &tar);
        for cut in (1..packed.len()).step_by(97) {
            let into = Tree::new();
            let result = decompress(&packed[..cut]).map_err(|error| error.to_string()).and_then(|(_, reader)| {
                let options = ApplyOptions::new(XattrNamespace::Trusted);
                apply_layer(reader, into.fd().as_fd(), &[], &options).map_err(|error| error.to_string())
            });
            result.expect_err("a cut stream");
        }
    }
    for cut in (512..tar.len() - 1024).step_by(512) {
        let cage = Cage::new();
        extract(&tar[..cut], &cage, "/").expect_err("a cut archive");
    }
}

#[test]
fn no_program_of_the_path_or_the_root_is_run() {
    // The decompressors are libraries: a PATH without any program changes nothing.
    let packed = run("xz", &["-c"], &RawTar::default().file(b"f", b"x").end());
    let mut plain = Vec::new();
    decompress(&packed[..]).unwrap().1.read_to_end(&mut plain).unwrap();
    assert_eq!(crate::layer_round_trip::names(&plain), ["f"]);
}

/// What our reader says of an archive: names and sizes, or why not.
pub fn list(tar: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let mut reader = TarReader::new(tar, Limits::default(), EndMarker::Optional);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().map_err(|error| error.to_string())? {
        let size = match entry.kind {
            rbuild_oci::layer::tar::Kind::File { size, .. } => size,
            _ => 0,
        };
        entries.push((entry.path.escape_ascii().to_string(), size));
    }
    Ok(entries)
}

#[test]
fn archives_with_two_readings_are_refused() {
    let check = |tar: Vec<u8>, words: &str| {
        let error = list(&tar).expect_err(words);
        assert!(error.contains(words), "{error}, but `{words}` was expected");
    };
    let inner = RawTar::default().file(b"smuggled", b"evil").0.clone();
    // TARmageddon: the size that counts is PAX's; the one in the header would show another member.
    let mut smuggle = RawTar::default();
    smuggle.pax(&[("size", inner.len().to_string().as_bytes())]);
    smuggle.header(RawHeader { name: b"outer", size: 0, ..Default::default() }).data(&inner);
    assert_eq!(list(&smuggle.end()), Ok(vec![("outer".into(), inner.len() as u64)]));

    let pax_then = |records: &[u8]| RawTar::default().extension(b'x', records).file(b"f", b"").end();
    check(pax_then(b"9 path=a\n9 path=b"), "is wrong");
    check(pax_then(b"junk"), "has no length");
    check(pax_then(b"0009 path=\n\0\0\0"), "is wrong");
    check(pax_then(&record("path", b"")), "empty name");
    check(pax_then(&record("path", b"a\0b")), "without NUL");
    check(pax_then(&record("uid", b"-1")), "`uid` has no proper value");
    check(pax_then(&record("uid", b"4294967295")), "out of range");
    check(pax_then(&record("gid", b"4294967296")), "out of range");
    check(pax_then(&record("mtime", b"yesterday")), "`mtime` has no proper value");
    check(
        RawTar::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file(b"f", b"").end(),
        "two extension headers",
    );
    check(
        RawTar::default().extension(b'L', b"a\0").extension(b'L', b"b\0").file(b"f", b"").end(),
        "two extension headers",
    );
    check(
        RawTar::default().extension(b'L', b"long\0").pax(&[("path", b"pax")]).file(b"f", b"").end(),
        "both give a name",
    );
    check(RawTar::default().extension(b'L', b"a\0b\0").file(b"f", b"").end(), "holds NUL");
    check(RawTar::default().pax(&[("path", b"a")]).end(), "describes no member");
    check(RawTar::default().extension(b'g', &record("size", b"0")).file(b"f", b"").end(), "global PAX header");
    check(RawTar::default().extension(b'g', b"junk").file(b"f", b"").end(), "PAX record");
    assert!(list(&RawTar::default().extension(b'g', &record("comment", b"git")).file(b"f", b"").end()).is_ok());
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let mut tar = RawTar::default();
        tar.header(RawHeader { name: b"x", flag, size: 512, link: b"t", ..Default::default() }).data(&inner[..512]);
        check(tar.end(), "only a file may have data");
    }
    for flag in [b'D', b'M', b'V', b'N', b'A', b'9', 0xff] {
        check(RawTar::default().member(b"x", flag, b"").end(), "is not supported");
    }
    let mut lone = RawTar::default().file(b"a", b"").0.clone();
    lone.extend_from_slice(&[0; 512]);
    lone.extend(RawTar::default().file(b"b", b"").end());
    check(lone, "lone block of zeros");
    let mut wrong = RawTar::default().file(b"a", b"").end();
    wrong[0] ^= 1;
    check(wrong, "checksum");
    check(vec![b'x'; 2048], "checksum");
}

#[test]
fn a_file_has_as_many_names_as_its_file_system_allows_and_more_is_an_error() {
    // ext4 gives a file 65,000 names; others have no such limit.
    for count in [60_000, 65_001] {
        let mut tar = RawTar::default();
        tar.file(b"f", b"x");
        for number in 1..count {
            tar.member(format!("{number}").as_bytes(), b'1', b"f");
        }
        let cage = Cage::new();
        match apply_layer(&tar.end()[..], cage.root().as_fd(), &[], &ApplyOptions::new(XattrNamespace::Trusted)) {
            Ok(_) => assert_eq!(std::fs::metadata(cage.all.at("root/f")).unwrap().nlink(), count),
            Err(error) => {
                let said = error.to_string();
                assert!(count > 65_000 && said.contains("`65000`") && said.contains("Too many links"), "{said}");
            }
        }
        cage.unharmed();
    }
}
