//! The end of a daemon, asked for or not: builds end, nothing is half-written, mounted or left running, nobody holds its
//! standard streams, and the next one starts on the same root.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::control::StatusRequest;
use api::control::control_client::ControlClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::client::{Daemon, Entry, Manner, Offer, Session, request, session, session_of};
use super::{offer, solve};
use crate::interrupt::{mounts, process_with_argument};
use crate::support::{Outcome, Store};

/// Long for what takes a moment.
const LONG: Duration = Duration::from_secs(60);

/// Builds that would never end: their steps run, or wait for a file.
struct Endless {
    solving: Vec<JoinHandle<Result<(), Status>>>,
    numbers: Vec<String>,
    _sessions: Vec<Session>,
}

impl Endless {
    /// Three whose steps do not want to go, and one whose client sends no file.
    async fn begin(channel: &Channel) -> Self {
        let (mut solving, mut numbers, mut sessions) = (Vec::new(), Vec::new(), Vec::new());
        let mut begin = async |name: &str, open: Session, seen: &str| {
            let (mut control, asked) = (ControlClient::new(channel.clone()), request(name, name));
            solving.push(tokio::spawn(async move { control.solve(asked).await.map(|_| ()) }));
            saw(channel, name, seen).await;
            sessions.push(open);
        };
        for at in 0..3 {
            // By their numbers they are found among the processes of this machine.
            static STARTED: AtomicU64 = AtomicU64::new(0);
            let number =
                900_000_000_000 + u64::from(std::process::id()) * 100 + STARTED.fetch_add(1, Ordering::Relaxed);
            let (name, number) = (format!("endless-{at}"), number.to_string());
            let dockerfile = format!(
                "FROM busybox\nRUN touch /{name}\nRUN trap '' TERM INT HUP; setsid sleep 0{number} & echo runs; sleep \
                 {number}; true\n"
            );
            begin(&name, session(channel.clone(), &name, offer(&dockerfile, Vec::new())).await, "runs").await;
            numbers.push(number);
        }
        let waits =
            Offer { dockerfile: "FROM busybox\nCOPY . /c\n".into(), context: vec![Entry::file("f", "never comes")] };
        let open = session_of(channel.clone(), "waits", waits, Manner::Stingy).await;
        begin("waits", open, "[internal] receive build context").await;
        Self { solving, numbers, _sessions: sessions }
    }

    /// What the clients were told; the steps have until `until` to be gone.
    async fn ended(self, until: Instant) -> Vec<Status> {
        let mut told = Vec::new();
        for solving in self.solving {
            let ended = tokio::time::timeout(LONG, solving).await.expect("it ends").expect("it does not panic");
            told.push(ended.expect_err("it would never have ended"));
        }
        for number in &self.numbers {
            for argument in [number.clone(), format!("0{number}")] {
                while process_with_argument(&argument).is_some() {
                    assert!(Instant::now() < until, "a step outlives its daemon");
                    tokio::task::yield_now().await;
                }
            }
        }
        told
    }
}

/// Waits until a build says it: by a log, or by a vertex that begins.
pub async fn saw(channel: &Channel, name: &str, words: &str) {
    let stream = ControlClient::new(channel.clone()).status(StatusRequest { r#ref: name.to_owned() }).await;
    let mut stream = stream.expect("there is such a build").into_inner();
    let watching = async {
        while let Some(status) = stream.message().await.expect("it goes on") {
            let is_log = |log: &api::control::VertexLog| String::from_utf8_lossy(&log.msg).contains(words);
            let is_vertex = |vertex: &api::control::Vertex| vertex.name == words && vertex.started.is_some();
            if status.logs.iter().any(is_log) || status.vertexes.iter().any(is_vertex) {
                return;
            }
        }
        panic!("{name} ended");
    };
    tokio::time::timeout(LONG, watching).await.expect("it says so");
}

/// Nothing is left of a daemon, and the store is whole.
fn nothing_is_left(store: &Store) {
    assert_eq!(mounts(store), Vec::<String>::new());
    store.rbuild(["verify"]).ok();
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_cancels_builds_tells_their_clients_and_leaves_nothing() {
    for store in Store::everybodys() {
        let daemon = Daemon::start(&store);
        let channel = daemon.connect().await;
        let endless = Endless::begin(&channel).await;
        // Neither what never spoke nor what began to holds it.
        let silent = UnixStream::connect(&daemon.socket).expect("it serves");
        let mut half = UnixStream::connect(&daemon.socket).expect("it serves");
        std::io::Write::write_all(&mut half, b"PRI * HTTP/2.0\r\n").expect("it takes bytes");
        daemon.ask_to_stop();
        // Whoever is told that a build has ended may rely on it.
        let told = endless.ended(Instant::now()).await;
        assert!(told.iter().all(|status| matches!(status.code(), Code::Cancelled | Code::Unavailable)), "{told:?}");
        let (socket, code) = (daemon.socket.clone(), daemon.wait());
        assert_eq!(code, Some(0));
        assert!(!socket.exists(), "the socket goes with the daemon");
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
        nothing_is_left(&store);
        drop((silent, half));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_daemon_takes_its_steps_along_and_the_next_one_starts_on_the_same_root() {
    for store in Store::everybodys() {
        let daemon = Daemon::start(&store);
        let channel = daemon.connect().await;
        let endless = Endless::begin(&channel).await;
        daemon.kill();
        // The kernel ends them, in its own time.
        endless.ended(Instant::now() + LONG).await;
        assert!(store.path("sock").exists(), "nobody could remove it");

        let daemon = Daemon::start(&store);
        let channel = daemon.connect().await;
        let dockerfile = "FROM busybox\nRUN touch /endless-0\nRUN echo whole\n";
        let _session = session(channel.clone(), "next", offer(dockerfile, Vec::new())).await;
        let told = solve(&channel, request("next", "next")).await.expect("it builds");
        assert!(told.iter().any(|line| line.contains("whole")), "{told:?}");
        assert_eq!(daemon.stop(), Some(0));
        nothing_is_left(&store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn second_sigterm_ends_at_once() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    // It is waited for, but not by who is in a hurry.
    let mut half = UnixStream::connect(&daemon.socket).expect("it serves");
    std::io::Write::write_all(&mut half, b"PRI * HTTP/2.0\r\n").expect("it takes bytes");
    daemon.connect().await;
    daemon.ask_to_stop();
    daemon.says("stopping");
    daemon.ask_to_stop();
    assert_eq!(daemon.wait(), Some(130));
    // Its socket stays, and stands in nobody's way.
    assert_eq!(Daemon::start(&store).stop(), Some(0));
}

#[test]
fn daemon_appears_under_its_name_when_it_serves_and_two_do_not_share_one() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let address = format!("unix://{}", daemon.socket.display());
    Outcome::of(&mut store.command(["serve", "--addr", &address])).fails_saying(&["somebody serves on"]);
    UnixStream::connect(&daemon.socket).expect("it serves on");
    assert_eq!(daemon.stop(), Some(0));
}
