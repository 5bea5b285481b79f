//! Frontends that are images: one that works, and those that do not.

use std::collections::BTreeMap;
use std::path::Path;

use api::control::SolveRequest;
use api::control::control_client::ControlClient;
use api::gateway;
use api::pb;
use tonic::Code;
use tonic::transport::Channel;

use super::frontend::Frontend;
use super::{ran, request, solve};
use crate::serve::client::{Daemon, Offer, session};
use crate::support::{Context, Store};

/// A build by a frontend that is an image.
fn by_frontend(build: &str, image: &str, attributes: &[(&str, &str)]) -> SolveRequest {
    let mut told: BTreeMap<String, String> =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    told.insert("source".into(), image.into());
    let request = request(build, "one", pb::Definition::default(), &[("name", "app:1")]);
    SolveRequest { definition: None, frontend: "gateway.v0".into(), frontend_attrs: told, ..request }
}

/// Lets a build's own frontend return what another one makes, as `docker buildx` does.
async fn returned(channel: &Channel, own: SolveRequest, frontend: &str, attributes: BTreeMap<String, String>) {
    let mut asking = Frontend::start(channel, own);
    let asked = gateway::SolveRequest {
        frontend: frontend.into(),
        frontend_opt: attributes.into_iter().collect(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    };
    let asked = asking.call(asked);
    let result = asking.bridge.solve(asked).await.expect("it returns").into_inner().result.expect("a result");
    let config = String::from_utf8(result.metadata["containerimage.config"].clone()).expect("it is text");
    asking.end(result.result, &[("containerimage.config", &config)]).await.expect("it builds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_an_image_reads_a_file_and_returns_what_it_made_of_it() {
    let store = Store::with_debian();
    store.rbuild(["import".as_ref(), crate::support::bases::busybox().as_os_str(), "busybox:latest".as_ref()]).ok();
    // Cargo builds examples with the tests, beside the binary.
    let guest = Path::new(env!("CARGO_BIN_EXE_rbuild")).with_file_name("examples").join("guest");
    let guest = std::fs::read(&guest)
        .unwrap_or_else(|error| panic!("{}: {error}; build it by `cargo build --examples`", guest.display()));
    let dockerfile = "FROM debian:12-slim\nCOPY guest /guest\nRUN chmod +x /guest\nENTRYPOINT [\"/guest\"]\n";
    let context = Context::new(dockerfile).file("guest", guest);
    store.build(&context, ["-t", "guest:1"]).ok();

    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let offer = Offer { dockerfile: "echo by the frontend > /out".into(), ..Offer::default() };
    let open = session(channel.clone(), "one", offer).await;
    let attributes = [("filename", "Dockerfile"), ("cmd", "cat /out")];
    let (solved, told) = solve(&channel, by_frontend("a", "guest:1", &attributes)).await;
    let solved = solved.unwrap_or_else(|status| panic!("{status:?}: {told:?}"));
    assert!(solved.contains_key("containerimage.digest"), "{solved:?}");
    assert_eq!(ran(&store, "app:1"), "by the frontend\n");
    assert!(told.values().any(|vertex| vertex.name == "[internal] frontend guest:1"), "{told:?}");

    // A Dockerfile may name it.
    let named = SolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_attrs: [
            ("filename", "Dockerfile"),
            ("cmd", "cat /out; id -u"),
            ("build-arg:BUILDKIT_SYNTAX", "guest:1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..by_frontend("named", "", &[])
    };
    solve(&channel, named).await.0.expect("it builds");
    assert_eq!(ran(&store, "app:1"), "by the frontend\n0\n");

    // Or say so itself; whoever is told by its client who reads it is not asked.
    let said = Offer { dockerfile: "# syntax=guest:1\necho by its own line > /out".into(), ..Offer::default() };
    let saying = session(channel.clone(), "two", said).await;
    let by_line = |build: &str, arguments: &[(&str, &str)]| {
        let attributes = [("filename", "Dockerfile"), ("cmd", "cat /out")];
        let attributes =
            attributes.iter().chain(arguments).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        SolveRequest {
            frontend: "dockerfile.v0".into(),
            session: "two".into(),
            frontend_attrs: attributes.collect(),
            ..by_frontend(build, "", &[])
        }
    };
    solve(&channel, by_line("said", &[])).await.0.expect("it builds");
    assert_eq!(ran(&store, "app:1"), "by its own line\n");
    let own = by_line("own", &[("build-arg:BUILDKIT_SYNTAX", "docker/dockerfile:1")]);
    let status = solve(&channel, own).await.0.expect_err("to rbuild it is no Dockerfile");
    assert!(status.message().contains("unknown instruction"), "{status:?}");
    let own = SolveRequest { session: "two".into(), ..super::own("c", &[("name", "app:3")]) };
    returned(&channel, own, "dockerfile.v0", by_line("", &[]).frontend_attrs).await;
    assert_eq!(ran(&store, "app:3"), "by its own line\n");
    drop(saying);

    // The same through the gateway, as `docker buildx` asks for it.
    let own = super::own("b", &[("name", "app:2")]);
    returned(&channel, own, "gateway.v0", by_frontend("", "guest:1", &attributes).frontend_attrs).await;
    assert_eq!(ran(&store, "app:2"), "by the frontend\n");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_none_ends_its_build_and_nothing_else() {
    let store = Store::with_busybox();
    for (name, command) in [
        ("fails:1", r#"["/bin/sh", "-c", "echo broken >&2; exit 3"]"#),
        ("silent:1", r#"["/bin/true"]"#),
        ("echo:1", r#"["/bin/cat"]"#),
        ("noise:1", r#"["/bin/cat", "/dev/zero"]"#),
        ("sleeps:1", r#"["/bin/sh", "-c", "echo runs >&2; sleep 1000"]"#),
        ("absent:1", r#"["/nothing"]"#),
    ] {
        store.build(&Context::new(&format!("FROM busybox\nENTRYPOINT {command}\n")), ["-t", name]).ok();
    }
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session(channel.clone(), "one", Offer::default()).await;
    for (image, code, words) in [
        ("fails:1", Code::Unknown, "exit code: 3"),
        ("silent:1", Code::Unknown, "returned nothing"),
        ("echo:1", Code::Unknown, "the frontend"),
        ("noise:1", Code::Unknown, "the frontend"),
        ("absent:1", Code::Unknown, "/nothing"),
        ("", Code::InvalidArgument, "needs `source`"),
    ] {
        let (solved, _) = solve(&channel, by_frontend(&format!("bad {image}"), image, &[])).await;
        let status = solved.expect_err(image);
        assert!(status.code() == code && status.message().contains(words), "{image}: {status:?}");
    }
    // One that does not answer is stopped when its client hangs up.
    let mut control = ControlClient::new(channel.clone());
    let waiting = tokio::spawn(async move { control.solve(by_frontend("sleeps", "sleeps:1", &[])).await });
    let status = api::control::StatusRequest { r#ref: "sleeps".into() };
    let mut told = ControlClient::new(channel.clone()).status(status).await.expect("it is known").into_inner();
    while let Some(status) = told.message().await.expect("it goes on") {
        if status.logs.iter().any(|log| log.msg.starts_with(b"runs")) {
            break;
        }
    }
    waiting.abort();
    while told.message().await.expect("it ends without an error").is_some() {}
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}
