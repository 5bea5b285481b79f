//! What a copied thing is: owner, mode, times, names, bytes.

use super::*;

#[test]
fn owners_and_modes() {
    let users = &["etc/passwd=root:x:0:0\nbob:x:1001:1002\n1000:x:0:0\n", "etc/group=root:x:0:\nteam:x:77:bob\n"][..];
    for (line, expected) in [
        ("--chown=5 a.txt /x", "x=A 5:5"),
        ("--chown=5:6 a.txt /x", "x=A 5:6"),
        ("--chown=bob a.txt /x", "x=A 1001:1002"),
        ("--chown=bob:team a.txt /x", "x=A 1001:77"),
        ("--chown=0:team a.txt /x", "x=A 0:77"),
        // A number is a number, whatever a line of that name says.
        ("--chown=1000 a.txt /x", "x=A 1000:1000"),
        ("--chown=4294967294:1 a.txt /x", "x=A 4294967294:1"),
        ("--chmod=600 a.txt /x", "x=A 600"),
        ("--chmod=4755 a.txt /x", "x=A 4755"),
        ("--chmod=4755 --chown=5:5 a.txt /x", "x=A 4755 5:5"),
        ("--chmod=u=rwX,go=rX a.txt /x", "x=A"),
        ("--chmod=u=rwx,go=rX a.txt /x", "x=A 744"),
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
    bench.copy(&bench.local(&[]), "--time=5000000007 d /p/x").unwrap();
    for path in ["p/x/e", "p/x/f", "p/x/l"] {
        assert_eq!(mtime(&bench.path("root").join(path)), (5, 7), "{path}");
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
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1;
    let root = bench.root();
    let onto = copy::Onto::whole(&root);
    let result = copy::perform_until(&action(". /"), &bench.local(&[]), &onto, &Log::default(), &stop);
    assert!(matches!(result, Err(FileError::Tree { source: TreeError::Stopped, .. })));
    assert_eq!(bench.shown(), ["a=1"]);
}
