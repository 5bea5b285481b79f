//! `rbuild serve`, asked by a client of ours in every order, and by one that lies. `tests/buildx.sh` asks it by docker's.

mod asks;
mod blobs;
pub mod client;
mod cost;
mod crowd;
mod extras;
mod gives;
mod kept;
mod past;
mod process;
mod settings;
mod shelf;
mod stop;
mod strange;
mod tls;
mod transfer;

use std::time::{Duration, Instant};

use api::control::control_client::ControlClient;
use api::control::{InfoRequest, ListWorkersRequest, SolveRequest, StatusRequest};
use api::health::HealthCheckRequest;
use api::health::health_client::HealthClient;
use tonic::Code;
use tonic::transport::Channel;

use self::client::{Daemon, Entry, Offer, request, session};
use crate::support::Store;

/// Long for what should be quick.
const LONG: Duration = Duration::from_secs(30);

fn offer(dockerfile: &str, context: Vec<Entry>) -> Offer {
    Offer { dockerfile: dockerfile.into(), context }
}

/// Solves, and what was said of it meanwhile.
async fn solve(channel: &Channel, request: SolveRequest) -> Result<Vec<String>, tonic::Status> {
    let name = request.r#ref.clone();
    let mut control = ControlClient::new(channel.clone());
    let mut watching = ControlClient::new(channel.clone());
    // The status is asked for first, often.
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        let mut stream = watching.status(StatusRequest { r#ref: name }).await?.into_inner();
        while let Some(status) = stream.message().await? {
            told.extend(
                status.vertexes.into_iter().filter(|vertex| vertex.completed.is_some()).map(|vertex| vertex.name),
            );
            told.extend(status.logs.iter().map(|log| String::from_utf8_lossy(&log.msg).into_owned()));
        }
        Ok::<_, tonic::Status>(told)
    });
    tokio::time::timeout(LONG, control.solve(request)).await.expect("it ends")?;
    tokio::time::timeout(LONG, told).await.expect("it ends").expect("it does not panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_builds_from_its_own_files_in_whatever_order_it_asks() {
    for store in Store::everybodys() {
        builds_in_whatever_order(store).await;
    }
}

async fn builds_in_whatever_order(store: Store) {
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let dockerfile = "FROM busybox\nCOPY d/f /f\nRUN cat /f\n";
    let context = vec![Entry::file(".dockerignore", "x"), Entry::dir("d"), Entry::file("d/f", "from afar")];

    let first = session(channel.clone(), "one", offer(dockerfile, context.clone())).await;
    let told = solve(&channel, request("a", "one")).await.expect("it builds");
    assert!(told.iter().any(|line| line.contains("from afar")), "{told:?}");
    assert!(told.iter().any(|line| line == "[internal] load build context"), "{told:?}");

    // The build comes before its session.
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { solve(&channel, request("b", "two")).await }
    });
    let second = session(channel.clone(), "two", offer(dockerfile, context.clone())).await;
    waiting.await.expect("it does not panic").expect("it builds");

    // A file that no step reads is not asked for.
    let third = session(channel.clone(), "three", offer("FROM busybox\nRUN true\n", context)).await;
    solve(&channel, request("c", "three")).await.expect("it builds");
    let asked = |session: &client::Session| session.asked.lock().expect("nobody panicked").clone();
    assert_eq!(asked(&second).iter().filter(|(name, _)| name == "context").count(), 2, "ignore file and files");
    assert_eq!(asked(&third).iter().filter(|(name, _)| name == "context").count(), 1, "the ignore file alone");
    drop((first, second, third));
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
    assert!(!store.path("sock").exists(), "the socket goes with the daemon");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lies_about_its_files_is_refused_and_reaches_nothing() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let lying = |mut entry: Entry, size: i64| {
        entry.stat.size = size;
        entry
    };
    let cases = [
        (vec![Entry::file("../../../../evil", "x")], "leads out of the directory"),
        (vec![Entry::file("/evil", "x")], "is absolute"),
        (vec![Entry::file("b", "x"), Entry::file("a", "x")], "does not stand behind"),
        (vec![Entry::file("a", "x"), Entry::file("a", "y")], "does not stand behind"),
        (vec![Entry::link("a", "/"), Entry::file("a/evil", "x")], "is in no directory that came"),
        (vec![Entry::file("a/b", "x")], "is in no directory that came"),
        (vec![lying(Entry::file("a", "x"), 1000)], "has not the size that the client said"),
        (vec![lying(Entry::file("a", "xyz"), 1)], "has not the size that the client said"),
    ];
    for (at, (context, words)) in cases.into_iter().enumerate() {
        let name = format!("lie-{at}");
        let open = session(channel.clone(), &name, offer("FROM busybox\nCOPY . /c\n", context)).await;
        let status = solve(&channel, request(&name, &name)).await.expect_err(words);
        assert!(status.message().contains(words), "{words}: {status:?}");
        drop(open);
    }
    // It serves on, and what was begun is gone.
    let good = session(channel.clone(), "good", offer("FROM busybox\nCOPY . /c\n", vec![Entry::file("a", "x")])).await;
    solve(&channel, request("good", "good")).await.expect("it builds");
    drop(good);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
    assert!(!store.path("evil").exists() && !std::path::Path::new("/evil").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_with_its_session_with_its_call_and_with_the_daemon() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let sleeping = |name: &str| offer(&format!("FROM busybox\nRUN echo {name} runs; sleep 1000\n"), Vec::new());
    // Waits until the step runs.
    let running = async |name: &str| {
        let mut stream = ControlClient::new(channel.clone())
            .status(StatusRequest { r#ref: name.to_owned() })
            .await
            .expect("there is such a build")
            .into_inner();
        while let Some(status) = stream.message().await.expect("it goes on") {
            if status.logs.iter().any(|log| String::from_utf8_lossy(&log.msg).contains("runs")) {
                return;
            }
        }
        panic!("{name} never ran");
    };

    let lost = session(channel.clone(), "lost", sleeping("lost")).await;
    let mut control = ControlClient::new(channel.clone());
    let solving = tokio::spawn(async move { control.solve(request("lost", "lost")).await });
    running("lost").await;
    let began = Instant::now();
    drop(lost);
    let status = solving.await.expect("it does not panic").expect_err("its session is gone");
    assert!(status.message().contains("its session is closed") && began.elapsed() < LONG, "{status:?}");

    let open = session(channel.clone(), "open", sleeping("call")).await;
    let mut control = ControlClient::new(channel.clone());
    let solving = tokio::spawn(async move { control.solve(request("call", "open")).await });
    running("call").await;
    solving.abort();
    // Its status ends when it has ended.
    let stream = ControlClient::new(channel.clone()).status(StatusRequest { r#ref: "call".into() }).await;
    let mut stream = stream.expect("it is known").into_inner();
    while tokio::time::timeout(LONG, stream.message()).await.expect("it ends").expect("without an error").is_some() {}

    let mut control = ControlClient::new(channel.clone());
    let solving = tokio::spawn(async move { control.solve(request("daemon", "open")).await });
    // The same step, which nobody finished.
    running("daemon").await;
    assert_eq!(daemon.stop(), Some(0));
    assert!(solving.await.expect("it does not panic").is_err());
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_the_proper_code() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    // A connection that says nothing, or nothing that is HTTP/2.
    drop(std::os::unix::net::UnixStream::connect(&daemon.socket).expect("it serves"));
    let mut noise = std::os::unix::net::UnixStream::connect(&daemon.socket).expect("it serves");
    std::io::Write::write_all(&mut noise, b"GET / HTTP/1.1\r\n\r\n").expect("it takes bytes");
    let channel = daemon.connect().await;
    let mut control = ControlClient::new(channel.clone());
    let info = control.info(InfoRequest {}).await.expect("it answers").into_inner();
    assert_eq!(info.buildkit_version.expect("it has one").package, "rbuild");
    let workers = control.list_workers(ListWorkersRequest::default()).await.expect("it answers").into_inner().record;
    assert!(workers.len() == 1 && !workers[0].platforms.is_empty());
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.expect("it answers");
    assert_eq!(health.into_inner().status, 1);

    let open = session(channel.clone(), "open", offer("FROM busybox\nCOYP a b\n", Vec::new())).await;
    let attribute = |name: &str, key: &str, value: &str| {
        let mut request = request(name, "open");
        request.frontend_attrs.insert(key.into(), value.into());
        request
    };
    let entitled = SolveRequest { entitlements: vec!["security.insecure".into()], ..request("entitled", "open") };
    let exporter = api::control::Exporter { r#type: "docker".into(), attrs: [("dest".into(), "/etc/x".into())].into() };
    let written = SolveRequest { exporters: vec![exporter], ..request("written", "open") };
    let told = SolveRequest {
        frontend: String::new(),
        definition: Some(api::pb::Definition::default()),
        ..attribute("told", "attest:provenance", "mode=max")
    };
    for (request, code, words) in [
        (
            SolveRequest { frontend: "gateway.v1".into(), ..request("gateway", "open") },
            Code::Unimplemented,
            "gateway.v1",
        ),
        (request("", "open"), Code::InvalidArgument, "no ref"),
        (attribute("platform", "platform", "linux"), Code::Unknown, "platform"),
        (attribute("context", "context", "/etc"), Code::Unknown, "neither the client's nor at an address"),
        (attribute("named", "context:x", "/etc"), Code::Unknown, "on no machine here"),
        (attribute("sbom", "attest:sbom", "generator=x"), Code::Unknown, "no SBOM is made"),
        (told, Code::Unimplemented, "of no other definition"),
        (attribute("ulimit", "ulimit", "nothing=1"), Code::Unknown, "is no limit"),
        (entitled, Code::Unknown, "not granted by this daemon"),
        (written, Code::Unknown, "the client's own business"),
        (request("syntax", "open"), Code::Unknown, "unknown instruction `COYP`"),
    ] {
        let name = request.r#ref.clone();
        let status = tokio::time::timeout(LONG, control.solve(request)).await.expect("it ends").expect_err(&name);
        assert!(status.code() == code && status.message().contains(words), "{name}: {status:?}");
    }
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}
