//! Cache mounts: who gets which directory, who waits, and what survives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rbuild_store::{BusyMount, HeldMount, MountKey, MountSeed, MountTurn, MountWish, Store, StoreError, Taken};
use solver::op::CacheSharing::{self, Locked, Private, Shared};

use crate::support::{BOOT, Place, place, time};

fn key(id: &str) -> MountKey {
    MountKey { id: id.into(), seed: String::new() }
}

fn wish(id: &str, sharing: CacheSharing) -> MountWish {
    MountWish { key: key(id), sharing }
}

fn try_take(store: &Store, wishes: &[(&str, CacheSharing)], turn: Option<MountTurn>) -> Taken {
    let wishes: Vec<MountWish> = wishes.iter().map(|(id, sharing)| wish(id, *sharing)).collect();
    store.take_mounts(&wishes, &mut BTreeMap::new(), turn).expect("the store answers")
}

#[track_caller]
fn take(store: &Store, wishes: &[(&str, CacheSharing)]) -> Vec<Arc<HeldMount>> {
    match try_take(store, wishes, None) {
        Taken::All(held) => held,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn one(store: &Store, id: &str, sharing: CacheSharing) -> Arc<HeldMount> {
    take(store, &[(id, sharing)]).remove(0)
}

#[track_caller]
fn busy(store: &Store, wishes: &[(&str, CacheSharing)]) -> BusyMount {
    match try_take(store, wishes, None) {
        Taken::Busy(busy) => busy,
        other => panic!("{other:?}"),
    }
}

fn path(held: &HeldMount) -> PathBuf {
    held.path()
}

fn write(held: &HeldMount, text: &str) {
    fs::write(held.path().join("file"), text).unwrap();
}

fn read(held: &HeldMount) -> String {
    fs::read_to_string(held.path().join("file")).unwrap_or_default()
}

/// Two stores on one root lock as two processes do: each lock is of a descriptor.
fn two(place: &Place) -> (Store, Store) {
    (place.open(), place.open())
}

#[test]
fn shared_is_one_directory_for_many_at_once() {
    let place = place();
    let (a, b) = two(&place);
    let first = one(&a, "/x", Shared);
    write(&first, "1");
    let second = one(&b, "/x", Shared);
    assert_eq!(path(&first), path(&second));
    assert_eq!(read(&second), "1");
    drop((first, second));
    assert_eq!(read(&one(&b, "/x", Shared)), "1");
    assert_ne!(path(&one(&b, "/y", Shared)), path(&one(&b, "/x", Shared)));
}

#[test]
fn private_gives_each_its_own_and_the_warmest_that_is_free() {
    let place = place();
    let (a, b) = two(&place);
    let first = one(&a, "/x", Private);
    let second = one(&b, "/x", Private);
    assert_ne!(path(&first), path(&second));
    let (first_path, second_path) = (path(&first), path(&second));
    drop(second);
    assert_eq!(path(&one(&a, "/x", Private)), second_path);
    drop(first);
    let (third, fourth) = (one(&a, "/x", Private), one(&b, "/x", Private));
    let mut paths = [path(&third), path(&fourth)];
    paths.sort();
    let mut expected = [first_path, second_path];
    expected.sort();
    assert_eq!(paths, expected, "no third one is made while two are free");
    assert_eq!(place.names("mounts").len(), 2);
}

#[test]
fn locked_waits_for_everybody_else_and_is_always_the_same_directory() {
    let place = place();
    let (a, b) = two(&place);
    for other in [Shared, Private, Locked] {
        let first = one(&a, "/x", other);
        write(&first, "by the other");
        let waiting = busy(&b, &[("/x", Locked)]);
        assert_eq!(waiting.key, key("/x"));
        let waiter = std::thread::spawn(move || waiting.wait(&|| false).expect("the store answers").expect("a turn"));
        drop(first);
        let turn = waiter.join().unwrap();
        let Taken::All(held) = try_take(&b, &[("/x", Locked)], Some(turn)) else { panic!("it is our turn") };
        assert_eq!(read(&held[0]), "by the other");
        busy(&a, &[("/x", Locked)]);
    }
    assert_eq!(place.names("mounts").len(), 1);
}

#[test]
fn shared_goes_elsewhere_while_somebody_has_it_alone_and_joins_others_there() {
    let place = place();
    let store = place.open();
    let alone = one(&store, "/x", Private);
    let first = one(&store, "/x", Shared);
    assert_ne!(path(&alone), path(&first));
    drop(alone);
    assert_eq!(path(&one(&store, "/x", Shared)), path(&first), "where others are comes first");
}

#[test]
fn all_or_nothing_so_that_no_two_wait_for_each_other() {
    let place = place();
    let (a, b) = two(&place);
    let second = one(&a, "/2", Locked);
    // Whatever the order of the wishes, the one that is free is not held meanwhile.
    for wishes in [[("/1", Locked), ("/2", Locked)], [("/2", Locked), ("/1", Locked)]] {
        assert_eq!(busy(&b, &wishes).key, key("/2"));
        one(&a, "/1", Locked);
    }
    drop(second);
    let held = take(&b, &[("/2", Locked), ("/1", Locked)]);
    write(&held[0], "two");
    drop(held);
    assert_eq!(read(&take(&b, &[("/1", Shared), ("/2", Shared)])[1]), "two");
}

#[test]
fn many_takers_of_two_locked_mounts_all_get_them_once() {
    let place = place();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let store = place.open();
            scope.spawn(move || {
                let wishes =
                    if number % 2 == 0 { [("/1", Locked), ("/2", Locked)] } else { [("/2", Locked), ("/1", Locked)] };
                let mut turn = None;
                let held = loop {
                    match try_take(&store, &wishes, turn.take()) {
                        Taken::All(held) => break held,
                        Taken::Busy(busy) => turn = busy.wait(&|| false).expect("the store answers"),
                        other => panic!("{other:?}"),
                    }
                };
                for held in held {
                    let count: u32 = read(&held).parse().unwrap_or(0);
                    write(&held, &(count + 1).to_string());
                }
            });
        }
    });
    for held in take(&place.open(), &[("/1", Shared), ("/2", Shared)]) {
        assert_eq!(read(&held), "8");
    }
}

#[test]
fn one_id_twice_in_a_step_is_one_directory_under_the_stricter_sharing() {
    let place = place();
    let (a, b) = two(&place);
    let held = take(&a, &[("/x", Shared), ("/y", Shared), ("/x", Locked)]);
    assert_eq!(path(&held[0]), path(&held[2]));
    assert_ne!(path(&held[0]), path(&held[1]));
    busy(&b, &[("/x", Locked)]);
    drop(held);
    one(&b, "/x", Locked);
}

#[test]
fn ids_are_text_and_never_paths() {
    let place = place();
    let store = place.open();
    let long = "x".repeat(100_000);
    let hostile = ["../../escape", "/../../etc", "a/b", ".", "..", "", "nul\0nul", "line\nline", "\u{202e}", &long];
    for id in hostile {
        write(&one(&store, id, Shared), id);
    }
    for id in hostile {
        assert_eq!(read(&one(&store, id, Shared)), id);
    }
    let names = place.names("mounts");
    assert_eq!(names.len(), hostile.len());
    for name in names {
        assert!(name.len() == 26 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
    }
    assert!(!place.root.parent().unwrap().join("escape").exists());
}

fn seeded(store: &Store, id: &str, seed: &str, content: Option<&str>) -> Taken {
    let wish = MountWish { key: MountKey { id: id.into(), seed: seed.into() }, sharing: Shared };
    let mut seeds = BTreeMap::new();
    if let Some(content) = content {
        let draft = store.draft().unwrap();
        fs::write(draft.fs().join("file"), content).unwrap();
        seeds.insert(wish.key.clone(), MountSeed { draft, created: time(77) });
    }
    store.take_mounts(&[wish], &mut seeds, None).unwrap()
}

#[test]
fn a_seed_fills_a_new_directory_once() {
    let place = place();
    let store = place.open();
    assert!(matches!(seeded(&store, "/x", "s1", None), Taken::Unseeded(0)));
    let Taken::All(held) = seeded(&store, "/x", "s1", Some("seed")) else { panic!("it was given") };
    assert_eq!((read(&held[0]).as_str(), held[0].created()), ("seed", time(77)));
    write(&held[0], "used");
    drop(held);
    for given in [None, Some("another")] {
        let Taken::All(held) = seeded(&store, "/x", "s1", given) else { panic!("it is there") };
        assert_eq!(read(&held[0]), "used");
    }
    let Taken::All(held) = seeded(&store, "/x", "s2", Some("other seed")) else { panic!("it was given") };
    assert_eq!(read(&held[0]), "other seed", "other content to begin with, another directory");
    assert_eq!(read(&one(&store, "/x", Shared)), "");
}

#[test]
fn what_is_in_use_is_not_dropped_and_what_is_dropped_starts_anew() {
    let place = place();
    let (a, b) = two(&place);
    let held = one(&a, "/x", Shared);
    write(&held, "1");
    let entry = b.mounts().unwrap().remove(0);
    assert!(b.mount_in_use(&entry.name).unwrap());
    assert!(!b.drop_mount(&entry.name).unwrap());
    assert_eq!(read(&held), "1");
    // Somebody waits for it while it goes.
    let waiting = busy(&b, &[("/x", Locked)]);
    drop(held);
    assert!(!b.mount_in_use(&entry.name).unwrap());
    assert!(b.drop_mount(&entry.name).unwrap());
    assert!(b.drop_mount(&entry.name).unwrap(), "twice is fine");
    let turn = waiting.wait(&|| false).unwrap().expect("a turn");
    let Taken::All(held) = try_take(&b, &[("/x", Locked)], Some(turn)) else { panic!("nobody has it") };
    assert_eq!(read(&held[0]), "");
    assert_eq!(b.mounts().unwrap().len(), 1);
}

#[test]
fn a_size_holds_until_the_next_use() {
    let place = place();
    let store = place.open();
    drop(one(&store, "/x", Shared));
    let entry = store.mounts().unwrap().remove(0);
    assert_eq!((entry.size_bytes, entry.sharing.as_str(), &entry.key), (None, "shared", &key("/x")));
    store.set_mount_size(&entry, 4096).unwrap();
    assert_eq!(store.mounts().unwrap()[0].size_bytes, Some(4096));
    drop(one(&store, "/x", Shared));
    assert_eq!(store.mounts().unwrap()[0].size_bytes, None);
}

#[test]
fn a_directory_that_is_gone_is_made_anew() {
    let place = place();
    let store = place.open();
    drop(one(&store, "/x", Shared));
    fs::remove_dir_all(place.root.join("mounts").join(&place.names("mounts")[0])).unwrap();
    assert_eq!(read(&one(&store, "/x", Shared)), "");
    assert_eq!(store.mounts().unwrap().len(), 1);
}

#[test]
fn mounts_are_found_again_when_the_index_is_lost() {
    let place = place();
    let store = place.open();
    let hostile = "line\nline\0../..";
    write(&one(&store, hostile, Locked), "kept");
    let Taken::All(held) = seeded(&store, "/x", "s1", Some("seed")) else { panic!("it was given") };
    drop((held, store));
    // What says nothing of itself, and what a dying process left.
    fs::create_dir_all(place.root.join("mounts/strange/fs")).unwrap();
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = fs::remove_file(place.root.join(file));
    }
    let store = place.open();
    assert!(
        store.notices().iter().any(|notice| notice.ends_with("found again, and 2 cache mounts")),
        "{:?}",
        store.notices()
    );
    assert_eq!(read(&one(&store, hostile, Locked)), "kept");
    let Taken::All(held) = seeded(&store, "/x", "s1", None) else { panic!("it is there") };
    assert_eq!((read(&held[0]).as_str(), held[0].created()), ("seed", time(77)));
    assert_eq!(place.names("mounts").len(), 2);
}

#[test]
fn mounts_outlive_a_reboot_and_a_directory_without_a_row_does_not() {
    let place = place();
    write(&one(&place.open_in(BOOT), "/x", Shared), "kept");
    fs::create_dir_all(place.root.join("mounts/unfinished/fs")).unwrap();
    let store = place.open_in("boot-2");
    assert_eq!(read(&one(&store, "/x", Shared)), "kept");
    assert_eq!(place.names("mounts").len(), 1);
}

fn tar_of(store: &Store) -> Vec<u8> {
    let mut tar = Vec::new();
    assert!(store.export_mount(&store.mounts().unwrap()[0], &mut tar).unwrap());
    tar
}

fn tree(root: &Path) -> Vec<String> {
    let mut find = std::process::Command::new("find");
    let output = find.args([".", "-printf", "%p %y %m %U:%G %l\n"]).current_dir(root).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_mount_travels_as_a_tar_and_comes_only_where_there_is_none() {
    let (here, there) = (place(), place());
    let (from, to) = (here.open(), there.open());
    let held = one(&from, "/x", Shared);
    write(&held, "data");
    fs::create_dir(held.path().join("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", held.path().join("dir/link")).unwrap();
    std::os::unix::fs::chown(held.path(), Some(7), Some(8)).unwrap();
    fs::set_permissions(held.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1770)).unwrap();
    let entry = from.mounts().unwrap().remove(0);
    assert!(!from.export_mount(&entry, &mut Vec::new()).unwrap(), "it is in use");
    let expected = tree(&held.path());
    drop(held);
    let tar = tar_of(&from);
    assert_eq!(tar, tar_of(&from), "the same files, the same bytes");
    let old = time(1_000_000);
    assert!(to.import_mount(&key("/x"), old, &tar[..]).unwrap());
    assert!(!to.import_mount(&key("/x"), old, &b"not read"[..]).unwrap());
    let held = one(&to, "/x", Shared);
    assert_eq!((tree(&held.path()), held.created()), (expected, old));
    // A time from the future would hide what was made here.
    let future = Timestamp::from_second(Timestamp::now().as_second() + 1_000_000).unwrap();
    assert!(to.import_mount(&key("/y"), future, &tar[..]).unwrap());
    assert!(one(&to, "/y", Shared).created() <= Timestamp::now());
}

#[test]
fn a_hostile_tar_leaves_nothing() {
    let place = place();
    let store = place.open();
    let mut tar = Vec::new();
    let mut writer = oci::layer::tar::TarWriter::new(&mut tar);
    let entry = |path: &str, kind| oci::layer::tar::Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: oci::layer::tar::Time { seconds: 0, nanoseconds: 0 },
        xattrs: Vec::new(),
    };
    writer.begin(&entry("../../escape", oci::layer::tar::Kind::File { size: 0, sparse: None })).unwrap();
    writer.finish().unwrap();
    let failed = store.import_mount(&key("/x"), time(1), &tar[..]).unwrap_err();
    assert!(matches!(failed, StoreError::MountTar { act: "unpack", .. }), "{failed}");
    assert_eq!(place.names("mounts"), Vec::<String>::new());
    assert_eq!(place.names("tmp"), Vec::<String>::new());
}
