//! Results that are given to other builds, as `docker buildx bake` links its targets; and Dockerfiles as results.

use std::collections::BTreeMap;

use api::control::control_client::ControlClient;
use api::control::{SolveRequest, StatusRequest};
use api::gateway::{self, result};
use api::pb;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tonic::Code;
use tonic::transport::Channel;

use super::frontend::Frontend;
use super::{own, ran};
use crate::serve::client::{Daemon, Entry, Offer, session};
use crate::support::Store;

/// A build of another session's client.
fn of_session(build: &str, session: &str, name: &str) -> SolveRequest {
    SolveRequest { session: session.into(), ..own(build, &[("name", name)]) }
}

fn dockerfile(attributes: &[(&str, &str)]) -> gateway::SolveRequest {
    let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    gateway::SolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_opt: attributes.chain([("filename".into(), "Dockerfile".into())]).collect(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    }
}

async fn asked(frontend: &mut Frontend, request: gateway::SolveRequest) -> Result<gateway::Result, tonic::Status> {
    let request = frontend.call(request);
    frontend.bridge.solve(request).await.map(|solved| solved.into_inner().result.expect("a result"))
}

fn reference(result: &gateway::Result) -> gateway::Ref {
    match &result.result {
        Some(result::Result::Ref(reference)) => reference.clone(),
        other => panic!("{other:?}"),
    }
}

/// What the client says of an input, as docker buildx writes it.
fn metadata(result: &gateway::Result) -> String {
    let config = BASE64.encode(&result.metadata["containerimage.config"]);
    serde_json::json!({ "containerimage.config": config }).to_string()
}

/// The names of the operations of a build that had to run, and of those that were known.
async fn told(channel: &Channel, build: &str) -> (Vec<String>, Vec<String>) {
    let status = StatusRequest { r#ref: build.into() };
    let mut stream = ControlClient::new(channel.clone()).status(status).await.expect("it is known").into_inner();
    let mut last = BTreeMap::new();
    while let Some(status) = stream.message().await.expect("it goes on to its end") {
        last.extend(status.vertexes.into_iter().map(|vertex| (vertex.digest.clone(), vertex)));
    }
    let (cached, ran): (Vec<_>, Vec<_>) = last.into_values().partition(|vertex| vertex.cached);
    let names = |vertices: Vec<api::control::Vertex>| vertices.into_iter().map(|vertex| vertex.name).collect();
    (names(ran), names(cached))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_stands_on_the_result_of_another_whose_client_is_gone_by_then() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let base = "FROM busybox AS base\nENV WORD=hello\nCOPY f /f\nRUN cat /f >/out; echo ran\n\
                ONBUILD RUN echo triggered >/trigger\nCMD [\"cat\", \"/out\"]\n";
    let offer =
        Offer { dockerfile: base.into(), context: vec![Entry::file("f", "from the base"), Entry::file("g", "")] };
    let theirs = session(channel.clone(), "base", offer).await;
    let mut first = Frontend::start(&channel, of_session("a", "base", "base:1"));
    let result = asked(&mut first, dockerfile(&[])).await.expect("it is planned");
    let (found, config) = (reference(&result), metadata(&result));
    let definition = found.def.clone().expect("it says what it is made of");
    let told_config: serde_json::Value =
        serde_json::from_slice(&result.metadata["containerimage.config"]).expect("it is JSON");
    assert_eq!(told_config["config"]["Cmd"][0], "cat");
    let steps = told_config["history"].as_array().expect("a list").iter();
    let steps: Vec<_> = steps.filter_map(|entry| entry["created_by"].as_str()).collect();
    assert!(steps.iter().any(|step| step.contains("RUN") && step.contains("echo ran")), "{steps:?}");
    let request = first.call(gateway::EvaluateRequest { r#ref: found.id.clone() });
    first.bridge.evaluate(request).await.expect("it can be built");

    let above = "FROM base AS two\nRUN test -e /trigger && test \"$WORD\" = hello && cat /out /f >/two\n\
                 FROM busybox\nCOPY --from=two /two /two\nRUN --mount=from=base,target=/b cat /b/out /two >/three\n\
                 FROM base\nRUN --mount=from=two,target=/t cat /t/two >/four\nCOPY g /g\n";
    let offer =
        Offer { dockerfile: above.into(), context: vec![Entry::file("f", "another"), Entry::file("g", "mine")] };
    let open = session(channel.clone(), "app", offer).await;
    let mut second = Frontend::start(&channel, of_session("b", "app", "app:1"));
    let attributes = [("context:base", "input:0-base"), ("input-metadata:0-base", config.as_str())];
    let inputs = |definition: &pb::Definition| [("0-base".to_owned(), definition.clone())].into();
    let request = gateway::SolveRequest { frontend_inputs: inputs(&definition), ..dockerfile(&attributes) };
    let on_it = asked(&mut second, request).await.expect("it is planned");
    let nested = reference(&on_it).def.expect("so does this");

    // The other client has what it wanted, and goes.
    let metadata: Vec<_> = result.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let texts: Vec<_> =
        metadata.iter().map(|(key, value)| (key.as_str(), std::str::from_utf8(value).expect("text"))).collect();
    first.end(result.result, &texts).await.expect("it builds");
    assert_eq!(ran(&store, "base:1"), "from the base");
    drop(theirs);

    // What stands on another's result is one itself, of which the files of the one that is gone are still here.
    let mut third = Frontend::start(&channel, of_session("c", "app", "app:2"));
    let attributes = [("context:base", "input:0-base"), ("target", "two")];
    let request = gateway::SolveRequest { frontend_inputs: inputs(&nested), ..dockerfile(&attributes) };
    asked(&mut third, request).await.expect("it is planned");
    third.end(None, &[]).await.expect("it wanted nothing");

    let watching = tokio::spawn({
        let channel = channel.clone();
        async move { told(&channel, "b").await }
    });
    second.end(on_it.result.clone(), &[]).await.expect("it builds");
    let (new, known) = watching.await.expect("it does not panic");
    assert!(known.iter().any(|name| name.contains("echo ran")), "{known:?}; it ran again: {new:?}");
    assert_eq!(ran(&store, "app:1"), "from the base", "the command is the base's");
    let cat = |image: &str, path: &str| store.rbuild(["run", "--rm", "--network=none", image, "cat", path]).ok().stdout;
    assert_eq!((cat("app:1", "/four"), cat("app:1", "/g")), ("from the basefrom the base".into(), "mine".into()));
    let history = store.rbuild(["inspect", "app:1"]).ok().stdout;
    for step in ["COPY f /f", "echo ran", "echo triggered", "COPY g /g"] {
        assert!(history.contains(step), "{step} is not in the history: {history}");
    }

    for (build, attributes, definition, words) in [
        ("absent", vec![("context:base", "input:other")], definition.clone(), "no input `other`"),
        ("blank", vec![("context:base", "input:a b")], definition.clone(), "no input `a b`"),
        (
            "metadata",
            vec![("context:base", "input:0-base"), ("input-metadata:0-base", "no")],
            definition.clone(),
            "`input-metadata:0-base` is not understood",
        ),
        (
            "garbage",
            vec![("context:base", "input:0-base")],
            pb::Definition { def: vec![vec![255; 9]], ..pb::Definition::default() },
            "cannot be decoded",
        ),
    ] {
        let mut frontend = Frontend::start(&channel, of_session(build, "app", "app:3"));
        let request = gateway::SolveRequest { frontend_inputs: inputs(&definition), ..dockerfile(&attributes) };
        let status = asked(&mut frontend, request).await.expect_err(build);
        assert!(status.code() == Code::InvalidArgument && status.message().contains(words), "{build}: {status:?}");
        frontend.end(None, &[]).await.expect("it wanted nothing");
    }
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_told_per_platform_and_what_is_changed_of_it_is_built_as_its_definition() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let context = vec![Entry::file("f", "a file")];
    let text = "FROM busybox AS b\nFROM scratch\nARG TARGETARCH\nCOPY f /f\nLABEL arch=$TARGETARCH\n";
    let open = session(channel.clone(), "one", Offer { dockerfile: text.into(), context }).await;
    let mut frontend = Frontend::start(&channel, own("a", &[("name", "both:1")]));
    let platforms = dockerfile(&[("platform", "linux/amd64,linux/arm64")]);
    let result = asked(&mut frontend, platforms.clone()).await.expect("it is planned");
    let Some(result::Result::Refs(refs)) = &result.result else { panic!("{result:?}") };
    assert_eq!(refs.refs.len(), 2);
    assert!(refs.refs.values().all(|reference| reference.def.is_some()), "{refs:?}");
    let told = String::from_utf8(result.metadata["refs.platforms"].clone()).expect("it is text");
    assert!(told.contains(r#""ID":"linux/arm64""#), "{told}");
    assert!(result.metadata.contains_key("containerimage.config/linux/amd64"));
    let metadata: Vec<_> = result
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), String::from_utf8(value.clone()).expect("it is text")))
        .collect();
    let texts: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let built = frontend.end(result.result.clone(), &texts).await.expect("it builds").exporter_response;
    assert!(!built.contains_key("containerimage.config.digest"), "it is an index: {built:?}");

    // One of the two, with another config.
    let mut frontend = Frontend::start(&channel, own("b", &[("name", "one:1")]));
    let result = asked(&mut frontend, platforms).await.expect("it is planned");
    let Some(result::Result::Refs(mut refs)) = result.result else { panic!("{:?}", result.metadata) };
    let one = refs.refs.remove("linux/amd64").expect("it was asked for");
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Labels":{"changed":"yes"}}}"#;
    frontend.end(Some(result::Result::Ref(one)), &[("containerimage.config", config)]).await.expect("it builds");
    let image = store.rbuild(["inspect", "one:1"]).ok().stdout;
    assert!(image.contains("changed") && !image.contains("arch"), "{image}");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_that_cannot_be_planned_fails_where_it_is_asked_for_and_is_on_record() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open =
        session(channel.clone(), "one", Offer { dockerfile: "FROM busybox\nCOYP a b\n".into(), ..Offer::default() })
            .await;
    let mut frontend = Frontend::start(&channel, own("a", &[]));
    let status = asked(&mut frontend, dockerfile(&[])).await.expect_err("there is no such instruction");
    assert!(status.message().contains("unknown instruction `COYP`"), "{status:?}");
    let ended = frontend.fail(&status).await.expect_err("the client said so");
    assert!(ended.message().contains("unknown instruction `COYP`") && !ended.details().is_empty(), "{ended:?}");
    let listed = store.rbuild(["history", "ls"]).ok().stdout;
    assert!(listed.to_lowercase().contains("failed"), "{listed}");
    // A failure of the client's own is its own.
    let mut frontend = Frontend::start(&channel, own("b", &[]));
    asked(&mut frontend, dockerfile(&[])).await.expect_err("it is the same file");
    let ended = frontend.fail(&tonic::Status::data_loss("of mine")).await.expect_err("the client said so");
    assert_eq!((ended.code(), ended.message()), (Code::DataLoss, "of mine"));
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}
