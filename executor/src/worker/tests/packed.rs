//! Copies of many files whose layers are tars before they are trees.

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::ops::file::copy::selection;

/// More files than it takes, in directories of all kinds.
fn many() -> Vec<String> {
    let mut lines: Vec<String> = (0..1200).map(|n| format!("d{}/e{}/f{n}={n}", n % 7, n % 11)).collect();
    lines.extend(
        ["d0/empty/ 700", "d1/l -> e1/f1", "program=#!/bin/sh 4755", "nothing=", "d-/x=1", "d/y=2"].map(String::from),
    );
    lines.push(format!("{}end=1 600", "deep/".repeat(40)));
    lines.push(format!("{}=long", "n".repeat(200)));
    lines
}

fn bench(more: &[&str]) -> Bench {
    let lines = many();
    Bench::new(&lines.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
}

impl Bench {
    fn pack(&self) {
        self.worker.expect_packed([VertexId::of_name("test")].into());
    }

    /// One copy of the context, which is digested before.
    async fn copied(&self, dest: &str, onto: Option<&ResultId>) -> Result<ResultId, ExecError> {
        let source = SourceOp { identifier: "local://context".into(), attrs: BTreeMap::new() };
        let FileActionKind::Copy(action) = copy("/", dest) else { unreachable!("it is one") };
        let stop = CancellationToken::new();
        self.worker.digest_selected(&source, &selection(&action), &stop).await.unwrap();
        let context = self.source("local://context", &[]).await.unwrap();
        self.copy("/", dest, onto, &context).await
    }

    fn layer(&self, id: &ResultId) -> store::Layer {
        self.worker.store().layer(id).unwrap().unwrap()
    }

    fn tar(&self, id: &ResultId) -> Vec<u8> {
        let mut tar = Vec::new();
        self.worker.layers().write_tar(&self.layer(id), &mut tar).unwrap();
        tar
    }

    fn unfinished(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/tmp")).unwrap().count()
    }
}

/// Name, mode and owners in a header.
const UNTIMED_BYTES: usize = 136;

#[tokio::test]
async fn a_packed_copy_has_the_tar_that_its_tree_would_have() {
    for (dest, directories) in [("/src", 1), ("/opt/app/src/", 3), ("/", 0)] {
        let (bench, other) = (bench(&["s$"]), bench(&["s$"]));
        bench.pack();
        let (packed, plain) = (bench.copied(dest, None).await.unwrap(), other.copied(dest, None).await.unwrap());
        let record = bench.layer(&packed);
        assert!(record.name.is_none() && record.came_as().is_none() && other.layer(&plain).name.is_some());
        let (found, expected) = (bench.tar(&packed), other.tar(&plain));
        assert_eq!((record.diff_id, record.tar_bytes), (Some(DiffId(Digest::of(&found))), Some(found.len() as u64)));
        // Directories that are made on the way are as old as the copy.
        let (mine, theirs) = (found.split_at(512 * directories), expected.split_at(512 * directories));
        for (one, other) in mine.0.chunks(512).zip(theirs.0.chunks(512)) {
            assert_eq!(one[..UNTIMED_BYTES], other[..UNTIMED_BYTES], "{dest}");
        }
        assert!(mine.1 == theirs.1, "{dest}");
        // What builds upon it has a tree.
        assert_eq!(bench.tree(&packed), other.tree(&plain));
        assert!(bench.layer(&packed).name.is_some());
        assert_eq!(bench.unfinished(), 0);
        let contents = [bench.layer(&packed), other.layer(&plain)].map(|layer| layer.from_context);
        assert_eq!(contents, [true, true]);
    }
}

#[tokio::test]
async fn what_a_tar_does_not_say_as_a_tree_does_is_copied() {
    let check = async |more: &[&str], dest: &str, onto: &[&str], expected: bool| {
        let bench = bench(more);
        bench.pack();
        let (image, _) = bench.image(&[onto], Compression::Gzip);
        let base = if onto.is_empty() { None } else { Some(bench.source(&image, &[]).await.unwrap()) };
        let copied = bench.copied(dest, base.as_ref()).await.unwrap();
        assert_eq!(bench.layer(&copied).name.is_none(), expected, "{more:?} {dest} {onto:?}");
        assert_eq!(bench.unfinished(), 0);
        assert!(bench.tree(&copied).len() > 1200);
    };
    check(&[], "/src", &["etc/passwd=x"], true).await;
    check(&[], "/etc/src", &["etc/passwd=x", "etc/ 711 3:4"], true).await;
    check(&[], "/here/src", &["etc/", "here -> etc"], true).await;
    check(&[], "/app/", &["app/ 700 3:4", "etc/passwd=x"], true).await;
    check(&["a=1 @user.x=1"], "/src", &[], false).await;
    check(&["d3/ 755 @user.x=1"], "/src", &[], false).await;
    check(&["p|"], "/src", &[], false).await;
    check(&[], "/etc", &["etc/passwd=x"], false).await;
    check(&[], "/etc/src", &["etc/ 755 @user.x=1"], false).await;
}

#[tokio::test]
async fn holes_and_few_files_are_copied() {
    let sparse = bench(&[]);
    sparse.pack();
    fs::File::create(sparse.dir.path().join("context/sparse")).unwrap().write_all_at(b"end", 1 << 20).unwrap();
    let few = Bench::new(&["a=1", "d/b=2"]);
    few.pack();
    for bench in [sparse, few] {
        let copied = bench.copied("/src", None).await.unwrap();
        assert!(bench.layer(&copied).name.is_some());
    }
}

#[tokio::test]
async fn a_file_that_changes_before_it_is_packed_is_an_error_and_leaves_nothing() {
    let bench = bench(&[]);
    bench.pack();
    let first = bench.copied("/src", None).await.unwrap();
    // What was digested in this build is not digested again.
    fs::write(bench.dir.path().join("context/d3/e3/f3"), "4").unwrap();
    let error = bench.copied("/src", None).await.unwrap_err();
    assert!(words(&error).contains("`d3/e3/f3` changed while it was read"), "{}", words(&error));
    assert_eq!(bench.unfinished(), 0);
    assert!(bench.layer(&first).name.is_none());
}

#[tokio::test]
async fn the_same_packed_again_is_what_was_there() {
    let bench = bench(&[]);
    bench.pack();
    let first = bench.copied("/src", None).await.unwrap();
    let again = bench.copied("/src", None).await.unwrap();
    assert_ne!(first, again);
    let settled = bench.worker.settle(vec![again], &[vec![first.clone()]], &CancellationToken::new()).await.unwrap();
    assert_eq!(settled, [first]);
}

#[tokio::test]
async fn other_times_are_given_to_what_was_packed() {
    let bench = bench(&[]);
    bench.pack();
    let packed = bench.copied("/src", None).await.unwrap();
    let rule = Some(store::TimeRule { epoch: 5 });
    let timed = bench.worker.store().derive_layer(None, &packed, rule, true).unwrap();
    let moments: HashSet<Vec<u8>> = bench
        .tar(&timed)
        .chunks(512)
        .filter(|block| block[257..262] == *b"ustar" && block[156] != b'x')
        .map(|block| block[136..147].to_vec())
        .collect();
    assert_eq!(moments, [b"00000000005".to_vec()].into());
}

#[tokio::test]
async fn what_was_packed_is_compressed_as_an_output_wants_it() {
    let bench = bench(&[]);
    bench.pack();
    let packed = bench.copied("/src", None).await.unwrap();
    let blob =
        |compression, force| bench.worker.layers().ensure_blob(&packed, &Codec::new(compression), force).unwrap();
    assert_eq!(blob(Compression::Gzip, false).media_type, media_type::OCI_LAYER_GZIP);
    assert_eq!(blob(Compression::Zstd, false).media_type, media_type::OCI_LAYER_ZSTD);
    for force in [false, true] {
        assert_eq!(Some(blob(Compression::None, force)), bench.layer(&packed).blob);
    }
}
