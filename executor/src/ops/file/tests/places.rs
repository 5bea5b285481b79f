//! Where a copy goes, and what of it.

use super::*;

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
fn what_is_of_another_type_is_replaced_only_when_asked() {
    let all = &["new/", "new/e/", "new/e/y=Y", "new/x=X 755", "new/z/"][..];
    for root in [&["new/", "new/x/", "new/x/deep=1"][..], &["new/", "new/e=old"], &["new=old"], &["new/", "new/e -> z"]]
    {
        check("--replace d /new", SOURCE, root, all);
        let bench = Bench::new(SOURCE, root);
        assert!(bench.copy(&bench.local(&[]), "d /new").is_err(), "{root:?}");
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
