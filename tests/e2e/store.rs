//! The local store from outside: import, images, rmi, save, load, config.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::support::{Archive, Context, Store, bases};

#[test]
fn images_lists_what_there_is_and_rmi_removes_it() {
    let store = Store::with_busybox();
    let id = store.image_id(&Context::new("FROM busybox\nRUN touch /a\n"), ["-t", "app:1", "-t", "app:2"]);
    let listed = store.rbuild(["images", "--format", "json"]).ok().stdout;
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    let text = listed.to_string();
    for name in ["app:1", "app:2", "busybox:latest"] {
        assert!(text.contains(name), "no {name} in {text}");
    }
    assert!(text.contains(&id), "{text}");

    store.rbuild(["rmi", "app:1"]).ok();
    let left = store.rbuild(["images", "--format", "json"]).ok().stdout;
    assert!(!left.contains("app:1") && left.contains("app:2"), "{left}");
    store.rbuild(["run", "--rm", "--network=none", "app:2", "test", "-e", "/a"]).ok();
    store.rbuild(["rmi", "app:1"]).fails_saying(&["app:1"]);
}

#[test]
fn saved_image_is_loaded_unchanged() {
    for format in ["oci", "docker"] {
        let (store, other) = (Store::with_busybox(), Store::new());
        let context = Context::new("FROM busybox\nRUN echo made > /made\nENTRYPOINT [\"cat\", \"/made\"]\n");
        let id = store.image_id(&context, ["-t", "app:1"]);
        let file = store.path("saved.tar").display().to_string();
        store.rbuild(["save", "--format", format, "-o", &file, "app:1"]).ok();
        other.rbuild(["load", "-i", &file]).ok();
        assert_eq!(other.rbuild(["run", "--rm", "--network=none", "app:1"]).ok().stdout, "made\n", "{format}");
        assert_eq!(other.rbuild(["images", "-q"]).ok().stdout.trim(), id, "{format}");
        let context = Context::new("FROM app:1\nRUN cat /made\n");
        assert_eq!(other.build(&context, ["-t", "on-top:1"]).ok().lines_of_steps("made"), 1, "{format}");
    }
}

#[test]
fn import_is_the_same_every_time_and_refuses_what_is_no_tar() {
    let store = Store::new();
    let base = bases::busybox().display().to_string();
    store.rbuild(["import", &base, "one:1"]).ok();
    store.rbuild(["import", &base, "two:1"]).ok();
    let save = |name: &str| {
        let file = store.path("saved.tar");
        store.rbuild(["save", "-o", &file.display().to_string(), name]).ok();
        Archive::read(&file)
    };
    assert_eq!(save("one:1").config["rootfs"], save("two:1").config["rootfs"]);

    let junk = store.path("junk.tar");
    std::fs::write(&junk, vec![7; 4096]).expect("it is new");
    store.rbuild(["import", &junk.display().to_string(), "junk:1"]).fails_saying(&["junk.tar"]);
    let cut = store.path("cut.tar");
    let whole = std::fs::read(&base).expect("the base is there");
    std::fs::write(&cut, &whole[..whole.len() / 2 + 100]).expect("it is new");
    store.rbuild(["import", &cut.display().to_string(), "cut:1"]).fails_saying(&["cut.tar"]);
    let listed = store.rbuild(["images"]).ok().stdout;
    assert!(!listed.contains("junk") && !listed.contains("cut"), "{listed}");
}

#[test]
fn store_is_nobody_elses_to_read() {
    let store = Store::with_busybox();
    let mode = store.root().metadata().expect("it was made").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn config_says_where_each_value_comes_from() {
    let store = Store::new();
    let dir = store.home().join(".config/rbuild");
    std::fs::create_dir_all(&dir).expect("it is ours");
    std::fs::write(dir.join("config.toml"), "jobs = 3\n").expect("it is ours");
    let shown = store.rbuild(["config"]).ok().stdout;
    let line =
        |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {shown}"));
    assert!(line("jobs").contains('3') && line("jobs").contains("config.toml"), "{shown}");
    assert!(line("root").contains("RBUILD_ROOT"), "{shown}");

    std::fs::write(dir.join("config.toml"), "jbos = 3\n").expect("it is ours");
    store.rbuild(["config"]).fails_saying(&["jbos", "config.toml", "jobs"]);
}

#[test]
fn newer_store_is_refused_untouched() {
    let store = Store::with_busybox();
    // The schema's number stands in the database's header, at offset 60 (SQLite file format, 1.3).
    let index = store.root().join("index.db");
    let mut bytes = std::fs::read(&index).expect("the store has an index");
    bytes[60..64].copy_from_slice(&1_000_000_u32.to_be_bytes());
    std::fs::write(&index, &bytes).expect("it is ours");
    store.rbuild(["images"]).fails_saying(&["newer"]);
    assert!(std::fs::read(&index).expect("it is still there") == bytes, "the index was touched");
}
