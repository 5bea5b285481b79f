//! Servers of every kind: old ones, mere folders of files, ones that want a password, ones that hang or lie.

use std::time::Duration;

use super::*;
use crate::source::git::program::Git;

/// Three commits on a branch, the second under an annotated tag; returns them.
fn history(bench: &Bench) -> [String; 3] {
    let first = bench.repository("a", "echo -n 1 >f");
    let more = bench.sh("cd a; echo -n 2 >f; git commit -qam two; git tag -a -m words v2; git rev-parse HEAD;
         echo -n 3 >f; git commit -qam three; git rev-parse HEAD;
         git repack -qad; git update-server-info; git branch --no-track side HEAD~2");
    let (second, third) = more.split_once('\n').unwrap();
    [first, second.to_owned(), third.to_owned()]
}

#[tokio::test]
async fn every_kind_of_server_gives_the_commit_that_was_asked_for() {
    let bench = Bench::new();
    let commits = history(&bench);
    bench.sh("cd a; git update-server-info");
    // A mere folder knows no shallow fetch; an old server gives commits only by their names.
    for (kind, server, path) in
        [("new", bench.serve(), "/a"), ("old", old(&bench), "/a"), ("dumb", dumb(&bench), "/a/.git")]
    {
        let url = server.url(path);
        for (i, commit) in commits.iter().enumerate() {
            for reference in ["main", ""] {
                // As if it had been the tip when it was resolved.
                let reference = (!reference.is_empty()).then(|| format!("refs/heads/{reference}"));
                let pin = GitPin { commit: commit.clone(), reference };
                let (into, _) = bench.check_out(&source(&url, ""), &pin).await.unwrap_or_else(|error| {
                    panic!("{kind} {i}: {}", words(&error));
                });
                assert_eq!(files(&into), [format!("f={}", i + 1)], "{kind}");
            }
        }
        for (reference, commit) in
            [("main", &commits[2]), ("", &commits[2]), ("v2", &commits[1]), ("side", &commits[0])]
        {
            let pin = bench.resolve(&source(&url, reference)).await.unwrap();
            assert_eq!(pin.commit, **commit, "{kind} {reference}");
        }
        let unknown = GitPin { commit: "1".repeat(40), reference: Some("refs/heads/main".to_owned()) };
        let error = bench.check_out(&source(&url, ""), &unknown).await.unwrap_err();
        assert!(matches!(error, GitError::CommitNotFound { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_moved_since_it_was_resolved_is_never_taken_for_the_commit() {
    let bench = Bench::new();
    let commits = history(&bench);
    for server in [bench.serve(), old(&bench)] {
        bench.sh(&format!("cd a; git update-ref refs/heads/moving {}; git tag -f moved {}", commits[1], commits[1]));
        for reference in ["moving", "moved"] {
            let wanted = source(&server.url("/a"), reference);
            let pin = bench.resolve(&wanted).await.unwrap();
            bench
                .sh(&format!("cd a; git update-ref refs/heads/moving {}; git tag -f moved {}", commits[0], commits[0]));
            let (into, _) = bench.check_out(&wanted, &pin).await.unwrap();
            assert_eq!(files(&into), ["f=2"], "{reference}");
            let wrong = GitSource { commit: Some(commits[1][..12].to_owned()), ..wanted };
            let error = bench.resolve(&wrong).await.unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, GitError::Mismatch { .. }), "{said}");
            assert!(said.contains(&commits[0]) && said.contains(&commits[1][..12]), "{said}");
            bench
                .sh(&format!("cd a; git update-ref refs/heads/moving {}; git tag -f moved {}", commits[1], commits[1]));
        }
    }
}

#[tokio::test]
async fn a_checksum_is_a_commit_or_its_beginning() {
    let bench = Bench::new();
    let commits = history(&bench);
    let tag = bench.sh("cd a; git rev-parse refs/tags/v2");
    let server = bench.serve();
    let ask = |reference: &str, commit: &str, by_commit| GitSource {
        commit: Some(commit.to_owned()),
        fetch_by_commit: by_commit,
        ..source(&server.url("/a"), reference)
    };
    for commit in [&commits[1][..7], &commits[1], &commits[1].to_uppercase(), &tag[..9]] {
        assert_eq!(bench.resolve(&ask("v2", commit, false)).await.unwrap().commit, commits[1], "{commit}");
    }
    // Asked for itself, the name does not matter, and nobody is asked what it means.
    server.asked();
    let pin = bench.resolve(&ask("main", &commits[1], true)).await.unwrap();
    assert_eq!((pin.commit.as_str(), server.asked().len()), (commits[1].as_str(), 0));
    for (reference, commit) in
        [("v2", "123456"), ("v2", "123456z"), ("v2", ""), (&commits[0], "xyz"), ("v2", &"1".repeat(65))]
    {
        let error = bench.resolve(&ask(reference, commit, false)).await.unwrap_err();
        assert!(matches!(error, GitError::Commit { .. }), "{commit}: {error}");
    }
    let error = bench.resolve(&ask(&commits[0], &commits[1], false)).await.unwrap_err();
    assert!(matches!(error, GitError::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_near_ones() {
    let bench = Bench::new();
    bench.repository("a", "");
    bench.sh("cd a; git tag v1.2.3; git tag v1.2.4; git branch release/2025; git branch develop");
    bench.sh("git init -q -b main none");
    let server = bench.serve();
    for (name, want) in [
        ("1.2.3", "did you mean `v1.2.3`"),
        ("mian", "did you mean `main`"),
        ("Main", "did you mean `main`"),
        ("2025", "did you mean `release/2025`"),
        ("master", "it has `develop`, `main`"),
        ("refs/heads/v1.2.3", "did you mean"),
    ] {
        let error = bench.resolve(&source(&server.url("/a"), name)).await.unwrap_err();
        assert!(matches!(error, GitError::UnknownReference { .. }), "{error}");
        assert!(error.help().unwrap().contains(want), "{name}: {:?}", error.help());
    }
    let error = bench.resolve(&source(&server.url("/none"), "")).await.unwrap_err();
    assert!(error.help().unwrap().contains("40 digits"), "{error}");
    let error = bench.resolve(&source(&server.url("/nothing"), "main")).await.unwrap_err();
    assert!(matches!(error, GitError::NotFound { .. }), "{error}");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = bench.resolve(&source(&format!("http://{gone}/a"), "main")).await.unwrap_err();
    assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
}

/// `me:s3cr@t` as a header.
const BASIC: &str = "Basic bWU6czNjckB0";

/// A server that wants a password.
fn locked(bench: &Bench) -> Server {
    let root = bench.path("served");
    Server::new(move |request| match request.header("authorization") {
        Some(BASIC) => backend(&root, request),
        _ => Reply::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "who are you?"),
    })
}

#[tokio::test]
async fn a_password_reaches_its_host_and_nothing_else() {
    let bench = Bench::new();
    bench.repository("sub", "echo -n S >s");
    bench.repository("a", "echo -n A >a");
    bench.sh("cd a; git -c protocol.file.allow=always submodule --quiet add ../sub sub; git config -f .gitmodules submodule.sub.url ../sub; git commit -qam sub");
    let server = locked(&bench);
    let with_user = server.url("/a").replacen("://", "://me:s3cr%40t@", 1);
    let keep = GitSource { keep_git_dir: true, ..source(&with_user, "main") };
    let (into, ..) = bench.get(&keep).await.unwrap();
    assert_eq!(files(&into)[1..], ["a=A", "sub/", "sub/s=S"]);
    let grep = |folder: &Path| {
        let found = std::process::Command::new("grep").args(["-rla", "-e", "s3cr", "-e", "czNj"]).arg(folder).output();
        String::from_utf8(found.unwrap().stdout).unwrap()
    };
    assert_eq!(grep(bench.store.root()), "");
    assert_eq!(grep(&into), "");
    let config = std::fs::read_to_string(into.join(".git/config")).unwrap();
    assert!(config.contains(&format!("url = {}", server.url("/a"))), "{config}");
    // Without it, and with a wrong one: no prompt, no password in the words.
    for url in [server.url("/a"), server.url("/a").replacen("://", "://me:s3crWRONG@", 1)] {
        let error = bench.resolve(&source(&url, "main")).await.unwrap_err();
        assert!(matches!(error, GitError::Authentication { .. }), "{error}");
        assert!(!format!("{error:?} {error}").contains("s3cr"), "{error:?}");
    }
    // A server that leads elsewhere does not take the password along, even where one is asked for.
    let elsewhere = locked(&bench);
    let target = elsewhere.url("");
    let leading = Server::new(move |request| match request.header("authorization") {
        Some(_) => Reply::new(302, &[("Location", &format!("{target}{}", request.target))], ""),
        None => Reply::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""),
    });
    let url = leading.url("/a").replacen("://", "://me:s3cr%40t@", 1);
    bench.resolve(&source(&url, "main")).await.unwrap_err();
    assert!(leading.asked().iter().any(|request| request.header("authorization") == Some(BASIC)));
    let asked = elsewhere.asked();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn a_canceled_or_dropped_git_is_dead() {
    for drops in [false, true] {
        let bench = Bench::new();
        let (begun, mut beginning) = tokio::sync::mpsc::unbounded_channel::<()>();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let server = Server::new(move |_| {
            begun.send(()).ok();
            let held = held.clone();
            Reply::raw(move |_| {
                held.lock().unwrap().recv().ok();
                Ok(())
            })
        });
        let wanted = source(&server.url("/a"), "main");
        let resolving = bench.resolve(&wanted);
        let begun = async {
            beginning.recv().await;
            if !drops {
                bench.cancel.cancel();
            }
        };
        if drops {
            tokio::select! {
                result = resolving => panic!("{result:?}"),
                () = begun => {}
            }
        } else {
            let (result, ()) = tokio::join!(resolving, begun);
            assert!(matches!(result, Err(GitError::Canceled)));
        }
        // Killed is dead within moments, and a dead process has no command line.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !running(&server.address.to_string()).is_empty() {
            assert!(std::time::Instant::now() < deadline, "{:?}", running(&server.address.to_string()));
            std::thread::yield_now();
        }
        drop(hold);
    }
}

#[tokio::test]
async fn a_list_without_end_fills_no_memory() {
    let bench = Bench::new();
    let server = Server::new(|_| {
        Reply::raw(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n")?;
            out.write_all(b"001e# service=git-upload-pack\n0000")?;
            let line = |i: u64| format!("{:040x} refs/heads/{i:0900}\n", i + 1);
            out.write_all(format!("03e5{}\0 agent=x\n", line(0).trim_end()).as_bytes())?;
            let mut i = 0;
            loop {
                i += 1;
                let line = line(i);
                out.write_all(format!("{:04x}{line}", line.len() + 4).as_bytes())?;
            }
        })
    });
    let git = Git::new(&bench.store, Connectivity::Online, &bench.cancel).unwrap().with_list_memory(400 << 10);
    let remote = Remote::parse(&server.url("/a")).unwrap();
    let error = refs::ask(&git, &bench.store, &remote, &source("", "main")).await.unwrap_err();
    assert!(matches!(error, GitError::TooLarge { .. } | GitError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_lies_about_its_references_is_found_out() {
    let bench = Bench::new();
    bench.repository("a", "echo -n A >a");
    let root = bench.path("served");
    let real = bench.sh("cd a; git rev-parse HEAD");
    let false_one = "1".repeat(40);
    let server = Server::new(move |request| match backend(&root, request) {
        Reply::Plain(status, headers, body) => {
            let text = String::from_utf8_lossy(&body).replace(&real, &false_one);
            Reply::Plain(status, headers, if body.starts_with(b"PACK") { body } else { text.into_bytes() })
        }
        other => other,
    });
    let wanted = source(&server.url("/a"), "main");
    let pin = bench.resolve(&wanted).await.unwrap();
    assert_eq!(pin.commit, "1".repeat(40));
    let error = bench.check_out(&wanted, &pin).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. } | GitError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn what_is_kept_is_shared_survives_accidents_and_is_made_anew_when_it_is_broken() {
    let bench = Bench::new();
    let commits = history(&bench);
    let server = bench.serve();
    let wanted = source(&server.url("/a"), &commits[2]);
    let (a, b) = tokio::join!(bench.get(&wanted), bench.get(&wanted));
    assert_eq!((files(&a.unwrap().0), files(&b.unwrap().0)), (vec!["f=3".to_owned()], vec!["f=3".to_owned()]));
    let folder = std::fs::read_dir(bench.store.root().join("git")).unwrap().map(|entry| entry.unwrap().path());
    let kept = folder.filter(|path| path.join("HEAD").exists()).collect::<Vec<_>>();
    assert_eq!(kept.len(), 1);
    // What a killed git leaves.
    for left in ["shallow.lock", "config.lock", "objects/pack/tmp_pack_abc", "rbuild-index.lock", "rbuild-index"] {
        std::fs::write(kept[0].join(left), "").unwrap();
    }
    for commit in &commits {
        bench.get(&source(&server.url("/a"), commit)).await.unwrap();
    }
    // A disk that forgets: packs gone, a pack damaged, the marker gone.
    for spoil in [
        "rm -f objects/pack/*",
        "for p in objects/pack/*.pack; do chmod u+w $p; printf xxxxxxxxxxxxxxxxxxxx | dd of=$p bs=1 seek=13 conv=notrunc 2>/dev/null; done",
        "rm -f rbuild-ready HEAD",
    ] {
        let done = Command::new("sh").args(["-ec", spoil]).current_dir(&kept[0]).status().unwrap();
        assert!(done.success());
        let mut tries = Vec::new();
        for _ in 0..2 {
            tries.push(bench.get(&wanted).await.map(|(into, ..)| files(&into)).map_err(|error| words(&error)));
        }
        // Never other files; whole again at the latest for the next build.
        assert_eq!(tries[1], Ok(vec!["f=3".to_owned()]), "{spoil}: {tries:?}");
        assert!(tries[0].is_err() || tries[0] == tries[1], "{spoil}: {tries:?}");
    }
}

#[tokio::test]
async fn repositories_with_longer_names_of_commits_are_repositories_too() {
    let bench = Bench::new();
    bench.sh("git init -q -b main --object-format=sha256 a; cd a; echo -n A >a; git add -A; git commit -qm one");
    let server = bench.serve();
    for keep_git_dir in [false, true] {
        let (into, pin, _) = bench.get(&GitSource { keep_git_dir, ..source(&server.url("/a"), "main") }).await.unwrap();
        assert_eq!((files(&into), pin.commit.len()), (vec!["a=A".to_owned()], 64));
    }
}
