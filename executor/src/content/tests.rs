//! What counts in the digest of a layer, and what does not.

use std::os::fd::AsFd;

use super::entries::layer;
use super::*;
use crate::testing::{build, open, shell};
use crate::tree::TreeError;

fn digest(path: &std::path::Path) -> ContentDigest {
    layer(open(path).as_fd(), &CancellationToken::new()).unwrap()
}

const TREE: &[&str] = &[
    "d/f=one",
    "d/g=two 4755 1:2",
    "e/ 700",
    "h=three @user.k=v",
    "i == h",
    "j == h",
    "l -> d/f",
    "n:1:3",
    "o/!",
    "p|",
    "w!",
    "z=",
];

/// Whether `script` leaves a tree with another digest.
fn check(script: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    build(&tree, TREE);
    let before = digest(&tree);
    shell(open(&tree).as_fd(), script);
    digest(&tree) != before
}

#[test]
fn whatever_an_operation_can_see_counts() {
    for script in [
        "echo -n One >d/f",
        "echo -n x >>z",
        "chmod 4754 d/g",
        "chmod 711 e",
        "chown 1:3 d/g",
        "chown 5 e",
        "chown -h 5 l",
        "chown 5:5 .",
        "chmod 711 .",
        "ln -sfn d/g l",
        "rm l; echo -n d/f >l",
        "mv z y",
        "mv z d",
        "touch a",
        "mkdir d/n",
        "rmdir e",
        "rm w",
        "rm e -r; mknod e c 0 0",
        "rm n; mknod n c 1 5",
        "rm n; mknod n b 1 3",
        "rm p; mknod p c 1 3",
        "setfattr -n user.k -v w h",
        "setfattr -x user.k h",
        "setfattr -n user.k2 -v v h",
        "setfattr -n user.k -v v d",
        "setfattr -n trusted.k -v v d/f",
        "setfattr -n user.k -v v .",
        "setfattr -n trusted.overlay.opaque -v y d",
        "setfattr -x trusted.overlay.opaque o",
        "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 d/f",
        // Which names share a file, and which file.
        "cp -a j k; mv k j",
        "rm j; ln z j",
        "ln d/f d/z",
    ] {
        assert!(check(script), "{script}");
    }
}

#[test]
fn times_and_what_others_note_do_not_count() {
    for script in [
        "true",
        "touch -d @5 d/f h p n e . ; touch -hd @5 l",
        "cat d/f >/dev/null; ls -R >/dev/null",
        // Another inode, another order of making.
        "cp -a d d2; rm -r d; mv d2 d",
        "mv h a; ln a h; rm a",
        "setfattr -n trusted.overlay.origin -v x d",
        "setfattr -n user.overlay.impure -v y d",
        "setfattr -n security.other -v x d/f",
        "chmod 600 w; chown 1:1 w; touch w",
    ] {
        assert!(!check(script), "{script}");
    }
}

#[test]
fn bytes_count_wherever_they_are_and_holes_are_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let of = |script: &str| {
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        shell(open(&tree).as_fd(), script);
        let digest = digest(&tree);
        std::fs::remove_dir_all(&tree).unwrap();
        digest
    };
    let zeros = "head -c 1000000 /dev/zero";
    assert_eq!(of(&format!("{zeros} >f")), of("truncate -s 1000000 f"));
    assert_ne!(of("truncate -s 1000000 f"), of("truncate -s 1000001 f"));
    let with = |at: u64| format!("truncate -s 1000000 f; echo x | dd of=f bs=1 seek={at} conv=notrunc status=none");
    let written = |at: u64| format!("{zeros} >f; echo x | dd of=f bs=1 seek={at} conv=notrunc status=none");
    let places = [0, 4096, 131_071, 131_072, 400_000, 999_998];
    let digests: HashSet<_> = places.iter().map(|at| of(&with(*at))).collect();
    assert_eq!(digests.len(), places.len());
    for at in places {
        assert_eq!(of(&with(at)), of(&written(at)), "{at}");
    }
    // Terabytes of nothing cost nothing.
    assert_ne!(of("truncate -s 8T f"), of("truncate -s 7T f; echo x >>f"));
}

#[test]
fn many_files_are_hashed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &[]);
    for i in 0..300 {
        std::fs::write(dir.path().join(format!("{i}")), format!("{i}")).unwrap();
    }
    let all = digest(dir.path());
    assert_eq!(digest(dir.path()), all);
    std::fs::rename(dir.path().join("7"), dir.path().join("x")).unwrap();
    std::fs::rename(dir.path().join("8"), dir.path().join("7")).unwrap();
    std::fs::rename(dir.path().join("x"), dir.path().join("8")).unwrap();
    assert_ne!(digest(dir.path()), all, "two files that changed names");
}

#[test]
fn a_digest_that_nobody_wants_any_more_stops() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), TREE);
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(matches!(layer(open(dir.path()).as_fd(), &cancel), Err(TreeError::Stopped)));
}
