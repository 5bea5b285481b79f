//! COPY, ADD and their relatives on plain directories: what a Dockerfile line does to a tree.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use solver::op::{CopyAction, CopyMode, Owner, UserRef};

use super::copy::CopySource;
use super::*;
use crate::source::local::{LocalPatterns, LocalSource};
use crate::testing::{BUILT, Log, build, fingerprint, open, shell, show};

/// A copy as the Dockerfile frontend asks for it: `[--flags] source dest`.
fn action(line: &str) -> CopyAction {
    let mut action = CopyAction {
        follow_symlinks: true,
        dir_contents_only: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        ..CopyAction::default()
    };
    let mut paths = Vec::new();
    for word in line.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("--chown", owner) => action.owner = Some(owner_of(owner)),
            ("--chmod", mode) => {
                let bits = u32::from_str_radix(mode, 8).map(CopyMode::Bits);
                action.mode = Some(bits.unwrap_or_else(|_| CopyMode::Symbolic(mode.into())));
            }
            ("--exclude", pattern) => action.exclude_patterns.push(pattern.into()),
            ("--include", pattern) => action.include_patterns.push(pattern.into()),
            ("--time", seconds) => action.timestamp = Some(seconds.parse().unwrap()),
            ("--add", _) => action.unpack_archives = true,
            ("--whole", _) => action.dir_contents_only = false,
            ("--no-follow", _) => action.follow_symlinks = false,
            ("--no-wildcard", _) => action.allow_wildcard = false,
            ("--some", _) => action.allow_empty_wildcard = false,
            _ => paths.push(word),
        }
    }
    let [src, dest] = paths[..] else { panic!("{line}") };
    action.src = format!("/{}", src.trim_start_matches('/'));
    action.dest = dest.into();
    action
}

fn owner_of(text: &str) -> Owner {
    let reference = |text: &str| text.parse().map_or_else(|_| UserRef::Name(text.into()), UserRef::Id);
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    Owner { user: reference(user), group: group.map(reference) }
}

/// A source and a destination, with a canary beside them.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(source: &[&str], root: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(&dir.path().join("source"), source);
        build(&dir.path().join("root"), root);
        build(&dir.path().join("canary"), &["secret=canary 600 9:9", "d/f=canary"]);
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn local(&self, ignore: &[&str]) -> CopySource {
        let source = solver::op::SourceOp {
            identifier: "local://context".into(),
            attrs: [(solver::op::attr::EXCLUDE_PATTERNS.to_owned(), serde_json::to_string(ignore).unwrap())].into(),
        };
        let local = LocalSource::open("context", &self.path("source")).unwrap();
        CopySource::Local(Arc::new(local), Arc::new(LocalPatterns::of(&source).unwrap()))
    }

    fn result(&self) -> CopySource {
        CopySource::Result(Mounted::new(open(&self.path("source"))))
    }

    fn root(&self) -> Root {
        Root::new(open(&self.path("root")))
    }

    fn copy(&self, source: &CopySource, line: &str) -> Result<Vec<String>, String> {
        let before = fingerprint(&self.path("canary"));
        let log = Log::default();
        let result = copy::perform(&action(line), source, &self.root(), &log);
        assert_eq!(fingerprint(&self.path("canary")), before, "the canary: {line}");
        result.map(|()| self.shown()).map_err(|error| words(&error))
    }

    fn shown(&self) -> Vec<String> {
        show(open(&self.path("root")).as_fd(), false)
    }
}

/// An error with its causes, as a user reads it.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The line on this source and this root gives this tree, from the context and from a stage alike.
fn check(line: &str, source: &[&str], root: &[&str], expected: &[&str]) {
    let bench = Bench::new(source, root);
    assert_eq!(bench.copy(&bench.local(&[]), line).unwrap(), expected, "from the context: {line}");
    let bench = Bench::new(source, root);
    assert_eq!(bench.copy(&bench.result(), line).unwrap(), expected, "from a stage: {line}");
}

/// The line fails and says so.
fn check_error(line: &str, source: &[&str], root: &[&str], expected: &[&str]) {
    for from_stage in [false, true] {
        let bench = Bench::new(source, root);
        let from = if from_stage { bench.result() } else { bench.local(&[]) };
        // A path of an image is absolute, one of the context is relative to it.
        let error = bench.copy(&from, line).unwrap_err().replace("`/", "`");
        for part in expected {
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}

const SOURCE: &[&str] =
    &["a.txt=A", "b.txt=B 600", "d/x=X 755", "d/e/y=Y", "d/z/", "l -> a.txt", "m -> d", "n -> nowhere"];

#[test]
fn where_a_file_goes() {
    for (line, root, expected) in [
        ("a.txt /", &[][..], &["a.txt=A"][..]),
        ("a.txt /new", &[], &["new=A"]),
        ("a.txt /new/", &[], &["new/", "new/a.txt=A"]),
        ("a.txt /p/q/new", &[], &["p/", "p/q/", "p/q/new=A"]),
        ("a.txt /p/q/new/.", &[], &["p/", "p/q/", "p/q/new/", "p/q/new/a.txt=A"]),
        ("a.txt /dir", &["dir/ 700 1:1"], &["dir/ 700 1:1", "dir/a.txt=A"]),
        ("a.txt /dir/", &["dir/"], &["dir/", "dir/a.txt=A"]),
        ("a.txt /file", &["file=old 4755 3:3"], &["file=A"]),
        ("a.txt /p/../x", &[], &["p/", "x=A"]),
        ("a.txt /../../x", &[], &["x=A"]),
        ("./a.txt /x", &[], &["x=A"]),
        ("d/../a.txt /x", &[], &["x=A"]),
        ("../../a.txt /x", &[], &["x=A"]),
        ("d/e/y /x", &[], &["x=Y"]),
        // Links in the destination lead somewhere in the tree.
        ("a.txt /link/f", &["link -> real", "real/"], &["link -> real", "real/", "real/f=A"]),
        ("a.txt /link", &["link -> /real", "real/"], &["link -> /real", "real/", "real/a.txt=A"]),
        ("a.txt /link", &["link -> file", "file=old"], &["file=A", "link -> file"]),
        ("a.txt /link", &["link -> gone"], &["gone=A", "link -> gone"]),
        ("a.txt /link/", &["link -> gone"], &["gone/", "gone/a.txt=A", "link -> gone"]),
        ("a.txt /link/f", &["link -> ../../../up"], &["link -> ../../../up", "up/", "up/f=A"]),
        ("a.txt /dir/", &["dir/a.txt -> ../other", "other=old"], &["dir/", "dir/a.txt=A", "other=old"]),
        // One name of several is replaced, the others stay.
        ("a.txt /f", &["f=old", "g == f"], &["f=A", "g=old"]),
        ("a.txt /f", &["f|"], &["f=A"]),
        // Links in the source.
        ("l /x", &[], &["x=A"]),
        ("l /", &[], &["l=A"]),
        ("--no-follow l /x", &[], &["x -> a.txt"]),
        ("--no-follow n /", &[], &["n -> nowhere"]),
        ("m/x /", &[], &["x=X 755"]),
    ] {
        check(line, SOURCE, root, expected);
    }
}

#[test]
fn where_a_directory_goes() {
    let all = &["new/", "new/e/", "new/e/y=Y", "new/x=X 755", "new/z/"][..];
    for (line, root, expected) in [
        ("d /new", &[][..], all),
        ("d /new/", &[], all),
        ("d/ /new", &[], all),
        ("d/. /new", &[], all),
        ("m /new", &[], all),
        ("m/ /new", &[], all),
        ("d /", &[], &["e/", "e/y=Y", "x=X 755", "z/"]),
        // What is there keeps its attributes at the top, and takes the source's beneath.
        ("d /new", &["new/ 700 1:1"], &["new/ 700 1:1", "new/e/", "new/e/y=Y", "new/x=X 755", "new/z/"]),
        ("d /", &["e/ 700 1:1", "e/old=1"], &["e/", "e/old=1", "e/y=Y", "x=X 755", "z/"]),
        ("d /", &["x -> elsewhere", "elsewhere=old"], &["e/", "e/y=Y", "elsewhere=old", "x=X 755", "z/"]),
        (
            "d /link",
            &["link -> real", "real/"],
            &["link -> real", "real/", "real/e/", "real/e/y=Y", "real/x=X 755", "real/z/"],
        ),
        ("d /link", &["link -> real"], &["link -> real", "real/", "real/e/", "real/e/y=Y", "real/x=X 755", "real/z/"]),
        ("--whole d /new", &[], all),
        ("--whole d /dir", &["dir/"], &["dir/", "dir/d/", "dir/d/e/", "dir/d/e/y=Y", "dir/d/x=X 755", "dir/d/z/"]),
        ("--whole d/e /", &["e/ 700"], &["e/ 700", "e/y=Y"]),
    ] {
        check(line, SOURCE, root, expected);
    }
}

#[test]
fn wildcards_choose_names() {
    for (line, expected) in [
        ("*.txt /", &["a.txt=A", "b.txt=B 600"][..]),
        ("?.txt /x/", &["x/", "x/a.txt=A", "x/b.txt=B 600"]),
        ("[b]* /", &["b.txt=B 600"]),
        ("[^b].txt /", &["a.txt=A"]),
        // A matched directory gives its contents.
        ("d* /", &["e/", "e/y=Y", "x=X 755", "z/"]),
        ("*/x /", &["x=X 755"]),
        ("d/* /", &["x=X 755", "y=Y"]),
        ("*/*/y /", &["y=Y"]),
        ("none* /x/", &[]),
        // A link that leads nowhere is not there.
        ("n* /", &[]),
    ] {
        check(line, SOURCE, &[], expected);
    }
    check("\\*.txt /x", &["*.txt=star", "a.txt=A"], &[], &["x=star"]);
    check("--no-wildcard *.txt /x", &["*.txt=star", "a.txt=A"], &[], &["x=star"]);
    check_error("--some none* /x/", SOURCE, &[], &["matches `none*`"]);
    check_error("[ /x", SOURCE, &[], &["`[`", "malformed"]);
}

#[test]
fn patterns_leave_out() {
    let source = &["a.md=1", "b.md=2", "c.txt=3", "d/a.md=4", "d/e/f.txt=5", "d/g/a.md=6"][..];
    for (line, expected) in [
        ("--exclude=*.md . /", &["c.txt=3", "d/", "d/a.md=4", "d/e/", "d/e/f.txt=5", "d/g/", "d/g/a.md=6"][..]),
        ("--exclude=**/*.md . /", &["c.txt=3", "d/", "d/e/", "d/e/f.txt=5", "d/g/"]),
        ("--exclude=d . /", &["a.md=1", "b.md=2", "c.txt=3"]),
        ("--exclude=d --exclude=!d/e . /", &["a.md=1", "b.md=2", "c.txt=3", "d/", "d/e/", "d/e/f.txt=5"]),
        ("--exclude=* --exclude=!b.md . /", &["b.md=2"]),
        ("--exclude=a.* *.md /", &["b.md=2"]),
        ("--exclude=*.md a.md /", &[]),
        ("--exclude=e d /", &["a.md=4", "g/", "g/a.md=6"]),
        ("--include=**/*.txt . /", &["c.txt=3", "d/", "d/e/", "d/e/f.txt=5"]),
        ("--include=d/g . /", &["d/", "d/g/", "d/g/a.md=6"]),
        ("--include=**/*.md --exclude=d . /", &["a.md=1", "b.md=2"]),
    ] {
        check(line, source, &[], expected);
    }
}

#[test]
fn owners_and_modes() {
    let users = &["etc/passwd=root:x:0:0\nbob:x:1001:1002\n1000:x:0:0\n", "etc/group=root:x:0:\nteam:x:77:bob\n"][..];
    for (line, expected) in [
        ("--chown=5 a.txt /x", "x=A 5:5"),
        ("--chown=5:6 a.txt /x", "x=A 5:6"),
        ("--chown=bob a.txt /x", "x=A 1001:1001"),
        ("--chown=bob:team a.txt /x", "x=A 1001:77"),
        ("--chown=0:team a.txt /x", "x=A 0:77"),
        // A number is a number, whatever a line of that name says.
        ("--chown=1000 a.txt /x", "x=A 1000:1000"),
        ("--chown=4294967294:1 a.txt /x", "x=A 4294967294:1"),
        ("--chmod=600 a.txt /x", "x=A 600"),
        ("--chmod=4755 a.txt /x", "x=A 4755"),
        ("--chmod=4755 --chown=5:5 a.txt /x", "x=A 4755 5:5"),
        ("--chmod=u=rwX,go=rX a.txt /x", "x=A"),
        ("--chmod=+x a.txt /x", "x=A 755"),
        ("--chmod=go-r,u+s a.txt /x", "x=A 4600"),
        ("--chmod=g=u a.txt /x", "x=A 664"),
        ("--chmod=a=,u+r a.txt /x", "x=A 400"),
    ] {
        let bench = Bench::new(SOURCE, users);
        let lines = bench.copy(&bench.local(&[]), line).unwrap();
        assert_eq!(lines.last().unwrap(), expected, "{line}");
    }
    // Directories too, those that are made on the way get the owner only.
    check(
        "--chmod=u=rwX,go=X --chown=5:6 d /p/new",
        &["d/x=X 755", "d/e/y=Y 600"],
        &[],
        &["p/ 755 5:6", "p/new/ 755 5:6", "p/new/e/ 711 5:6", "p/new/e/y=Y 600 5:6", "p/new/x=X 711 5:6"]
            .map(|line| line.replace(" 755 ", " "))
            .each_ref()
            .map(String::as_str),
    );
    for (line, expected) in [
        ("--chown=eve a.txt /x", &["`etc/passwd`", "user `eve`"][..]),
        ("--chown=0:eve a.txt /x", &["`etc/group`", "group `eve`"]),
        ("--chmod=u=q a.txt /x", &["`u=q` is not a mode"]),
        ("--chmod=x a.txt /x", &["`x` is not a mode"]),
        ("--chmod=10000 a.txt /x", &["`10000` is not a mode"]),
    ] {
        check_error(line, SOURCE, users, expected);
    }
}

#[test]
fn a_hostile_user_database_is_neither_read_nor_waited_for() {
    let large = format!("etc/passwd={}", "x".repeat((10 << 20) + 1));
    for (root, expected) in [
        (&["etc/passwd|"][..], "not a regular file"),
        (&["etc/passwd:1:5"], "not a regular file"),
        (&["etc/passwd/"], "not a regular file"),
        (&[&large], "larger than 10 MiB"),
        (&["etc/passwd -> passwd"], "more than 40 symbolic links"),
        (&["etc/passwd -> ../../../../canary/secret"], "no user `bob`"),
        (&["etc -> /canary"], "no user `bob`"),
        (&[], "no user `bob`"),
        (&["etc/passwd=bob\nbob:\nbob:x\nbob:x:-1\nbob:x:4294967296\n"], "no user `bob`"),
    ] {
        check_error("--chown=bob a.txt /x", SOURCE, root, &[expected]);
    }
    let bench = Bench::new(SOURCE, &["etc/passwd -> /real", "real=bob:x:7:8"]);
    assert_eq!(bench.copy(&bench.local(&[]), "--chown=bob a.txt /x").unwrap().last().unwrap(), "x=A 7:7");
}

#[test]
fn refusals_name_the_paths() {
    for (line, root, expected) in [
        ("gone /x", &[][..], &["`gone` does not exist in"][..]),
        ("d/gone /x", &[], &["`d/gone` does not exist in"]),
        ("gone/f /x", &[], &["`gone/f` does not exist in"]),
        ("n /x", &[], &["`n` does not exist in"]),
        ("a.txt/f /x", &[], &["`a.txt/f`"]),
        ("d /file", &["file=1"], &["cannot copy a directory to `file`"]),
        ("d /", &["e=file"], &["cannot copy a directory to `e`"]),
        ("d /", &["e -> real", "real/"], &["cannot copy a directory to `e`"]),
        ("d /", &["x/"], &["cannot replace the directory `x` with a file"]),
        ("a.txt /dir", &["dir/a.txt/"], &["cannot replace the directory `dir/a.txt`"]),
        ("a.txt /file/x", &["file=1"], &["`file/x` is not a directory"]),
        ("a.txt /loop/x", &["loop -> loop"], &["more than 40 symbolic links"]),
        ("--whole d /file", &["file=1"], &["cannot copy a directory to `file`"]),
    ] {
        let bench = Bench::new(SOURCE, root);
        let before = bench.shown();
        check_error(line, SOURCE, root, expected);
        // Nothing of what was there is gone.
        let _ = bench.copy(&bench.local(&[]), line).unwrap_err();
        let after = bench.shown();
        assert!(before.iter().all(|entry| after.contains(entry)), "{line}: {after:?}");
    }
    check_error("loop /x", &["loop -> loop"], &[], &["more than 40 symbolic links"]);
    // Names and devices that would be deletions in a layer.
    check_error(". /", &[".wh.f=1"], &["f=1"], &["`.wh.f`", "mean deletions"]);
    check_error(". /", &["d/.wh..wh..opq=1"], &["d/f=1"], &["mean deletions"]);
    check_error(". /", &["f!"], &["f=1"], &["means a deletion"]);
}

#[test]
fn what_a_thing_is_survives() {
    let source = &["d/ 1777", "d/f=1 6755", "p|", "n:1:3", "x=1 @user.k=v", "s -> ../../x", "e/"][..];
    check(". /", source, &[], &["d/ 1777", "d/f=1 6755", "e/", "n:1:3", "p|", "s -> ../../x", "x=1 @user.k=v"]);
    // The user's owner is nobody's in an image; an image's is its own.
    let bench = Bench::new(&["d/ 755 7:8", "d/f=1 644 7:8"], &[]);
    assert_eq!(bench.copy(&bench.local(&[]), ". /").unwrap(), ["d/", "d/f=1"]);
    assert_eq!(bench.copy(&bench.result(), ". /").unwrap(), ["d/ 7:8", "d/f=1 7:8"]);
    // Names that share a file: in an image, not in a context.
    let bench = Bench::new(&["a=1", "d/b == a", "d/c == a"], &[]);
    assert_eq!(bench.copy(&bench.result(), ". /r").unwrap(), ["r/", "r/a=1", "r/d/", "r/d/b == r/a", "r/d/c == r/a"]);
    let bench = Bench::new(&["a=1", "d/b == a"], &[]);
    assert_eq!(bench.copy(&bench.local(&[]), ". /").unwrap(), ["a=1", "d/", "d/b=1"]);
}

#[test]
fn capabilities_survive_a_change_of_owner() {
    let bench = Bench::new(&["f=1 755"], &[]);
    // cap_net_raw+ep, version 2.
    shell(
        open(&bench.path("source")).as_fd(),
        "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 f",
    );
    let lines = bench.copy(&bench.local(&[]), "--chown=5:5 f /x").unwrap();
    assert!(lines[0].starts_with("x=1 755 5:5 @security.capability="), "{lines:?}");
}

#[test]
fn times_are_kept_to_the_nanosecond_or_set() {
    let mtime = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (std::os::unix::fs::MetadataExt::mtime(&meta), std::os::unix::fs::MetadataExt::mtime_nsec(&meta))
    };
    let source = &["d/f=1", "d/e/", "d/l -> f", "n=2"][..];
    let bench = Bench::new(source, &[]);
    shell(open(&bench.path("source")).as_fd(), "touch -d '2001-02-03 04:05:06.123456789Z' d/f; touch -d @-1 n");
    bench.copy(&bench.local(&[]), "d /x").unwrap();
    bench.copy(&bench.local(&[]), "n /n").unwrap();
    assert_eq!(mtime(&bench.path("root/x/f")), (981_173_106, 123_456_789));
    assert_eq!(mtime(&bench.path("root/x/e")), (BUILT, 0));
    assert_eq!(mtime(&bench.path("root/x/l")), (BUILT, 0));
    assert_eq!(mtime(&bench.path("root/n")), (-1, 0));
    let bench = Bench::new(source, &[]);
    bench.copy(&bench.local(&[]), "--time=5 d /p/x").unwrap();
    for path in ["p/x/e", "p/x/f", "p/x/l"] {
        assert_eq!(mtime(&bench.path("root").join(path)), (5, 0), "{path}");
    }
}

#[test]
fn holes_stay_holes_and_large_files_are_whole() {
    let bench = Bench::new(&[], &[]);
    shell(
        open(&bench.path("source")).as_fd(),
        "truncate -s 1T hole; printf x | dd of=hole bs=1 seek=5000000 conv=notrunc status=none; \
         dd if=/dev/urandom of=big bs=1M count=5 status=none; printf tail >>big",
    );
    bench.copy(&bench.local(&[]), ". /").unwrap();
    let meta = fs::metadata(bench.path("root/hole")).unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) < 100, "{meta:?}");
    shell(open(bench.dir.path()).as_fd(), "cmp -n 6000000 source/hole root/hole; cmp source/big root/big");
}

#[test]
fn deep_trees_and_strange_names_are_copied() {
    let bench = Bench::new(&[], &[]);
    let long = "n".repeat(255);
    shell(
        open(&bench.path("source")).as_fd(),
        &format!(
            "python3 - <<'E'\nimport os\nfor i in range(2000):\n os.mkdir(b'd')\n os.chdir(b'd')\nopen(b'end','w').write('x')\nE\n\
             printf 1 >'{long}'; printf 1 >\"$(printf '\\377\\376')\"; printf 1 >\"$(printf 'a\\nb\\tc')\"; printf 1 >-rf; printf 1 >'t '"
        ),
    );
    let mut expected = show(open(&bench.path("source")).as_fd(), false);
    assert_eq!(expected.len(), 2006);
    let got = bench.copy(&bench.local(&[]), ". /").unwrap();
    expected.sort();
    let mut got = got;
    got.sort();
    assert!(got == expected, "the trees differ");
    // The test harness cannot remove so deep a tree by path.
    for name in ["source", "root"] {
        crate::tree::copy::clear(open(&bench.path(name))).unwrap();
    }
}

#[test]
fn sockets_are_left_out_and_said_so() {
    let bench = Bench::new(&["s$", "d/t$", "f=1"], &[]);
    let log = Log::default();
    copy::perform(&action(". /"), &bench.local(&[]), &bench.root(), &log).unwrap();
    assert_eq!(bench.shown(), ["d/", "f=1"]);
    let notices = log.0.into_inner().unwrap();
    assert_eq!(notices, ["`d/t` is a socket and was not copied", "`s` is a socket and was not copied"]);
}

#[test]
fn a_copy_stops_when_it_is_told_to() {
    let bench = Bench::new(&["a=1", "b=2", "c=3"], &[]);
    let asked = std::cell::Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) == 1;
    let result = copy::perform_until(&action(". /"), &bench.local(&[]), &bench.root(), &Log::default(), &stop);
    assert!(matches!(result, Err(FileError::Tree { source: TreeError::Stopped, .. })));
    assert_eq!(bench.shown(), ["a=1"]);
}

#[test]
fn what_the_ignore_file_leaves_out_is_not_there() {
    let source = &["a=1", "b/c=2", "b/d=3", "e/f/g=4", "e/h=5"][..];
    for (ignore, line, expected) in [
        (&["b"][..], ". /", &["a=1", "e/", "e/f/", "e/f/g=4", "e/h=5"][..]),
        (&["b", "!b/c"], ". /", &["a=1", "b/", "b/c=2", "e/", "e/f/", "e/f/g=4", "e/h=5"]),
        (&["*", "!e/f"], ". /", &["e/", "e/f/", "e/f/g=4"]),
        (&["*", "!e/f"], "e /x", &["x/", "x/f/", "x/f/g=4"]),
        (&["*", "!e/f"], "e/f /x", &["x/", "x/g=4"]),
        (&["**/c"], "b /x", &["x/", "x/d=3"]),
        (&["b"], "[ab] /x/", &["x/", "x/a=1"]),
        (&["*"], "[ab] /x/", &[]),
        (&["*"], ". /x", &["x/"]),
    ] {
        let bench = Bench::new(source, &[]);
        assert_eq!(bench.copy(&bench.local(ignore), line).unwrap(), expected, "{ignore:?}: {line}");
    }
    for (ignore, line, expected) in [
        (&["# not a comment here", "b"][..], "b /x", "`b` is left out of the build context by the ignore pattern `b`"),
        (&["*", "!e"], "b/c /x", "`b/c` is left out of the build context by the ignore pattern `*`"),
        (&["**/g"], "e/f/g /x", "`e/f/g` is left out of the build context by the ignore pattern `**/g`"),
        (&["b"], "gone /x", "`gone` does not exist in the build context"),
    ] {
        let bench = Bench::new(source, &[]);
        let error = bench.copy(&bench.local(ignore), line).unwrap_err();
        assert!(error.contains(expected), "{ignore:?}: {line}: {error}");
    }
}

#[test]
fn links_out_of_the_tree_lead_to_its_root() {
    // Absolute, relative and in the middle: what they would reach on the host stays unread and untouched.
    let bench = Bench::new(&[], &[]);
    let canary = bench.path("canary");
    let out = canary.to_str().unwrap();
    let source = [format!("abs -> {out}/secret"), "rel -> ../canary/secret".into(), format!("dir -> {out}")];
    let source: Vec<&str> = source.iter().map(String::as_str).collect();
    for line in ["abs /x", "rel /x", "dir/secret /x", "dir /x"] {
        check_error(line, &source, &[], &["does not exist in"]);
    }
    let up = format!("up -> {out}");
    for (line, root) in [
        ("a.txt /up/secret", &[up.as_str()][..]),
        ("a.txt /up/d/f", &["up -> ../canary"]),
        ("d /up", &[&up]),
        ("a.txt /up", &["up -> ../canary/secret"]),
        ("a.txt /x/up/f", &["x/up -> ../../canary/d"]),
        ("d /", &["x -> ../canary/secret"]),
    ] {
        // `copy` compares the canary.
        let bench = Bench::new(SOURCE, root);
        bench.copy(&bench.local(&[]), line).unwrap();
        let bench = Bench::new(SOURCE, root);
        bench.copy(&bench.result(), line).unwrap();
    }
}

#[test]
fn a_directory_swapped_for_a_link_while_it_is_copied_leads_nowhere() {
    use rustix::fs::{RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    const COPIES: usize = 300;
    for into_root in [false, true] {
        let bench = Bench::new(&["d/f=mine", "d/e/f=mine", "z=1"], &["d/f=old", "d/e/f=old"]);
        let place = bench.path(if into_root { "root" } else { "source" });
        std::os::unix::fs::symlink(bench.path("canary"), place.join("l")).unwrap();
        let done = AtomicBool::new(false);
        let before = fingerprint(&bench.path("canary"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let dir = open(&place);
                while !done.load(Ordering::Relaxed) {
                    // Refused now and then, when the copy has just replaced one of them.
                    let _ = renameat_with(&dir, "d", &dir, "l", RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..COPIES {
                // It may succeed or fail; where it reads and writes is what counts.
                let _ = copy::perform(&action("d/ /d/"), &bench.local(&[]), &bench.root(), &Log::default());
                let _ = copy::perform(&action("d/f /d/f"), &bench.local(&[]), &bench.root(), &Log::default());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fingerprint(&bench.path("canary")), before, "nothing is written outside");
        let copied = bench.shown();
        assert!(!copied.iter().any(|line| line.contains("=canary")), "nothing is read outside: {copied:?}");
    }
}

#[test]
fn add_unpacks_what_is_an_archive_by_content() {
    let bench = Bench::new(&["t/f=1 640 7:8", "t/d/g=2", "t/l -> f", "plain.tar=no-archive", "zeros="], &[]);
    shell(
        open(&bench.path("source")).as_fd(),
        "tar -cf a.bin t; gzip -k a.bin; bzip2 -k a.bin; xz -k a.bin; zstd -q a.bin; gzip -k plain.tar; \
         head -c 2048 /dev/zero >zeros",
    );
    let unpacked = ["x/", "x/t/", "x/t/d/", "x/t/d/g=2", "x/t/f=1 640 7:8", "x/t/l -> f"];
    for name in ["a.bin", "a.bin.gz", "a.bin.bz2", "a.bin.xz", "a.bin.zst"] {
        for from in [bench.local(&[]), bench.result()] {
            crate::tree::copy::clear(open(&bench.path("root"))).unwrap();
            assert_eq!(bench.copy(&from, &format!("--add {name} /x")).unwrap(), unpacked, "{name}");
        }
    }
    for name in ["plain.tar", "plain.tar.gz", "zeros"] {
        crate::tree::copy::clear(open(&bench.path("root"))).unwrap();
        let lines = bench.copy(&bench.local(&[]), &format!("--add {name} /x")).unwrap();
        assert!(lines.len() == 1 && lines[0].starts_with("x="), "{name}: {lines:?}");
    }
    // Without ADD it is a file like any other.
    crate::tree::copy::clear(open(&bench.path("root"))).unwrap();
    assert_eq!(bench.copy(&bench.local(&[]), "a.bin.gz /x").unwrap().len(), 1);
}

#[test]
fn an_archive_cannot_leave_its_root() {
    let bench = Bench::new(&[], &["lib -> usr/lib", "usr/lib/"]);
    let canary = bench.path("canary");
    let script = format!(
        "import tarfile, io\n\
         def add(t, name, **k):\n\
         \x20i = tarfile.TarInfo(name)\n\
         \x20for a, v in k.items(): setattr(i, a, v)\n\
         \x20t.addfile(i, io.BytesIO(b'x') if i.isfile() else None)\n\
         def archive(name, *entries):\n\
         \x20with tarfile.open(name, 'w') as t:\n\
         \x20\x20for n, k in entries: add(t, n, **k)\n\
         f = dict(size=1)\n\
         archive('usr.tar', ('lib/x', f))\n\
         archive('abs.tar', ('/etc/x', f))\n\
         archive('link.tar', ('d', dict(type=tarfile.SYMTYPE, linkname='{0}')), ('d/secret', f))\n\
         archive('hard.tar', ('h', dict(type=tarfile.LNKTYPE, linkname='{0}/secret')), ('h', f))\n\
         archive('up.tar', ('../../canary/secret', f))\n\
         archive('wh.tar', ('.wh.usr', f))\n",
        canary.display()
    );
    fs::write(bench.path("make.py"), script).unwrap();
    shell(open(&bench.path("source")).as_fd(), "python3 ../make.py");
    let lines = bench.copy(&bench.local(&[]), "--add usr.tar /").unwrap();
    assert!(lines.contains(&"usr/lib/x=x".to_owned()) && lines.contains(&"lib -> usr/lib".to_owned()), "{lines:?}");
    for name in ["abs.tar", "link.tar", "hard.tar", "up.tar", "wh.tar"] {
        // In the root or refused; `copy` compares the canary either way.
        match bench.copy(&bench.local(&[]), &format!("--add {name} /in")) {
            Ok(lines) => {
                assert!(lines.iter().any(|line| line.ends_with("x=x") || line.contains("secret")), "{lines:?}")
            }
            Err(error) => assert!(error.contains("cannot unpack"), "{name}: {error}"),
        }
    }
}

fn perform_on(bench: &Bench, kind: &FileActionKind) -> Result<Vec<String>, String> {
    let before = fingerprint(&bench.path("canary"));
    let result = perform(kind, None, &bench.root(), &Log::default(), &|| false);
    assert_eq!(fingerprint(&bench.path("canary")), before, "the canary: {kind:?}");
    result.map(|()| bench.shown()).map_err(|error| words(&error))
}

#[test]
fn directories_are_made() {
    let dir = |path: &str, make_parents, owner: Option<&str>| FileActionKind::MkDir {
        path: path.into(),
        mode: 0o755,
        make_parents,
        owner: owner.map(owner_of),
        timestamp: None,
    };
    for (kind, root, expected) in [
        (dir("/a/b", true, None), &[][..], Ok(&["a/", "a/b/"][..])),
        (dir("/a/b", true, Some("5:6")), &["a/ 700"], Ok(&["a/ 700", "a/b/ 5:6"])),
        (dir("/a/b/", true, None), &["a -> c"], Ok(&["a -> c", "c/", "c/b/"])),
        (dir("/a", true, None), &["a -> ../canary/d"], Ok(&["a -> ../canary/d", "canary/", "canary/d/"])),
        (dir("/a", true, None), &["a/ 700 1:1"], Ok(&["a/ 700 1:1"])),
        (dir("/../../a", true, None), &[], Ok(&["a/"])),
        (dir("/", true, None), &[], Ok(&[])),
        (dir("/a", false, None), &[], Ok(&["a/"])),
        (dir("/a", false, None), &["a/"], Err("it exists")),
        (dir("/a/b", false, None), &[], Err("does not exist")),
        (dir("/a/b", true, None), &["a=file"], Err("not a directory")),
        (dir("/a", true, None), &["a=file"], Err("not a directory")),
        (dir("/a/b", true, None), &["a -> a"], Err("symbolic links")),
    ] {
        let bench = Bench::new(&[], root);
        match (perform_on(&bench, &kind), expected) {
            (Ok(lines), Ok(expected)) => assert_eq!(lines, expected, "{kind:?}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{kind:?}: {error}"),
            (got, expected) => panic!("{kind:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn removal_takes_the_named_thing_and_nothing_else() {
    let rm = |path: &str, allow_not_found, allow_wildcard| FileActionKind::Rm {
        path: path.into(),
        allow_not_found,
        allow_wildcard,
    };
    let root = &["a=1", "d/e/f=2", "d/g=3", "l -> d", "out -> ../canary", "b1=1", "b2=2"][..];
    for (kind, gone) in [
        (rm("/a", false, false), Ok(&["a=1"][..])),
        (rm("/d/e", false, false), Ok(&["d/e/", "d/e/f=2"])),
        // The link, not what it leads to.
        (rm("/l", false, false), Ok(&["l -> d"])),
        (rm("/out", false, false), Ok(&["out -> ../canary"])),
        (rm("/l/g", false, false), Ok(&["d/g=3"])),
        (rm("/b*", false, true), Ok(&["b1=1", "b2=2"])),
        (rm("/none", true, false), Ok(&[])),
        (rm("/none/x", true, false), Ok(&[])),
        (rm("/none*", true, true), Ok(&[])),
        (rm("/out/secret", true, false), Ok(&[])),
        (rm("/none", false, false), Err("does not exist")),
        (rm("/none*", false, true), Err("does not exist")),
        (rm("/", false, false), Err("it is the root")),
        (rm("..", true, false), Err("`..` is not allowed")),
        (rm("/a/../..", true, false), Err("`..` is not allowed")),
        (rm("/../canary", true, false), Err("`..` is not allowed")),
        (rm("/b[", false, true), Err("malformed")),
    ] {
        let bench = Bench::new(&[], root);
        let mut before = bench.shown();
        match (perform_on(&bench, &kind), gone) {
            (Ok(lines), Ok(gone)) => {
                before.retain(|line| !gone.contains(&line.as_str()));
                assert_eq!(lines, before, "{kind:?}");
            }
            (Err(error), Err(part)) => {
                assert!(error.contains(part), "{kind:?}: {error}");
                assert_eq!(bench.shown(), before, "{kind:?}");
            }
            (got, expected) => panic!("{kind:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn files_and_links_are_made() {
    let file = |path: &str| FileActionKind::MkFile {
        path: path.into(),
        mode: 0o640,
        data: b"new".to_vec(),
        owner: Some(owner_of("5:6")),
        timestamp: Some(7),
    };
    let link = |path: &str| FileActionKind::Symlink {
        target: "../x".into(),
        path: path.into(),
        owner: None,
        timestamp: Some(7),
    };
    for (kind, root, expected) in [
        (file("/f"), &[][..], Ok(&["f=new 640 5:6"][..])),
        (file("/f"), &["f=old", "g == f"], Ok(&["f=new 640 5:6", "g=old"])),
        (file("/l"), &["l -> f"], Ok(&["f=new 640 5:6", "l -> f"])),
        (
            file("/l"),
            &["l -> ../canary/secret", "canary/"],
            Ok(&["canary/", "canary/secret=new 640 5:6", "l -> ../canary/secret"]),
        ),
        (file("/d"), &["d/"], Err("it is a directory")),
        (file("/d/f"), &[], Err("does not exist")),
        (link("/l"), &[], Ok(&["l -> ../x"])),
        (link("/d/l"), &["d/"], Ok(&["d/", "d/l -> ../x"])),
        (link("/l"), &["l=1"], Err("something is there")),
    ] {
        let bench = Bench::new(&[], root);
        match (perform_on(&bench, &kind), expected) {
            (Ok(lines), Ok(expected)) => assert_eq!(lines, expected, "{kind:?}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{kind:?}: {error}"),
            (got, expected) => panic!("{kind:?}: {got:?}, expected {expected:?}"),
        }
    }
}
