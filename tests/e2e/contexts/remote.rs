//! Contexts from elsewhere: repositories and addresses.

use super::*;

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
    // Its ignore file leaves out `a`.
    let first = ["all/.dockerignore", "all/Dockerfile"];
    let second = ["all/.dockerignore", "all/Dockerfile", "all/b", "all/sub/Dockerfile"];
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
