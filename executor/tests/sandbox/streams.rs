//! What goes in and out: exit codes, output, input, terminals, commands that cannot be executed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rbuild_executor::sandbox::{Exit, Io, Limit, Output, SandboxError, Stdin, run};
use tokio_util::sync::CancellationToken;

use crate::support::{Collected, Rig, ran, settings};

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let rig = Rig::new();
    let check = async |script: &str, expected: Exit| {
        let mut spec = rig.overlay(script);
        spec.limits = vec![Limit { name: "cpu".into(), soft: 1, hard: 1 }];
        assert_eq!(ran(&spec).await.unwrap().exit, expected, "{script}");
    };
    check("exit 0", Exit::Code(0)).await;
    check("exit 1", Exit::Code(1)).await;
    check("exit 255", Exit::Code(255)).await;
    check("sh -c 'kill -9 $$'; exit $?", Exit::Code(137)).await;
    check("while :; do :; done", Exit::Signal(9)).await;
    assert_eq!(Exit::Signal(9).code(), 137);
    assert_eq!(Exit::Code(2).to_string(), "exit code: 2");
    assert_eq!(Exit::Signal(11).to_string(), "killed by signal 11 (SIGSEGV)");
}

#[tokio::test]
async fn output_arrives_byte_for_byte_on_the_stream_it_was_written_to() {
    let rig = Rig::new();
    let mut bytes = vec![0; 10 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    fs::write(rig.base().join("data"), &bytes).unwrap();
    let log = Collected::default();
    let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
    let spec = rig.overlay("cat /data >&2 & cat /data; wait; printf last");
    let finished = run(&settings(), &spec, io, &CancellationToken::new()).await.unwrap();
    assert_eq!(finished.exit, Exit::Code(0));
    assert!(*log.stderr.lock().unwrap() == bytes);
    bytes.extend_from_slice(b"last");
    assert!(*log.stdout.lock().unwrap() == bytes);
}

#[tokio::test]
async fn output_of_what_outlives_the_command_is_kept_and_does_not_delay_the_end() {
    let rig = Rig::new();
    let script = "mkfifo /tmp/begun; (echo again; echo > /tmp/begun; while :; do echo again; done) & \
        cat /tmp/begun > /dev/null; echo over >&2; exit 3";
    let ran = ran(&rig.overlay(script)).await.unwrap();
    assert_eq!(ran.exit, Exit::Code(3));
    assert_eq!(ran.stderr, "over\n");
    assert!(ran.text().starts_with("again\n"));
}

#[tokio::test]
async fn nothing_is_read_unless_something_is_given() {
    let rig = Rig::new();
    assert_eq!(ran(&rig.overlay("cat; readlink /proc/self/fd/0")).await.unwrap().text(), "/dev/null\n");
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"given").unwrap();
    drop(writer);
    let log = Collected::default();
    let io = Io { stdin: Stdin::Descriptor(reader.into()), output: Output::Log(&log), forward_signals: false };
    run(&settings(), &rig.overlay("cat"), io, &CancellationToken::new()).await.unwrap();
    assert_eq!(*log.stdout.lock().unwrap(), b"given");
}

#[tokio::test]
async fn commands_are_found_as_a_shell_finds_them_or_the_reason_is_told() {
    let rig = Rig::new();
    fs::create_dir(rig.base().join("opt")).unwrap();
    fs::write(rig.base().join("opt/data"), "no program").unwrap();
    fs::write(rig.base().join("opt/text"), "no program").unwrap();
    fs::set_permissions(rig.base().join("opt/text"), fs::Permissions::from_mode(0o755)).unwrap();
    let check = async |program: &str, path: &str, expected: Result<i32, i32>| {
        let mut spec = rig.overlay("");
        spec.args = vec![program.into(), "-c".into(), "exit 7".into()];
        spec.env = vec![format!("PATH={path}")];
        spec.cwd = "/bin".into();
        let found = match ran(&spec).await {
            Ok(ran) => Ok(ran.exit.code()),
            Err(SandboxError::Exec { program: named, source }) => {
                assert_eq!(named, program);
                Err(source.raw_os_error().unwrap())
            }
            Err(error) => panic!("{program}: {error}"),
        };
        assert_eq!(found, expected, "{program} in {path:?}");
    };
    check("sh", "/nowhere:/bin", Ok(7)).await;
    check("sh", "/opt", Err(libc::ENOENT)).await;
    check("sh", "", Ok(7)).await;
    check("./sh", "/opt", Ok(7)).await;
    check("data", "/opt:/bin", Err(libc::EACCES)).await;
    check("/opt/data", "", Err(libc::EACCES)).await;
    check("/opt/text", "", Err(libc::ENOEXEC)).await;
    check("/opt", "", Err(libc::EACCES)).await;
    check("/gone", "", Err(libc::ENOENT)).await;
}

#[test]
fn a_terminal_is_a_real_one_of_the_right_size_and_carries_both_directions() {
    let rig = Rig::new();
    let (mut user, their_side) = pseudo_terminal(33, 77);
    let end = || std::process::Stdio::from(their_side.try_clone().unwrap());
    let script = "tty; stty size; test -c /dev/console && echo console; read line; echo got $line; exit 5";
    let mut builder = Command::new(crate::support::helper())
        .args(["terminal", rig.base().to_str().unwrap(), script])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(their_side);
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    let mut typed = false;
    // EIO is the end of a terminal.
    while let Ok(count @ 1..) = user.read(&mut buffer) {
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        if !typed && seen.contains("console\r\n") {
            user.write_all(b"hello\r").unwrap();
            typed = true;
        }
    }
    assert_eq!(builder.wait().unwrap().code(), Some(5));
    assert_eq!(seen, "/dev/pts/0\r\n33 77\r\nconsole\r\nhello\r\ngot hello\r\n");
}

/// The user's side and the program's side.
fn pseudo_terminal(rows: u16, columns: u16) -> (File, OwnedFd) {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let user = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&user).unwrap();
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&user, size).unwrap();
    let program = rustix::pty::ioctl_tiocgptpeer(user.as_fd(), flags).unwrap();
    (user.into(), program)
}
