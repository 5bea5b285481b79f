//! Contexts of this machine: standard input, archives, directories with their ignore files.

use super::*;

#[test]
fn dockerfile_on_standard_input_builds_without_files() {
    let store = Store::with_busybox();
    build_from(&store, &["-t", "x:1", "-"], b"FROM busybox\nRUN echo from stdin\n").ok().says(&["from stdin"]);
    build_from(&store, &["-"], b"FROM busybox\nCOPY a.txt /a\n").fails_saying(&[
        "`a.txt` does not exist",
        "<stdin>:2",
        "the Dockerfile came from standard input, so there are no files",
    ]);
    build_from(&store, &["-"], b"FROM busybox\nCOYP a /a\n").fails_saying(&["COYP", "<stdin>:2"]);
    build_from(&store, &["-"], b"").fails_saying(&["the Dockerfile is empty"]);
    build_from(&store, &["-"], b"FROM scratch\n\xff\n").fails_saying(&["not UTF-8", "line 2"]);
    build_from(&store, &["-f", "x", "-"], b"FROM scratch\n").fails_saying(&["two Dockerfiles", "-f"]);
    build_from(&store, &["-f", "-", "-"], b"").fails_saying(&["both the context and the Dockerfile"]);
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn dockerfile_on_standard_input_goes_with_a_directory() {
    let store = Store::new();
    let context = Context::empty().file("a", "a").file("b", "b").file(".dockerignore", "b\n");
    let path = context.path().to_str().expect("UTF-8");
    let files = files_of(&store, &["-f", "-", path], DOCKERFILE.as_bytes());
    assert_eq!(files, ["all/.dockerignore", "all/a"]);
}

#[test]
fn archive_is_the_context_in_every_compression() {
    let store = Store::new();
    let plain = tar(&[("./Dockerfile", DOCKERFILE), ("./a", "a"), ("sub/b", "b"), (".dockerignore", "a\n")]);
    let expected = ["all/.dockerignore", "all/Dockerfile", "all/sub/b"];
    let mut ids = Vec::new();
    for bytes in [plain.clone(), by("gzip", &plain), by("bzip2", &plain), by("xz", &plain), by("zstd", &plain)] {
        // Unlike docker's: what its ignore file names is left out.
        assert_eq!(files_of(&store, &["-"], &bytes), expected);
        let file = store.path("context");
        std::fs::write(&file, &bytes).expect("it is ours");
        assert_eq!(files_of(&store, &["context"], b""), expected);
        let archive = layers(&store, &["-"], &bytes);
        let owners = archive.entries(0).iter().map(|entry| entry.owner).collect::<Vec<_>>();
        assert!(owners.iter().all(|owner| *owner == (0, 0)), "{owners:?}");
        ids.push(archive.digest);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same files, the same image");
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn ignore_files_count_in_archives_as_in_directories() {
    let store = Store::new();
    let ignoring = |more: &[(&str, &str)]| {
        let files =
            [("Dockerfile", "FROM scratch\nCOPY a b* /all/\n"), ("a", "a"), ("b", "b"), (".dockerignore", "b\n")];
        tar(&[&files[..], more].concat())
    };
    assert_eq!(files_of(&store, &["-"], &ignoring(&[])), ["all/a"]);
    let both = ["all/a", "all/b"];
    assert_eq!(files_of(&store, &["-"], &ignoring(&[("Dockerfile.dockerignore", "c\n")])), both);
    assert_eq!(files_of(&store, &["--ignorefile=/dev/null", "-"], &ignoring(&[])), both);
    std::fs::write(store.path("mine"), "# nothing\n").expect("it is ours");
    assert_eq!(files_of(&store, &["--ignorefile=mine", "-"], &ignoring(&[])), both);
    let all = tar(&[("Dockerfile", "FROM scratch\nCOPY b /\n"), ("b", "b"), (".dockerignore", "# x\n*\n")]);
    build_from(&store, &["-"], &all).fails_saying(&["`b` is excluded from the build context by .dockerignore:2 `*`"]);
    // A link could be meant for a file of this machine.
    let link = tar(&[("Dockerfile", DOCKERFILE), (".dockerignore@", "/etc/hostname")]);
    build_from(&store, &["-"], &link).fails_saying(&["the ignore file `.dockerignore` is not a regular file"]);
}

#[test]
fn dockerfile_of_an_archive_is_named_inside_it() {
    let store = Store::new();
    let bytes = tar(&[("docker/app", DOCKERFILE), ("link@", "docker/app"), ("absolute@", "/docker/app")]);
    for name in ["docker/app", "./docker/app", "/docker/app", "../../docker/app", "link", "absolute"] {
        assert_eq!(files_of(&store, &["-f", name, "-"], &bytes), ["all/absolute", "all/docker/app", "all/link"]);
    }
    build_from(&store, &["-"], &bytes).fails_saying(&["there is no Dockerfile in the archive on standard input"]);
    build_from(&store, &["-f", "nope", "-"], &bytes).fails_saying(&["there is no Dockerfile `nope`", "inside it"]);
    build_from(&store, &["-f", "docker", "-"], &bytes).fails_saying(&["`docker`", "not a regular file"]);
}

#[test]
fn hostile_archives_reach_nothing_outside() {
    let canary = temp_dir();
    std::fs::write(canary.path().join("secret"), "FROM secret-of-the-host\n").expect("it is ours");
    let before = tree::list(canary.path());
    let out = canary.path().to_str().expect("UTF-8");
    let check = |files: &[(&str, &str)], words: &[&str]| {
        let store = Store::new();
        let files = [&[("Dockerfile", "FROM scratch\nCOPY . /all/\n")], files].concat();
        let built = build_from(&store, &["-"], &tar(&files));
        if words.is_empty() { built.ok() } else { built.fails_saying(words) }.never_says(&["secret-of-the-host"]);
        assert_eq!(tree::list(canary.path()), before);
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
    };
    check(&[("../evil", "x")], &["cannot unpack the archive on standard input", ".."]);
    check(&[("a/../../evil", "x")], &["cannot unpack", ".."]);
    check(&[("d@", out), ("d/evil", "x")], &[]);
    check(&[("d@", out), ("d/secret", "x")], &[]);
    check(&[("d@", ".."), ("d/evil", "x")], &[]);
    check(&[("twice", "x"), ("twice", "y")], &[]);
    check(&[("twice@", out), ("twice", "y")], &[]);
    let absolute = format!("{out}/evil");
    if absolute.len() < 100 {
        check(&[(absolute.as_str(), "x")], &[]);
    }
    // A Dockerfile that leads out is none.
    let store = Store::new();
    let link = format!("{out}/secret");
    for target in [link.as_str(), "/proc/self/environ", "/dev/zero", "../../../../../etc/passwd"] {
        let built = build_from(&store, &["-"], &tar(&[("Dockerfile@", target)]));
        built.exits(1).says(&["there is no Dockerfile"]).never_says(&["secret-of-the-host", "root:"]);
    }
    // Neither damage nor a bomb of nothing hangs.
    let whole = by("gzip", &tar(&[("Dockerfile", DOCKERFILE), ("a", "a")]));
    build_from(&store, &["-"], &whole[..whole.len() / 2]).fails_saying(&["cannot unpack"]);
    build_from(&store, &["-"], &by("gzip", b"FROM scratch\n")).fails_saying(&["cannot unpack"]);
    build_from(&store, &["-"], &[0; 4096]).fails_saying(&["there is no Dockerfile"]);
}

#[test]
fn devices_and_pipes_of_an_archive_are_never_opened() {
    let store = Store::new();
    let mut builder = tar::Builder::new(tar(&[]));
    builder.get_mut().clear();
    append(&mut builder, "Dockerfile", "FROM scratch\nCOPY a /a\n");
    append(&mut builder, "a", "a");
    for (name, kind) in [("fifo", tar::EntryType::Fifo), ("zero", tar::EntryType::Char), ("mem", tar::EntryType::Block)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o666);
        header.set_device_major(1).expect("a small number");
        header.set_device_minor(5).expect("a small number");
        header.set_path(name).expect("a short name");
        header.set_cksum();
        builder.append(&header, &b""[..]).expect("memory takes everything");
    }
    let bytes = builder.into_inner().expect("memory takes everything");
    assert_eq!(files_of(&store, &["-"], &bytes), ["a"]);
    let built = build_from(&store, &["-f", "fifo", "-"], &bytes);
    built.fails_saying(&["`fifo`", "not a regular file"]);
}

#[test]
fn what_is_no_context_is_said() {
    let store = Store::new();
    std::fs::write(store.path("text"), "FROM scratch\n").expect("it is ours");
    store.rbuild(["build", "text"]).fails_saying(&["neither a directory nor an archive", "-f"]);
    store.rbuild(["build", "ftp://x.example/y"]).fails_saying(&["`ftp://` is no place"]);
}

#[test]
fn missing_files_are_looked_for_elsewhere() {
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY main.rs /\n").file("src/main.rs", "x");
    store.build(&context, [""; 0]).fails_saying(&["`main.rs` does not exist in the build context", "`src/main.rs`"]);
    let context =
        Context::new("FROM scratch\nCOPY src/app /\n").file("src/app", "x").file(".dockerignore", "# no\n\n*/app\n");
    store.build(&context, [""; 0]).fails_saying(&["`src/app` is excluded", ".dockerignore:3 `*/app`", "`!src/app`"]);
    let context = Context::new("FROM scratch\nCOPY a /\n").file("a", "x");
    std::fs::write(store.path("ignore"), "b\na\n").expect("it is ours");
    store.build(&context, ["--ignorefile", "ignore"]).fails_saying(&["`a` is excluded", "ignore:2 `a`"]);
    store.build(&context, ["--ignorefile", "absent"]).fails_saying(&["the ignore file `absent` cannot be read"]);
}

#[test]
fn ignore_files_beat_each_other_in_order() {
    let store = Store::new();
    std::fs::write(store.path("mine"), "a\n").expect("it is ours");
    let context = Context::new("FROM scratch\nCOPY a* b* c* d* /\n");
    for name in ["a", "b", "c", "d"] {
        context.write(name, name);
    }
    let path = context.path().to_str().expect("UTF-8").to_owned();
    let check = |words: &[&str], expected: &[&str]| {
        assert_eq!(files_of(&store, &[words, &[path.as_str()]].concat(), b""), expected);
    };
    check(&[], &["a", "b", "c", "d"]);
    context.write(".containerignore", "d\n");
    check(&[], &["a", "b", "c"]);
    context.write(".dockerignore", "c\n");
    check(&[], &["a", "b", "d"]);
    context.write("Dockerfile.dockerignore", "b\n");
    check(&[], &["a", "c", "d"]);
    check(&["--ignorefile", "mine"], &["b", "c", "d"]);
}
