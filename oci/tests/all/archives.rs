//! Archives of images: written, read back, and read by programs that are not ours.

use std::io::Write;
use std::os::fd::AsFd;

use rbuild_oci::content::{ContentStore, MemoryStore};
use rbuild_oci::export::archive::{Input, Loaded, read};
use rbuild_oci::export::{ExportError, docker_archive, oci_layout};
use rbuild_oci::image::Image;
use rbuild_oci::layer::{Compression, Dialect};
use rbuild_oci::model::{Descriptor, Reference};
use serde_json::{Value, json};

use crate::images::sample_image;
use crate::support::{RawTar, Tree, run};

const MIXED: [Compression; 2] = [Compression::Gzip, Compression::None];

type Writer = fn(&mut dyn Write, &dyn ContentStore, &[(Vec<Reference>, Descriptor)]) -> Result<(), ExportError>;

fn names(names: &[&str]) -> Vec<Reference> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn written(writer: Writer, store: &MemoryStore, images: &[(Vec<Reference>, Descriptor)]) -> Vec<u8> {
    let mut archive = Vec::new();
    writer(&mut archive, store, images).unwrap();
    archive
}

fn load(archive: &[u8]) -> (MemoryStore, Result<Vec<Loaded>, ExportError>) {
    let into = MemoryStore::default();
    let result = read(Input::Tar(Box::new(archive)), &into);
    (into, result)
}

#[test]
fn what_is_written_is_read_back_byte_for_byte() {
    let store = MemoryStore::default();
    let one = sample_image(&store, Dialect::Oci, &MIXED);
    let two = sample_image(&store, Dialect::Docker, &[Compression::Zstd]);
    let images = [(names(&["app:1", "registry.example:5000/team/app:2"]), one), (vec![], two)];
    for writer in [oci_layout::write_tar as Writer, docker_archive::write] {
        let archive = written(writer, &store, &images);
        assert!(written(writer, &store, &images) == archive);
        for bytes in [archive.clone(), run("gzip", &["-c"], &archive), run("zstd", &["-c"], &archive)] {
            let (into, loaded) = load(&bytes);
            let loaded: Vec<_> = loaded.unwrap().into_iter().map(|image| (image.names, image.manifest)).collect();
            assert_eq!(loaded, images);
            for digest in store.digests() {
                assert!(into.open(&digest).unwrap().is_some(), "{digest} came along");
            }
        }
    }
}

#[test]
fn a_docker_archive_without_a_layout_gets_a_manifest() {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let opened = Image::open(&store, &image).unwrap();
    let blob = |digest| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut store.open(digest).unwrap().unwrap(), &mut bytes).unwrap();
        bytes
    };
    // As old versions of docker wrote it: layers in folders, the list last, a link to a layer that two images share.
    let list = json!([{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["aa/layer.tar", "bb/layer.tar"]}]);
    let archive = RawTar::default()
        .member(b"aa/", b'5', b"")
        .file(b"aa/layer.tar", &blob(&opened.manifest.layers[0].digest))
        .file(b"cc/layer.tar", &blob(&opened.manifest.layers[1].digest))
        .member(b"bb/layer.tar", b'2', b"../cc/layer.tar")
        .file(b"c.json", &opened.config_bytes)
        .file(b"repositories", b"{}")
        .file(b"manifest.json", list.to_string().as_bytes())
        .end();
    let (into, loaded) = load(&archive);
    let loaded = loaded.unwrap();
    assert_eq!(loaded[0].names, names(&["app:1"]));
    let made = Image::open(&into, &loaded[0].manifest).unwrap();
    assert_eq!((made.config, made.manifest.layers), (opened.config, opened.manifest.layers));
}

#[test]
fn a_layout_that_is_a_directory_is_read() {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let archive = written(oci_layout::write_tar, &store, &[(names(&["app:1"]), image.clone())]);
    let dir = Tree::new();
    run("tar", &["-xf", "-", "-C", dir.path().to_str().unwrap()], &archive);
    let into = MemoryStore::default();
    let loaded = read(Input::Directory(dir.fd().as_fd()), &into).unwrap();
    assert_eq!(loaded, [Loaded { names: names(&["app:1"]), manifest: image.clone() }]);
    // A blob that is a link out of the layout, or a pipe, is refused; one that was changed too.
    let layer = Image::open(&store, &image).unwrap().manifest.layers[0].digest;
    let path = format!("blobs/sha256/{}", layer.hex());
    let refused = |words: &str| {
        let error = read(Input::Directory(dir.fd().as_fd()), &MemoryStore::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let mut bytes = std::fs::read(dir.at(&path)).unwrap();
    bytes[20] ^= 1;
    dir.file(&path, &bytes);
    refused("was promised");
    std::fs::remove_file(dir.at(&path)).unwrap();
    refused(&format!("there is no blob `{layer}`"));
    dir.link(&path, "/etc/passwd");
    refused("cannot open");
    std::fs::remove_file(dir.at(&path)).unwrap();
    dir.node(&path, rustix::fs::FileType::Fifo, (0, 0));
    refused("no regular file");
}

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// An OCI layout whose files can be changed before it is written.
fn tampered(change: impl FnOnce(&mut Files)) -> Result<Vec<Loaded>, ExportError> {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let archive = written(docker_archive::write, &store, &[(names(&["app:1"]), image)]);
    let mut files = Files::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            files.push((String::from_utf8(entry.path_bytes().into_owned()).unwrap(), bytes));
        }
    }
    change(&mut files);
    let mut raw = RawTar::default();
    for (name, bytes) in &files {
        raw.file(name.as_bytes(), bytes);
    }
    load(&raw.end()).1
}

fn index_of(files: &mut [(String, Vec<u8>)]) -> &mut Vec<u8> {
    &mut files.iter_mut().find(|(name, _)| name == "index.json").unwrap().1
}

fn edit_index(files: &mut [(String, Vec<u8>)], edit: impl FnOnce(&mut Value)) {
    let bytes = index_of(files);
    let mut index: Value = serde_json::from_slice(bytes).unwrap();
    edit(&mut index);
    *bytes = index.to_string().into_bytes();
}

#[test]
fn archives_that_were_tampered_with_are_refused() {
    let check = |words: &str, change: &dyn Fn(&mut Files)| {
        let error = tampered(change).expect_err(words).to_string();
        assert!(error.contains(words), "{error}, but `{words}` was expected");
    };
    assert!(tampered(|_| {}).is_ok());
    for flipped in 0..4 {
        check("was promised", &|files| {
            let blob = files.iter_mut().filter(|(name, _)| name.starts_with("blobs/")).nth(flipped).unwrap();
            let middle = blob.1.len() / 2;
            blob.1[middle] ^= 1;
        });
        check("there is no blob", &|files| {
            let at =
                files.iter().enumerate().filter(|(_, (name, _))| name.starts_with("blobs/")).nth(flipped).unwrap().0;
            files.remove(at);
        });
    }
    check("neither an OCI layout", &|files| files.retain(|(name, _)| name.starts_with("blobs/")));
    check("its version is `9.0`", &|files| files[0].1 = br#"{"imageLayoutVersion":"9.0"}"#.to_vec());
    check("stands twice", &|files| files.push(("./index.json".into(), b"{}".to_vec())));
    check("leaves the archive", &|files| files.push(("blobs/../../x".into(), vec![])));
    check("is absolute", &|files| files.push(("/etc/x".into(), vec![])));
    check("is not a digest", &|files| files.push(("blobs/sha256/ABC".into(), vec![])));
    check("lists no image", &|files| edit_index(files, |index| index["manifests"] = json!([])));
    check("were promised", &|files| edit_index(files, |index| index["manifests"][0]["size"] = json!(1)));
    check("stands twice", &|files| {
        let text = String::from_utf8(index_of(files).clone()).unwrap();
        *index_of(files) = text.replacen("\"manifests\":", "\"manifests\":[],\"manifests\":", 1).into_bytes();
    });
    check("is not an image name", &|files| {
        edit_index(files, |index| index["manifests"][0]["annotations"]["io.containerd.image.name"] = json!("../x:1"));
    });
    // Docker's own list: a layer that is not what the config says.
    check("unpacks to", &|files| {
        files.retain(|(name, _)| name != "oci-layout" && name != "index.json");
        let (_, list) = files.iter_mut().find(|(name, _)| name == "manifest.json").unwrap();
        let mut items: Value = serde_json::from_slice(list).unwrap();
        items[0]["Layers"].as_array_mut().unwrap().reverse();
        *list = items.to_string().into_bytes();
    });
    check("which is not in the archive", &|files| {
        files.retain(|(name, _)| name != "oci-layout" && name != "index.json");
        let (_, list) = files.iter_mut().find(|(name, _)| name == "manifest.json").unwrap();
        *list = br#"[{"Config":"absent","RepoTags":null,"Layers":[]}]"#.to_vec();
    });
}

#[test]
fn links_in_archives_stay_inside_and_end() {
    for (target, words) in
        [("../../x", "leaves the archive"), ("/etc/passwd", "leaves the archive"), ("a", "not in the archive")]
    {
        let list = br#"[{"Config":"a","RepoTags":null,"Layers":[]}]"#;
        let archive = RawTar::default().member(b"a", b'2', target.as_bytes()).file(b"manifest.json", list).end();
        let error = load(&archive).1.unwrap_err().to_string();
        assert!(error.contains(words), "{target}: {error}");
    }
}

#[test]
fn an_archive_that_was_cut_is_refused_wherever_it_was_cut() {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let archive = written(oci_layout::write_tar, &store, &[(names(&["app:1"]), image)]);
    for cut in (0..archive.len() - 1024).step_by(512) {
        assert!(load(&archive[..cut]).1.is_err(), "cut at {cut}");
    }
}

fn in_file(archive: &[u8]) -> (Tree, String) {
    let dir = Tree::new();
    dir.file("archive.tar", archive);
    let path = dir.at("archive.tar").to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn skopeo_and_umoci_read_what_is_written() {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let config = Image::open(&store, &image).unwrap().manifest.config.digest;
    let images = [(names(&["example.com/app:1"]), image.clone())];
    let (dir, oci) = in_file(&written(oci_layout::write_tar, &store, &images));
    let inspected =
        |reference: &str| -> Value { serde_json::from_slice(&run("skopeo", &["inspect", reference], b"")).unwrap() };
    let facts = inspected(&format!("oci-archive:{oci}:1"));
    assert_eq!(facts["Digest"], image.digest.to_string());
    assert_eq!(facts["Architecture"], "amd64");
    assert_eq!(facts["Layers"].as_array().unwrap().len(), 2);

    let (_docker_dir, docker) = in_file(&written(docker_archive::write, &store, &images));
    let facts = inspected(&format!("docker-archive:{docker}:example.com/app:1"));
    assert_eq!(facts["Layers"].as_array().unwrap().len(), 2);
    let copied = dir.at("copied").to_str().unwrap().to_owned();
    run("skopeo", &["copy", "-q", &format!("docker-archive:{docker}"), &format!("dir:{copied}")], b"");
    let manifest: Value = serde_json::from_slice(&std::fs::read(dir.at("copied/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["config"]["digest"], config.to_string(), "the image id stays");

    dir.dir("layout");
    let layout = dir.at("layout").to_str().unwrap().to_owned();
    run("tar", &["-xf", &oci, "-C", &layout], b"");
    let bundle = dir.at("bundle").to_str().unwrap().to_owned();
    run("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle], b"");
    assert_eq!(std::fs::read_to_string(dir.at("bundle/rootfs/layer-0")).unwrap(), "content 0");
    assert_eq!(std::fs::read_to_string(dir.at("bundle/rootfs/layer-1")).unwrap(), "content 1");
}

#[test]
fn what_skopeo_writes_is_read() {
    let store = MemoryStore::default();
    let image = sample_image(&store, Dialect::Oci, &MIXED);
    let opened = Image::open(&store, &image).unwrap();
    let (dir, oci) = in_file(&written(oci_layout::write_tar, &store, &[(names(&["example.com/app:1"]), image)]));
    for (to, name) in [
        ("docker-archive:OUT:example.com/app:2", Some("example.com/app:2")),
        ("oci-archive:OUT:example.com/app:3", Some("example.com/app:3")),
        ("oci-archive:OUT", None),
    ] {
        let out = dir.at(format!("out-{}", to.len()));
        let to = to.replace("OUT", out.to_str().unwrap());
        run("skopeo", &["copy", "-q", &format!("oci-archive:{oci}"), &to], b"");
        let (into, loaded) = load(&std::fs::read(&out).unwrap());
        let loaded = loaded.unwrap();
        assert_eq!(loaded[0].names, names(&name.into_iter().collect::<Vec<_>>()), "{to}");
        let copy = Image::open(&into, &loaded[0].manifest).unwrap();
        assert_eq!(copy.config.rootfs, opened.config.rootfs, "{to}");
    }
}
