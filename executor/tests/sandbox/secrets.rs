//! Secrets and agents in steps: what the step sees, and that nothing is left of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rbuild_executor::StepSettings;
use rbuild_executor::secrets::SecretSource;
use rbuild_executor::secrets::agent::AgentSource;
use solver::op::{Mount, MountKind, Op, SecretEnv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exec::{Bench, bind, exec};
use crate::support::Collected;

const CANARY: &str = "canary-5f1b-of-a-secret";

fn settings(rig_file: &Path) -> StepSettings {
    fs::write(rig_file, format!("{CANARY}\n")).unwrap();
    StepSettings {
        secrets: BTreeMap::from([
            ("file".to_owned(), SecretSource::File(rig_file.to_owned())),
            ("command".to_owned(), SecretSource::Command(format!("printf %s {CANARY}"))),
            ("zero".to_owned(), SecretSource::Command("printf 'a\\0b'".to_owned())),
        ]),
        ..StepSettings::default()
    }
}

fn secret(target: &str, id: &str, (uid, gid, mode): (u32, u32, u32), optional: bool) -> Mount {
    let kind = MountKind::Secret { id: id.into(), uid, gid, mode, optional };
    Mount { kind, ..bind(target, None, "", true, None) }
}

/// Runs a step with mounts and variables; its output, or why it failed.
async fn run(bench: &Bench, script: &str, mounts: Vec<Mount>, env: Vec<SecretEnv>) -> Result<String, String> {
    let mut op = exec(script);
    op.mounts.extend(mounts);
    op.secret_env = env;
    let (results, log) = bench.run(Op::Exec(Box::new(op)), vec![bench.base.clone()]).await;
    let printed = String::from_utf8(log.stdout.into_inner().unwrap()).unwrap();
    match results {
        Ok(_) => Ok(printed),
        Err(error) => Err(format!("{printed}{error}")),
    }
}

/// The root directory, seen from here, of the running step whose command holds `mark`.
fn root_of(mark: &str) -> std::path::PathBuf {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let mut its = processes.filter(|process| {
        // Processes come and go while they are looked at.
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        command.starts_with(b"/bin/sh\0") && String::from_utf8_lossy(&command).contains(mark)
    });
    its.next().expect("it runs").join("root")
}

fn variable(name: &str, id: &str, optional: bool) -> SecretEnv {
    SecretEnv { id: id.into(), name: name.into(), optional }
}

/// Whether anything beneath `path` holds the canary.
fn holds_canary(path: &Path) -> bool {
    let found =
        std::process::Command::new("grep").args(["-rlaF", "--devices=skip", CANARY]).arg(path).output().unwrap();
    !found.stdout.is_empty()
}

#[tokio::test]
async fn a_step_sees_its_secrets_and_nothing_of_them_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::with(settings(&dir.path().join("secret")));
    let check = async |script: &str, mounts: Vec<Mount>, env: Vec<SecretEnv>, expected: &str| {
        assert_eq!(run(&bench, script, mounts, env).await.as_deref(), Ok(expected), "{script}");
        assert!(!holds_canary(&bench.rig.path("store")), "{script}");
    };
    let file = |target, look| vec![secret(target, "file", look, false)];
    let root = (0, 0, 0o400);
    // It is there as it was given; masked only where it is printed.
    check(
        "wc -c < /run/secrets/file; cut -c1-6 /run/secrets/file",
        file("/run/secrets/file", root),
        vec![],
        "24\ncanary\n",
    )
    .await;
    check("stat -c '%u:%g %a' /s", file("/s", (7, 8, 0o440)), vec![], "7:8 440\n").await;
    check(
        "echo x 2>/dev/null > /s || echo no; rm /s 2>/dev/null || echo no",
        file("/s", (0, 0, 0o600)),
        vec![],
        "no\nno\n",
    )
    .await;
    check(
        "grep ' /s ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1-4",
        file("/s", root),
        vec![],
        "tmpfs ro,nosuid,nodev,noexec\n",
    )
    .await;
    check("cat /s; cat /s | tr -d '\\n'; echo; cat /s >&2", file("/s", root), vec![], "***\n***\n").await;
    check(
        "cat /a/b/s /t",
        vec![secret("/a/b/s", "command", root, true), secret("/t", "file", root, true)],
        vec![],
        "******\n",
    )
    .await;
    check("echo $T ${#T}; env | grep -c ^T=", vec![], vec![variable("T", "command", false)], "*** 23\n1\n").await;
    check("echo $PATH; ls /s", file("/s", root), vec![variable("NONE", "none", true)], "/bin\n/s\n").await;
    check("echo \"<$(ls /s 2>/dev/null)>\"", vec![secret("/s", "none", root, true)], vec![], "<>\n").await;
    // The command has no descriptor of it, and its helper lets go of the bytes.
    check(
        "ls /proc/self/fd | wc -l; cat /proc/*/cmdline /proc/*/environ | grep -c '5[f]1b'; true",
        file("/s", root),
        vec![],
        "4\n0\n",
    )
    .await;
    check("ulimit -c", file("/s", root), vec![], "0\n").await;
    check("grep 'Max core' /proc/self/limits | tr -s ' '", file("/s", root), vec![], "Max core file size 1 1 bytes \n")
        .await;
}

#[tokio::test]
async fn a_secret_that_cannot_be_given_fails_the_step_before_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::with(settings(&dir.path().join("secret")));
    let look = (0, 0, 0o400);
    let check = async |mount: Option<Mount>, env: Option<SecretEnv>, expected: &str| {
        let found = run(&bench, "echo ran", mount.into_iter().collect(), env.into_iter().collect()).await;
        assert_eq!(found, Err(expected.to_owned()));
    };
    check(Some(secret("/s", "none", look, false)), None, "secret `none` is not given").await;
    check(None, Some(variable("N", "none", false)), "secret `none` is not given").await;
    let zero = "secret `zero` holds a zero byte, which the environment variable `Z` cannot";
    check(None, Some(variable("Z", "zero", false)), zero).await;
    fs::create_dir(dir.path().join("d")).unwrap();
    let on_directory =
        "sandbox: could not `secret on \"/etc\" owner 0:0 mode 400`: `/etc` in the image: Is a directory";
    let found = run(&bench, "echo ran", vec![secret("/etc", "file", look, false)], vec![]).await.unwrap_err();
    assert!(found.starts_with(on_directory), "{found}");
    let malformed = "malformed exec operation: a secret or an agent is no tree";
    check(Some(secret("/", "file", look, false)), None, malformed).await;
}

#[tokio::test]
async fn a_layer_that_would_hold_a_secret_fails_the_step_unless_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&dir.path().join("secret"));
    let bench = Bench::with(settings.clone());
    let mount = || vec![secret("/s", "file", (0, 0, 0o400), false)];
    let failing = [
        ("mkdir -p /etc/app; cat /s > /etc/app/conf", "/etc/app/conf"),
        ("cat /etc/passwd /s > /p", "/p"),
        ("ln -s $(cat /s) /l", "/l"),
        ("touch /$(cat /s)", "/***"),
    ];
    for (script, path) in failing {
        let expected = format!("`{path}` holds the value of secret `file`, and would be in the layer of this step");
        assert_eq!(run(&bench, script, mount(), vec![]).await, Err(expected), "{script}");
        assert!(!holds_canary(&bench.rig.path("store")), "{script}");
    }
    // What is not in the layer in the end, or not the secret itself, is fine.
    for script in ["cat /s > /tmp/x; rm /tmp/x", "cat /s > /dev/shm/x", "cut -c2- /s > /part", "true"] {
        run(&bench, script, mount(), vec![]).await.expect(script);
    }
    settings.grants.secrets_in_layers = true;
    let allowed = Bench::with(settings);
    run(&allowed, failing[0].0, mount(), vec![]).await.expect("allowed");
    assert!(holds_canary(&allowed.rig.path("store")));
}

#[tokio::test]
async fn steps_print_no_secret_that_another_step_has_seen() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::with(settings(&dir.path().join("secret")));
    run(&bench, "true", vec![secret("/s", "file", (0, 0, 0o400), false)], vec![]).await.unwrap();
    let script = format!("echo {}; echo end", CANARY.replace("of", "o''f"));
    assert_eq!(run(&bench, &script, vec![], vec![]).await.as_deref(), Ok("***\nend\n"));
}

#[tokio::test]
async fn a_step_speaks_to_its_agent_over_a_socket_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let agent = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = [0; 5];
            client.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 1, 11]);
            client.write_all(b"\0\0\0\x05\x0c\0\0\0\0").await.unwrap();
        }
    });
    let settings = StepSettings {
        agents: BTreeMap::from([("default".to_owned(), AgentSource::Socket(socket))]),
        ..StepSettings::default()
    };
    let bench = Bench::with(settings);
    let ssh = |id: &str, (uid, gid, mode), optional| {
        let kind = MountKind::Ssh { id: id.into(), uid, gid, mode, optional };
        Mount { kind, ..bind("/run/ssh/0", None, "", true, None) }
    };
    // No keys, says the agent; and what is not for it, it never hears of.
    let mut op = exec("mkfifo /dev/shm/asked; echo ready; cat /dev/shm/asked; exit # a-step-with-an-agent");
    op.mounts.push(ssh("default", (0, 0, 0o600), false));
    let log = Collected::default();
    let asked = async {
        log.printed().await;
        let root = root_of("a-step-with-an-agent");
        let mut client = tokio::net::UnixStream::connect(root.join("run/ssh/0")).await.unwrap();
        let mut answers = Vec::new();
        for kind in [11, 19] {
            client.write_all(&[0, 0, 0, 1, kind]).await.unwrap();
            let mut answer = vec![0; client.read_u32().await.unwrap() as usize];
            client.read_exact(&mut answer).await.unwrap();
            answers.push(answer);
        }
        fs::write(root.join("dev/shm/asked"), "asked\n").unwrap();
        answers
    };
    let step = bench.run_telling(Op::Exec(Box::new(op)), vec![bench.base.clone()], &log);
    let (results, answers) = tokio::join!(step, asked);
    results.unwrap();
    assert_eq!(*log.stdout.lock().unwrap(), b"ready\nasked\n");
    assert_eq!(answers, [vec![12, 0, 0, 0, 0], vec![5]]);
    let look = "stat -c '%F %u:%g %a' /run/ssh/0";
    let found = run(&bench, look, vec![ssh("default", (5, 6, 0o660), false)], vec![]).await;
    assert_eq!(found.as_deref(), Ok("socket 5:6 660\n"));
    let found = run(&bench, "ls /run/ssh 2>/dev/null; echo end", vec![ssh("other", (0, 0, 0o600), true)], vec![]).await;
    assert_eq!(found.as_deref(), Ok("end\n"));
    let found = run(&bench, "true", vec![ssh("other", (0, 0, 0o600), false)], vec![]).await;
    assert_eq!(found, Err("ssh agent `other` is not given".to_owned()));
    agent.abort();
    // Nothing of the mount point is in a layer.
    let store = bench.rig.path("store/layers");
    let left =
        fs::read_dir(&store).unwrap().filter(|layer| layer.as_ref().unwrap().path().join("run").exists()).count();
    assert_eq!(left, 0, "{:o}", store.metadata().unwrap().permissions().mode());
}
