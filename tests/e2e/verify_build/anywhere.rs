//! Verifying a build without a network, as an ordinary user, and cut off in the middle.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{tells, verify};
use crate::interrupt::{ends, mounts, process_with_argument};
use crate::support::fake::{Fake, Reply};
use crate::support::git::GitServer;
use crate::support::user::User;
use crate::support::{Context, Outcome, Store};

#[test]
fn without_a_network_both_builds_have_what_was_fetched_and_nothing_else() {
    let web = Fake::start(|_| Reply::new(200, "from the web\n").header("ETag", "\"1\""));
    let git = GitServer::start();
    git.commit("lib", "echo from git > l");
    git.commit("app", "printf 'FROM busybox\\nCOPY f /\\n' > Dockerfile; echo app > f");
    let (http, repository) = (format!("http://{}/f", web.address), git.url("lib"));
    let context = Context::new(&format!(
        "FROM busybox\nADD {http} /f\nADD {repository}#main /lib\n\
         RUN cat /f /lib/l\n"
    ));
    let store = Store::with_busybox();
    let app = git.url("app");
    let remote =
        |more: &[&str]| store.rbuild([&["verify-build", "--progress=plain", "--network=none"], more, &[&app]].concat());
    verify(&store, &context, &["--offline"]).fails_saying(&["--offline"]);
    remote(&["--offline"]).fails_saying(&["app", "--offline"]);
    // A build fetches it, and verifying asks nobody.
    store.build(&context, [""; 0]).ok();
    store.rbuild(["build", "--progress=plain", &app]).ok();
    let asked = web.requests().len();
    drop(git);
    for outcome in [verify(&store, &context, &["--offline"]), remote(&["--offline"])] {
        tells(&outcome.ok(), &["reproducible: sha256:"]);
    }
    assert_eq!(web.requests().len(), asked);
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
    store.rbuild(["verify"]).ok();
}

#[test]
fn an_ordinary_user_verifies_builds() {
    let store = Store::of_with_busybox(User::new());
    let check = |dockerfile: &str, args: &[&str]| {
        let context = Context::new(dockerfile).file("a", "a");
        store.user().expect("it has one").give(context.path());
        verify(&store, &context, args)
    };
    let same = "FROM busybox\nCOPY --chown=5:6 a /a\nRUN echo 1 > /one && chown 7:8 /one && mkdir -m 700 /d\n";
    tells(&check(same, &[]).ok(), &["reproducible: sha256:"]);
    let file = store.path("app.tar").display().to_string();
    let output = format!("type=oci,dest={file}");
    let context = Context::new(same).file("a", "a");
    store.build(&context, ["--network=none", "--source-date-epoch=3", "-o", &output]).ok();
    tells(&check(same, &["--against", &file]).ok(), &["is built from this: sha256:"]);
    tells(&check("FROM busybox\nRUN date > /f\n", &[]).exits(2), &["  f\n", "looks like a time"]);
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
}

#[test]
fn what_is_interrupted_or_killed_leaves_nothing() {
    let user = Store::of_with_busybox(User::new());
    for (number, (store, signal)) in
        [(Store::with_busybox(), Signal::INT), (Store::with_busybox(), Signal::KILL), (user, Signal::INT)]
            .into_iter()
            .enumerate()
    {
        // By which its process is found among those of other tests.
        let seconds = (200_000_000 + u64::from(std::process::id()) * 10 + number as u64).to_string();
        let context = Context::new(&format!("FROM busybox\nRUN echo begun; exec sleep {seconds}\n"));
        if let Some(user) = store.user() {
            user.give(context.path());
        }
        let path = context.path().display().to_string();
        let mut command = store.command(["verify-build", "--progress=plain", "--network=none", &path]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the binary starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        while !said.ends_with(" begun\n") {
            assert_ne!(stderr.read_line(&mut said).expect("it is text"), 0, "the build ended: {said}");
        }
        let step = loop {
            if let Some(pid) = process_with_argument(&seconds) {
                break pidfd_open(pid, PidfdFlags::empty()).expect("the step is running");
            }
            std::thread::yield_now();
        };
        assert_ne!(store.drafts().len(), 0, "both stores are drafts");
        kill_process(Pid::from_child(&child), signal).expect("it is running");
        stderr.read_to_string(&mut said).expect("it is text");
        let outcome =
            Outcome::from_output(String::from("verify-build"), &child.wait_with_output().expect("it is ours"));
        assert!(ends(&step), "the step outlives its builder: {said}");
        match signal {
            Signal::INT => assert_eq!(outcome.code, Some(130), "{said}"),
            // Whoever comes next takes it away.
            _ => drop(store.rbuild(["images"]).ok()),
        }
        assert!(outcome.stdout.is_empty(), "{outcome}");
        assert_eq!(store.drafts().len(), 0, "{said}");
        assert_eq!(mounts(&store), Vec::<String>::new());
        store.rbuild(["verify"]).ok();
    }
}
