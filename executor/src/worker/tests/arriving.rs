//! Layers that are unpacked while their blobs come: in any order, in pieces, anew, or not at all.

use std::io::{Read as _, Write as _};

use super::*;
use crate::layers::arriving::{Arrivals, GivenUp, Watched};

/// The upper two say nothing of the directories that they are in, delete what lies beneath, and link to it.
const LAYERS: [&[&str]; 3] = [
    &["etc/passwd=root", "usr/lib/x=1 4755 3:4", "d/gone=1", "d/kept=2"],
    &["d/gone!", "usr/lib/y=2", "usr/lib/z == usr/lib/y"],
    &["d/kept!", "usr/lib/y!", "usr/bin/w=3"],
];
const MERGED: [&str; 9] = [
    "d/",
    "etc/",
    "etc/passwd=root",
    "usr/",
    "usr/bin/",
    "usr/bin/w=3",
    "usr/lib/",
    "usr/lib/x=1 4755 3:4",
    "usr/lib/z=2",
];

/// Records the image, whose blobs are on their way.
fn expected(bench: &Bench) -> (ResultId, Manifest, Arrivals) {
    let (image, manifest) = bench.image(&LAYERS, Compression::Gzip);
    let source = SourceOp { identifier: image, attrs: BTreeMap::new() };
    let (reference, digest) = image::pinned(&source).unwrap();
    let found = image::record(bench.worker.store(), &reference, digest, true).unwrap();
    let arrivals = Arrivals::expect(found.missing.iter().map(|blob| blob.digest));
    (found.result, manifest, arrivals)
}

fn bytes(bench: &Bench, blob: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    bench.registry.blobs.open(&blob.digest).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Brings a blob in pieces; with `begins_anew`, half of another one first.
fn bring(bench: &Bench, arrivals: &Arrivals, blob: &Descriptor, begins_anew: bool) {
    let watched =
        Watched { blobs: bench.worker.store().blobs(), arriving: arrivals.get(&blob.digest).unwrap().clone() };
    if begins_anew {
        let mut wrong = watched.writer().unwrap();
        wrong.write_all(&bytes(bench, blob)[..20]).unwrap();
        wrong.write_all(b"something else").unwrap();
        assert!(wrong.commit(Some(&blob.digest)).is_err());
    }
    let mut writer = watched.writer().unwrap();
    for piece in bytes(bench, blob).chunks(7) {
        writer.write_all(piece).unwrap();
    }
    writer.commit(Some(&blob.digest)).unwrap();
}

fn trees(bench: &Bench, result: &ResultId) -> Vec<bool> {
    bench.chain(result).iter().map(|layer| layer.name.is_some()).collect()
}

/// Whatever was unpacked on the way, the tree is right in the end and no draft is left.
fn check_whole(bench: &Bench, result: &ResultId) {
    assert_eq!(bench.tree(result), MERGED);
    assert_eq!(fs::read_dir(bench.worker.store().root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn layers_become_trees_as_they_come_in_whatever_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let bench = Bench::new(&[]);
        let (result, manifest, arrivals) = expected(&bench);
        std::thread::scope(|scope| {
            scope.spawn(|| order.iter().for_each(|index| bring(&bench, &arrivals, &manifest.layers[*index], false)));
            bench.worker.layers().unpack_arriving(&result, &arrivals).unwrap();
        });
        assert_eq!(trees(&bench, &result), [true; 3], "{order:?}");
        check_whole(&bench, &result);
    }
}

#[test]
fn what_comes_anew_or_not_at_all_leaves_no_tree_of_it() {
    let bench = Bench::new(&[]);
    let (result, manifest, arrivals) = expected(&bench);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let given_up = GivenUp(arrivals.clone());
            bring(&bench, &arrivals, &manifest.layers[0], true);
            bring(&bench, &arrivals, &manifest.layers[2], false);
            drop(given_up);
        });
        bench.worker.layers().unpack_arriving(&result, &arrivals).unwrap();
    });
    let trees = trees(&bench, &result);
    assert!(!trees[1] && !trees[2], "the middle one did not come, and the upper one looks beneath: {trees:?}");
    // It comes after all: who needs the tree makes the rest.
    bring(&bench, &arrivals, &manifest.layers[1], false);
    check_whole(&bench, &result);
}

#[test]
fn layers_whose_blobs_are_here_become_trees_side_by_side_as_one_after_another() {
    for damaged in [None, Some(0), Some(1), Some(2)] {
        let bench = Bench::new(&[]);
        let (result, manifest, arrivals) = expected(&bench);
        manifest.layers.iter().for_each(|blob| bring(&bench, &arrivals, blob, false));
        let path =
            |index: usize| bench.worker.store().root().join("blobs/sha256").join(manifest.layers[index].digest.hex());
        let Some(index) = damaged else {
            assert_eq!(bench.worker.lowers(&result).unwrap().len(), 3);
            check_whole(&bench, &result);
            continue;
        };
        let whole = fs::read(path(index)).unwrap();
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(path(index), wrong).unwrap();
        let error = words(&bench.worker.lowers(&result).unwrap_err());
        assert!(error.contains(&manifest.layers[index].digest.to_string()), "{error}");
        assert!(!trees(&bench, &result)[index], "{index}");
        fs::write(path(index), whole).unwrap();
        check_whole(&bench, &result);
    }
}

#[test]
fn a_blob_with_another_content_than_the_image_says_becomes_no_tree() {
    let bench = Bench::new(&[]);
    let (_, manifest) = bench.image(&LAYERS[..1], Compression::Gzip);
    let (image, manifest) = bench.publish(vec![DiffId(Digest::of(b"another"))], manifest.layers);
    let (reference, digest) = image::pinned(&SourceOp { identifier: image, attrs: BTreeMap::new() }).unwrap();
    let found = image::record(bench.worker.store(), &reference, digest, true).unwrap();
    let arrivals = Arrivals::expect([manifest.layers[0].digest]);
    std::thread::scope(|scope| {
        scope.spawn(|| bring(&bench, &arrivals, &manifest.layers[0], false));
        bench.worker.layers().unpack_arriving(&found.result, &arrivals).unwrap();
    });
    assert_eq!(trees(&bench, &found.result), [false]);
    let error = bench.worker.view(&found.result).err().map(|error| words(&error)).unwrap_or_default();
    assert!(error.contains("but its image's config says"), "{error}");
}

#[tokio::test]
async fn layers_that_must_not_be_distributed_are_fetched_only_where_that_is_allowed() {
    for media_type in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let bench = Bench::new(&[]);
        let (_, manifest) = bench.image(&LAYERS[..1], Compression::Gzip);
        let mut layer = manifest.layers[0].clone();
        layer.media_type = media_type.into();
        let (config, _): (ImageConfig, _) =
            oci::content::read_json(bench.worker.store().blobs(), &manifest.config, 1 << 20).unwrap();
        let (image, _) = bench.publish(config.rootfs.diff_ids, vec![layer]);
        let error = words(&bench.source(&image, &[]).await.unwrap_err());
        assert!(error.contains("must not be distributed") && error.contains(media_type), "{error}");
        assert_eq!(bench.asked(), 0, "nobody is asked for it");
        bench.worker.allow_foreign_layers();
        let result = bench.source(&image, &[]).await.unwrap();
        assert_eq!(bench.tree(&result)[0], "d/");
    }
}

#[tokio::test]
async fn an_image_that_will_be_a_tree_is_one_when_it_is_there_and_others_are_not() {
    let bench = Bench::new(&[]);
    let (image, _) = bench.image(&LAYERS, Compression::Zstd);
    let (other, _) = bench.image(&[&["only=stacked"]], Compression::Zstd);
    bench.worker.expect_trees([image.clone()].into());
    let result = bench.source(&image, &[]).await.unwrap();
    assert_eq!(trees(&bench, &result), [true; 3]);
    check_whole(&bench, &result);
    let result = bench.source(&other, &[]).await.unwrap();
    assert_eq!(trees(&bench, &result), [false]);
}
