//! `rbuild run`, and the same image run by runc.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Context, Outcome, Store, readers};

fn store_with(dockerfile: &str) -> Store {
    let store = Store::with_busybox();
    store.build(&Context::new(dockerfile), ["-t", "app:1"]).ok();
    store
}

#[test]
fn command_and_entrypoint_are_obeyed_and_the_exit_code_returned() {
    let store = store_with("FROM busybox\nENV WHO=world\nENTRYPOINT [\"echo\", \"hello\"]\nCMD [\"nobody\"]\n");
    let check = |args: &[&str], code: i32, stdout: &str| {
        let ran = store.rbuild([&["run", "--rm", "--network=none"], args].concat()).exits(code);
        assert_eq!(ran.stdout, stdout, "{ran}");
    };
    check(&["app:1"], 0, "hello nobody\n");
    check(&["app:1", "ann", "bob"], 0, "hello ann bob\n");
    check(&["--entrypoint", "sh", "app:1", "-c", "echo $WHO $$; exit 42"], 42, "world 1\n");
    check(&["-e", "WHO=ann", "--entrypoint", "sh", "app:1", "-c", "echo $WHO"], 0, "ann\n");
    check(&["-w", "/etc", "--entrypoint", "pwd", "app:1"], 0, "/etc\n");
    check(&["-u", "12:34", "--entrypoint", "sh", "app:1", "-c", "id -u; id -g"], 0, "12\n34\n");
    check(&["-u", "nobody", "--entrypoint", "id", "app:1", "-u"], 0, "65534\n");
    check(&["--entrypoint", "false", "app:1"], 1, "");
    check(&["--entrypoint", "sh", "app:1", "-c", "sh -c 'kill -TERM $$'; exit $?"], 143, "");
}

#[test]
fn what_cannot_be_run_is_said() {
    let store = store_with("FROM busybox\nCMD [\"no-such-program\"]\n");
    // As shells have it: 127 for what is not there, 126 for what is no program.
    let absent = store.rbuild(["run", "--rm", "--network=none", "app:1"]).exits(127);
    assert!(absent.stderr.contains("no-such-program"), "{absent}");
    store.rbuild(["run", "--rm", "--network=none", "app:1", "/etc"]).exits(126);
    store.rbuild(["run", "--rm", "--network=none", "absent:1"]).fails_saying(&["absent:1"]);
}

#[test]
fn an_image_is_also_meant_by_the_beginning_of_its_id() {
    let store = Store::with_busybox();
    let iidfile = store.path("id");
    let context = Context::new("FROM busybox\nCMD [\"echo\", \"here\"]\n");
    store.build(&context, ["-t", "app:1", "--iidfile", &iidfile.display().to_string()]).ok();
    let id = std::fs::read_to_string(iidfile).expect("the build wrote it");
    assert!(store.rbuild(["images", "-q"]).ok().stdout.contains(&id));
    let short = &id["sha256:".len()..][..12];
    let ran = store.rbuild(["run", "--rm", "--network=none", short]).ok();
    assert_eq!(ran.stdout, "here\n");
    let archive = store.path("by-id.tar");
    store.rbuild(["save", "-o", &archive.display().to_string(), short]).ok();
    assert!(archive.exists());
}

#[test]
fn folders_of_the_machine_are_shown_as_asked() {
    let store = store_with("FROM busybox\n");
    let dir = store.path("shared");
    std::fs::create_dir(&dir).expect("the directory is new");
    std::fs::write(dir.join("in"), "given\n").expect("it is ours");
    let volume = format!("{}:/mnt", dir.display());
    let run = |volume: &str, script: &str| {
        store.rbuild(["run", "--rm", "--network=none", "-v", volume, "app:1", "sh", "-c", script])
    };
    assert_eq!(run(&volume, "cat /mnt/in; echo taken > /mnt/out").ok().stdout, "given\n");
    assert_eq!(std::fs::read_to_string(dir.join("out")).expect("the command wrote it"), "taken\n");
    run(&format!("{volume}:ro"), "echo no > /mnt/out").exits(1);
    assert_eq!(std::fs::read_to_string(dir.join("out")).expect("it is still there"), "taken\n");
}

#[test]
fn standard_input_is_passed_on_when_asked() {
    let store = store_with("FROM busybox\n");
    let mut child = store
        .command(["run", "--rm", "-i", "--network=none", "app:1", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("it is piped").write_all(b"loud\n").expect("the command reads");
    let ran = Outcome::from_output("run -i".into(), &child.wait_with_output().expect("it ends")).ok();
    assert_eq!(ran.stdout, "LOUD\n");
}

#[test]
fn signals_are_passed_on_and_the_command_decides() {
    let store = store_with("FROM busybox\n");
    // The shell's own `wait` ends at a signal, so that the trap runs.
    let script = "trap 'echo bye; exit 7' TERM; echo ready; sleep 1000 & wait";
    let mut command = store.command(["run", "--rm", "--network=none", "app:1", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    stdout.read_line(&mut said).expect("it is text");
    assert_eq!(said, "ready\n");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it is running");
    stdout.read_to_string(&mut said).expect("it is text");
    let ended = Outcome::from_output(script.into(), &child.wait_with_output().expect("it ends")).exits(7);
    assert_eq!((said.as_str(), ended.stderr.as_str()), ("ready\nbye\n", ""));
}

#[test]
fn what_a_run_changed_is_gone_afterwards() {
    let store = store_with("FROM busybox\n");
    store.rbuild(["run", "--rm", "--network=none", "app:1", "touch", "/changed"]).ok();
    store.rbuild(["run", "--rm", "--network=none", "app:1", "test", "-e", "/changed"]).exits(1);
}

#[test]
fn runc_runs_the_image_as_umoci_unpacks_it() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\nENV WHO=runc\nWORKDIR /srv\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"echo $WHO in $(pwd); exit 9\"]\n",
    );
    let file = store.path("app.tar");
    store.build(&context, ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    let bundle = readers::unpack(&format!("oci-archive:{}", file.display()), &store.path(""));
    let ran = readers::runc(&bundle).exits(9);
    assert_eq!(ran.stdout, "runc in /srv\n");
}
