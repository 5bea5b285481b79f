//! What comes out of honest repositories.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

#[tokio::test]
async fn a_name_becomes_a_commit_and_a_commit_becomes_files() {
    let bench = Bench::new();
    let first = bench
        .repository("a", "echo -n A >a; mkdir d; echo -n B >d/b; chmod 755 d/b; ln -s d/b l; printf 'x\\r\\n' >crlf");
    bench.sh("cd a; git tag light; git tag -a -m words v1.0; git branch feature/x; git branch v1.0;
         echo -n A2 >a; git commit -qam two");
    let second = bench.sh("cd a; git rev-parse main");
    let server = bench.serve();
    let url = server.url("/a");
    let cases = [
        ("", &second, Some("refs/heads/main")),
        ("HEAD", &second, Some("refs/heads/main")),
        ("main", &second, Some("refs/heads/main")),
        ("refs/heads/main", &second, Some("refs/heads/main")),
        ("light", &first, Some("refs/tags/light")),
        // Annotated, and a branch of the same name: the tag's commit.
        ("v1.0", &first, Some("refs/tags/v1.0")),
        ("refs/heads/v1.0", &first, Some("refs/heads/v1.0")),
        ("feature/x", &first, Some("refs/heads/feature/x")),
    ];
    for (reference, commit, name) in cases {
        let pin = bench.resolve(&source(&url, reference)).await.unwrap();
        assert_eq!((&pin.commit, pin.reference.as_deref()), (commit, name), "{reference}");
    }
    let (into, _, time) = bench.get(&source(&url, "light")).await.unwrap();
    assert_eq!(files(&into), ["a=A", "crlf=x\r\n", "d/", "d/b=B", "l -> d/b"]);
    assert_eq!(time, 1_100_000_000);
    let mode = |name: &str| std::fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("d"), mode("d/b")), (0o644, 0o755, 0o755));
    assert!(!into.join(".git").exists());
    server.asked();
    // A commit needs no look at the names, and what is here already is not fetched again.
    let (again, pin, _) = bench.get(&source(&url, &first.to_uppercase())).await.unwrap();
    assert_eq!((pin.commit.as_str(), pin.reference), (first.as_str(), None));
    assert_eq!(files(&again), files(&into));
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

#[tokio::test]
async fn every_entry_gets_the_time_of_the_commit_when_that_is_asked_for() {
    let bench = Bench::new();
    let commit = bench.repository("a", "mkdir d; echo A >d/a; ln -s d l");
    let server = bench.serve();
    let source = GitSource { mtime_commit: true, keep_git_dir: true, ..source(&server.url("/a"), &commit) };
    let (into, ..) = bench.get(&source).await.unwrap();
    for name in ["", "d", "d/a", "l", ".git", ".git/HEAD"] {
        assert_eq!(std::fs::symlink_metadata(into.join(name)).unwrap().mtime(), 1_100_000_000, "{name}");
    }
}

#[tokio::test]
async fn a_kept_git_dir_is_a_shallow_clone_that_does_nothing_by_itself() {
    let bench = Bench::new();
    bench.repository("a", "echo A >a; mkdir d; echo B >d/b");
    bench.sh("cd a; git tag -a -m words v1; echo C >c; git add c; git commit -qm two; git tag light");
    let server = bench.serve();
    let keep = |reference: &str| GitSource { keep_git_dir: true, ..source(&server.url("/a"), reference) };
    for (reference, describe, name) in [
        ("v1", "v1", "refs/tags/v1"),
        ("light", "light", "refs/tags/light"),
        ("main", "", "refs/heads/main"),
        ("", "", "refs/heads/main"),
    ] {
        let (into, pin, _) = bench.get(&keep(reference)).await.unwrap();
        let git = |args: &str| bench.sh(&format!("cd {}; git {args}", into.display()));
        assert_eq!(git("status --porcelain"), "", "{reference}");
        assert_eq!(git("rev-parse HEAD"), pin.commit);
        assert_eq!(git(&format!("rev-parse {name}^{{commit}}")), pin.commit);
        assert_eq!(git("remote get-url origin"), server.url("/a"));
        assert_eq!(git("rev-list --all --count"), "1", "shallow");
        git("fsck --strict");
        if !describe.is_empty() {
            assert_eq!(git("describe --tags --exact-match"), describe);
        }
        for absent in ["hooks", "logs", "FETCH_HEAD", "ORIG_HEAD", "description"] {
            assert!(!into.join(".git").join(absent).exists(), "{absent}");
        }
        let config = std::fs::read_to_string(into.join(".git/config")).unwrap();
        for key in config.lines().filter_map(|line| line.trim().split_once(" = ").map(|(key, _)| key)) {
            let known = ["repositoryformatversion", "filemode", "bare", "logallrefupdates", "url", "fetch"];
            assert!(known.contains(&key), "{config}");
        }
    }
    // With a subdirectory there is nothing that a `.git` could be of.
    let (into, ..) = bench.get(&GitSource { subdir: Some("d".into()), ..keep("v1") }).await.unwrap();
    assert_eq!(files(&into), ["b=B\n"]);
    assert!(!into.join(".git").exists());
}

#[tokio::test]
async fn submodules_are_filled_in_at_every_depth_or_left_empty() {
    let bench = Bench::new();
    let server = bench.serve();
    let add = |parent: &str, url: &str, path: &str| {
        let real = url.rsplit('/').next().unwrap();
        bench.sh(&format!(
            "cd {parent}; git -c protocol.file.allow=always submodule --quiet add --name n-{path} ../{real} {path}
             git config -f .gitmodules submodule.n-{path}.url {url}; git commit -qam sub"
        ));
    };
    bench.repository("deep", "echo -n D >d");
    bench.repository("sub", "echo -n S >s");
    add("sub", "../deep", "deep");
    bench.repository("a", "mkdir x; echo -n A >x/a");
    add("a", "./../sub", "x/one");
    add("a", &server.url("/deep"), "two");
    let url = server.url("/a");
    let all = ["x/", "x/a=A", "x/one/", "x/one/deep/", "x/one/deep/d=D", "x/one/s=S"];
    let (into, ..) = bench.get(&source(&url, "main")).await.unwrap();
    let found: Vec<String> = files(&into).into_iter().filter(|path| !path.contains(".gitmodules")).collect();
    assert_eq!(found, [&["two/", "two/d=D"][..], &all].concat());
    let (into, ..) = bench.get(&GitSource { submodules: false, ..source(&url, "main") }).await.unwrap();
    assert_eq!(files(&into)[1..], ["two/", "x/", "x/a=A", "x/one/"]);
    // Subdirectories above, in and through submodules.
    for (subdir, want) in [
        ("x", &["a=A", "one/", "one/deep/", "one/deep/d=D", "one/s=S"][..]),
        ("x/one", &["deep/", "deep/d=D", "s=S"]),
        ("x/one/deep", &["d=D"]),
        ("/x/../two/.", &["d=D"]),
        ("../../two", &["d=D"]),
    ] {
        let wanted = GitSource { subdir: Some(subdir.to_owned()), ..source(&url, "main") };
        let (into, ..) = bench.get(&wanted).await.unwrap_or_else(|error| panic!("{subdir}: {}", words(&error)));
        let found: Vec<String> = files(&into).into_iter().filter(|path| !path.contains(".gitmodules")).collect();
        assert_eq!(found, want, "{subdir}");
    }
    // What a repository does not want filled in stays empty.
    bench.sh("cd a; git config -f .gitmodules submodule.n-two.update none; git commit -qam none");
    let (into, ..) = bench.get(&source(&url, "main")).await.unwrap();
    assert!(into.join("two").is_dir() && !into.join("two/d").exists());
    // Without an address it cannot be; the message says which.
    bench.sh("cd a; git config -f .gitmodules --remove-section submodule.n-two; git commit -qam lost");
    let error = bench.get(&source(&url, "main")).await.unwrap_err();
    assert!(error.to_string().contains("`two`") && error.help().unwrap().contains("submodules=false"), "{error}");
}
