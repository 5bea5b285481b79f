//! Nothing runs twice, and what must run again does.

use std::time::{Duration, SystemTime};

use crate::support::{Context, Store};

const DOCKERFILE: &str = "FROM busybox\nRUN echo ran-first && date +%N > /first\nCOPY a /a\n\
                          RUN echo ran-second && date +%N > /second\nCOPY b /b\n";

fn context() -> Context {
    Context::new(DOCKERFILE).file("a", "a").file("b", "b").file("unused", "1")
}

#[test]
fn second_build_runs_nothing_and_gives_the_same_image() {
    let (store, context) = (Store::with_busybox(), context());
    let first = store.image_id(&context, ["-t", "app:1"]);
    let again = store.build(&context, ["-t", "app:1"]).ok().never_prints(&["ran-"]);
    assert_eq!(
        again.stderr.lines().filter(|line| line.ends_with(" CACHED")).count(),
        5,
        "the base and four steps: {again}"
    );
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), first);
}

#[test]
fn only_what_follows_a_change_runs_again() {
    let (store, context) = (Store::with_busybox(), context());
    let first = store.image_id(&context, ["-t", "app:1"]);

    context.write("unused", "2");
    let later = SystemTime::now() + Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(context.path().join("a")).expect("it is there");
    file.set_modified(later).expect("root may");
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), first, "neither an unread file nor a time is a change");

    context.write("b", "changed");
    store.build(&context, ["-t", "app:1"]).ok().never_prints(&["ran-"]);
    context.write("a", "changed");
    let built = store.build(&context, ["-t", "app:1"]).ok().never_prints(&["ran-first"]);
    assert_eq!(built.lines_of_steps("ran-second"), 1, "{built}");
    assert_ne!(store.image_id(&context, ["-t", "app:1"]), first);

    context.write("a", "a");
    context.write("b", "b");
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), first, "the old results are still known");
}

#[test]
fn mode_of_a_context_file_is_a_change_and_its_owner_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let (store, context) = (Store::with_busybox(), context());
    let first = store.image_id(&context, ["-t", "app:1"]);
    let file = context.path().join("a");
    std::os::unix::fs::chown(&file, Some(1234), Some(1234)).expect("the tests run as root");
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), first);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let built = store.build(&context, ["-t", "app:1"]).ok();
    assert_eq!(built.lines_of_steps("ran-second"), 1, "{built}");
}

#[test]
fn arguments_count_from_where_they_are_declared() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo ran-before\nARG V\nRUN echo ran-after $V\n");
    store.build(&context, ["--build-arg", "V=1"]).ok();
    let built = store.build(&context, ["--build-arg", "V=2"]).ok().never_prints(&["ran-before"]);
    assert_eq!((built.lines_of_steps("ran-before"), built.lines_of_steps("ran-after 2")), (0, 1), "{built}");
    let built = store.build(&context, ["--build-arg", "V=1"]).ok();
    assert_eq!(built.lines_of_steps("ran-after 1"), 0, "{built}");
}

#[test]
fn no_cache_runs_everything_again() {
    let (store, context) = (Store::with_busybox(), context());
    store.build(&context, ["-t", "app:1"]).ok();
    let built = store.build(&context, ["-t", "app:1", "--no-cache"]).ok();
    assert_eq!((built.lines_of_steps("ran-first"), built.lines_of_steps("ran-second")), (1, 1), "{built}");
}

#[test]
fn bind_mounted_file_is_part_of_the_step() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN --mount=type=bind,source=a,target=/mnt/a echo ran $(cat /mnt/a)\n");
    context.write("a", "one");
    assert_eq!(store.build(&context, ["-t", "x:1"]).ok().lines_of_steps("ran one"), 1);
    assert_eq!(store.build(&context, ["-t", "x:1"]).ok().lines_of_steps("ran one"), 0);
    context.write("a", "two");
    assert_eq!(store.build(&context, ["-t", "x:1"]).ok().lines_of_steps("ran two"), 1);
}

#[test]
fn step_that_changes_nothing_is_cached_too() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo ran && true\n");
    assert_eq!(store.build(&context, ["-t", "x:1"]).ok().lines_of_steps("ran"), 1);
    assert_eq!(store.build(&context, ["-t", "x:1"]).ok().lines_of_steps("ran"), 0);
}
