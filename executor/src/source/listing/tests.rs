//! What is told of two digests.

use std::os::fd::AsFd;
use std::path::Path;

use solver::key::ContentDigest;
use solver::op::{CopyAction, SourceOp};
use solver::seam::Selection;
use store::Store;

use super::*;
use crate::ops::file::copy;
use crate::source::local::{LocalPatterns, LocalSource};
use crate::testing::{build, open, shell};

fn selection(src: &str, dir_contents_only: bool) -> Selection {
    copy::selection(&CopyAction {
        src: src.into(),
        dest: "/".into(),
        follow_symlinks: true,
        dir_contents_only,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    })
}

fn digest(store: &Store, dir: &Path, selection: &Selection) -> ContentDigest {
    let source = SourceOp { identifier: "local://context".into(), attrs: Default::default() };
    let local = LocalSource::open("context", dir).unwrap();
    let made = local.digest_selected(&LocalPatterns::of(&source).unwrap(), selection, &|| false).unwrap();
    store.keep_nodes(&made.digest, made.nodes()).unwrap();
    made.digest
}

/// One line per change, in words.
fn told(changes: &[Change]) -> String {
    let short = |digest: &[u8; 32]| format!("{:02x}{:02x}", digest[0], digest[1]);
    let line = |change: &Change| {
        let path = &change.path;
        match &change.kind {
            ChangeKind::Added => format!("+{path}"),
            ChangeKind::Removed => format!("-{path}"),
            ChangeKind::Changed(What::Content { old, new }) => format!("{path} content {} {}", short(old), short(new)),
            ChangeKind::Changed(What::Mode { old, new }) => format!("{path} mode {old:o} {new:o}"),
            ChangeKind::Changed(What::Kind { old, new }) => format!("{path} kind {old} {new}"),
            ChangeKind::Changed(What::Link { old, new }) => format!("{path} link {old} {new}"),
            ChangeKind::Changed(what) => format!("{path} {what:?}"),
        }
    };
    changes.iter().map(line).collect::<Vec<_>>().join(", ")
}

const BEFORE: &[&str] = &["a=A", "b=B", "d/e/f=F", "d/e/g=G", "d/l -> x", "k/x=1", "p|", "t1/f=1", "t2/f=2"];

#[test]
fn every_path_that_differs_is_told_with_what_became_of_it() {
    let store_dir = tempfile::tempdir().unwrap();
    let store = Store::open(&store_dir.path().join("store")).unwrap();
    for (src, contents, script, expected) in [
        ("/", true, ":", ""),
        ("/", true, "touch -d @5 a; chown 7:7 b", ""),
        // SHA-256 of `A` and of `Z`.
        ("/", true, "printf Z >a", "a content 559a bbee"),
        ("/", true, "chmod 600 d/e/f; chmod 700 d", "d/ mode 755 700, d/e/f mode 644 600"),
        ("/", true, "rm a; mkdir a; rm p; printf 1 >p", "a/ kind file directory, p kind FIFO file"),
        ("/", true, "ln -sfn y d/l", "d/l link x y"),
        ("/", true, "setfattr -n user.k -v w d/e/f", "d/e/f Attributes"),
        ("/", true, "mkdir n; printf 1 >n/1; printf 1 >d/e/n; rm -r k", "+d/e/n, -k/, +n/"),
        ("/", true, "printf 1 >\"$(printf 'n\\nl')\"", "+n\\nl"),
        ("/d", false, "rm d/e/g", "-d/e/g"),
        ("/d", true, "rm d/e/g", "-e/g"),
        ("/d", true, "chmod 700 d", ""),
        ("/a", true, "chmod 600 a", "a mode 644 600"),
        ("/?", true, "rm a; printf 1 >c", "-a, +c"),
        // Two matches of one name.
        ("/t*/f", true, "printf 3 >t2/f", "f content d473 4e07"),
        ("/t*", true, "rm t2/f", "-f"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), BEFORE);
        let selection = selection(src, contents);
        let old = digest(&store, dir.path(), &selection);
        shell(open(dir.path()).as_fd(), script);
        let new = digest(&store, dir.path(), &selection);
        let changes = compare(&store, old, new, 100).unwrap().unwrap();
        assert_eq!(told(&changes), expected, "{src}: {script}");
        assert_eq!(old == new, expected.is_empty(), "{src}: {script}");
        let back = compare(&store, new, old, 100).unwrap().unwrap();
        assert_eq!(back.len(), changes.len(), "{src}: {script}");
    }
}

#[test]
fn no_more_is_told_than_was_asked_for_and_nothing_of_what_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let context = dir.path().join("context");
    build(&context, BEFORE);
    let everything = selection("/", true);
    let old = digest(&store, &context, &everything);
    shell(open(&context).as_fd(), "for i in $(seq 100 199); do printf 1 >n$i; done");
    let new = digest(&store, &context, &everything);
    assert_eq!(told(&compare(&store, old, new, 2).unwrap().unwrap()), "+n100, +n101");
    assert_eq!(compare(&store, old, new, 1000).unwrap().unwrap().len(), 100);
    assert_eq!(compare(&store, old, new, 0).unwrap().unwrap(), []);
    assert_eq!(compare(&store, old, ContentDigest([1; 32]), 2).unwrap(), None);
}
