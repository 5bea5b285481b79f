//! Where files and texts come from: standard input, archives, repositories, addresses, named contexts.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::fake::{Fake, Reply};
use crate::support::git::GitServer;
use crate::support::{Archive, Context, Outcome, Store, temp_dir, tree};

const DOCKERFILE: &str = "FROM scratch\nCOPY . /all/\n";

/// Builds with these words, standard input given, and returns what was said.
fn build_from(store: &Store, words: &[&str], stdin: &[u8]) -> Outcome {
    let mut command = store.command(["build", "--progress=plain"].iter().chain(words));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let mut child = command.spawn().expect("the binary under test starts");
    let mut pipe = child.stdin.take().expect("it is piped");
    let bytes = stdin.to_vec();
    // The build may end without reading everything.
    let writing = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    Outcome::from_output(shown, &output)
}

/// What the build put into `/` of its last stage, one path per line.
#[track_caller]
fn files_of(store: &Store, words: &[&str], stdin: &[u8]) -> Vec<String> {
    let out = temp_dir();
    let dest = format!("type=local,dest={}", out.path().join("tree").display());
    build_from(store, &[&["-o", &dest], words].concat(), stdin).ok();
    let mut files = Vec::new();
    walk(&out.path().join("tree"), Path::new(""), &mut files);
    files.sort();
    files
}

fn walk(root: &Path, at: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(at)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = at.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            walk(root, &path, files);
        } else {
            files.push(path.display().to_string());
        }
    }
}

/// A tar of these files; a name that ends in `@` is a link to the contents.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        append(&mut tar, name, contents);
    }
    tar.into_inner().expect("memory takes everything")
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, contents: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(1234);
    header.set_mtime(1_000_000_000);
    let (name, data) = match name.strip_suffix('@') {
        Some(name) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(contents).expect("a short target");
            header.set_size(0);
            (name, "")
        }
        None => {
            header.set_size(contents.len() as u64);
            (name, contents)
        }
    };
    // Not by the archive's own ways, which refuse hostile names.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, data.as_bytes()).expect("memory takes everything");
}

/// `bytes` by a program of the machine.
fn by(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut pipe = child.stdin.take().expect("it is piped");
    let input = bytes.to_vec();
    let writing = std::thread::spawn(move || pipe.write_all(&input).expect("it reads"));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    output.stdout
}

fn layers(store: &Store, words: &[&str], stdin: &[u8]) -> Archive {
    let out = temp_dir();
    let dest = format!("type=oci,dest={}", out.path().join("a.tar").display());
    build_from(store, &[&["-o", &dest], words].concat(), stdin).ok();
    Archive::read(&out.path().join("a.tar"))
}

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
    let expected = ["all/.dockerignore", "all/Dockerfile", "all/a", "all/sub/b"];
    let mut ids = Vec::new();
    for bytes in [plain.clone(), by("gzip", &plain), by("bzip2", &plain), by("xz", &plain), by("zstd", &plain)] {
        // The ignore file of an archive does not count, as with docker.
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
    store.build(&context, [""; 0]).fails_saying(&["`src/app` is excluded", ".dockerignore:3 `*/app`", "!PATH"]);
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

#[test]
fn repository_is_the_context() {
    let server = GitServer::start();
    server.commit("app", "printf 'FROM scratch\\nCOPY . /all/\\n' > Dockerfile; echo a > a; echo a > .dockerignore");
    server.commit("app", "git tag v1; mkdir sub; printf 'FROM scratch\\nCOPY . /sub/\\n' > sub/Dockerfile; echo b > b");
    let store = Store::new();
    let url = server.url("app");
    let check = |words: &[&str], fragment: &str, expected: &[&str]| {
        let place = format!("{url}{fragment}");
        assert_eq!(files_of(&store, &[words, &[place.as_str()]].concat(), b""), expected, "{fragment}");
    };
    let first = ["all/.dockerignore", "all/Dockerfile", "all/a"];
    let second = ["all/.dockerignore", "all/Dockerfile", "all/a", "all/b", "all/sub/Dockerfile"];
    check(&[], "", &second);
    check(&[], "#main", &second);
    check(&[], "#v1", &first);
    check(&[], "?tag=v1", &first);
    check(&[], "#main:sub", &["sub/Dockerfile"]);
    check(
        &["-f", "sub/Dockerfile"],
        "",
        &second.map(|name| name.replace("all/", "sub/")).each_ref().map(String::as_str),
    );
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    let place = format!("{url}#v1");
    let files = files_of(&store, &[&keep[..], &[place.as_str()]].concat(), b"");
    assert!(files.iter().any(|file| file == "all/.git/HEAD"), "{files:?}");
    let built = build_from(&store, &[&place], b"").ok();
    built.says(&["[internal] load git source http://", "#v1", "[internal] load build definition from Dockerfile"]);
    build_from(&store, &[&format!("{url}#nope")], b"").fails_saying(&["nope"]);
    build_from(&store, &[&format!("{url}#main:nope")], b"").fails_saying(&["nope"]);
    build_from(&store, &[&server.url("absent")], b"").fails_saying(&["absent.git"]);
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn unchanged_repository_is_a_cached_build() {
    let server = GitServer::start();
    server.commit("app", "printf 'FROM busybox\\nCOPY a /a\\nRUN echo ran\\n' > Dockerfile; echo a > a");
    let store = Store::with_busybox();
    let url = server.url("app");
    let first = build_from(&store, &[&url], b"").ok();
    assert_eq!(first.lines_of_steps("ran"), 1, "{first}");
    server.commit("app", "echo more > unused");
    let second = build_from(&store, &[&url], b"").ok();
    assert_eq!(second.lines_of_steps("ran"), 0, "{second}");
    server.commit("app", "echo b > a");
    let third = build_from(&store, &[&url], b"").ok();
    assert_eq!(third.lines_of_steps("ran"), 1, "{third}");
}

#[test]
fn hostile_repositories_reach_nothing_outside() {
    let canary = temp_dir();
    std::fs::write(canary.path().join("Dockerfile"), "FROM secret-of-the-host\n").expect("it is ours");
    let before = tree::list(canary.path());
    let out = canary.path().display();
    let server = GitServer::start();
    server.commit("link", &format!("ln -s {out}/Dockerfile Dockerfile; ln -s {out} dir; ln -s / root"));
    server.commit("copy", &format!("ln -s {out} dir; printf 'FROM scratch\\nCOPY dir/ /all/\\n' > Dockerfile"));
    server.commit(
        "hook",
        &format!(
            "printf 'FROM scratch\\nCOPY . /all/\\n' > Dockerfile; mkdir -p hooks; \
        printf '#!/bin/sh\\ntouch {out}/evil\\n' > hooks/post-checkout; chmod +x hooks/post-checkout; \
        printf '[core]\\nhooksPath=hooks\\n' > .gitconfig"
        ),
    );
    let store = Store::new();
    let check = |words: &[&str], place: String, code: i32| {
        let built = build_from(&store, &[words, &[place.as_str()]].concat(), b"");
        built.exits(code).never_says(&["secret-of-the-host"]);
        assert_eq!(tree::list(canary.path()), before);
    };
    check(&[], server.url("link"), 1);
    check(&["-f", "dir/Dockerfile"], server.url("link"), 1);
    check(&["-f", "root/etc/passwd"], server.url("link"), 1);
    check(&[], format!("{}#main:dir", server.url("link")), 1);
    check(&[], format!("{}#main:root{out}", server.url("link")), 1);
    check(&[], server.url("copy"), 1);
    check(&[], server.url("hook"), 0);
    check(&[], format!("{}#--upload-pack=touch {out}/evil", server.url("hook")), 1);
    check(&[], format!("ext::sh -c touch% {out}/evil"), 1);
    check(&[], format!("{}#../../x", server.url("hook")), 1);
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

/// Serves files by their paths, with an entity tag of their contents; 404 for others.
fn web(files: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Fake {
    Fake::start(move |request| {
        let Some(body) = files(&request.path) else { return Reply::new(404, "not here") };
        let tag = format!("\"{}\"", body.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte)));
        if request.header("if-none-match") == Some(tag.as_str()) {
            return Reply::new(304, "").header("ETag", tag);
        }
        Reply::new(200, body).header("ETag", tag).header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
    })
}

#[test]
fn addresses_give_archives_and_dockerfiles() {
    let server = web(|path| {
        let archive = || tar(&[("Dockerfile", DOCKERFILE), ("a", "a"), ("other", "FROM scratch\nCOPY a /other/\n")]);
        match path {
            "/a.tar" => Some(archive()),
            "/a.tgz?x=canary" => Some(by("gzip", &archive())),
            "/Dockerfile" => Some(b"FROM busybox\nRUN echo from the web\n".to_vec()),
            "/broken" => Some(b"FROM busybox\nCOPY a /a\nCOYP b /b\n".to_vec()),
            "/copies" => Some(DOCKERFILE.as_bytes().to_vec()),
            _ => None,
        }
    });
    let url = |path: &str| format!("http://{}{path}", server.address);
    let store = Store::with_busybox();
    let all = ["all/Dockerfile", "all/a", "all/other"];
    assert_eq!(files_of(&store, &[&url("/a.tar")], b""), all);
    assert_eq!(files_of(&store, &[&url("/a.tgz?x=canary")], b""), all);
    assert_eq!(files_of(&store, &["-f", "other", &url("/a.tar")], b""), ["other/a"]);
    let built = build_from(&store, &[&url("/a.tgz?x=canary")], b"").ok();
    built
        .says(&["[internal] load remote build context", "load build definition from Dockerfile"])
        .never_says(&["canary"]);
    build_from(&store, &[&url("/Dockerfile")], b"").ok().says(&["from the web"]);
    build_from(&store, &[&url("/broken")], b"").fails_saying(&["COYP", "/broken:3"]);
    build_from(&store, &["-f", "x", &url("/Dockerfile")], b"").fails_saying(&["two Dockerfiles"]);
    build_from(&store, &[&url("/copies")], b"").ok();
    build_from(&store, &[&url("/absent")], b"").fails_saying(&["/absent", "404"]);
    // The Dockerfile alone from an address, the files from here; an ignore file of theirs counts.
    let context = Context::empty().file("a", "a").file("b", "b").file(".dockerignore", "b\n");
    let path = context.path().to_str().expect("UTF-8");
    assert_eq!(files_of(&store, &["-f", &url("/copies"), path], b""), ["all/.dockerignore", "all/a"]);
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn unchanged_address_is_not_transferred_again_and_a_changed_one_is() {
    let version = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let now = version.clone();
    let server = web(move |_| {
        let contents = format!("{}", now.load(std::sync::atomic::Ordering::SeqCst));
        Some(tar(&[("Dockerfile", "FROM busybox\nCOPY a /a\nRUN echo ran $(cat /a)\n"), ("a", contents.as_str())]))
    });
    let url = format!("http://{}/a.tar", server.address);
    let store = Store::with_busybox();
    let check = |ran: &str, times: usize| {
        let built = build_from(&store, &[&url], b"").ok();
        assert_eq!(built.lines_of_steps(ran), times, "{built}");
    };
    check("ran 0", 1);
    check("ran 0", 0);
    let asked = server.requests();
    let second = asked.last().expect("it was asked");
    assert!(second.header("if-none-match").is_some(), "{asked:?}");
    version.store(1, std::sync::atomic::Ordering::SeqCst);
    check("ran 1", 1);
}

#[test]
fn named_addresses_are_archives_or_single_files() {
    let server = web(|path| match path {
        "/lib.tar" => Some(tar(&[("l", "l"), ("sub/m", "m")])),
        "/tool.sh" => Some(b"#!/bin/sh\n".to_vec()),
        _ => None,
    });
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY --from=lib . /x/\n");
    let path = context.path().to_str().expect("UTF-8");
    let named = |file: &str| format!("lib=http://{}{file}", server.address);
    assert_eq!(files_of(&store, &["--build-context", &named("/lib.tar"), path], b""), ["x/l", "x/sub/m"]);
    assert_eq!(files_of(&store, &["--build-context", &named("/tool.sh"), path], b""), ["x/tool.sh"]);
    build_from(&store, &["--build-context", &named("/absent"), path], b"").fails_saying(&["404"]);
    let archive = store.path("lib.tar");
    std::fs::write(&archive, tar(&[("l", "l")])).expect("it is ours");
    assert_eq!(files_of(&store, &["--build-context", "lib=lib.tar", path], b""), ["x/l"]);
}

#[test]
fn secrets_of_addresses_are_never_shown() {
    let store = Store::new();
    let refused = {
        // A port that nobody listens on.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.local_addr().expect("it listens")
    };
    for place in [
        format!("http://user:canary@{refused}/a.git#main"),
        format!("http://user:canary@{refused}/a.tar"),
        format!("http://{refused}/a.tar?token=canary"),
        format!("http://canary@{refused}/a.git"),
        format!("http://user:canary@{refused}/a.git#-x"),
        "http://user:can/canary@host.example/a.git".to_owned(),
    ] {
        build_from(&store, &[&place], b"").exits(1).never_says(&["canary"]);
        let named = format!("lib={place}");
        let context = Context::new("FROM scratch\nCOPY --from=lib / /\n");
        store.build(&context, ["--build-context", &named]).exits(1).never_says(&["canary"]);
    }
}

#[test]
fn named_folder_stands_for_stage_image_and_copy_source() {
    let store = Store::new();
    let lib = Context::empty().file("l", "l").file("skip", "s").file(".dockerignore", "skip\n.dockerignore\n");
    let named = format!("={}", lib.path().display());
    let check = |dockerfile: &str, name: &str, expected: &[&str]| {
        let context = Context::new(dockerfile);
        let named = format!("{name}{named}");
        let path = context.path().to_str().expect("UTF-8");
        assert_eq!(files_of(&store, &["--build-context", &named, path], b""), expected, "{dockerfile}");
    };
    check("FROM scratch\nCOPY --from=lib . /x/\n", "lib", &["x/l"]);
    check("FROM scratch\nCOPY --from=lib . /x/\n", "LIB", &["x/l"]);
    check("FROM absent AS lib\nFROM scratch\nCOPY --from=lib l /x/\n", "lib", &["x/l"]);
    check("FROM scratch\nCOPY --from=absent.example/app:1 l /x/\n", "absent.example/app:1", &["x/l"]);
    let platform = oci_platform();
    check("FROM scratch\nCOPY --from=lib . /x/\n", &format!("lib::{platform}"), &["x/l"]);
    let context = Context::new("FROM scratch\nCOPY --from=lib skip /x/\n");
    store
        .build(&context, ["--build-context", &format!("lib{named}")])
        .fails_saying(&["`skip` is excluded from the context `lib`", ".dockerignore:1"]);
    let context = Context::new("FROM scratch\nCOPY --from=lib nope /x/\n");
    store
        .build(&context, ["--build-context", &format!("lib{named}")])
        .fails_saying(&["does not exist in the context `lib`"]);
}

fn oci_platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    }
}

#[test]
fn named_images_stand_for_stages_and_images() {
    let store = Store::with_busybox();
    let check = |dockerfile: &str, named: &str| {
        let built = store.build(&Context::new(dockerfile), ["--build-context", named]).ok();
        assert_eq!(built.lines_of_steps("ran"), 1, "{built}");
    };
    check("FROM absent.example/x:1\nRUN echo ran\n", "absent.example/x:1=docker-image://busybox");
    check("FROM scratch AS base\nFROM base\nRUN echo ran # 2\n", "base=docker-image://busybox");
    let context = Context::new("FROM absent.example/x\nCOPY a /\n").file("a", "a");
    store.build(&context, ["--build-context", "absent.example/x=docker-image://scratch"]).ok();
    store.build(&context, ["--build-context", "absent.example/x=target:y"]).fails_saying(&["bake file", "-t NAME"]);
    store.build(&context, ["--build-context", "context=."]).fails_saying(&["name of the main context"]);
}

#[test]
fn named_layouts_are_images() {
    let other = Store::with_busybox();
    let file = other.path("layout.tar");
    let dest = format!("type=oci,dest={}", file.display());
    other.build(&Context::new("FROM busybox\nRUN echo inside > /inside\n"), ["-t", "app:v1", "-o", &dest]).ok();
    let layout = other.path("layout");
    std::fs::create_dir(&layout).expect("it is new");
    tar::Archive::new(std::fs::File::open(&file).expect("it was written")).unpack(&layout).expect("an OCI archive");
    let store = Store::new();
    let path = layout.display();
    let context = Context::new("FROM base\nRUN echo ran $(cat /inside)\n");
    let built = store.build(&context, ["--build-context", &format!("base=oci-layout://{path}:v1")]).ok();
    assert_eq!(built.lines_of_steps("ran inside"), 1, "{built}");
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}")]).ok();
    let digest = Archive::read(&file).digest;
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}@{digest}")]).ok();
    store
        .build(&context, ["--build-context", &format!("base=oci-layout://{path}:v2")])
        .fails_saying(&["no image with the tag `v2`", "did you mean `v1`?"]);
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}/absent")]).fails_saying(&["absent"]);
    // A blob that is not what its name says.
    let blobs = layout.join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs).expect("blobs").map(|entry| entry.expect("an entry").path());
    let largest: PathBuf = largest.max_by_key(|path| path.metadata().expect("a file").len()).expect("there are some");
    let mut bytes = std::fs::read(&largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("writable");
    let fresh = Store::new();
    fresh.build(&context, ["--build-context", &format!("base=oci-layout://{path}")]).fails_saying(&["sha256:"]);
}

#[test]
fn named_repositories_are_fetched_only_when_wanted() {
    let server = GitServer::start();
    server.commit("lib", "echo l > l");
    let store = Store::new();
    let named = format!("lib={}", server.url("lib"));
    let context = Context::new("FROM scratch AS a\nCOPY --from=lib l /\nFROM scratch AS b\nCOPY x /\n").file("x", "x");
    let built = store.build(&context, ["--build-context", &named, "--target", "a"]).ok();
    built.says(&["[context lib] load git source http://"]);
    let built = store.build(&context, ["--build-context", &named, "--target", "b"]).ok();
    built.never_says(&["[context lib]", "not used"]);
    let built = store.build(&context, ["--build-context", "lbi=https://host.invalid/x.git", "--target", "b"]).ok();
    built.says(&["the named context `lbi` is not used", "did you mean `lib`?"]);
}

#[test]
fn annotations_stand_in_the_manifest() {
    let store = Store::new();
    let out = store.path("a.tar");
    let dest = format!("type=oci,dest={}", out.display());
    let context = Context::new("FROM scratch\nCOPY a /\n").file("a", "a");
    let words =
        ["--annotation", "a.b=1", "--annotation", "manifest,manifest-descriptor:c=2", "--annotation", "index:d=3"];
    let built = store.build(&context, words.iter().chain(["-o", dest.as_str()].iter()).map(OsStr::new)).ok();
    built.says(&["no index", "`index`"]);
    let archive = Archive::read(&out);
    assert_eq!(archive.manifest["annotations"], serde_json::json!({"a.b": "1", "c": "2"}));
    let mut tar = tar::Archive::new(std::fs::File::open(&out).expect("it was written"));
    let mut entries = tar.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let index = entries.find(|entry| entry.path().expect("a name").ends_with("index.json")).expect("there is one");
    let index: serde_json::Value = serde_json::from_reader(index).expect("JSON");
    assert_eq!(index["manifests"][0]["annotations"]["c"], "2");
}

#[test]
fn stages_can_be_run_without_the_cache() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox AS one\nRUN echo one > /1; echo ran-one\nFROM busybox AS two\nRUN echo ran-two\nCOPY --from=one /1 /\n",
    );
    store.build(&context, ["-t", "x:1"]).ok();
    let check = |words: &[&str], one: usize, two: usize| {
        let built = store.build(&context, words).ok();
        assert_eq!((built.lines_of_steps("ran-one"), built.lines_of_steps("ran-two")), (one, two), "{built}");
    };
    check(&[], 0, 0);
    check(&["--no-cache-filter", "One"], 1, 0);
    check(&["--no-cache-filter", "two"], 0, 1);
    check(&["--no-cache-filter", "one,two"], 1, 1);
}

#[test]
fn build_arguments_come_from_files_too() {
    let store = Store::with_busybox();
    std::fs::write(store.path("args"), "# words\nA=file\nB=file\n").expect("it is ours");
    let context = Context::new("FROM busybox\nARG A\nARG B\nRUN echo got $A $B\n");
    let built = store.build(&context, ["--build-arg-file", "args", "--build-arg", "B=flag"]).ok();
    assert_eq!(built.lines_of_steps("got file flag"), 1, "{built}");
}
