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
