//! Directories made, things removed, files and links written.

use super::*;

fn perform_on(bench: &Bench, kind: &FileActionKind) -> Result<Vec<String>, String> {
    let before = fingerprint(&bench.path("canary"));
    let root = bench.root();
    let onto = copy::Onto::whole(&root);
    let result = perform(kind, None, &onto, &Log::default(), &|| false);
    assert_eq!(fingerprint(&bench.path("canary")), before, "the canary: {kind:?}");
    result.map(|_| bench.shown()).map_err(|error| words(&error))
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
