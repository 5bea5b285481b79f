//! Where credentials are found. Every case is a folder of files, some of them helper programs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rbuild_oci::registry::{Credential, Credentials, LoginKey, Secret};

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

#[tokio::test]
async fn what_ci_systems_give_is_for_their_own_hosts_and_comes_last() {
    let bob = auths(&[("r.example", "bob:pw")]);
    let config = format!("DOCKER_AUTH_CONFIG={bob}");
    let gitlab: &[&str] = &["CI_REGISTRY=r.example", "CI_REGISTRY_USER=ci", "CI_REGISTRY_PASSWORD=s", "CI_JOB_TOKEN=j"];
    let job: &[&str] = &["CI_REGISTRY=https://R.example:443", "CI_JOB_TOKEN=j"];
    let proxy: &[&str] = &[
        "CI_DEPENDENCY_PROXY_SERVER=gitlab.example:443",
        "CI_DEPENDENCY_PROXY_USER=u",
        "CI_DEPENDENCY_PROXY_PASSWORD=p",
    ];
    let github: &[&str] = &["GITHUB_ACTIONS=true", "GITHUB_TOKEN=t", "GITHUB_ACTOR=me"];
    let cases: &[(&[&str], &str, &str)] = &[
        (&[&config], "r.example", "bob pw `DOCKER_AUTH_CONFIG`"),
        (&[&config], "other.example", "none; "),
        (
            &["DOCKER_AUTH_CONFIG={s3cret"],
            "r.example",
            "none; the variable `DOCKER_AUTH_CONFIG` is not understood: not JSON at line 1 column 2",
        ),
        (gitlab, "r.example", "ci s the variable `CI_REGISTRY_PASSWORD`"),
        (gitlab, "r.example:5000", "none; "),
        (gitlab, "gitlab.example", "none; "),
        (&[gitlab[0], gitlab[1], gitlab[2], &config], "r.example", "bob pw `DOCKER_AUTH_CONFIG`"),
        (job, "r.example", "gitlab-ci-token j the variable `CI_JOB_TOKEN`"),
        (&["CI_JOB_TOKEN=j"], "r.example", "none; "),
        (&["CI_REGISTRY=r.example", "CI_REGISTRY_USER=ci"], "r.example", "none; "),
        (proxy, "gitlab.example:443", "u p the variable `CI_DEPENDENCY_PROXY_PASSWORD`"),
        (proxy, "gitlab.example", "u p the variable `CI_DEPENDENCY_PROXY_PASSWORD`"),
        (proxy, "gitlab.example:5000", "none; "),
        (github, "ghcr.io", "me t the variable `GITHUB_TOKEN`"),
        (github, "docker.io", "none; "),
        (&github[..2], "ghcr.io", "x-access-token t the variable `GITHUB_TOKEN`"),
        // A developer's own machine.
        (&github[1..], "ghcr.io", "none; "),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (variables, registry, want) in cases {
        let got = look(dir.path(), variables, registry, "team/app").await;
        assert_eq!(got, *want, "{variables:?} {registry}");
    }
    write(dir.path(), &[(".docker/config.json", &auths(&[("r.example", "eve:x:y")]))]);
    let variables = [&["HOME=DIR"], gitlab].concat();
    assert_eq!(look(dir.path(), &variables, "r.example", "a").await, "eve x:y `DIR/.docker/config.json`");
    let without = Credentials::from_variables(|name| {
        gitlab.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(Into::into)
    });
    assert_eq!(without.without_job().find("r.example", "a").await.unwrap().credential, None);
}

/// Credentials as `look` has them.
fn kept(dir: &Path, variables: &[&str]) -> Credentials {
    let dir_text = dir.to_str().unwrap();
    Credentials::from_variables(|name| {
        let line = variables.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.replace("DIR", dir_text).into())
    })
}

#[tokio::test]
async fn a_login_goes_where_it_will_be_found_first_and_leaves_the_rest_alone() {
    let home: &[&str] = &["HOME=DIR", "XDG_RUNTIME_DIR=DIR/run"];
    let eve = auths(&[("r.example", "eve:x:y")]);
    let other = "{\"auths\":{\"o.example\":{\"auth\":\"ZXZlOng6eQ==\",\"x\":1.50}},\"HttpHeaders\":{\"A\":\"b\"}}";
    let cases: &[(&str, &[(&str, &str)], &[&str], &str, &str)] = &[
        ("nothing there", &[], home, "r.example", "`DIR/.docker/config.json`"),
        ("docker elsewhere", &[], &["HOME=DIR", "DOCKER_CONFIG=DIR/d/e"], "r.example", "`DIR/d/e/config.json`"),
        (
            "named",
            &[(".docker/config.json", &eve)],
            &["HOME=DIR", "REGISTRY_AUTH_FILE=DIR/n/a.json"],
            "r.example",
            "`DIR/n/a.json`",
        ),
        (
            "the first that is there",
            &[(".config/containers/auth.json", other), (".docker/config.json", other)],
            home,
            "r.example",
            "`DIR/.config/containers/auth.json`",
        ),
        (
            "the one that has it",
            &[("run/containers/auth.json", other), (".docker/config.json", &eve)],
            home,
            "r.example",
            "`DIR/.docker/config.json`",
        ),
        (
            "as an address",
            &[(".docker/config.json", &auths(&[("https://r.example/v2/", "eve:x:y")]))],
            home,
            "r.example",
            "`DIR/.docker/config.json`",
        ),
        (
            "docker hub",
            &[(".docker/config.json", &auths(&[("docker.io", "eve:x:y")]))],
            home,
            "docker.io",
            "`DIR/.docker/config.json`",
        ),
        ("part of a registry", &[(".docker/config.json", other)], home, "r.example/team", "`DIR/.docker/config.json`"),
        (
            "old",
            &[(".dockercfg", &format!("{{{}}}", entry("o.example", "eve:x:y")))],
            home,
            "r.example",
            "`DIR/.docker/config.json`",
        ),
        ("empty", &[(".docker/config.json", "\n")], home, "r.example", "`DIR/.docker/config.json`"),
    ];
    for (case, files, variables, registry, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        let credentials = kept(dir.path(), variables);
        let key = LoginKey::parse(registry).unwrap();
        let place = credentials.store(&key, "bob", &Secret::new("p:w")).await.unwrap();
        assert_eq!(place.replace(dir.path().to_str().unwrap(), "DIR"), *want, "{case}");
        let path = place.trim_matches('`');
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{case}");
        let repository = if registry.contains('/') { "team/app" } else { "app" };
        let got = look(dir.path(), variables, key.registry(), repository).await;
        assert_eq!(got, format!("bob p:w {want}"), "{case}");
        let text = std::fs::read_to_string(path).unwrap();
        if files.iter().any(|(name, text)| path.ends_with(name) && *text == other) {
            assert!(
                text.contains("{\"auth\":\"ZXZlOng6eQ==\",\"x\":1.50}") && text.contains("{\"A\":\"b\"}"),
                "{case}: {text}"
            );
        }
        assert_eq!(text.matches("r.example").count() + text.matches("docker.io").count(), 1, "{case}: {text}");
        // Nothing stays aside.
        let folder = Path::new(path).parent().unwrap();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "{case}");

        let forgotten = credentials.forget(Some(&key)).await.unwrap();
        assert_eq!(forgotten.len(), 1, "{case}: {forgotten:?}");
        assert_eq!(look(dir.path(), variables, key.registry(), repository).await, "none; ", "{case}");
        assert_eq!(credentials.forget(Some(&key)).await.unwrap(), [""; 0], "{case}");
        if files.iter().any(|(_, text)| *text == other) {
            assert!(look(dir.path(), variables, "o.example", "a").await.starts_with("eve"), "{case}");
        }
        credentials.forget(None).await.unwrap();
        assert_eq!(look(dir.path(), variables, "o.example", "a").await, "none; ", "{case}");
    }
}

#[tokio::test]
async fn what_cannot_be_written_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let home: &[&str] = &["HOME=DIR"];
    let key = LoginKey::parse("r.example").unwrap();
    for text in ["{\"auths\": [\"s3cret\"]}", "{s3cret"] {
        write(dir.path(), &[(".docker/config.json", text)]);
        let error = kept(dir.path(), home).store(&key, "bob", &Secret::new("pw")).await.unwrap_err();
        assert!(!format!("{error:?}{error}").contains("s3cret"), "{error:?}");
        assert_eq!(std::fs::read_to_string(dir.path().join(".docker/config.json")).unwrap(), text);
        assert!(kept(dir.path(), home).forget(Some(&key)).await.is_err());
    }
    let error = kept(dir.path(), &[]).store(&key, "bob", &Secret::new("pw")).await.unwrap_err();
    assert!(error.to_string().contains("there is no place for credentials"), "{error}");
    // A link is followed, and stays one.
    write(dir.path(), &[("real.json", "{}")]);
    std::fs::remove_file(dir.path().join(".docker/config.json")).unwrap();
    std::os::unix::fs::symlink("../real.json", dir.path().join(".docker/config.json")).unwrap();
    kept(dir.path(), home).store(&key, "bob", &Secret::new("pw")).await.unwrap();
    assert!(dir.path().join(".docker/config.json").is_symlink());
    assert!(std::fs::read_to_string(dir.path().join("real.json")).unwrap().contains("r.example"));
    // Many at once: none is lost.
    let many = (0..8).map(|n| {
        let credentials = kept(dir.path(), home);
        async move {
            let key = LoginKey::parse(&format!("r{n}.example")).unwrap();
            credentials.store(&key, "bob", &Secret::new("pw")).await.unwrap();
        }
    });
    futures_util::future::join_all(many).await;
    for n in 0..8 {
        let got = look(dir.path(), home, &format!("r{n}.example"), "a").await;
        assert!(got.starts_with("bob pw"), "{n}: {got}");
    }
}

#[test]
fn what_is_logged_in_to_is_a_registry() {
    for (text, want) in [
        ("docker.io", Some("docker.io")),
        ("https://index.docker.io/v1/", Some("docker.io")),
        ("registry-1.docker.io", Some("docker.io")),
        ("localhost:5000", Some("localhost:5000")),
        ("https://R.example/", Some("r.example")),
        ("r.example/team/", Some("r.example/team")),
        ("", None),
        ("a b", None),
        ("bob:pw@r.example", None),
    ] {
        assert_eq!(LoginKey::parse(text).map(|key| key.to_string()).as_deref(), want, "{text}");
    }
}

#[tokio::test]
async fn helpers_keep_and_forget_what_they_are_given() {
    let dir = tempfile::tempdir().unwrap();
    // A helper as small as one can be: a folder of files by the SHA of the key.
    let helper = "#!/bin/sh\nset -eu\nd=DIR/kept\nmkdir -p $d\nname() { printf %s \"$1\" | tr '/:' '__'; }\ncase $1 in\n\
        store) text=$(cat); key=$(printf %s \"$text\" | sed 's/.*\"ServerURL\":\"\\([^\"]*\\)\".*/\\1/'); printf %s \"$text\" > $d/$(name \"$key\");;\n\
        get) read key; f=$d/$(name \"$key\"); [ -e $f ] || { echo credentials not found in native keychain; exit 1; }; cat $f;;\n\
        erase) read key; rm $d/$(name \"$key\");;\n\
        list) sep={; for f in $d/*; do [ -e $f ] || continue; printf '%s\"%s\":\"x\"' \"$sep\" \"$(basename $f)\"; sep=,; done; [ $sep = , ] || printf '{'; echo '}';;\n\
        esac\n"
        .replace("DIR", dir.path().to_str().unwrap());
    write(dir.path(), &[("bin/docker-credential-files", &helper)]);
    let variables: &[&str] = &["HOME=DIR", "PATH=DIR/bin:/usr/bin:/bin"];
    for config in [
        r#"{"credsStore":"files"}"#,
        r#"{"credHelpers":{"r.example":"files"},"auths":{"r.example":{"auth":"Ym9iOnB3"}}}"#,
    ] {
        write(dir.path(), &[(".docker/config.json", config)]);
        let credentials = kept(dir.path(), variables);
        let key = LoginKey::parse("r.example").unwrap();
        let place = credentials.store(&key, "bob", &Secret::new("s3cret")).await.unwrap();
        assert!(place.starts_with("`docker-credential-files`, which `"), "{place}");
        let text = std::fs::read_to_string(dir.path().join(".docker/config.json")).unwrap();
        assert!(!text.contains("s3cret") && !text.contains("Ym9iOnB3") && text.contains("\"r.example\": {}"), "{text}");
        let got = look(dir.path(), variables, "r.example", "a").await;
        assert!(got.starts_with("bob s3cret `docker-credential-files`"), "{got}");
        // Helpers know registries, not their parts.
        let part = LoginKey::parse("r.example/team").unwrap();
        let error = credentials.store(&part, "bob", &Secret::new("s3cret")).await.unwrap_err();
        assert!(error.to_string().contains("whole registries only"), "{error}");

        let forgotten = credentials.forget(Some(&key)).await.unwrap();
        assert_eq!(forgotten.len(), 1, "{forgotten:?}");
        assert_eq!(look(dir.path(), variables, "r.example", "a").await, "none; ");
        credentials.store(&key, "bob", &Secret::new("s3cret")).await.unwrap();
        credentials.forget(None).await.unwrap();
        assert_eq!(look(dir.path(), variables, "r.example", "a").await, "none; ");
        assert_eq!(std::fs::read_dir(dir.path().join("kept")).unwrap().count(), 0);
    }
}
