//! Repositories that mean harm. Whatever would show that a program ran, or that something was written elsewhere, is
//! looked for after each.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A place where nothing may appear, and a program that would make something appear.
struct Trap {
    folder: PathBuf,
}

impl Trap {
    fn new(bench: &Bench) -> Self {
        let folder = bench.path("trap");
        std::fs::create_dir(&folder).unwrap();
        let program = bench.path("evil.sh");
        std::fs::write(&program, format!("#!/bin/sh\n: >{}/ran\n", folder.display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn check(&self, what: &str) {
        let found: Vec<_> = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}

#[tokio::test]
async fn references_that_look_like_options_reach_no_git() {
    let bench = Bench::new();
    let trap = Trap::new(&bench);
    bench.repository("a", "");
    let server = bench.serve();
    let evil = bench.path("evil.sh").display().to_string();
    for name in [
        &format!("--upload-pack={evil}"),
        "-x",
        "--",
        "-",
        "a..b",
        "a b",
        "a:b",
        "*",
        "main*",
        "m?in",
        "[m]ain",
        "^main",
        "main^{}",
        "main~1",
        "@",
        "@{-1}",
        "a//b",
        "/a",
        "a/",
        "a.lock",
        ".a",
        "a\nb",
        "a\0b",
        "",
        "refs/heads/-/../x",
    ] {
        if name.is_empty() {
            continue;
        }
        let error = bench.resolve(&source(&server.url("/a"), name)).await.unwrap_err();
        assert!(matches!(error, GitError::Reference { .. }), "{name}: {error}");
    }
    for url in [
        &format!("--upload-pack={evil}"),
        &format!("ext::{evil}"),
        &format!("file://{}", bench.path("served/a").display()),
    ] {
        assert!(matches!(bench.resolve(&source(url, "main")).await, Err(GitError::Address { .. })), "{url}");
    }
    assert_eq!(server.asked().len(), 0);
    trap.check("references");
}

#[tokio::test]
async fn a_default_branch_with_a_hostile_name_is_only_a_commit() {
    let bench = Bench::new();
    let trap = Trap::new(&bench);
    let commit = bench.repository("a", "echo -n A >a");
    let name = format!("--upload-pack={}", bench.path("evil.sh").display());
    let head = bench.path("served/a/.git/refs/heads").join(name.trim_start_matches('/'));
    std::fs::create_dir_all(head.parent().unwrap()).unwrap();
    std::fs::write(&head, format!("{commit}\n")).unwrap();
    std::fs::write(bench.path("served/a/.git/HEAD"), format!("ref: refs/heads/{name}\n")).unwrap();
    let server = bench.serve();
    for keep_git_dir in [false, true] {
        let wanted = GitSource { keep_git_dir, ..source(&server.url("/a"), "") };
        let (into, pin, _) = bench.get(&wanted).await.unwrap();
        assert_eq!((files(&into), pin.commit.as_str()), (vec!["a=A".to_owned()], commit.as_str()));
    }
    trap.check("HEAD");
}

#[tokio::test]
async fn submodules_come_from_proper_addresses_or_not_at_all() {
    let bench = Bench::new();
    let trap = Trap::new(&bench);
    let sub = bench.repository("sub", "echo -n S >s");
    let evil = bench.path("evil.sh").display().to_string();
    let server = bench.serve();
    let local = bench.path("served/sub").display().to_string();
    let cases = [
        format!("--upload-pack={evil}"),
        format!("-u{evil}"),
        format!("ext::sh -c {evil}"),
        format!("ext::{evil}"),
        format!("fd::3/{evil}"),
        format!("file://{local}"),
        local.clone(),
        "../../../sub".to_owned(),
        "../-x".to_owned() + ":y/../../..",
        format!("ssh://-oProxyCommand={evil}/x"),
        format!("-oProxyCommand={evil}:x"),
        format!("ssh://x@-oProxyCommand={evil}/x"),
        "https://host/a\\nb".to_owned(),
    ];
    for (i, url) in cases.iter().enumerate() {
        let name = format!("a{i}");
        let config = format!("[submodule \"s\"]\\n\\tpath = sub\\n\\turl = \\\"{url}\\\"\\n");
        bench.sh(&format!(
            "git init -q -b main {name}; cd {name}; printf '{config}' >.gitmodules
             git update-index --add --cacheinfo 160000,{sub},sub; git add .gitmodules; git commit -qm one"
        ));
        let error = bench.get(&source(&server.url(&format!("/{name}")), "main")).await.unwrap_err();
        trap.check(url);
        // git's own check of what it fetches finds some of them first.
        let refused = matches!(error, GitError::BadSubmodule { .. } | GitError::Malformed { .. })
            || matches!(&error, GitError::Failed { said, .. } if said.contains("bad config line"));
        assert!(refused, "{url}: {}", words(&error));
        // Left out, they do not matter, where git lets them through at all.
        let without = GitSource { submodules: false, ..source(&server.url(&format!("/{name}")), "main") };
        drop(bench.get(&without).await);
        trap.check(url);
    }
    // Other settings of a submodule run nothing, and its name is no path.
    bench.sh(&format!(
        "git init -q -b main b; cd b
         printf '[submodule \"../../x\"]\\n\\tpath = sub\\n\\turl = {}\\n\\tbranch = --upload-pack={evil}\\n\\tshallow = false\\n\\tignore = !{evil}\\n[core]\\n\\tfsmonitor = {evil}\\n\\tsshCommand = {evil}\\n' >.gitmodules
         git update-index --add --cacheinfo 160000,{sub},sub; git add .gitmodules; git commit -qm one",
        server.url("/sub")
    ));
    match bench.get(&source(&server.url("/b"), "main")).await {
        Ok((into, ..)) => assert!(files(&into).contains(&"sub/s=S".to_owned())),
        Err(error) => assert!(matches!(error, GitError::Malformed { .. }), "{}", words(&error)),
    }
    trap.check("settings");
}

/// One entry of a tree object.
type TreeEntry<'a> = (&'a str, &'a [u8], String);

impl Bench {
    /// Writes an object as it is, whatever git thinks of it; returns its name.
    fn object(&self, repository: &str, kind: &str, bytes: &[u8]) -> String {
        let mut child = Command::new("git")
            .args(["-C", repository, "hash-object", "-t", kind, "-w", "--stdin", "--literally"])
            .current_dir(self.path("served"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    }

    fn tree(&self, repository: &str, entries: &[TreeEntry<'_>]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, object) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            let hex = object.as_bytes().chunks(2);
            bytes.extend(hex.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()));
        }
        self.object(repository, "tree", &bytes)
    }

    /// Makes `main` a commit of this tree.
    fn commit_tree(&self, repository: &str, tree: &str) {
        let text = format!("tree {tree}\nauthor A <a@test> 1 +0000\ncommitter C <c@test> 1 +0000\n\none\n");
        let commit = self.object(repository, "commit", text.as_bytes());
        self.sh(&format!("cd {repository}; printf '{commit}\\n' >.git/refs/heads/main; git update-server-info"));
    }
}

#[tokio::test]
async fn trees_that_would_be_repositories_or_lead_elsewhere_write_nothing() {
    let bench = Bench::new();
    let trap = Trap::new(&bench);
    let evil = bench.path("evil.sh").display().to_string();
    // What the repositories have in common is made once; each is a copy of this one.
    bench.sh("git init -q -b main common");
    let file = |text: &str| bench.object("common", "blob", text.as_bytes());
    let mut hostile = Vec::new();
    let mut make = |entries: &[TreeEntry<'_>]| {
        let name = format!("a{}", hostile.len());
        bench.sh(&format!("cp -r common {name}"));
        bench.commit_tree(&name, &bench.tree(&name, entries));
        hostile.push(name);
    };
    // A `.git` of its own, in every disguise, whose settings and hooks would run a program.
    let config = format!("[core]\n\tfsmonitor = {evil}\n\tsshCommand = {evil}\n\thooksPath = .\n\tpager = {evil}\n");
    let hook = file(&format!("#!/bin/sh\n{evil}\n"));
    let hooks = bench.tree("common", &[("100755", b"post-checkout", hook.clone())]);
    let own: [TreeEntry<'_>; 4] = [
        ("100644", b"HEAD", file("ref: refs/heads/main\n")),
        ("100644", b"config", file(&config)),
        ("40000", b"hooks", hooks),
        ("100755", b"post-checkout", hook),
    ];
    let own = bench.tree("common", &own);
    let elsewhere = file(&format!("gitdir: {}\n", bench.path("served/common/.git").display()));
    let trap_path = trap.folder.display().to_string();
    let (to_trap, some) = (file(&trap_path), file("F"));
    let inner = bench.tree("common", &[("100644", b"f", some.clone())]);
    for disguise in [".git", ".GIT", ".git ", "git~1", ".g\u{200c}it", "..", "."] {
        make(&[("40000", disguise.as_bytes(), own.clone())]);
        // The file form.
        make(&[("100644", disguise.as_bytes(), elsewhere.clone())]);
    }
    // A link and a directory of one name; a name with a slash; a link as `.gitmodules`.
    make(&[("120000", b"x", to_trap.clone()), ("40000", b"x", inner)]);
    make(&[("120000", b"x", to_trap.clone()), ("100644", b"x/f", some.clone())]);
    make(&[("100644", format!("{trap_path}/f").as_bytes(), some.clone())]);
    make(&[("100644", b"../../trap/f", some)]);
    make(&[("120000", b".gitmodules", to_trap), ("160000", b"sub", "1".repeat(40))]);
    // git looks at what a smart server sends; what comes from a mere folder is only looked at when it is written.
    let (smart, folder) = (bench.serve(), dumb(&bench));
    for (i, name) in hostile.iter().enumerate() {
        let wanted = |url: String, keep_git_dir| GitSource { keep_git_dir, ..source(&url, "main") };
        let (smart, folder) = (
            wanted(smart.url(&format!("/{name}")), i % 2 == 1),
            wanted(folder.url(&format!("/{name}/.git")), i % 2 == 0),
        );
        let (smart, folder) = tokio::join!(bench.get(&smart), bench.get(&folder));
        trap.check(name);
        let listing = bench.sh(&format!("cd {name}; git ls-tree main"));
        for result in [smart, folder] {
            match result {
                // Twice the same name: git keeps one of them, which is the tree's own business.
                Ok((into, ..)) => assert_eq!(files(&into), ["x/", "x/f=F"], "{listing}"),
                Err(error) => assert!(matches!(error, GitError::Malformed { .. }), "{listing}: {}", words(&error)),
            }
        }
    }
}

#[tokio::test]
async fn attributes_and_files_of_settings_are_only_files() {
    let bench = Bench::new();
    let trap = Trap::new(&bench);
    let evil = bench.path("evil.sh").display().to_string();
    bench.repository(
        "a",
        &format!(
            "printf '* filter=evil diff=evil merge=evil\\n*.big filter=lfs\\n' >.gitattributes
             printf '[filter \"evil\"]\\n smudge = {evil}\\n process = {evil}\\n required = true\\n' >.gitconfig
             cp .gitconfig .lfsconfig; mkdir -p hooks; cp {evil} hooks/post-checkout; cp -r hooks .githooks
             printf 'version https://git-lfs.github.com/spec/v1\\n' >a.big; echo -n A >a"
        ),
    );
    let server = bench.serve();
    for keep_git_dir in [false, true] {
        let (into, ..) = bench.get(&GitSource { keep_git_dir, ..source(&server.url("/a"), "main") }).await.unwrap();
        trap.check("attributes");
        assert_eq!(std::fs::read_to_string(into.join("a")).unwrap(), "A");
        assert_eq!(
            std::fs::read_to_string(into.join("a.big")).unwrap(),
            "version https://git-lfs.github.com/spec/v1\n"
        );
    }
}

#[tokio::test]
async fn a_subdirectory_is_a_real_directory_of_the_tree() {
    let bench = Bench::new();
    bench.repository(
        "a",
        "mkdir -p d/e; echo -n B >d/b; echo -n F >f; ln -s / root; ln -s d link; ln -s .. d/up; ln -s e d/inner; echo -n E >d/e/x;
         mkdir 'd/*' 'd/:(top)x'; echo -n S >'d/*/s'; echo -n T >'d/:(top)x/t'",
    );
    let server = bench.serve();
    let ask = |subdir: &str| GitSource { subdir: Some(subdir.to_owned()), ..source(&server.url("/a"), "main") };
    let whole = ["*/", "*/s=S", ":(top)x/", ":(top)x/t=T", "b=B", "e/", "e/x=E", "inner -> e", "up -> .."];
    for (subdir, want) in [
        ("d", &whole[..]),
        ("/d/", &whole),
        ("../../d", &whole),
        ("d/./e/..", &whole),
        ("d/*", &["s=S"]),
        ("d/:(top)x", &["t=T"]),
    ] {
        let (into, ..) = bench.get(&ask(subdir)).await.unwrap_or_else(|error| panic!("{subdir}: {}", words(&error)));
        assert_eq!(files(&into), want, "{subdir}");
    }
    for (subdir, reason) in [
        ("root", "symbolic link"),
        ("root/etc", "no such directory"),
        ("link", "symbolic link"),
        ("link/e", "no such directory"),
        ("d/up", "symbolic link"),
        ("d/inner", "symbolic link"),
        ("f", "no directory"),
        ("f/x", "no such directory"),
        ("none", "no such directory"),
        ("d/?", "no such directory"),
        ("-d", "no such directory"),
        ("--help", "no such directory"),
    ] {
        let error = bench.get(&ask(subdir)).await.map(|(into, ..)| files(&into)).unwrap_err();
        assert!(matches!(error, GitError::Subdir { .. }) && error.to_string().contains(reason), "{subdir}: {error}");
    }
}
