//! Nothing keeps or tells a secret, whatever way it came in.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::fake::{Fake, Reply};
use crate::support::registry::{self, Registry};
use crate::support::{Context, Outcome, Store, bases};

/// Stands in every secret of these tests.
const CANARY: &str = "c4n4ry-9d3e-0f";

/// Files beneath `path` that hold the canary.
fn holders(path: &Path, canary: &str) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "--devices=skip", "-e", canary]).arg(path);
    String::from_utf8_lossy(&grep.output().expect("grep is installed").stdout).into_owned()
}

/// Looks at all command lines of the machine until it is stopped.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<String>>>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Watch {
    fn start(canary: &'static str) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, found) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while !stopped.load(Ordering::Relaxed) || rounds == 0 {
                for entry in std::fs::read_dir("/proc").expect("procfs").filter_map(Result::ok) {
                    // Processes come and go while they are looked at.
                    let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    if line.contains(canary) {
                        found.lock().expect("one writer").push(line);
                    }
                }
                rounds += 1;
            }
            rounds
        });
        Self { stop, seen, thread: Some(thread) }
    }

    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.take().expect("it runs").join().expect("it does not panic");
        assert!(rounds > 0);
        std::mem::take(&mut *self.seen.lock().expect("it ended"))
    }
}

/// The same command, with a terminal of its own as its standard streams; what that gets is on standard output.
fn on_terminal(command: &Command) -> Command {
    const SPAWN: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut wrapped = Command::new("/usr/bin/python3");
    wrapped.args(["-c", SPAWN, "sh", "-c", "stty cols 250 rows 50; exec \"$@\"", "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args()).env_clear().env("TERM", "xterm");
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    wrapped.current_dir(command.get_current_dir().expect("commands run beside their store"));
    wrapped
}

#[test]
fn no_secret_is_in_anything_that_a_build_leaves_or_says() {
    let web = Fake::start(|_| Reply::new(200, "x").header("ETag", "\"1\""));
    let registry = Registry::guarded();
    let image = registry.name("app:1");
    // As it is, and as it goes over the wire.
    let addresses = [
        format!("http://user:{CANARY}@{}/a", web.address),
        format!("http://{}/b?token={CANARY}&v=1", web.address),
        format!("http://{CANARY}@{}/c?X-Signature={CANARY}", web.address),
    ];
    for failing in [false, true] {
        let store = Store::with_busybox();
        registry::log_in(&store, &registry.address, registry::USER, registry::PASSWORD);
        std::fs::write(store.path("secret"), format!("{CANARY}\n")).expect("written");
        let adds: String = addresses.iter().map(|address| format!("ADD {address} /web/\n")).collect();
        let context = Context::new(&format!(
            "FROM busybox\n{adds}\
             RUN --mount=type=secret,id=f --mount=type=secret,id=c,target=/c --mount=type=secret,id=e,env=E,target=/e \\\n \
             cat /run/secrets/f /c /e; echo $E; env; cat /c >&2; printf c4n4r; printf 'y-9d3e-0f\\n'\n\
             RUN --mount=type=secret,id=f,env=F test -n \"$F\"{}\n",
            if failing { " && sh -c 'echo $F; exit 3'" } else { "" }
        ));
        for progress in ["plain", "rawjson", "tty"] {
            let watch = Watch::start(CANARY);
            let args = [
                "--no-cache",
                "--debug",
                "--push",
                "-t",
                &image,
                "--secret",
                "id=f,src=secret",
                "--secret",
                "id=e,env=E",
            ];
            let mut command =
                store.build_command(&context, args.into_iter().chain(["--secret", "id=c,cmd=cat secret"]));
            command.env("E", CANARY).arg(format!("--progress={progress}"));
            command.args(["--metadata-file", "meta.json", "-o", "type=oci,dest=app.tar"]);
            if progress == "tty" {
                command = on_terminal(&command);
            }
            let outcome = Outcome::of(&mut command).exits(i32::from(failing));
            assert_eq!(watch.end(), Vec::<String>::new(), "{progress}");
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(!said.contains(CANARY), "{said}");
            // What a step prints and a terminal does not get to show in time is shown when it failed.
            assert!(said.contains("***") || (progress, failing) == ("tty", false), "{said}");
            assert_eq!(said.contains("\x1b["), progress == "tty", "{said}");
            assert!(!said.contains(registry::PASSWORD), "{said}");
        }
        for words in [
            &["history", "ls"][..],
            &["history", "logs"],
            &["history", "inspect"],
            &["why"],
            &["debug", "plan"],
            &["debug", "steps"],
        ] {
            let words = words
                .iter()
                .map(|word| word.as_ref())
                .chain((words[0] == "debug").then_some(context.path().as_os_str()));
            let outcome = store.rbuild(words);
            assert!(!format!("{outcome}").contains(CANARY), "{outcome}");
        }
        std::fs::remove_file(store.path("secret")).expect("it was there");
        for canary in [CANARY, registry::PASSWORD] {
            assert_eq!(
                holders(store.root().parent().expect("a folder"), canary)
                    .replace(&store.home().join(".docker/config.json").display().to_string(), "")
                    .trim(),
                ""
            );
        }
        assert_eq!(store.path("app.tar").exists(), !failing);
    }
    // The servers were told, each its own.
    let asked = web.requests();
    assert!(asked.iter().any(|request| request.path.contains(CANARY)));
    assert!(asked.iter().any(|request| request.header("authorization").is_some()));
}

#[test]
fn an_address_that_cannot_be_read_is_not_told_with_its_password() {
    for store in Store::everybodys() {
        for address in [
            format!("http://user:{CANARY}@127.0.0.1:x/a"),
            format!("http://user:p/{CANARY}@127.0.0.1/a"),
            format!("https://user:{CANARY}@/a"),
            format!("http://user:{CANARY}@127.0.0.1:1/a?token={CANARY}"),
            format!("https://user:{CANARY}@127.0.0.1:1/a.git#main@x"),
            format!("ssh://git:{CANARY}@127.0.0.1:1/a.git"),
        ] {
            let context = Context::new(&format!("FROM busybox\nADD {address} /a\n"));
            let outcome = store.build(&context, ["--debug"]).exits(1);
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(!said.contains(CANARY), "{address}: {said}");
        }
    }
}

#[test]
fn what_is_missing_fails_the_build_with_the_flag_that_gives_it() {
    for store in Store::everybodys() {
        let check = |step: &str, args: &[&str], words: &[&str]| {
            let context = Context::new(&format!("FROM busybox\n{step}\n"));
            store.build(&context, args).fails_saying(words);
        };
        check(
            "RUN --mount=type=secret,id=npm,required true",
            &[],
            &["secret `npm` is not given", "Dockerfile:2", "--secret id=npm,src=FILE"],
        );
        check(
            "RUN --mount=type=secret,id=npm,required true",
            &["--secret", "id=npm,env=UNSET"],
            &["`UNSET` is not set"],
        );
        check("RUN --mount=type=ssh,required true", &[], &["ssh agent `default` is not given", "--ssh default"]);
        check("ADD git@127.0.0.1:team/app.git /a", &[], &["ssh agent `default` is not given", "--ssh default"]);
        check("RUN true", &["--secret", "id=npm,src=nothing"], &["nothing` does not exist"]);
        let optional = "RUN --mount=type=secret,id=npm --mount=type=ssh test ! -e /run/secrets/npm && echo went-well";
        let context = Context::new(&format!("FROM busybox\n{optional}\n"));
        assert_eq!(store.build(&context, [""; 0]).ok().lines_of_steps("went-well"), 1);
    }
}

#[test]
fn a_secret_does_not_count_and_does_not_stay() {
    for store in Store::everybodys() {
        let context =
            Context::new("FROM busybox\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s; echo ran-once\n");
        std::fs::write(store.path("s"), format!("{CANARY}1")).expect("written");
        let first = store.image_id(&context, ["--secret", "id=s,src=s"]);
        std::fs::write(store.path("s"), "another").expect("written");
        store.build(&context, ["--secret", "id=s,src=s"]).ok().never_prints(&["ran-once"]);
        assert_eq!(store.image_id(&context, ["--secret", "id=s,src=s"]), first);
        // Its mount point is in no layer.
        let tree = store.path("tree");
        store.build(&context, ["-o".as_ref(), tree.as_os_str()]).ok();
        assert!(!tree.join("run/secrets").exists() && tree.join("bin").exists());

        let leaking = Context::new("FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s > /etc/s\n");
        std::fs::write(store.path("s"), CANARY).expect("written");
        let words = ["`/etc/s` holds the value of secret `s`", "Dockerfile:2", "--allow secrets.in-layers"];
        store.build(&leaking, ["--secret", "id=s,src=s"]).fails_saying(&words);
        assert_eq!(holders(&store.root(), CANARY), "");
        store.build(&leaking, ["--secret", "id=s,src=s", "--allow=secrets.in-layers"]).ok();
    }
}

#[test]
fn a_token_goes_to_its_own_server_and_to_no_other() {
    for store in Store::everybodys() {
        let other = Fake::start(|_| Reply::new(200, "there"));
        let address = other.address.clone();
        let own = Fake::start(move |request| match request.path.as_str() {
            "/a" => Reply::new(302, "").header("Location", format!("http://{address}/a")),
            _ => Reply::new(200, "here"),
        });
        std::fs::write(store.path("token"), format!("{CANARY}\n")).expect("written");
        let id = format!("id=HTTP_AUTH_TOKEN_{},src=token", own.address);
        let context = Context::new(&format!(
            "FROM busybox\nADD http://{}/a http://{}/b http://{}/c /\n",
            own.address, own.address, other.address
        ));
        store.build(&context, ["--secret", &id]).ok().never_says(&[CANARY]);
        let bearer = format!("Bearer {CANARY}");
        assert!(own.requests().iter().all(|request| request.header("authorization") == Some(&bearer)));
        assert_eq!((own.requests().len(), other.requests().len()), (2, 2));
        assert!(other.requests().iter().all(|request| request.header("authorization").is_none()));
        assert_eq!(holders(&store.root(), CANARY), "");
    }
}

#[test]
fn steps_sign_with_keys_that_they_never_see() {
    for store in Store::everybodys_of(&bases::debian(), "debian:12-slim") {
        let key = store.path("key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f"]).arg(&key).status();
        assert!(made.expect("openssh-client is installed").success());
        let private = std::fs::read_to_string(&key).expect("it was made");
        if let Some(user) = store.user() {
            user.give(&key);
        }
        let telling = private.lines().nth(2).expect("a key has several lines").to_owned();
        let ask = "perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new($ENV{SSH_AUTH_SOCK}) or die \"no agent: $!\"; \
               for $kind (11, 19) { print $s pack(\"NC\", 1, $kind); read($s, $l, 4); read($s, $b, unpack(\"N\", $l)); \
               print \"to $kind: \", ord($b), $b =~ /e2e/ ? \" with the key\" : \"\", \"\\n\" }'";
        let context = Context::new(&format!("FROM debian:12-slim\nRUN --mount=type=ssh {ask}\n"));
        let outcome = store.build(&context, ["--ssh".into(), format!("default={}", key.display())]).ok();
        assert_eq!(outcome.lines_of_steps("to 11: 12 with the key"), 1, "{outcome}");
        assert_eq!(outcome.lines_of_steps("to 19: 5"), 1, "{outcome}");
        assert_eq!(holders(&store.root(), &telling), "");
    }
}

#[test]
fn the_acts_of_every_step_can_be_printed_without_values() {
    let store = Store::with_busybox();
    let context = Context::new(&format!(
        "FROM busybox\nENV TOKEN={CANARY}\n\
         RUN --mount=type=secret,id=s,env=S --mount=type=ssh --mount=type=cache,target=/c make\nRUN --network=none true\n"
    ));
    let words = |format| ["debug".as_ref(), "steps".as_ref(), format, context.path().as_os_str()];
    let text = store.rbuild(words("--format=text".as_ref())).ok();
    assert!(!text.stdout.contains(CANARY), "{text}");
    for line in [
        "[2/3] RUN --mount=type=secret,id=s,env=S --mount=type=ssh --mount=type=cache,target=/c make (line 3)",
        "  secret variable S",
        "  ssh agent on \"/run/buildkit/ssh_agent.0\" owner 0:0 mode 600",
        "[3/3] RUN --network=none true (line 4)",
        "  pivot to the root",
    ] {
        assert!(text.stdout.lines().any(|found| found == line), "{line}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&store.rbuild(words("--format=json".as_ref())).ok().stdout).expect("JSON");
    assert_eq!((&json[0]["line"], json.as_array().map(Vec::len)), (&serde_json::json!(3), Some(2)));
    assert!(json[1]["acts"].as_array().is_some_and(|acts| acts.iter().any(|act| act == "pivot to the root")));
}
