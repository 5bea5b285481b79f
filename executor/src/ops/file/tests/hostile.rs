//! Trees and archives that would like to lead elsewhere.

use super::*;

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
    assert_eq!(bench.copy(&bench.local(&[]), "--chown=bob a.txt /x").unwrap().last().unwrap(), "x=A 7:8");
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
    // An owner that was asked for is everything's.
    crate::tree::copy::clear(open(&bench.path("root"))).unwrap();
    let owned = ["x/ 5:6", "x/t/ 5:6", "x/t/d/ 5:6", "x/t/d/g=2 5:6", "x/t/f=1 640 5:6", "x/t/l -> f 5:6"];
    assert_eq!(bench.copy(&bench.local(&[]), "--add --chown=5:6 a.bin /x").unwrap(), owned);
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
