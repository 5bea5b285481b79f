//! COPY --parents: what is named keeps the directories on the way to it.

use std::os::fd::AsFd;

use super::{BUILT, Bench, check, check_error};
use crate::testing::{build, open, show};

const TREE: &[&str] = &[
    "a/ 750 3:4",
    "a/b/ 700 5:6",
    "a/b/x.txt=X 640",
    "a/b/y.txt=Y",
    "a/b/z.md=Z",
    "a/empty/ 711",
    "c/x.txt=C",
    "c/d/e/f=F",
    "link -> a",
    "leaf -> a/b/x.txt",
    "out -> /canary",
    "top=T",
];

#[test]
fn only_what_leads_to_matches_is_copied() {
    for (line, expected) in [
        ("--parents=a/b/x.txt / /to/", &["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/x.txt=X 640"][..]),
        ("--parents=a/b/*.txt / /to/", &["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/x.txt=X 640", "to/a/b/y.txt=Y"]),
        ("--parents=*/x.txt / /to/", &["to/", "to/c/", "to/c/x.txt=C"]),
        (
            "--parents=**/x.txt / /to",
            &["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/x.txt=X 640", "to/c/", "to/c/x.txt=C"],
        ),
        // A directory is all that is beneath it.
        ("--parents=c / /to/", &["to/", "to/c/", "to/c/d/", "to/c/d/e/", "to/c/d/e/f=F", "to/c/x.txt=C"]),
        ("--parents=c/d/ / /to/", &["to/", "to/c/", "to/c/d/", "to/c/d/e/", "to/c/d/e/f=F"]),
        ("--parents=a/empty / /to/", &["to/", "to/a/ 750", "to/a/empty/ 711"]),
        ("--parents=**/e / /to/", &["to/", "to/c/", "to/c/d/", "to/c/d/e/", "to/c/d/e/f=F"]),
        // From a directory in the source on.
        ("--parents=b/x.txt /a /to/", &["to/", "to/b/ 700", "to/b/x.txt=X 640"]),
        ("--parents=d/e/f /c /", &["d/", "d/e/", "d/e/f=F"]),
        ("--parents=e/f /c/* /", &["e/", "e/f=F"]),
        ("--parents=b/x.txt /link /to/", &["to/", "to/b/ 700", "to/b/x.txt=X 640"]),
        // A link that is named is copied as one.
        ("--parents=leaf / /to/", &["to/", "to/leaf -> a/b/x.txt"]),
        ("--parents=top / /to/", &["to/", "to/top=T"]),
        // What `--exclude` leaves out, somebody wanted to be left out.
        ("--parents=a/b --exclude=**/*.txt / /to/", &["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/z.md=Z"]),
        (
            "--parents=a/b/* --exclude=a/b/x.txt --exclude=**/*.md / /to/",
            &["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/y.txt=Y"],
        ),
        ("--parents=a/b/x.txt --exclude=a / /to/", &["to/"]),
        // A wildcard may match nothing.
        ("--parents=none/*.txt / /to/", &["to/"]),
    ] {
        // Of a stage owners come along, of a context they do not: told apart by asking for one.
        let line = format!("--chown=0:0 {line}");
        check(&line, TREE, &[], expected);
    }
    let owned = ["to/ 7:8", "to/a/ 750 7:8", "to/a/b/ 700 7:8", "to/a/b/x.txt=X 640 7:8"];
    let bench = Bench::new(TREE, &[]);
    let shown = |bench: &Bench| show(open(&bench.path("root")).as_fd(), true);
    bench.copy(&bench.result(), "--parents=a/b/x.txt / /to/").unwrap();
    assert!(shown(&bench).iter().any(|line| line.starts_with("to/a/b/ 700 5:6")), "{:?}", shown(&bench));
    let bench = Bench::new(TREE, &[]);
    assert_eq!(bench.copy(&bench.local(&[]), "--chown=7:8 --parents=a/b/x.txt / /to/").unwrap(), owned);
}

#[test]
fn directories_that_are_kept_have_their_times_and_join_those_that_are_there() {
    let bench = Bench::new(TREE, &["to/a/old=1", "to/a/b/x.txt=old"]);
    let copied = bench.copy(&bench.local(&[]), "--parents=a/b/x.txt / /to/").unwrap();
    assert_eq!(copied, ["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/x.txt=X 640", "to/a/old=1"]);
    let stat = rustix::fs::stat(bench.path("root").join("to/a/b")).unwrap();
    assert_eq!(stat.st_mtime, BUILT);
    check_error("--parents=a/b/x.txt / /to/", TREE, &["to/a=file"], &["cannot copy a directory to `to/a`"]);
}

#[test]
fn a_path_that_is_not_there_is_named() {
    for (line, expected) in [
        ("--parents=a/none.txt / /to/", "`a/none.txt` does not exist in "),
        ("--parents=a/b/x.txt --parents=c/none / /to/", "`c/none` does not exist in "),
        ("--parents=none /a /to/", "`a/none` does not exist in "),
        ("--parents=top/x / /to/", "`top/x` does not exist in "),
        ("--some --parents=a/*.txt / /to/", "`a/*.txt`"),
        // Nothing is reached through a link, and nothing outside at all.
        ("--parents=link/b/x.txt / /to/", "`link` is a symbolic link"),
        ("--parents=out/secret / /to/", "`out` is a symbolic link"),
        ("--parents=../canary/secret / /to/", "`canary/secret` does not exist in "),
        ("--parents=../../etc/passwd / /to/", "`etc/passwd` does not exist in "),
    ] {
        check_error(line, TREE, &[], &[expected]);
    }
    check("--some --parents=a/b/*.txt --parents=**/f --exclude=** / /to/", TREE, &[], &["to/"]);
}

#[test]
fn what_an_ignore_file_leaves_out_is_not_there_and_says_so() {
    let copy = |ignore: &[&str], line: &str| {
        let bench = Bench::new(TREE, &[]);
        bench.copy(&bench.local(ignore), line)
    };
    let error = copy(&["a/b"], "--parents=a/b/x.txt / /to/").unwrap_err();
    assert!(error.contains("`a/b/x.txt` is left out of the build context by the ignore pattern `a/b`"), "{error}");
    let error = copy(&["*", "!a/b/y.txt"], "--parents=a/b/x.txt / /to/").unwrap_err();
    assert!(error.contains("by the ignore pattern `*`"), "{error}");
    let taken_back = copy(&["*", "!a/b/y.txt"], "--parents=a/b / /to/").unwrap();
    assert_eq!(taken_back, ["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/y.txt=Y"]);
    assert_eq!(
        copy(&["**/*.txt"], "--parents=a/b/* / /to/").unwrap(),
        ["to/", "to/a/ 750", "to/a/b/ 700", "to/a/b/z.md=Z"]
    );
}

#[test]
fn a_hostile_destination_leads_nowhere_else() {
    let bench = Bench::new(TREE, &[]);
    build(&bench.path("root"), &["to/a -> /canary", "c -> ../canary"]);
    // `Bench::copy` watches the canary.
    for line in ["--parents=a/b/x.txt / /to/", "--parents=c/x.txt / /"] {
        let error = bench.copy(&bench.local(&[]), line).unwrap_err();
        assert!(error.contains("cannot copy a directory to"), "{error}");
    }
}
