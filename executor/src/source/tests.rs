//! The digest of what a build reads of its context: what counts, what does not, and what is refused.

mod hostile;

use std::os::fd::AsFd;
use std::sync::Arc;

use solver::op::{CopyAction, SourceOp, attr};
use solver::seam::Selection;

use super::SourceError;
use super::local::{LocalPatterns, LocalSource};
use crate::ops::file::copy::{self, CopySource};
use crate::testing::{Log, build, open, shell, show};
use crate::tree::Root;

fn patterns(ignore: &[&str]) -> LocalPatterns {
    let list = serde_json::to_string(ignore).unwrap();
    let attrs = [(attr::EXCLUDE_PATTERNS.to_owned(), list)].into();
    LocalPatterns::of(&SourceOp { identifier: "local://context".into(), attrs }).unwrap()
}

fn action(src: &str) -> CopyAction {
    CopyAction {
        src: src.into(),
        dest: "/".into(),
        follow_symlinks: true,
        dir_contents_only: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    }
}

fn digest_in(dir: &std::path::Path, ignore: &[&str], selection: &Selection) -> Result<String, SourceError> {
    let local = LocalSource::open("context", dir)?;
    local.digest_selected(&patterns(ignore), selection, &|| false).map(|made| made.digest.to_string())
}

const SOURCE: &[&str] = &[
    "a=A",
    "b=B 600",
    "d/x=X 755",
    "d/e/",
    "d/l -> x",
    "d/p|",
    "d/n:1:3",
    "k=K @user.k=v",
    "m -> d",
    "skip=1",
    "same=A",
    "t1/f=1",
    "t2/f=2",
];

/// Whether the digest of `src`, with `skip` ignored, changes with the script.
fn changes(src: &str, script: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), SOURCE);
    let selection = copy::selection(&action(src));
    let digest = || digest_in(dir.path(), &["skip"], &selection).unwrap();
    let before = digest();
    assert_eq!(before, digest(), "asked twice: {src}");
    shell(open(dir.path()).as_fd(), script);
    digest() != before
}

#[test]
fn content_names_modes_links_and_attributes_count() {
    for (src, script) in [
        ("/a", "printf Z >a"),
        ("/a", "printf AA >a"),
        ("/a", ": >a"),
        ("/a", "chmod 755 a"),
        ("/a", "chmod u+s a"),
        ("/a", "rm a; mkdir a"),
        ("/a", "rm a; ln -s b a"),
        ("/k", "setfattr -n user.k -v w k"),
        ("/k", "setfattr -x user.k k"),
        ("/k", "setfattr -n user.j -v w k"),
        ("/a", "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 a"),
        ("/", "printf Z >d/x"),
        ("/", "mkdir d/new"),
        ("/", "rmdir d/e"),
        ("/", "chmod 700 d"),
        ("/", "touch d/new"),
        ("/", "mv d/x d/y"),
        ("/", "mv a c"),
        ("/", "ln -sfn a m"),
        ("/", "ln -sfn y d/l"),
        ("/", "rm d/p; : >d/p"),
        ("/", "rm d/n; mknod d/n c 1 5"),
        ("/", "mv d/x d/e/x"),
        ("/d", "rm d/x"),
        ("/m", "printf Z >d/x"),
        ("/m/x", "printf Z >d/x"),
        ("/?", "rm a"),
        ("/?", "printf 1 >z"),
        ("/?", "mv a z"),
        // The same bytes, but each under the other's name.
        ("/[ab]", "mv a t; mv b a; mv t b"),
        // Of two files that become one, the later is kept.
        ("/t*", "mv t1/f x; mv t2/f t1/f; mv x t2/f"),
        ("/t*/f", "mv t1/f x; mv t2/f t1/f; mv x t2/f"),
    ] {
        assert!(changes(src, script), "{src}: {script}");
    }
}

#[test]
fn times_owners_and_what_is_not_selected_do_not_count() {
    for (src, script) in [
        ("/a", "touch a"),
        ("/a", "touch -d @1 a"),
        ("/", "find . -exec touch -h -d @5 {} +"),
        ("/a", "cp -p a t; mv t a"),
        ("/a", "cat a; ls -l"),
        ("/", "chown -R -h 5:6 ."),
        ("/a", "printf Z >b"),
        ("/a", "chmod 700 ."),
        // The directory's own name and mode mean nothing when its contents are copied.
        ("/d", "chmod 700 d"),
        ("/m", "chmod 700 d"),
        ("/", "printf Z >skip"),
        ("/", "rm skip"),
        ("/", "rm skip; mkdir -p skip/d; printf 1 >skip/d/f"),
        ("/", "rm same; ln a same"),
        ("/a", "ln a other"),
        ("/d/[x]", "printf Z >d/l2"),
        ("/none*", "printf Z >a"),
    ] {
        assert!(!changes(src, script), "{src}: {script}");
    }
}

#[test]
fn the_place_of_the_context_does_not_count() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(one.path(), SOURCE);
    build(&other.path().join("deeper"), SOURCE);
    let selection = copy::selection(&action("/"));
    let first = digest_in(one.path(), &[], &selection).unwrap();
    assert_eq!(first, digest_in(&other.path().join("deeper"), &[], &selection).unwrap());
}

#[test]
fn many_files_are_digested_the_same_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..700).map(|i| format!("d{}/f{i}={}", i % 7, "x".repeat(i % 30))).collect();
    build(dir.path(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let selection = copy::selection(&action("/"));
    let digests: Vec<String> = [1, 2, 8]
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| digest_in(dir.path(), &[], &selection).unwrap())
        })
        .into();
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn patterns_of_a_copy_choose_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["a.md=1", "b.txt=2", "d/c.md=3"]);
    let exclude = Selection { exclude_patterns: vec!["**/*.md".into()], ..copy::selection(&action("/")) };
    let before = digest_in(dir.path(), &[], &exclude).unwrap();
    shell(open(dir.path()).as_fd(), "printf 9 >a.md; printf 9 >d/c.md; printf 9 >d/new.md");
    assert_eq!(digest_in(dir.path(), &[], &exclude).unwrap(), before);
    shell(open(dir.path()).as_fd(), "printf 9 >b.txt");
    assert_ne!(digest_in(dir.path(), &[], &exclude).unwrap(), before);
}

#[test]
fn a_copy_with_parents_is_exactly_what_it_names_and_the_way_there() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["a/b/x=1", "a/b/y=2", "a/z=3", "c/x=4"]);
    let selection = |path: &str| Selection {
        include_patterns: vec![path.into()],
        required_paths: vec![path.into()],
        ..copy::selection(&action("/"))
    };
    for (path, script, counts) in [
        ("a/b/x", "printf 9 >a/b/x", true),
        ("a/b/x", "chmod 700 a", true),
        ("a/b/x", "chmod 700 a/b", true),
        ("a/b/x", "printf 9 >a/b/y; printf 9 >a/z; mkdir a/new; chmod 700 c", false),
        ("a/b/x", "touch a a/b a/b/x", false),
        ("a/*/*", "printf 9 >a/b/y", true),
        ("a/*/*", "printf 9 >a/z", false),
        ("**/x", "printf 9 >c/x", true),
        ("**/x", "printf 9 >a/z; mkdir d; printf 9 >d/y", false),
        ("**/x", "mkdir d; printf 9 >d/x", true),
        ("none/*", "printf 9 >a/z", false),
        ("none/*", "mkdir none; printf 9 >none/x", true),
    ] {
        let before = digest_in(dir.path(), &[], &selection(path)).unwrap();
        shell(open(dir.path()).as_fd(), script);
        let after = digest_in(dir.path(), &[], &selection(path)).unwrap();
        assert_eq!(before != after, counts, "{path}: {script}");
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        shell(open(dir.path()).as_fd(), "rm -rf -- *");
        build(dir.path(), &["a/b/x=1", "a/b/y=2", "a/z=3", "c/x=4"]);
    }
    let error = digest_in(dir.path(), &[], &selection("a/none")).unwrap_err();
    assert_eq!(error.to_string(), "`a/none` does not exist in the build context");
}

#[test]
fn what_cannot_be_selected_is_named() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &["a=1", "d/b=2", "loop -> loop", "out -> /etc/passwd"]);
    for (src, ignore, expected) in [
        ("/gone", &[][..], "`gone` does not exist in the build context"),
        ("/d/../gone", &[], "`gone` does not exist in the build context"),
        ("/a/b", &[], "`a/b` does not exist in the build context"),
        ("/../../etc/passwd", &[], "`etc/passwd` does not exist in the build context"),
        ("/out", &[], "`out` does not exist in the build context"),
        ("/a", &["x", "a"], "`a` is left out of the build context by the ignore pattern `a`"),
        ("/d/b", &["*", "!a"], "`d/b` is left out of the build context by the ignore pattern `*`"),
        ("/loop", &[], "more than 40 symbolic links"),
        ("/[", &[], "malformed"),
    ] {
        let error = digest_in(dir.path(), ignore, &copy::selection(&action(src))).unwrap_err();
        assert!(error.to_string().contains(expected), "{src}: {error}");
    }
    let strict = Selection { allow_empty_wildcard: false, ..copy::selection(&action("/z*")) };
    let error = digest_in(dir.path(), &[], &strict).unwrap_err();
    assert_eq!(error.to_string(), "nothing in the build context matches `z*`");
    let error = LocalSource::open("context", &dir.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("none` of the build context"), "{error}");
    assert_eq!(patterns(&["x", "*.o"]).excluded_by("/d/../a.o").map(|(i, _)| i), None);
    assert_eq!(patterns(&["x", "*.o"]).excluded_by("/a.o"), Some((1, "*.o")));
}

/// A context that is digested, changed by the script, and copied.
fn copied_after(src: &str, script: &str) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    build(&source, &["a=A", "b=B", "d/x=X", "d/e/y=Y"]);
    std::fs::create_dir(&root).unwrap();
    let local = Arc::new(LocalSource::open("context", &source).unwrap());
    let patterns = Arc::new(patterns(&["skip"]));
    local.digest_selected(&patterns, &copy::selection(&action(src)), &|| false).unwrap();
    shell(open(&source).as_fd(), script);
    let from = CopySource::Local(local, patterns);
    let copied = copy::perform(&action(src), &from, &Root::new(open(&root)), &Log::default());
    copied.map(|_| show(open(&root).as_fd(), false)).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error} {}", cause.unwrap_or_default())
    })
}

#[test]
fn what_changed_since_it_was_digested_is_not_copied() {
    for (src, script, changed) in [
        ("/", "printf Z >a", "`a` changed"),
        ("/", "printf Z >d/e/y", "`d/e/y` changed"),
        ("/", "printf Z >>d/x; touch -d @1000000000 d/x", "`d/x` changed"),
        ("/", "cp -p a t; mv t a", "`a` changed"),
        ("/", "chmod 700 d", "`d` changed"),
        ("/", "printf Z >new", "`new` changed"),
        ("/", "mkdir d/new", "`d/new` changed"),
        ("/", "rm d/e/y", "`d/e/y` changed"),
        ("/", "rm -r d/e", "`d/e` changed"),
        ("/", "rm a; ln -s b a", "`a` changed"),
        ("/", "rm a; mkfifo a", "`a` changed"),
        ("/?", "rm b", "`b` changed"),
        ("/?", "printf Z >c", "`c` changed"),
        ("/a", "printf Z >a", "`a` changed"),
        ("/d/x", "printf Z >d/x", "`d/x` changed"),
    ] {
        let error = copied_after(src, script).unwrap_err();
        assert!(error.contains(changed), "{src}: {script}: {error}");
    }
    // What was not selected may change.
    for (src, script) in [("/d", "printf Z >a"), ("/", "printf Z >skip"), ("/?", "printf Z >d/new/f 2>/dev/null || :")]
    {
        copied_after(src, script).unwrap();
    }
}
