//! Where credentials are found. Every case is a folder of files, some of them helper programs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rbuild_oci::registry::{Credential, Credentials};

/// `auth` of `name:password`.
fn auth(text: &str) -> &'static str {
    match text {
        "bob:pw" => "Ym9iOnB3",
        "eve:x:y" => "ZXZlOng6eQ==",
        "zero:pw\\0" => "emVybzpwdwA=",
        "<token>:id" => "PHRva2VuPjppZA==",
        "nocolon" => "bm9jb2xvbg==",
        other => panic!("no base64 for {other}"),
    }
}

fn entry(key: &str, text: &str) -> String {
    format!(r#""{key}":{{"auth":"{}"}}"#, auth(text))
}

fn auths(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, text)| entry(key, text)).collect();
    format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
}

/// Variables as `NAME=value`, with `DIR` for the folder.
async fn look(dir: &Path, variables: &[&str], registry: &str, repository: &str) -> String {
    let dir_text = dir.to_str().unwrap();
    let credentials = Credentials::from_variables(|name| {
        let line = variables.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.replace("DIR", dir_text).into())
    });
    let text = match credentials.find(registry, repository).await {
        Err(error) => format!("error: {error}"),
        Ok(found) => match found.credential {
            None => format!("none; {}", found.notes.join("; ")),
            Some((credential, origin)) => match credential {
                Credential::Password { username, password } => format!("{username} {} {origin}", password.expose()),
                Credential::IdentityToken(token) => format!("identity {} {origin}", token.expose()),
                Credential::RegistryToken(token) => format!("token {} {origin}", token.expose()),
            },
        },
    };
    text.replace(dir_text, "DIR")
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        if text.starts_with("#!") {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[tokio::test]
async fn files_are_searched_in_the_documented_order() {
    let bob = auths(&[("r.example", "bob:pw")]);
    let eve = auths(&[("r.example", "eve:x:y")]);
    let other = auths(&[("other.example", "eve:x:y")]);
    let bare = format!("{{{}}}", entry("r.example", "bob:pw"));
    let home: &[&str] = &["HOME=DIR", "XDG_RUNTIME_DIR=DIR/run"];
    let all = [
        ("run/containers/auth.json", bob.as_str()),
        (".config/containers/auth.json", &eve),
        (".docker/config.json", &eve),
    ];
    let cases: &[(&str, &[(&str, &str)], &[&str], &str)] = &[
        ("nothing there", &[], home, "none; "),
        ("nowhere to look", &[], &[], "none; "),
        ("first of three", &all, home, "bob pw `DIR/run/containers/auth.json`"),
        (
            "config before docker",
            &[(".config/containers/auth.json", &bob), (".docker/config.json", &eve)],
            home,
            "bob pw `DIR/.config/containers/auth.json`",
        ),
        (
            "config elsewhere",
            &[("c/containers/auth.json", &bob)],
            &["HOME=DIR", "XDG_CONFIG_HOME=DIR/c"],
            "bob pw `DIR/c/containers/auth.json`",
        ),
        (
            "relative is ignored",
            &[(".docker/config.json", &bob)],
            &["HOME=DIR", "XDG_CONFIG_HOME=c", "XDG_RUNTIME_DIR=r"],
            "bob pw `DIR/.docker/config.json`",
        ),
        ("docker", &[(".docker/config.json", &bob)], home, "bob pw `DIR/.docker/config.json`"),
        (
            "docker elsewhere",
            &[("d/config.json", &bob), (".docker/config.json", &eve)],
            &["HOME=DIR", "DOCKER_CONFIG=DIR/d"],
            "bob pw `DIR/d/config.json`",
        ),
        (
            "empty is unset",
            &[(".docker/config.json", &bob)],
            &["HOME=DIR", "DOCKER_CONFIG=", "REGISTRY_AUTH_FILE="],
            "bob pw `DIR/.docker/config.json`",
        ),
        ("old", &[(".dockercfg", &bare)], home, "bob pw `DIR/.dockercfg`"),
        (
            "on to the next file",
            &[("run/containers/auth.json", &other), (".docker/config.json", &bob)],
            home,
            "bob pw `DIR/.docker/config.json`",
        ),
        (
            "one file only",
            &all,
            &["HOME=DIR", "XDG_RUNTIME_DIR=DIR/run", "REGISTRY_AUTH_FILE=DIR/a.json"],
            "error: cannot read `DIR/a.json`",
        ),
        (
            "named file",
            &[("a.json", &bob), (".docker/config.json", &eve)],
            &["HOME=DIR", "REGISTRY_AUTH_FILE=DIR/a.json"],
            "bob pw `DIR/a.json`",
        ),
        ("empty file", &[(".docker/config.json", " \n")], home, "none; "),
        ("nulls", &[(".docker/config.json", r#"{"auths":null,"credHelpers":null,"credsStore":null}"#)], home, "none; "),
        (
            "broken",
            &[(".docker/config.json", r#"{"auths":{"r.example":{"auth":5}}}"#)],
            home,
            "error: `DIR/.docker/config.json` is not a file of credentials: a value of the wrong type at line 1 column 31",
        ),
        (
            "secret in the wrong place",
            &[(".docker/config.json", r#"{"auths":"s3cret"}"#)],
            home,
            "error: `DIR/.docker/config.json` is not a file of credentials: a value of the wrong type at line 1 column 17",
        ),
        (
            "not json",
            &[(".docker/config.json", "{s3cret")],
            home,
            "error: `DIR/.docker/config.json` is not a file of credentials: not JSON at line 1 column 2",
        ),
        ("a folder", &[(".docker/config.json/x", "")], home, "error: cannot read `DIR/.docker/config.json`"),
    ];
    for (case, files, variables, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        assert_eq!(look(dir.path(), variables, "r.example", "team/app").await, *want, "{case}");
    }
}

#[tokio::test]
async fn the_longest_key_that_fits_wins() {
    let cases: &[(&[(&str, &str)], &str, &str, &str)] = &[
        (&[("r.example", "bob:pw")], "r.example", "a/b", "bob pw"),
        (&[("https://r.example/", "bob:pw")], "r.example", "a", "bob pw"),
        (&[("http://R.example/v2/", "bob:pw")], "r.example", "a", "bob pw"),
        (&[("r.example/a", "eve:x:y"), ("r.example", "bob:pw")], "r.example", "a/b", "eve x:y"),
        (&[("r.example/a", "eve:x:y"), ("r.example", "bob:pw")], "r.example", "ab", "bob pw"),
        (&[("r.example/a", "eve:x:y"), ("r.example/a/b", "bob:pw")], "r.example", "a/b/c", "bob pw"),
        (&[("r.example/a", "eve:x:y")], "r.example", "b", "none"),
        (&[("r.example:5000", "bob:pw")], "r.example", "a", "none"),
        (&[("r.example:5000", "bob:pw")], "r.example:5000", "a", "bob pw"),
        (&[("evil-r.example", "bob:pw")], "r.example", "a", "none"),
        (&[("https://index.docker.io/v1/", "bob:pw")], "docker.io", "library/debian", "bob pw"),
        (&[("docker.io", "bob:pw")], "docker.io", "library/debian", "bob pw"),
        (
            &[("docker.io/mine", "eve:x:y"), ("https://index.docker.io/v1/", "bob:pw")],
            "docker.io",
            "mine/app",
            "eve x:y",
        ),
        (&[("index.docker.io", "bob:pw")], "r.example", "a", "none"),
        (&[("r.example", "<token>:id")], "r.example", "a", "identity id"),
        (&[("r.example", "zero:pw\\0")], "r.example", "a", "zero pw"),
        (
            &[("r.example", "nocolon")],
            "r.example",
            "a",
            "error: `DIR/.docker/config.json` is not a file of credentials: the entry `r.example` has an `auth` without a colon",
        ),
    ];
    for (entries, registry, repository, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[(".docker/config.json", &auths(entries))]);
        let got = look(dir.path(), &["HOME=DIR"], registry, repository).await;
        assert!(got.starts_with(want), "{entries:?} {registry}/{repository}: {got}");
    }
    let raw: &[(&str, &str)] = &[
        (r#"{"identitytoken":"id","auth":"Ym9iOnB3"}"#, "identity id"),
        (r#"{"registrytoken":"t"}"#, "token t"),
        (r#"{"username":"bob","password":"pw"}"#, "bob pw"),
        (r#"{"auth":"Ym9iOnB3\n"}"#, "bob pw"),
        (
            r#"{"auth":"%%%"}"#,
            "error: `DIR/.docker/config.json` is not a file of credentials: the entry `r.example` has an `auth` that is not base64",
        ),
        (r#"{"auth":"","email":"x"}"#, "none"),
        ("{}", "none"),
    ];
    for (entry, want) in raw {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[(".docker/config.json", &format!(r#"{{"auths":{{"r.example":{entry}}}}}"#))]);
        let got = look(dir.path(), &["HOME=DIR"], "r.example", "a").await;
        assert!(got.starts_with(want), "{entry}: {got}");
    }
}

// All helpers in one test: a program cannot be run while a thread that is just forking still has it open for writing.
#[tokio::test]
async fn helpers_are_asked_and_their_failure_is_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let inline = entry("r.example", "bob:pw");
    write(
        dir.path(),
        &[
            (
                "bin/docker-credential-good",
                "#!/bin/sh\nread key\n[ \"$1\" = get ] && echo \"{\\\"Username\\\":\\\"$key\\\",\\\"Secret\\\":\\\"s\\\"}\"\n",
            ),
            (
                "bin/docker-credential-token",
                "#!/bin/sh\necho '{\"ServerURL\":\"x\",\"Username\":\"<token>\",\"Secret\":\"id\"}'\n",
            ),
            ("bin/docker-credential-empty", "#!/bin/sh\necho 'credentials not found in native keychain'\nexit 1\n"),
            ("bin/docker-credential-failing", "#!/bin/sh\nprintf 'locked \\033[31m\\n' >&2\nexit 3\n"),
            ("bin/docker-credential-garbage", "#!/bin/sh\necho s3cret\n"),
            ("bin/docker-credential-plain", "not a program"),
            ("evil", "#!/bin/sh\ntouch DIR/canary\n"),
        ],
    );
    let helpers = |name: &str| format!(r#"{{"credHelpers":{{"r.example":"{name}"}},"auths":{{{inline}}}}}"#);
    let note = |words: &str| format!("bob pw `DIR/.docker/config.json` {words}");
    let cases = [
        (helpers("good"), "r.example", "r.example s `docker-credential-good`, which `DIR/.docker/config.json` names".to_owned()),
        (r#"{"credsStore":"good"}"#.into(), "docker.io", "https://index.docker.io/v1/ s `docker-credential-good`, which `DIR/.docker/config.json` names".into()),
        (r#"{"credsStore":"garbage","credHelpers":{"https://r.example":"good"}}"#.into(), "r.example", "r.example s `docker-credential-good`, which `DIR/.docker/config.json` names".into()),
        (helpers("good"), "other.example", "none; ".into()),
        (helpers("token"), "r.example", "identity id `docker-credential-token`, which `DIR/.docker/config.json` names".into()),
        (helpers("empty"), "r.example", note("").trim().to_owned()),
        (r#"{"credsStore":"empty"}"#.into(), "r.example", "none; ".into()),
        (r#"{"credsStore":""}"#.into(), "r.example", "none; ".into()),
        (r#"{"credsStore":"absent"}"#.into(), "r.example", "none; the helper that `DIR/.docker/config.json` names did not help: `docker-credential-absent` is not installed".into()),
        (r#"{"credsStore":"plain"}"#.into(), "r.example", "none; the helper that `DIR/.docker/config.json` names did not help: `docker-credential-plain` is not installed".into()),
        (r#"{"credsStore":"failing"}"#.into(), "r.example", "none; the helper that `DIR/.docker/config.json` names did not help: `docker-credential-failing` failed: exit status: 3: locked \\u{1b}[31m".into()),
        (r#"{"credsStore":"garbage"}"#.into(), "r.example", "none; the helper that `DIR/.docker/config.json` names did not help: `docker-credential-garbage` failed: not JSON at line 1 column 1".into()),
        (r#"{"credsStore":"x/../../evil"}"#.into(), "r.example", "none; the helper that `DIR/.docker/config.json` names did not help: `docker-credential-x/../../evil` is not the name of a program".into()),
        (helpers("absent"), "r.example", note("").trim().to_owned()),
    ];
    for (config, registry, want) in cases {
        write(dir.path(), &[(".docker/config.json", &config)]);
        let got = look(dir.path(), &["HOME=DIR", "PATH=.:DIR/bin:/usr/bin:/bin"], registry, "a").await;
        assert_eq!(got, want, "{config} {registry}");
    }
    assert!(!dir.path().join("canary").exists());
}
