//! One clear error that names the line, exit code 1, and a store that is as good as before.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::{Context, Outcome, Store, tree};

/// `rbuild` refuses this Dockerfile with one error that says all of `words`, and runs nothing.
#[track_caller]
fn check(dockerfile: &str, words: &[&str]) {
    let store = Store::with_busybox();
    let context = Context::new(dockerfile).file("a.txt", "a");
    store.build(&context, ["-t", "x:1"]).fails_saying(words).never_prints(&["ran"]);
    let images = store.rbuild(["images"]).ok();
    assert_eq!(images.stdout.lines().count(), 2, "a failed build left an image: {images}");
    store.build(&Context::new("FROM busybox\nRUN echo fine\n"), ["-t", "y:1"]).ok();
}

#[test]
fn mistakes_in_the_dockerfile_are_shown_where_they_are() {
    check(
        "FROM busybox\nRUN echo ran\nCOYP a.txt /a\n",
        &["unknown instruction `COYP`", "Dockerfile:3", "^^^^", "`COPY`"],
    );
    check("FROM busybox\nRUN echo ran\nCOPY --chwon=1 a.txt /a\n", &["chwon", "Dockerfile:3", "chown"]);
    check("FROM busybox\nRUN --mount=type=bnid,target=/x echo ran\n", &["bnid", "Dockerfile:2"]);
    check("RUN echo ran\n", &["FROM", "Dockerfile:1"]);
    check("FROM busybox\nCOPY --from=bulid /a /a\nRUN echo ran\n", &["bulid", "Dockerfile:2"]);
    check("FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nCOPY --from=a /x /x\n", &["Dockerfile:2", "b"]);
    check("FROM busybox AS a\nCOPY --from=a /x /x\n", &["Dockerfile:2"]);
    check("FROM\n", &["Dockerfile:1"]);
    check("FROM busybox\nEXPOSE many\n", &["many", "Dockerfile:2"]);
    check("", &["Dockerfile"]);
}

#[test]
fn missing_files_are_named() {
    check("FROM busybox\nCOPY a.tx /a\n", &["a.tx", "Dockerfile:2", "^", "a.txt"]);
    check("FROM busybox AS b\nFROM scratch\nCOPY --from=b /no/such /a\n", &["/no/such", "Dockerfile:3"]);
    let store = Store::with_busybox();
    let context =
        Context::new("FROM busybox\nCOPY hidden /a\n").file("hidden", "").file(".dockerignore", "# x\nhid*\n");
    store.build(&context, ["-t", "x:1"]).fails_saying(&["hidden", "Dockerfile:2", ".dockerignore"]);
}

#[test]
fn missing_dockerfile_and_context_are_said() {
    let store = Store::new();
    store.build(&Context::empty(), ["-t", "x:1"]).fails_saying(&["Dockerfile", "help"]);
    store.build(&Context::empty(), ["-f", "elsewhere/Dockerfile"]).fails_saying(&["elsewhere/Dockerfile"]);
    store.rbuild(["-t", "x:1", "./no-such-dir"]).fails_saying(&["no-such-dir"]);
    store.rbuild(["-t", "x:1"]).fails_saying(&["context", "."]);
}

#[test]
fn unknown_flags_are_refused_with_a_hint() {
    let store = Store::new();
    let context = Context::new("FROM scratch\n");
    store.build(&context, ["--taget", "x"]).fails_saying(&["--taget", "--target"]);
    store.build(&context, ["--cache-from", "type=gha"]).fails_saying(&["--cache-from type=gha", "type=registry"]);
    store.build(&context, ["--cache-to", "type=lcoal,dest=x"]).fails_saying(&["--cache-to", "did you mean `local`?"]);
    store.build(&context, ["--platform", "linux"]).fails_saying(&["`linux` is not a platform"]);
    store.build(&context, ["-o", "type=zip,dest=x"]).fails_saying(&["zip", "oci"]);
    store.build(&context, ["-t", "Not:A:Name"]).fails_saying(&["Not:A:Name"]);
}

#[test]
fn failing_step_shows_its_line_output_and_exit_code() {
    let store = Store::with_busybox();
    let context =
        Context::new("FROM busybox\n\nRUN echo before && \\\n    sh -c 'echo to-stderr >&2; exit 3'\nRUN echo after\n");
    let built = store.build(&context, ["-t", "x:1"]).fails_saying(&["Dockerfile:3", "to-stderr", "3"]);
    assert_eq!((built.lines_of_steps("before"), built.lines_of_steps("after")), (1, 0), "{built}");
    let error = built.stderr.lines().filter(|line| line.starts_with('#') && line.contains(" ERROR: ")).count();
    assert_eq!(error, 1, "{built}");
}

#[test]
fn sockets_and_links_out_of_the_context_are_not_copied() {
    let store = Store::with_busybox();
    // A socket is nothing that an image can hold; it is left out, as everywhere, but not in silence.
    let context = Context::new("FROM scratch\nCOPY socket /a\n");
    let _socket = std::os::unix::net::UnixListener::bind(context.path().join("socket")).expect("it is new");
    store.build(&context, ["-t", "x:1"]).ok().says(&["socket", "not copied"]);

    // A link out of the context is resolved inside it, and so finds nothing.
    let canary = crate::support::temp_dir();
    std::fs::write(canary.path().join("secret"), "secret of the host").expect("it is ours");
    let context = Context::new("FROM busybox\nCOPY link /a\nRUN cat /a\n");
    symlink(canary.path().join("secret"), context.path().join("link")).expect("it is new");
    store.build(&context, ["-t", "x:1"]).fails_saying(&["link", "Dockerfile:2"]).never_says(&["secret of the host"]);
}

/// The build, by `setpriv` with these words.
fn build_with(words: &[&str], store: &Store, context: &Context) -> Outcome {
    let inner = store.build_command(context, ["-t", "x:1"]);
    let mut command = std::process::Command::new("setpriv");
    command.args(words).arg("--").arg(inner.get_program()).args(inner.get_args());
    command.current_dir(store.path("")).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::of(&mut command)
}

#[test]
fn unreadable_file_is_named_with_its_reason() {
    // As root without the right to read everything; otherwise the kernel refuses nothing.
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY locked /a\n").file("locked", "x");
    std::fs::set_permissions(context.path().join("locked"), PermissionsExt::from_mode(0o000)).expect("it is ours");
    let built = build_with(&["--bounding-set=-dac_override,-dac_read_search"], &store, &context);
    built.fails_saying(&["locked", "ermission denied"]);
}

#[test]
fn who_may_not_build_is_told_before_anything_is_begun() {
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY f /a\n").file("f", "x");
    let powerless = ["--bounding-set=-sys_admin"];
    build_with(&powerless, &store, &context).fails_saying(&["CAP_SYS_ADMIN", "--cap-add SYS_ADMIN"]);
}

#[test]
fn dockerfile_and_ignore_file_that_are_links_out_of_the_context_are_not_read() {
    let canary = crate::support::temp_dir();
    std::fs::write(canary.path().join("secret"), "COYP secret of the host\n").expect("it is ours");
    let before = tree::list(canary.path());
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY a /a\n").file("a", "a");
    symlink(canary.path().join("secret"), context.path().join(".dockerignore")).expect("it is new");
    store.build(&context, ["-t", "x:1"]).fails_saying(&[".dockerignore"]).never_says(&["secret of the host"]);
    assert_eq!(tree::list(canary.path()), before);
}

#[test]
fn foreign_text_cannot_drive_the_terminal() {
    let store = Store::with_busybox();
    let context =
        Context::new("FROM busybox\nLABEL a=\"\x1b]0;title\x07\"\nRUN printf 'a\\033[2Jb\\n'\nCOYP \x1b[31mx /a\n");
    let built = store.build(&context, ["-t", "x:1"]).exits(1);
    assert!(!built.stderr.contains('\x1b'), "{:?}", built.stderr);
}
