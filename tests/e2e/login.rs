//! Logging in and out, at registries with passwords, tokens and certificates; what of it is told and kept.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::registry::{AUTHORITY, Guard, PASSWORD, Registry, USER, log_in};
use crate::support::{Context, Outcome, Store};

const APP: &str = "FROM busybox\nRUN echo made > /made\n";

/// `rbuild login ARGS…` with something on standard input.
fn login(store: &Store, args: &[&str], stdin: &str) -> Outcome {
    let mut command = store.command([&["login"], args].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild was built");
    // It may be refused before it is read.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    Outcome::from_output(format!("rbuild login {args:?}"), &output)
}

fn config(store: &Store) -> std::path::PathBuf {
    store.home().join(".docker/config.json")
}

#[test]
fn a_login_is_tried_kept_used_and_forgotten() {
    let registry = Registry::guarded();
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let host = registry.address.as_str();
    let wrong = login(&store, &["-u", USER, "--password-stdin", host], "s3cret");
    wrong
        .fails_saying(&["does not accept this name and password of `builder`", "nothing was kept"])
        .never_says(&["s3cret"]);
    assert!(!config(&store).exists());

    let input = format!("{PASSWORD}\n");
    let done = login(&store, &["-u", USER, "--password-stdin", host], &input).ok().never_says(&[PASSWORD]);
    assert_eq!(done.stdout, "Login Succeeded\n");
    done.says(&["kept in `", ".docker/config.json`"]);
    let mode = |path: &std::path::Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&config(&store)), mode(&store.home().join(".docker"))), (0o600, 0o700));
    assert_eq!(store.rbuild(["login", "--get-login", host]).ok().stdout, format!("{USER}\n"));
    let name = registry.name("app:1");
    store.build(&context, ["-t", &name, "--push", "-D"]).ok().never_says(&[PASSWORD]);
    let why = store.rbuild(["auth", "why", &name]).ok();
    assert!(why.stdout.contains("the credentials of `builder` from") && !why.stdout.contains(PASSWORD), "{why}");

    let gone = store.rbuild(["logout", host]).ok();
    assert!(gone.stdout.contains(&format!("removed `{host}`")), "{gone}");
    assert!(!std::fs::read_to_string(config(&store)).expect("it is there").contains(host));
    store.rbuild(["login", "--get-login", host]).fails_saying(&["nobody is logged in to"]);
    store.build(&context, ["-t", &name, "--push"]).fails_saying(&["wants credentials", "rbuild login"]);
    let again = store.rbuild(["logout", host]).ok();
    assert!(again.stdout.contains("nobody was logged in"), "{again}");
}

#[test]
fn passwords_come_from_where_they_should() {
    let registry = Registry::guarded();
    let store = Store::new();
    let host = registry.address.as_str();
    login(&store, &["-u", USER, "-p", PASSWORD, host], "").ok().says(&["can read a password that is given as a flag"]);
    login(&store, &["--password-stdin", host], "x").fails_saying(&["needs a name"]);
    login(&store, &["-u", USER, host], "x").fails_saying(&["there is no password", "--password-stdin"]);
    login(&store, &[host], "x").fails_saying(&["there is no user name"]);
    login(&store, &["-u", "a:b", "--password-stdin", host], "x").fails_saying(&["holds no colon"]);
    login(&store, &["-u", USER, "--password-stdin", host], "\n").fails_saying(&["the password is empty"]);
    login(&store, &["-u", USER, "--password-stdin", "a b"], "x").fails_saying(&["`a b` is not the name of a registry"]);
    login(&store, &["-u", USER, "-p", "x", "--password-stdin", host], "x").exits(1);
    // One file for one command, and nothing else is touched.
    let (file, kept) = (store.path("auth.json"), std::fs::read(config(&store)).expect("it is there"));
    let file = file.display().to_string();
    login(&store, &["-u", USER, "--password-stdin", "--authfile", &file, host], PASSWORD).ok();
    assert!(std::fs::read_to_string(&file).expect("it was made").contains(host));
    store.rbuild(["logout", "--authfile", &file, host]).ok();
    assert_eq!(std::fs::read(config(&store)).expect("it is there"), kept);
    store.rbuild(["logout", "--all"]).ok();
    store.rbuild(["login", "--get-login", host]).exits(1);
}

#[test]
fn a_person_types_the_password_unseen() {
    let registry = Registry::guarded();
    let store = Store::new();
    let line = format!("{} login {}", store.program().display(), registry.address);
    let mut command = store.command([""; 0]);
    // `script` gives it a terminal.
    let mut typed = std::process::Command::new("script");
    typed.args(["-qec", &line, "/dev/null"]).env_clear();
    for (name, value) in command.stdin(Stdio::null()).get_envs() {
        typed.env(name, value.expect("it is set"));
    }
    typed.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = typed.spawn().expect("script is part of every Debian");
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    // Each answer is typed when it is asked for.
    let mut seen = Vec::new();
    let mut until = |words: &str, seen: &mut Vec<u8>| {
        use std::io::Read as _;
        let mut byte = [0];
        while !String::from_utf8_lossy(seen).contains(words) {
            let count = out.read(&mut byte).expect("the terminal can be read");
            assert!(count > 0, "`{words}` is not asked: {}", String::from_utf8_lossy(seen));
            seen.push(byte[0]);
        }
    };
    until("Username", &mut seen);
    stdin.write_all(format!("{USER}\n").as_bytes()).expect("it asks");
    until("Password: ", &mut seen);
    stdin.write_all(format!("{PASSWORD}\n").as_bytes()).expect("it asks");
    until("Login Succeeded", &mut seen);
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains(USER) && !seen.contains(PASSWORD), "{seen}");
}

#[test]
fn tokens_over_tls_with_a_private_authority() {
    let registry = Registry::secure(Guard::Token);
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (host, name) = (registry.address.as_str(), registry.name("team/app:1"));
    let certificates = store.path("certificates");
    std::fs::create_dir(&certificates).expect("the directory is new");
    std::fs::write(certificates.join("ca.crt"), AUTHORITY).expect("the directory is new");
    let directory = certificates.display().to_string();

    let args = ["-u", USER, "--password-stdin", host];
    login(&store, &args, PASSWORD).fails_saying(&["shows a certificate that is not trusted", "--cert-dir"]);
    let trusting = [&["--cert-dir", &directory][..], &args].concat();
    login(&store, &trusting, "s3cret").fails_saying(&["does not accept", "incorrect username or password"]);
    login(&store, &trusting, PASSWORD).ok();
    store.build(&context, ["-t", &name, "--push"]).fails_saying(&["certificate that is not trusted"]);
    store.build(&context, ["-t", &name, "--push", "--cert-dir", &directory]).ok().never_says(&[PASSWORD]);

    // Everybody may pull, nobody else may push; the authority is named for good.
    let other = Store::with_busybox();
    let config = other.home().join(".config/rbuild");
    std::fs::create_dir_all(&config).expect("the home is new");
    let text = format!("[registry.\"{host}\"]\nca = \"{directory}/ca.crt\"\n");
    std::fs::write(config.join("config.toml"), text).expect("the home is new");
    other.build(&Context::new(&format!("FROM {name}\nRUN cat /made\n")), ["-t", "x:1"]).ok();
    other.build(&context, ["-t", &name, "--push"]).fails_saying(&["wants credentials", "rbuild login"]);
    let creds = format!("{USER}:{PASSWORD}");
    other
        .build(&context, ["-t", &registry.name("team/app:2"), "--push", "--creds", &creds])
        .ok()
        .never_says(&[PASSWORD]);
    // What one command says counts for that command.
    let (open, third) = (Registry::secure(Guard::Nobody), Store::with_busybox());
    let (here, there) = (open.name("app:1"), Context::new(&format!("FROM {name}\nRUN true\n")));
    third.build(&context, ["-t", &here, "--push"]).fails_saying(&["not trusted"]);
    third.build(&context, ["-t", &here, "--push", "--tls-verify=false"]).ok();
    third.build(&context, ["-t", &here, "--push"]).fails_saying(&["not trusted"]);
    // … and for the registry alone: its token server listens elsewhere.
    third.build(&there, ["--tls-verify=false"]).fails_saying(&["not trusted"]);
}

#[test]
fn every_verb_that_pulls_takes_the_flags_about_registries() {
    let (guarded, secure) = (Registry::guarded(), Registry::secure(Guard::Nobody));
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let [ours, theirs] = [&guarded, &secure].map(|registry| registry.name("team/app:1"));
    let creds = format!("{USER}:{PASSWORD}");
    let image = |name: &str| format!("type=image,name={name},push=true");
    store.build(&context, ["-o", &image(&ours)]).fails_saying(&["wants credentials"]);
    store.build(&context, ["-o", &image(&ours), "--creds", &creds]).ok().never_says(&[PASSWORD]);
    store.build(&context, ["-o", &image(&theirs), "--tls-verify=false"]).ok();

    let run = |name: &str, flag: &str| Store::new().rbuild(["run", "--network=none", flag, name, "cat", "/made"]);
    run(&ours, "--rm").fails_saying(&["wants credentials"]);
    assert_eq!(run(&ours, &format!("--creds={creds}")).ok().never_says(&[PASSWORD]).stdout.trim(), "made");
    run(&theirs, "--rm").fails_saying(&["not trusted"]);
    assert_eq!(run(&theirs, "--tls-verify=false").ok().stdout.trim(), "made");

    let authfile = store.path("auth.json").display().to_string();
    login(&store, &["-u", USER, "--password-stdin", "--authfile", &authfile, &guarded.address], PASSWORD).ok();
    let authfile = format!("--authfile={authfile}");
    for verb in [&["plan"][..], &["debug", "plan"]] {
        let ask = |name: &str, flag: &str| {
            let from = Context::new(&format!("FROM {name}\nRUN true\n"));
            let path = from.path().display().to_string();
            Store::new().rbuild([verb, &[flag, &path]].concat())
        };
        ask(&ours, "--offline=false").fails_saying(&["wants credentials"]);
        ask(&ours, &authfile).ok();
        ask(&theirs, "--offline=false").fails_saying(&["not trusted"]);
        ask(&theirs, "--tls-verify=false").ok();
    }
}

#[test]
fn a_client_shows_its_certificate_to_the_registry_that_it_is_for() {
    let registry = Registry::secure(Guard::Certificate);
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let name = registry.name("app:1");
    let folder = store.home().join(".config/docker/certs.d").join(&registry.address);
    std::fs::create_dir_all(&folder).expect("the home is new");
    std::fs::write(folder.join("ca.crt"), AUTHORITY).expect("the home is new");
    store.build(&context, ["-t", &name, "--push"]).exits(1);
    let (certificate, key) = registry.client_certificate();
    std::fs::copy(certificate, folder.join("client.cert")).expect("the home is new");
    std::fs::copy(key, folder.join("client.key")).expect("the home is new");
    store.build(&context, ["-t", &name, "--push"]).ok();
    let config = store.rbuild(["config"]).ok();
    for word in ["ca", "keypair"] {
        assert!(config.stdout.contains(&format!("registry.\"{}\".{word}", registry.address)), "{config}");
    }
}

#[test]
fn credentials_of_a_ci_job_are_used_for_its_registry_alone() {
    let (registry, other) = (Registry::guarded(), Registry::guarded());
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let ours = registry.address.clone();
    let build = |registry: &Registry, extra: &[(&str, &str)]| {
        let mut command = store.build_command(&context, ["-t", &registry.name("app:1"), "--push"]);
        for (name, value) in [("CI_REGISTRY", "HOST"), ("CI_REGISTRY_USER", USER), ("CI_REGISTRY_PASSWORD", PASSWORD)] {
            command.env(name, if value == "HOST" { &ours } else { value });
        }
        command.envs(extra.iter().copied());
        Outcome::of(&mut command)
    };
    build(&registry, &[]).ok().never_says(&[PASSWORD]);
    build(&other, &[]).fails_saying(&["wants credentials"]);
    build(&registry, &[("RBUILD_CI_CREDENTIALS", "0")]).fails_saying(&["wants credentials"]);
    // Files come first.
    log_in(&store, &registry.address, USER, "wrong");
    build(&registry, &[]).fails_saying(&["not accepted", ".docker/config.json"]);
}
