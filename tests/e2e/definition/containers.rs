//! Containers that a frontend starts, and processes in them.

use api::gateway::exec_message::Input;
use api::gateway::{self, ExecMessage};
use api::pb;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::frontend::Frontend;
use super::llb::Llb;
use super::own;
use crate::serve::client::{Daemon, Offer, session};
use crate::support::Store;

/// A stream of processes.
struct Line {
    say: mpsc::UnboundedSender<ExecMessage>,
    heard: Streaming<ExecMessage>,
}

impl Line {
    async fn open(frontend: &mut Frontend) -> Self {
        let (say, mut said) = mpsc::unbounded_channel();
        let request = frontend.call(futures_util::stream::poll_fn(move |context| said.poll_recv(context)));
        let heard = frontend.bridge.exec_process(request).await.expect("it is there").into_inner();
        Self { say, heard }
    }

    fn say(&self, id: &str, input: Input) {
        let message = ExecMessage { process_id: id.into(), input: Some(input) };
        self.say.send(message).expect("the stream is open");
    }

    fn type_in(&self, id: &str, text: &str, eof: bool) {
        self.say(id, Input::File(gateway::FdMessage { fd: 0, eof, data: text.into() }));
    }

    /// What it said, to which descriptor, until its end; and how that was.
    async fn end(&mut self, id: &str) -> (String, String, u32, String) {
        let (mut out, mut err, mut exit, mut has_begun) = (Vec::new(), Vec::new(), None, false);
        loop {
            let message = self.heard.message().await.expect("the order is kept").expect("it has an end");
            assert_eq!(message.process_id, id);
            match message.input.expect("it says something") {
                Input::Started(_) => has_begun = true,
                Input::File(file) => {
                    assert!(has_begun);
                    let to = if file.fd == 2 { &mut err } else { &mut out };
                    to.extend(file.data);
                }
                Input::Exit(ended) => exit = Some(ended),
                Input::Done(_) => break,
                other => panic!("{other:?}"),
            }
        }
        let exit = exit.expect("its end is told");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
        (text(out), text(err), exit.code, exit.error.unwrap_or_default().message)
    }

    /// Until the status that ends it.
    async fn refused(mut self) -> Status {
        loop {
            match self.heard.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    }
}

fn init(container: &str, command: &[&str], fds: &[u32]) -> gateway::InitMessage {
    let args = command.iter().map(|word| (*word).to_owned()).collect();
    let meta = pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() };
    gateway::InitMessage {
        container_id: container.into(),
        meta: Some(meta),
        fds: fds.to_vec(),
        ..gateway::InitMessage::default()
    }
}

fn script(container: &str, text: &str, fds: &[u32]) -> Input {
    Input::Init(init(container, &["/bin/sh", "-c", text], fds))
}

fn mount(dest: &str, result: &str) -> pb::Mount {
    pb::Mount { dest: dest.into(), result_id: result.into(), ..pb::Mount::default() }
}

async fn container(frontend: &mut Frontend, id: &str, mounts: Vec<pb::Mount>) -> Result<(), Status> {
    let network = pb::NetMode::None as i32;
    let request = gateway::NewContainerRequest {
        container_id: id.into(),
        mounts,
        network,
        hostname: "inside".into(),
        ..gateway::NewContainerRequest::default()
    };
    let request = frontend.call(request);
    frontend.bridge.new_container(request).await.map(drop)
}

async fn release(frontend: &mut Frontend, id: &str) -> Result<(), Status> {
    let request = frontend.call(gateway::ReleaseContainerRequest { container_id: id.into() });
    frontend.bridge.release_container(request).await.map(drop)
}

/// A build with references to a tree with a shell, and to one with a file.
async fn started(channel: &tonic::transport::Channel, build: &str) -> (Frontend, String, String) {
    let mut frontend = Frontend::start(channel, own(build, &[]));
    let mut base = Llb::default();
    let busybox = base.busybox();
    let base = frontend.solve(base.want(&busybox)).await.expect("it is read");
    let mut other = Llb::default();
    let file = other.file("/f", "of another result");
    let other = frontend.solve(other.want(&file)).await.expect("it is read");
    (frontend, base, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_run_in_a_container_one_after_another_and_find_what_the_ones_before_wrote() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session(channel.clone(), "one", Offer::default()).await;
    let (mut frontend, base, other) = started(&channel, "a").await;
    let cache = pb::Mount {
        dest: "/cache".into(),
        mount_type: pb::MountType::Cache as i32,
        cache_opt: Some(pb::CacheOpt { id: "kept".into(), sharing: 0 }),
        ..pb::Mount::default()
    };
    let tmpfs = pb::Mount { dest: "tmp".into(), mount_type: pb::MountType::Tmpfs as i32, ..pb::Mount::default() };
    let read_only = pb::Mount { readonly: true, ..mount("/other", &other) };
    let mounts = vec![read_only, mount("/", &base), cache.clone(), tmpfs, mount("/empty", "")];
    container(&mut frontend, "box", mounts).await.expect("it is made");
    let mut line = Line::open(&mut frontend).await;

    let text = "hostname; cat /other/f; echo one >/written; echo c >/cache/c; echo t >/tmp/t; echo e >/empty/e; \
                echo x >/other/x || echo refused >&2; exit 3";
    line.say("first", script("box", text, &[1, 2]));
    let (out, err, code, error) = line.end("first").await;
    assert_eq!((out.as_str(), code), ("inside\nof another result", 3));
    assert!(err.contains("refused") && error.contains("exit code: 3"), "{err} {error}");

    // The second finds it, reads what it is told, and ends with the end of that.
    line.say("second", script("box", "cat /written /cache/c /empty/e; ls /tmp; cat; echo over", &[0, 1]));
    line.type_in("second", "typed ", false);
    line.type_in("second", "twice\n", true);
    let (out, _, code, error) = line.end("second").await;
    assert_eq!((out.as_str(), code, error.as_str()), ("one\nc\ne\ntyped twice\nover\n", 0, ""));

    // It can be looked into, between processes and while one runs.
    let read = |path: &str, mount_index: i32| gateway::ReadFileRequest {
        r#ref: "box".into(),
        file_path: path.into(),
        mount_index,
        ..gateway::ReadFileRequest::default()
    };
    for (path, index, expected) in [
        ("/written", 1, Ok("one\n")),
        ("/f", 0, Ok("of another result")),
        ("/c", 2, Ok("c\n")),
        ("/e", 4, Ok("e\n")),
        ("/absent", 1, Err(Code::NotFound)),
        ("/t", 3, Err(Code::Unknown)),
        ("/f", 9, Err(Code::Unknown)),
        ("/f", -1, Err(Code::InvalidArgument)),
    ] {
        let request = frontend.call(read(path, index));
        let found = frontend.bridge.read_file_container(request).await.map(|found| found.into_inner().data);
        let found = found.map_err(|status| status.code());
        assert_eq!(found, expected.map(|text| text.as_bytes().to_vec()), "{path} {index}");
    }
    let request = frontend.call(gateway::ReadDirRequest { r#ref: "box".into(), mount_index: 4, ..Default::default() });
    let entries = frontend.bridge.read_dir_container(request).await.expect("it is there").into_inner().entries;
    assert_eq!(entries.iter().map(|stat| stat.path.as_str()).collect::<Vec<_>>(), ["e"]);
    let stat = gateway::StatFileRequest { r#ref: "box".into(), path: "/written".into(), mount_index: 1 };
    let request = frontend.call(stat);
    let stat = frontend.bridge.stat_file_container(request).await.expect("it is there").into_inner().stat;
    assert_eq!(stat.expect("it is a file").size, 4);

    // A terminal, of a size that changes; what is typed comes back.
    let terminal = gateway::InitMessage { tty: true, ..init("box", &["/bin/sh"], &[0, 1]) };
    line.say("shell", Input::Init(terminal));
    line.say("shell", Input::Resize(gateway::ResizeMessage { rows: 33, cols: 99 }));
    line.type_in("shell", "while ! stty size | grep -q '33 99'; do :; done; tty; exit 4\n", false);
    let (out, _, code, error) = line.end("shell").await;
    assert!(out.contains("/dev/pts/0") && code == 4, "{out} {code} {error}");

    // A signal ends one that waits; another one begins only then.
    line.say("waits", script("box", "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done", &[1]));
    let mut seen = String::new();
    while !seen.contains("ready") {
        let message = line.heard.message().await.expect("it goes on").expect("it goes on");
        if let Some(Input::File(file)) = message.input {
            seen.push_str(&String::from_utf8(file.data).expect("it is text"));
        }
    }
    let mut second = Line::open(&mut frontend).await;
    second.say("too early", script("box", "true", &[]));
    let status = second.heard.message().await.expect_err("one at a time");
    assert_eq!(status.code(), Code::FailedPrecondition);
    line.say("waits", Input::Signal(gateway::SignalMessage { name: "SIGUSR1".into() }));
    loop {
        match line.heard.message().await.expect("it goes on").expect("it goes on").input {
            Some(Input::Exit(exit)) => assert_eq!(exit.code, 5),
            Some(Input::Done(_)) => break,
            _ => {}
        }
    }

    // One that is not there.
    line.say("absent", Input::Init(init("box", &["/nothing"], &[1])));
    let (_, _, code, error) = line.end("absent").await;
    assert!(code == 255 && error.contains("/nothing"), "{code} {error}");

    // Released, it is gone, and only the cache mount is as it was left.
    drop(line);
    release(&mut frontend, "box").await.expect("it is there");
    assert_eq!(release(&mut frontend, "box").await.expect_err("it is gone").code(), Code::NotFound);
    container(&mut frontend, "box", vec![mount("/", &base), cache]).await.expect("the name is free");
    let mut line = Line::open(&mut frontend).await;
    line.say("third", script("box", "cat /cache/c; test ! -e /written && echo gone", &[1]));
    assert_eq!(line.end("third").await.0, "c\ngone\n");
    drop(line);
    frontend.end(None, &[]).await.expect("it wanted nothing");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_lies_about_its_containers_gets_a_status_and_what_it_left_ends_with_its_build() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session(channel.clone(), "one", Offer::default()).await;
    let (mut frontend, base, _) = started(&channel, "a").await;
    container(&mut frontend, "box", vec![mount("/", &base)]).await.expect("it is made");
    for (id, mounts, code) in [
        ("box", vec![mount("/", &base)], Code::AlreadyExists),
        ("", vec![mount("/", &base)], Code::InvalidArgument),
        ("none", vec![mount("/", "result-99")], Code::NotFound),
        ("rootless", vec![mount("/a", &base)], Code::InvalidArgument),
        ("twice", vec![mount("/", &base), mount("/", &base)], Code::InvalidArgument),
        ("secret", vec![mount("/", &base), pb::Mount { mount_type: 2, ..mount("/s", "") }], Code::InvalidArgument),
    ] {
        let status = container(&mut frontend, id, mounts).await.expect_err(id);
        assert_eq!(status.code(), code, "{id}: {status:?}");
    }
    let request = gateway::NewContainerRequest {
        container_id: "host".into(),
        mounts: vec![mount("/", &base)],
        network: pb::NetMode::Host as i32,
        ..gateway::NewContainerRequest::default()
    };
    let request = frontend.call(request);
    let status = frontend.bridge.new_container(request).await.expect_err("nobody granted it");
    assert!(status.message().contains("--network=host"), "{status:?}");

    let waits = || script("box", "cat", &[0, 1]);
    let insecure = gateway::InitMessage { security: pb::SecurityMode::Insecure as i32, ..init("box", &["true"], &[1]) };
    for (what, said, code) in [
        ("an unknown container", vec![script("other", "true", &[1])], Code::NotFound),
        ("an unknown process", vec![Input::File(gateway::FdMessage::default())], Code::NotFound),
        ("two Inits", vec![waits(), waits()], Code::AlreadyExists),
        ("no command", vec![Input::Init(init("box", &[], &[1]))], Code::InvalidArgument),
        ("another descriptor", vec![script("box", "true", &[7])], Code::Unimplemented),
        ("an end of its own", vec![waits(), Input::Done(gateway::DoneMessage {})], Code::InvalidArgument),
        (
            "data behind the end",
            vec![
                script("box", "sleep 1000", &[0]),
                Input::File(gateway::FdMessage { fd: 0, eof: true, data: Vec::new() }),
                Input::File(gateway::FdMessage { fd: 0, eof: false, data: vec![1] }),
            ],
            Code::InvalidArgument,
        ),
        (
            "output",
            vec![waits(), Input::File(gateway::FdMessage { fd: 1, ..Default::default() })],
            Code::InvalidArgument,
        ),
        ("a size", vec![waits(), Input::Resize(gateway::ResizeMessage::default())], Code::InvalidArgument),
        ("a signal", vec![waits(), Input::Signal(gateway::SignalMessage { name: "X".into() })], Code::InvalidArgument),
        (
            "a huge message",
            vec![waits(), Input::File(gateway::FdMessage { fd: 0, eof: false, data: vec![0; 17 << 20] })],
            Code::OutOfRange,
        ),
    ] {
        let line = Line::open(&mut frontend).await;
        for input in said {
            line.say("p", input);
        }
        let status = line.refused().await;
        assert_eq!(status.code(), code, "{what}: {status:?}");
    }
    // The container is as it was: its processes have ended with their streams.
    let mut line = Line::open(&mut frontend).await;
    line.say("insecure", Input::Init(insecure));
    let (_, _, code, error) = line.end("insecure").await;
    assert!(code == 255 && error.contains("--security=insecure"), "{code} {error}");
    line.say("last", script("box", "echo fine", &[1]));
    assert_eq!(line.end("last").await.0, "fine\n");

    // What runs when the build ends is stopped; so is what runs when the session is lost.
    line.say("stays", script("box", "echo runs; sleep 1000", &[1]));
    let mut seen = false;
    while !seen {
        let message = line.heard.message().await.expect("it goes on").expect("it goes on");
        seen = matches!(message.input, Some(Input::File(file)) if file.data.starts_with(b"runs"));
    }
    frontend.end(None, &[]).await.expect("it wanted nothing");
    assert_eq!(line.refused().await.code(), Code::Cancelled);

    let (mut frontend, base, _) = started(&channel, "b").await;
    container(&mut frontend, "box", vec![mount("/", &base)]).await.expect("it is made");
    let mut line = Line::open(&mut frontend).await;
    line.say("stays", script("box", "echo runs; sleep 1000", &[1]));
    while let Some(message) = line.heard.message().await.expect("it goes on") {
        if matches!(message.input, Some(Input::File(file)) if file.data.starts_with(b"runs")) {
            break;
        }
    }
    drop(open);
    loop {
        match line.heard.message().await {
            Ok(Some(ExecMessage { input: Some(Input::Exit(exit)), .. })) => {
                assert_eq!(exit.code, 255);
                break;
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("its end is told"),
            Err(status) => panic!("{status:?}"),
        }
    }
    drop(line);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}
