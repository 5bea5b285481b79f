//! Questions about a Dockerfile, asked of `rbuild serve` directly and as `docker buildx build --call` asks them.

use std::collections::BTreeMap;

use api::control::SolveRequest;
use api::control::control_client::ControlClient;
use api::gateway::{self, llb_bridge_client::LlbBridgeClient};
use serde_json::Value;
use tonic::{Code, Request};

use super::client::{Daemon, request, session};
use super::{offer, solve};
use crate::support::Store;

const TEXT: &str =
    "# app the application\nFROM scratch AS app\nARG VERSION=1\nRUN --mount=type=secret,id=token true\nENV a b\n";

/// Asks through the gateway, as a client that is its own frontend.
async fn ask(daemon: &Daemon, name: &str, question: &str) -> Result<BTreeMap<String, Vec<u8>>, tonic::Status> {
    let channel = daemon.connect().await;
    let mut control = ControlClient::new(channel.clone());
    let solving = SolveRequest { frontend: String::new(), ..request(name, "open") };
    let building = tokio::spawn(async move { control.solve(solving).await });
    let mut bridge = LlbBridgeClient::new(channel);
    let about = |message| about(name, message);
    let attributes = [("filename", "Dockerfile"), ("requestid", question)];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let asked = gateway::SolveRequest {
        frontend: "dockerfile.v0".into(),
        frontend_opt: attributes,
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    };
    let answer = bridge.solve(about(asked)).await;
    let result = answer.map(|answer| answer.into_inner().result.expect("it has one"));
    let returned = match &result {
        Ok(result) => gateway::ReturnRequest { result: Some(result.clone()), error: None },
        Err(_) => gateway::ReturnRequest::default(),
    };
    let mut bridge = LlbBridgeClient::new(daemon.connect().await);
    bridge.r#return(self::about(name, returned)).await.expect("somebody waits");
    building.await.expect("it does not panic").expect("nothing was to be built");
    result.map(|result| result.metadata)
}

/// Says which build a call is about.
fn about<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-controlapi-buildid", name.parse().expect("ASCII"));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_asked_about_instead_of_built() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let open = session(daemon.connect().await, "open", offer(TEXT, Vec::new())).await;
    let text = |answer: &BTreeMap<String, Vec<u8>>, key: &str| {
        String::from_utf8(answer.get(key).cloned().unwrap_or_default()).expect("it is text")
    };
    for (question, pointer, expected, shown) in [
        ("frontend.lint", "/warnings/0/ruleName", "LegacyKeyValueFormat", "LegacyKeyValueFormat"),
        ("frontend.outline", "/secrets/0/name", "token", "VERSION"),
        ("frontend.targets", "/targets/0/description", "the application", "app (default)"),
        ("frontend.subrequests.describe", "/1/name", "frontend.outline", "frontend.targets"),
    ] {
        let answer = ask(&daemon, question, question).await.expect(question);
        let value: Value = serde_json::from_slice(&answer["result.json"]).expect("it is JSON");
        assert_eq!(value.pointer(pointer), Some(&Value::from(expected)), "{question}: {value}");
        assert!(text(&answer, "result.txt").contains(shown), "{question}: {}", text(&answer, "result.txt"));
        assert_eq!(text(&answer, "version"), "1.0.0");
        let status = if question == "frontend.lint" { "1" } else { "" };
        assert_eq!(text(&answer, "result.statuscode"), status, "{question}");
    }
    let unknown = ask(&daemon, "unknown", "frontend.nothing").await.expect_err("nobody knows it");
    assert_eq!(unknown.code(), Code::Unimplemented);
    let asked = open.asked.lock().expect("nobody panicked").clone();
    assert!(asked.iter().all(|(_, bytes)| *bytes <= TEXT.len()), "only texts were brought: {asked:?}");

    // Asked without a gateway, the answer is the build's; a file that is none says where.
    let mut direct = request("direct", "open");
    direct.frontend_attrs.insert("requestid".into(), "frontend.targets".into());
    let answer = ControlClient::new(daemon.connect().await).solve(direct).await.expect("it answers").into_inner();
    assert!(answer.exporter_response["result.json"].contains("the application"));
    let bad = session(daemon.connect().await, "bad", offer("COYP a b\n", Vec::new())).await;
    let mut wrong = request("wrong", "bad");
    wrong.frontend_attrs.insert("requestid".into(), "frontend.outline".into());
    let refused = solve(&daemon.connect().await, wrong).await.expect_err("it is no Dockerfile");
    assert!(refused.message().contains("COYP"), "{refused:?}");
    drop((open, bad));
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_learn_what_is_served_by_reflection() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let store = Store::new();
    let daemon = Daemon::start(&store);
    let mut client = ServerReflectionClient::new(daemon.connect().await);
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("moby.buildkit.v1.Control".into()),
        MessageRequest::FileContainingSymbol("moby.buildkit.v1.Nothing".into()),
    ];
    let mut answers = Vec::new();
    for question in questions {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let asked = futures_util::stream::once(async { request });
        let answer = client.server_reflection_info(asked).await.expect("it serves").into_inner().message().await;
        answers.push(answer.map(|answer| answer.and_then(|answer| answer.message_response)));
    }
    let Ok(Some(MessageResponse::ListServicesResponse(list))) = &answers[0] else { panic!("{answers:?}") };
    let mut names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.retain(|name| !name.starts_with("grpc.reflection."));
    let served = [
        "containerd.services.content.v1.Content",
        "grpc.health.v1.Health",
        "moby.buildkit.v1.Control",
        "moby.buildkit.v1.frontend.LLBBridge",
    ];
    names.sort_unstable();
    assert_eq!(names, served);
    let Ok(Some(MessageResponse::FileDescriptorResponse(files))) = &answers[1] else { panic!("{answers:?}") };
    let file = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    assert!(file.contains("ListenBuildHistory") && file.contains("control.proto"), "{file}");
    assert!(answers[2].as_ref().is_err_and(|status| status.code() == Code::NotFound), "{answers:?}");
    assert_eq!(daemon.stop(), Some(0));
}
