//! The same archive read by others gives the same tree; what others write, we read.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::Stdio;

use proptest::prelude::*;
use rbuild_oci::layer::{ExtractOptions, XattrNamespace, extract_archive};
use rustix::fs::FileType;

use crate::layer_hostile::list;
use crate::layer_round_trip::menagerie;
use crate::support::{RawTar, Tree, describe, layer_of, run};

fn extracted(tar: &[u8]) -> Tree {
    let into = Tree::new();
    extract_archive(tar, into.fd().as_fd(), "/", &ExtractOptions::new(XattrNamespace::Trusted)).unwrap();
    into
}

/// GNU tar, told to keep everything.
fn gnu_tar(args: &[&str], input: &[u8]) -> Vec<u8> {
    let keep = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-p"];
    run("tar", &[args, &keep].concat(), input)
}

#[test]
fn gnu_tar_unpacks_what_we_write_to_the_same_tree() {
    let tree = menagerie();
    let into = Tree::new();
    gnu_tar(&["-x", "-f", "-", "-C", into.path().to_str().unwrap()], &layer_of(&tree));
    assert_eq!(into.describe(), tree.describe());
}

#[test]
fn we_unpack_what_gnu_tar_writes_to_the_same_tree() {
    let tree = menagerie();
    let dir = tree.path().to_str().unwrap().to_owned();
    let pax = gnu_tar(&["-c", "-f", "-", "--format=posix", "-C", &dir, "."], b"");
    assert_eq!(extracted(&pax).describe(), tree.describe());
    // The older format knows no xattrs and no times before 1970 in a form that others read.
    for name in ["attr", "attrs", "attr-link", "bin/ping"] {
        for xattr in crate::support::xattrs(&tree.at(name)).into_keys() {
            rustix::fs::lremovexattr(tree.at(name), xattr.as_str()).unwrap();
        }
    }
    let gnu = run("tar", &["-c", "-f", "-", "--format=gnu", "--numeric-owner", "-C", &dir, "."], b"");
    assert_eq!(extracted(&gnu).describe(), tree.describe());
}

#[test]
fn sparse_files_of_every_format_have_the_right_content() {
    let tree = Tree::new();
    use std::os::unix::fs::FileExt;
    let long = "long".repeat(60);
    for name in ["s", &long] {
        let file = std::fs::File::create(tree.at(name)).unwrap();
        for i in 0..60u64 {
            file.write_all_at(format!("run {i}").as_bytes(), i * 300_000).unwrap();
        }
        file.set_len(64 << 20).unwrap();
    }
    std::fs::File::create(tree.at("only-hole")).unwrap().set_len(1 << 40).unwrap();
    let dir = tree.path().to_str().unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let tar = run("tar", &[&["-c", "-S", "-f", "-", "-C", dir, "."], format].concat(), b"");
        assert!(tar.len() < 4 << 20, "{format:?} leaves holes out");
        let back = extracted(&tar);
        for name in ["s", long.as_str()] {
            assert!(std::fs::read(back.at(name)).unwrap() == std::fs::read(tree.at("s")).unwrap(), "{format:?} {name}");
        }
        assert_eq!(std::fs::metadata(back.at("only-hole")).unwrap().len(), 1 << 40);
    }
}

/// Writes with Python and reads with us.
#[test]
fn we_unpack_what_python_writes() {
    const SCRIPT: &str = r#"
import io, sys, tarfile
out = io.BytesIO()
fmt = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[sys.argv[1]]
t = tarfile.open(fileobj=out, mode="w", format=fmt)
def add(name, data=b"", **kw):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in kw.items():
        setattr(info, key, value)
    t.addfile(info, io.BytesIO(data))
add("f", b"data", mode=0o4755, uid=1000, gid=2000, mtime=1234567890)
add("n" * 100, b"x")
add("d", type=tarfile.DIRTYPE, mode=0o711)
add("d/" + "p" * 90, b"y")
add("l", type=tarfile.SYMTYPE, linkname="f")
add("h", type=tarfile.LNKTYPE, linkname="f")
add("pipe", type=tarfile.FIFOTYPE)
add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
if sys.argv[1] != "ustar":
    add("big-owner", uid=3000000, gid=4000000000)
    add("q" * 150, b"z")
    add("long-link", type=tarfile.SYMTYPE, linkname="t" * 200)
if sys.argv[1] == "pax":
    add("unicode-é", b"u", mtime=1.5, pax_headers={"comment": "c", "SCHILY.xattr.user.x": "v"})
t.close()
sys.stdout.buffer.write(out.getvalue())
"#;
    for (format, count) in [("ustar", 8), ("gnu", 11), ("pax", 12)] {
        let tar = run("python3", &["-c", SCRIPT, format], b"");
        let tree = extracted(&tar);
        assert_eq!(tree.describe().len(), count, "{format}: {:?}", tree.describe());
        let oracle = Tree::new();
        gnu_tar(&["-x", "-f", "-", "-C", oracle.path().to_str().unwrap()], &tar);
        assert_eq!(tree.describe(), oracle.describe(), "{format}");
    }
}

/// Names and sizes as Python's tarfile sees them.
fn python_list(tar: &[u8]) -> Vec<(String, u64)> {
    const SCRIPT: &str = r#"
import json, sys, tarfile
t = tarfile.open(fileobj=sys.stdin.buffer, mode="r|")
print(json.dumps([[m.name.encode("utf-8", "surrogateescape").decode("latin-1"), m.size] for m in t]))
"#;
    let listed: Vec<(String, u64)> = serde_json::from_slice(&run("python3", &["-c", SCRIPT], tar)).unwrap();
    let escaped = |name: String| name.chars().map(|c| c as u8).collect::<Vec<_>>().escape_ascii().to_string();
    listed.into_iter().map(|(name, size)| (escaped(name), size)).collect()
}

#[test]
fn python_lists_what_we_write() {
    let tar = layer_of(&menagerie());
    let trimmed: Vec<_> =
        list(&tar).unwrap().into_iter().map(|(name, size)| (name.trim_end_matches('/').to_owned(), size)).collect();
    assert_eq!(python_list(&tar), trimmed);
}

#[test]
fn the_tar_crate_reads_the_same_bytes() {
    let tar = layer_of(&menagerie());
    let mut archive = tar::Archive::new(&tar[..]);
    let theirs: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.path_bytes().escape_ascii().to_string();
            (name.trim_end_matches('/').to_owned(), entry.size())
        })
        .collect();
    assert_eq!(theirs, list(&tar).unwrap());
}

#[test]
fn umoci_and_we_agree_on_three_layers() {
    // Built by hand: delete, replace, opaque, recreate.
    let layers = [
        RawTar::default()
            .member(b"d/", b'5', b"")
            .file(b"d/one", b"1")
            .file(b"d/two", b"2")
            .member(b"e/", b'5', b"")
            .file(b"e/deep", b"d")
            .file(b"f", b"f")
            .file(b"g", b"g")
            .end(),
        RawTar::default()
            .file(b".wh.f", b"")
            .file(b"d/.wh.one", b"")
            .file(b"e/.wh..wh..opq", b"")
            .file(b"e/new", b"n")
            .file(b"g", b"file still")
            .end(),
        RawTar::default()
            .member(b"f/", b'5', b"")
            .file(b"f/inside", b"i")
            .file(b"d/one", b"again")
            .file(b".wh.g", b"")
            .end(),
    ];
    let (one, two, three) = {
        let one = crate::support::applied(&layers[0], &[]);
        let two = crate::support::applied(&layers[1], &[&one]);
        let three = crate::support::applied(&layers[2], &[&two, &one]);
        (one, two, three)
    };
    let shape = |root: &std::path::Path| -> Vec<String> {
        describe(root)
            .into_iter()
            .map(|(name, line)| format!("{name} {}", line.split(" 0:0").next().unwrap()))
            .collect()
    };
    let ours = merged(&[&three, &two, &one], shape);

    let store = rbuild_oci::content::MemoryStore::default();
    let mut config =
        rbuild_oci::model::ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
    let mut descriptors = Vec::new();
    for layer in &layers {
        let (digest, size) = rbuild_oci::content::put_bytes(&store, layer).unwrap();
        descriptors.push(rbuild_oci::model::Descriptor::new(rbuild_oci::model::media_type::OCI_LAYER, digest, size));
        config.rootfs.diff_ids.push(rbuild_oci::model::DiffId(digest));
    }
    let config = serde_json::to_vec(&config).unwrap();
    rbuild_oci::content::put_bytes(&store, &config).unwrap();
    let image = rbuild_oci::image::assemble(&config, descriptors, Default::default(), Default::default()).unwrap();
    rbuild_oci::content::put_bytes(&store, &image.manifest_bytes).unwrap();
    let mut archive = Vec::new();
    let named = [(vec!["app:1".parse().unwrap()], image.descriptor)];
    rbuild_oci::export::oci_layout::write_tar(&mut archive, &store, &named).unwrap();
    let dir = Tree::new();
    dir.dir("layout");
    run("tar", &["-xf", "-", "-C", dir.at("layout").to_str().unwrap()], &archive);
    let (layout, bundle) = (dir.at("layout"), dir.at("bundle"));
    run("umoci", &["unpack", "--image", &format!("{}:1", layout.display()), bundle.to_str().unwrap()], b"");
    assert_eq!(ours, shape(&dir.at("bundle/rootfs")));
}

/// What the kernel's overlayfs makes of layers, topmost first. The mount is made in a mount namespace of its own.
fn merged(layers: &[&Tree], shape: impl Fn(&std::path::Path) -> Vec<String>) -> Vec<String> {
    let (at, copy) = (Tree::new(), Tree::new());
    let lowers: Vec<_> = layers.iter().map(|tree| tree.path().to_str().unwrap()).collect();
    let script = format!(
        "mount -t overlay -o lowerdir={} overlay {at} && cp -a {at}/. {copy}",
        lowers.join(":"),
        at = at.path().display(),
        copy = copy.path().display()
    );
    run("unshare", &["-m", "sh", "-c", &script], b"");
    shape(copy.path())
}

#[test]
fn kernel_overlay_shows_the_tree_that_was_written() {
    let base = Tree::new();
    base.file("d/old", b"o").file("gone", b"g").dir("opaque").file("opaque/hidden", b"h").file("kept", b"k");
    let upper = Tree::new();
    upper.whiteout("gone").file("d/new", b"n").file("opaque/fresh", b"f").xattr(
        "opaque",
        "trusted.overlay.opaque",
        b"y",
    );
    upper.node("pipe", FileType::Fifo, (0, 0));
    let shape = |root: &std::path::Path| describe(root).into_keys().collect::<Vec<_>>();
    let before = merged(&[&upper, &base], shape);
    let base_again = crate::support::applied(&layer_of(&base), &[]);
    let upper_again = crate::support::applied(&layer_of(&upper), &[&base_again]);
    assert_eq!(merged(&[&upper_again, &base_again], shape), before);
    assert_eq!(before, ["d", "d/new", "d/old", "kept", "opaque", "opaque/fresh", "pipe"]);
}

#[test]
fn gzip_reads_what_we_write() {
    let tree = menagerie();
    let codec = rbuild_oci::layer::Codec::new(rbuild_oci::layer::Compression::Gzip);
    let mut blob = Vec::new();
    rbuild_oci::layer::encode(tree.fd().as_fd(), &codec, &mut blob).unwrap();
    assert!(run("gzip", &["-dc"], &blob) == layer_of(&tree));
}

/// Names and sizes as tar-core sees them, or `None` where it refuses.
fn tar_core_list(tar: &[u8]) -> Option<Vec<(String, u64)>> {
    use tar_core::parse::{Limits, ParseEvent, Parser};
    let mut parser = Parser::new(Limits::permissive());
    let (mut rest, mut entries) = (tar, Vec::new());
    loop {
        let (consumed, path, stored, size) = match parser.parse(rest).ok()? {
            ParseEvent::Entry { consumed, entry } => {
                let size = if entry.is_file() { entry.size } else { 0 };
                (consumed, entry.path.to_vec(), entry.padded_size(), size)
            }
            ParseEvent::SparseEntry { consumed, entry, real_size, .. } => {
                (consumed, entry.path.to_vec(), entry.padded_size(), real_size)
            }
            ParseEvent::GlobalExtensions { consumed, .. } => {
                rest = &rest[consumed..];
                continue;
            }
            ParseEvent::End { .. } => return Some(entries),
            ParseEvent::NeedData { .. } => return None,
        };
        let name = path.escape_ascii().to_string();
        entries.push((if size == 0 { name.trim_end_matches('/').to_owned() } else { name }, size));
        rest = rest.get(consumed + usize::try_from(stored).ok()?..)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Bytes of a good archive changed anywhere: we refuse, or read what tar-core reads.
    #[test]
    fn damaged_archives_are_refused_or_read_as_others_do(
        changes in prop::collection::vec((0usize..1 << 16, any::<u8>()), 0..6),
        reseal in any::<bool>(),
    ) {
        let mut tar = RawTar::default()
            .extension(b'L', &[b"long/".repeat(30).as_slice(), b"\0"].concat())
            .file(b"x", b"content")
            .pax(&[("path", b"pax/name"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"a\nb")])
            .file(b"y", &[7; 600])
            .member(b"dir/", b'5', b"")
            .member(b"link", b'2', b"target")
            .pax(&[("size", b"512")])
            .file(b"z", &[9; 512])
            .end();
        let length = tar.len();
        for (at, value) in changes {
            tar[at % length] = value;
        }
        if reseal {
            // Make all checksums right again, so that the change is seen by what lies behind them.
            for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let (Ok(ours), Some(theirs)) = (list(&tar), tar_core_list(&tar)) {
            prop_assert_eq!(ours, theirs);
        }
    }

    /// Any bytes: an answer, never a panic.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        drop(list(&bytes));
        let mut block = [0; 512];
        let count = bytes.len().min(512);
        block[..count].copy_from_slice(&bytes[..count]);
        drop(list(&RawTar::default().block(block).data(&bytes).end()));
    }
}

#[test]
fn memory_does_not_grow_with_a_layer() {
    // A pipe that gives zeros without end into the whole chain; the limit of the address space would be the judge, but
    // it cannot be set for a thread, so the growth of the process is measured.
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let tree = Tree::new();
    std::fs::File::create(tree.at("big")).unwrap().set_len(256 << 20).unwrap();
    let before = resident();
    let mut child =
        std::process::Command::new("gzip").args(["-dc"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let codec = rbuild_oci::layer::Codec::new(rbuild_oci::layer::Compression::Gzip);
    let mut stdin = child.stdin.take().unwrap();
    rbuild_oci::layer::encode(tree.fd().as_fd(), &codec, &mut stdin).unwrap();
    stdin.flush().unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let grown_kib = resident() - before;
    assert!(grown_kib < 50 * 1024, "{grown_kib} KiB");
}
