//! Offline, what an earlier build fetched is used, and nobody is asked.

use super::*;

async fn resolve_offline(bench: &Bench, source: &GitSource) -> Result<GitPin, GitError> {
    resolve(&bench.store, source, Connectivity::Offline, &bench.cancel).await
}

async fn check_out_offline(bench: &Bench, source: &GitSource, pin: &GitPin) -> Result<PathBuf, GitError> {
    bench.check_out_by(source, pin, Connectivity::Offline).await.map(|(into, _)| into)
}

#[tokio::test]
async fn offline_takes_what_the_remote_said_last_and_asks_nobody() {
    let bench = Bench::new();
    let first = bench.repository("a", "echo -n 1 >f");
    bench.sh("cd a; git tag -a -m tag v1");
    let tag = bench.sh("cd a; git rev-parse v1");
    let server = bench.serve();
    let url = server.url("/a");
    for reference in ["main", "v1", ""] {
        let wanted = source(&url, reference);
        let error = resolve_offline(&bench, &wanted).await.unwrap_err();
        assert!(matches!(error, GitError::Offline { .. }) && error.to_string().contains(&url), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("--offline")));
        assert_eq!(server.asked().len(), 0);
        bench.get(&wanted).await.unwrap();
        server.asked();
        let pin = resolve_offline(&bench, &wanted).await.unwrap();
        assert_eq!(pin.commit, first);
        assert_eq!(files(&check_out_offline(&bench, &wanted, &pin).await.unwrap()), ["f=1"], "{reference}");
        assert_eq!(server.asked().len(), 0);
    }
    // What has moved since is not known; what is asked for has to fit what is.
    let second = bench.sh("cd a; echo -n 2 >f; git commit -q -a -m two; git rev-parse HEAD");
    assert_eq!(resolve_offline(&bench, &source(&url, "main")).await.unwrap().commit, first);
    let with = |reference: &str, commit: &str| GitSource { commit: Some(commit.to_owned()), ..source(&url, reference) };
    assert_eq!(resolve_offline(&bench, &with("v1", &tag)).await.unwrap().commit, first);
    assert_eq!(resolve_offline(&bench, &with("v1", &first[..9])).await.unwrap().commit, first);
    let error = resolve_offline(&bench, &with("main", &second)).await.unwrap_err();
    assert!(matches!(error, GitError::Mismatch { .. }), "{error}");
    // A commit that nobody fetched has a name, and that is all.
    let pin = resolve_offline(&bench, &source(&url, &second)).await.unwrap();
    let error = check_out_offline(&bench, &source(&url, &second), &pin).await.unwrap_err();
    assert!(matches!(error, GitError::Offline { .. }), "{error}");
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn offline_keeps_the_tag_that_was_fetched() {
    let bench = Bench::new();
    bench.repository("a", "echo -n 1 >f");
    bench.sh("cd a; git tag -a -m tag v1");
    let server = bench.serve();
    let wanted = GitSource { keep_git_dir: true, ..source(&server.url("/a"), "v1") };
    let (_, pin, _) = bench.get(&wanted).await.unwrap();
    server.asked();
    let into = check_out_offline(&bench, &wanted, &pin).await.unwrap();
    assert_eq!(bench.sh(&format!("git -C {} describe --exact-match", into.display())), "v1");
    assert_eq!(server.asked().len(), 0);
}
