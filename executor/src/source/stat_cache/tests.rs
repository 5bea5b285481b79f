//! What is remembered from build to build, and that it is never believed too much.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, statat};
use solver::op::{CopyAction, SourceOp, attr};
use solver::seam::Selection;

use super::*;
use crate::ops::file::copy;
use crate::source::local::{LocalPatterns, LocalSource};
use crate::source::look::{Moment, is_trusted};
use crate::testing::{build, open, shell};
use crate::tree::TreeError;
use crate::tree::walk::{Descend, Entry, Visitor, walk};

const SOURCE: &[&str] = &["a=A", "b=B", "d/x=X", "d/e/y=Y", "d/l -> x", "k=K @user.k=v", "p|", "skip/s=S", "z/z=Z"];
/// Entries of `SOURCE` that are read: no directories.
const READ: usize = 8;

fn selection(src: &str) -> Selection {
    copy::selection(&CopyAction {
        src: src.into(),
        dest: "/".into(),
        follow_symlinks: true,
        dir_contents_only: true,
        allow_wildcard: true,
        ..CopyAction::default()
    })
}

fn patterns(ignore: &[&str]) -> LocalPatterns {
    let list = serde_json::to_string(ignore).unwrap();
    let attrs = [(attr::EXCLUDE_PATTERNS.to_owned(), list)].into();
    LocalPatterns::of(&SourceOp { identifier: "local://context".into(), attrs }).unwrap()
}

/// A context in its own directory beside a store.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new(lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        build(&dir.path().join("context"), lines);
        assert!(is_trusted(open(dir.path())), "the tests' directory is on a file system of this machine");
        Self { dir, store }
    }

    fn context(&self) -> std::path::PathBuf {
        self.dir.path().join("context")
    }

    /// The context as a new build sees it.
    fn source(&self) -> LocalSource {
        let source = LocalSource::open("context", &self.context()).unwrap();
        source.remember_in(&self.store).unwrap();
        source
    }

    /// Digest and number of entries read by a new build.
    fn digest(&self, src: &str) -> (String, usize) {
        let made = self.source().digest_selected(&patterns(&["skip"]), &selection(src), &|| false).unwrap();
        (made.digest.to_string(), made.read)
    }

    /// The digest that a build gets that remembers nothing.
    fn anew(&self, src: &str) -> String {
        let source = LocalSource::open("context", &self.context()).unwrap();
        source.digest_selected(&patterns(&["skip"]), &selection(src), &|| false).unwrap().digest.to_string()
    }

    fn shell(&self, script: &str) {
        shell(open(&self.context()).as_fd(), script);
    }

    /// Waits until the clock that files have is past the times of everything in the context.
    fn let_pass(&self) {
        while !all_past(&self.context()) {
            std::thread::yield_now();
        }
    }
}

fn all_past(context: &Path) -> bool {
    struct Past(Moment, bool);
    impl Visitor for Past {
        type Error = TreeError;
        fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
            self.1 &= self.0.is_after(&Look::of(entry.stat));
            Ok(Descend::Enter)
        }
        fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
            Ok(())
        }
    }
    let mut past = Past(Moment::now(), true);
    walk(open(context), &mut past).unwrap();
    past.1
}

#[test]
fn a_second_build_reads_what_has_changed_and_nothing_else() {
    for (script, read, differs) in [
        (":", 0, false),
        ("cat a; ls -lR", 0, false),
        ("printf Z >skip/s; mkdir skip/t", 0, false),
        ("touch a", 1, false),
        ("touch -d @5 a", 1, false),
        ("printf Z >a", 1, true),
        // The same length, and the same time.
        ("printf Z >a; touch -d @1000000000 a", 1, true),
        ("printf AA >a; truncate -s 1 a; touch -d @1000000000 a", 1, false),
        // Another file of the same length and time in its place, perhaps with its inode number.
        ("cp -p b t; mv t a", 1, true),
        ("rm a; printf Z >a; touch -d @1000000000 a", 1, true),
        ("mv a t; mv b a; mv t b", 2, true),
        ("ln -f b a", 2, true),
        ("ln a other", 2, true),
        ("chmod 600 a", 1, true),
        ("setfattr -n user.k -v w k", 1, true),
        ("setfattr -n user.n -v w a", 1, true),
        ("setfattr -n user.n -v w d", 0, true),
        ("chmod 700 d", 0, true),
        ("ln -sfn y d/l", 1, true),
        ("rm p; mkfifo -m 644 p", 1, false),
        ("rm p; printf P >p; chmod 644 p", 1, true),
        ("rm a", 0, true),
        ("rm -r d", 0, true),
        ("mkdir n; printf 1 >n/1", 1, true),
        ("mv d n", 0, true),
        ("chown 7:7 a", 1, false),
    ] {
        let bench = Bench::new(SOURCE);
        bench.let_pass();
        let before = bench.digest("/");
        assert_eq!(before.1, READ, "{script}");
        bench.shell(script);
        let after = bench.digest("/");
        // Everything in a directory that was renamed is met under names that nobody knows.
        let read = if script == "mv d n" { 3 } else { read };
        assert_eq!((after.1, after.0 != before.0), (read, differs), "{script}");
        assert_eq!(after.0, bench.anew("/"), "{script}");
        bench.let_pass();
        bench.digest("/");
        assert_eq!(bench.digest("/"), (after.0, 0), "{script}");
    }
}

#[test]
fn what_is_not_past_is_read_again_by_the_next_build() {
    let bench = Bench::new(SOURCE);
    bench.let_pass();
    for _ in 0..2 {
        // A clock that was set back, or has not gone on since the files were written.
        let source = bench.source().with_clock(Moment::long_ago);
        let made = source.digest_selected(&patterns(&["skip"]), &selection("/"), &|| false).unwrap();
        assert_eq!(made.read, READ);
    }
    assert_eq!(bench.store.contexts().unwrap(), []);
    // Nor is a file that was not past dragged along by others that were.
    bench.shell("touch -d @33000000000 a; touch -d '+1 hour' b");
    let context = open(&bench.context());
    for name in ["a", "b"] {
        let look = Look::of(&statat(&context, name, AtFlags::SYMLINK_NOFOLLOW).unwrap());
        while !Moment::now().is_after_change(&look) {
            std::thread::yield_now();
        }
    }
    assert_eq!(bench.digest("/").1, READ);
    assert_eq!(bench.digest("/").1, 2);
}

#[test]
fn selections_of_one_build_read_nothing_twice() {
    let bench = Bench::new(SOURCE);
    for order in [["/", "/d", "/d/x", "/*", "/d/*"], ["/d/x", "/d/*", "/d", "/*", "/"]] {
        for clock in [Moment::now, Moment::long_ago] {
            let source = LocalSource::open("context", &bench.context()).unwrap().with_clock(clock);
            let mut read = 0;
            for src in order {
                let made = source.digest_selected(&patterns(&["skip"]), &selection(src), &|| false).unwrap();
                assert_eq!(made.digest.to_string(), bench.anew(src), "{src}");
                read += made.read;
            }
            assert_eq!(read, READ, "{order:?}");
        }
    }
    let source = Arc::new(LocalSource::open("context", &bench.context()).unwrap());
    let read = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for src in ["/", "/d", "/d/x", "/*", "/d/*", "/z"] {
            let (source, read) = (source.clone(), &read);
            scope.spawn(move || {
                let made = source.digest_selected(&patterns(&["skip"]), &selection(src), &|| false).unwrap();
                read.fetch_add(made.read, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(read.into_inner(), READ);
}

#[test]
fn builds_that_select_other_things_keep_what_the_others_remember() {
    let bench = Bench::new(SOURCE);
    bench.let_pass();
    assert_eq!(bench.digest("/d/x").1, 1);
    assert_eq!(bench.digest("/z").1, 1);
    assert_eq!(bench.digest("/d").1, 2);
    assert_eq!(bench.digest("/").1, READ - 4);
    assert_eq!(bench.digest("/d/*").1 + bench.digest("/?").1 + bench.digest("/").1, 0);
}

#[test]
fn what_nobody_counts_any_more_is_dropped_in_the_end() {
    let bench = Bench::new(SOURCE);
    bench.let_pass();
    bench.digest("/");
    let kept =
        |bench: &Bench| bench.source().digest_selected(&patterns(&[]), &selection("/z"), &|| false).unwrap().read;
    for i in 0..=AGE_MAX {
        assert_eq!(kept(&bench), 0, "{i}");
        bench.shell(&format!("printf {i} >d/x"));
        bench.let_pass();
        assert_eq!(bench.digest("/d/x").1, 1);
        // Only what a build counts stays young: this one counts nothing but a file of another directory.
    }
    bench.shell("printf Z >d/x");
    bench.let_pass();
    bench.digest("/d/x");
    assert_eq!(kept(&bench), 1);
}

#[test]
fn a_damaged_file_is_nothing_and_is_replaced() {
    let bench = Bench::new(SOURCE);
    bench.let_pass();
    let expected = bench.digest("/").0;
    let path = bench.context().canonicalize().unwrap();
    let path = path.as_os_str().as_encoded_bytes();
    let whole = bench.store.context(path).unwrap().unwrap();
    let whole = whole.part(0, usize::try_from(whole.bytes()).unwrap()).unwrap();
    let damages: Vec<Vec<u8>> = [
        b"".to_vec(),
        b"something else".to_vec(),
        // A length beyond its end, and an entry that is cut.
        [FORM, &[255, 255, 255, 255]].concat(),
        [FORM, &[0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]].concat(),
    ]
    .into_iter()
    .chain((1..whole.len()).step_by(97).map(|end| whole[..end].to_vec()))
    .collect();
    for damage in damages {
        bench.store.set_context(path, |out| out.write_all(&damage)).unwrap();
        let (digest, read) = bench.digest("/");
        assert_eq!(digest, expected, "{damage:?}");
        assert!(read > 0, "{damage:?}");
        assert_eq!(bench.digest("/"), (expected.clone(), 0), "{damage:?}");
    }
}

#[test]
fn nothing_is_remembered_of_a_context_that_is_a_draft_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let context = store.root().join("tmp/context");
    build(&context, SOURCE);
    while !all_past(&context) {
        std::thread::yield_now();
    }
    let source = LocalSource::open("context", &context).unwrap();
    source.remember_in(&store).unwrap();
    source.digest_selected(&patterns(&[]), &selection("/"), &|| false).unwrap();
    assert_eq!(store.contexts().unwrap(), []);
}

#[test]
fn a_digest_that_is_stopped_ends_and_leaves_the_next_one_alone() {
    let bench = Bench::new(SOURCE);
    bench.let_pass();
    let source = bench.source();
    for after in 0..12 {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= after;
        let error = source.digest_selected(&patterns(&["skip"]), &selection("/"), &stop).err().unwrap();
        assert!(error.is_canceled(), "{after}: {error}");
    }
    let made = source.digest_selected(&patterns(&["skip"]), &selection("/"), &|| false).unwrap();
    assert_eq!(made.digest.to_string(), bench.anew("/"));
}
