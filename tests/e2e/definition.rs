//! `rbuild serve`, asked by a client that sends definitions of the low-level builder (LLB) and no Dockerfile.

mod containers;
mod frontend;
mod guests;
mod inputs;
mod llb;
mod nested;

use std::collections::BTreeMap;

use api::control::control_client::ControlClient;
use api::control::{Exporter, SolveRequest, StatusRequest, Vertex};
use api::gateway::{self, result};
use api::pb;
use prost::Message as _;
use tonic::Code;
use tonic::transport::Channel;

use self::frontend::Frontend;
use self::llb::Llb;
use crate::serve::client::{Daemon, Entry, Offer, session};
use crate::support::Store;

/// Asks for a definition, as an image of the store's if it has a name.
fn request(build: &str, session: &str, definition: pb::Definition, exporter: &[(&str, &str)]) -> SolveRequest {
    let attrs = exporter.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    SolveRequest {
        r#ref: build.into(),
        session: session.into(),
        definition: Some(definition),
        exporters: vec![Exporter { r#type: "image".into(), attrs }],
        ..SolveRequest::default()
    }
}

/// Solves; the response, and what was told of each operation at last, by digest.
pub(crate) async fn solve(
    channel: &Channel,
    request: SolveRequest,
) -> (Result<BTreeMap<String, String>, tonic::Status>, BTreeMap<String, Vertex>) {
    let mut watching = ControlClient::new(channel.clone());
    let name = request.r#ref.clone();
    let told = tokio::spawn(async move {
        let mut told = BTreeMap::new();
        let mut stream = watching.status(StatusRequest { r#ref: name }).await.expect("it is known").into_inner();
        while let Some(status) = stream.message().await.expect("it goes on to its end") {
            told.extend(status.vertexes.into_iter().map(|vertex| (vertex.digest.clone(), vertex)));
        }
        told
    });
    let solved = ControlClient::new(channel.clone()).solve(request).await;
    (solved.map(|response| response.into_inner().exporter_response), told.await.expect("it does not panic"))
}

/// The image's own command, run.
fn ran(store: &Store, image: &str) -> String {
    store.rbuild(["run", "--rm", "--network=none", image]).ok().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_becomes_an_image_of_its_steps_with_its_clients_files_and_config() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let context = vec![Entry::dir("d"), Entry::file("d/f", "from afar"), Entry::file("other", "unwanted")];
    let open = session(channel.clone(), "one", Offer { context, ..Offer::default() }).await;

    let mut made = Llb::default();
    let base = made.busybox();
    let files = made.source("local://context", &[("local.session", "one"), ("local.followpaths", r#"["d"]"#)]);
    let copied = made.copy(&base, &files, "/", "/src");
    let out = made.run(&copied, "ls /src > /out; cat /src/d/f >> /out");
    made.name(&files, "the files");
    made.name(&out, "it lists them");
    let definition = made.want(&out);
    let config = r#"{"config":{"Env":["WORD=hello"],"Cmd":["/bin/sh","-c","echo $WORD; cat /out"]}}"#;
    let exporter = [("name", "app:1"), ("containerimage.config", config)];
    let (response, told) = solve(&channel, request("a", "one", definition.clone(), &exporter)).await;
    let response = response.expect("it builds");
    assert!(response.contains_key("containerimage.digest"), "{response:?}");
    assert_eq!(ran(&store, "app:1"), "hello\nd\nfrom afar", "only what was asked for came");
    for (output, name) in [(&files, "the files"), (&out, "it lists them"), (&copied, "copy / /src")] {
        let vertex = told.get(&output.0).unwrap_or_else(|| panic!("{name} was not told: {told:?}"));
        assert!(vertex.name == name && vertex.completed.is_some() && vertex.error.is_empty(), "{vertex:?}");
    }
    assert_eq!(told[&out.0].inputs, std::slice::from_ref(&copied.0));

    // All is known now, and without a config there is a usual one.
    let (again, told) = solve(&channel, request("b", "one", definition, &[("name", "app:2")])).await;
    again.expect("it builds");
    assert!(told[&out.0].cached, "{told:?}");
    assert_eq!(store.rbuild(["run", "--rm", "--network=none", "app:2", "cat", "/out"]).ok().stdout, "d\nfrom afar");

    // A directory may be all that there is.
    let mut plain = Llb::default();
    let files = plain.source("local://context", &[]);
    let one = plain.file("/new", "x");
    let both = plain.add(
        pb::op::Op::Merge(pb::MergeOp { inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }] }),
        &[&files, &one],
    );
    let on_it = plain.copy(&both, &files, "/d/f", "/again");
    let (response, _) = solve(&channel, request("c", "one", plain.want(&on_it), &[("name", "files:1")])).await;
    response.expect("it builds");
    let fed = store.rbuild(["save", "-o", "files.tar", "files:1"]);
    fed.ok();
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_wrong_or_fails_is_refused_with_its_operation() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session(channel.clone(), "one", Offer::default()).await;
    let on_busybox = |add: &dyn Fn(&mut Llb, &llb::Output) -> llb::Output| {
        let mut made = Llb::default();
        let base = made.busybox();
        let wanted = add(&mut made, &base);
        made.want(&wanted)
    };
    let fails = on_busybox(&|made, base| made.run(base, "echo no; exit 7"));
    let failing = oci::model::Digest::of(&fails.def[1]).to_string();
    let missing = on_busybox(&|made, base| {
        let files = made.source("local://context", &[]);
        made.copy(base, &files, "/absent", "/")
    });
    let insecure = on_busybox(&|made, base| {
        let meta = pb::Meta { args: vec!["id".into()], cwd: "/".into(), ..pb::Meta::default() };
        let mounts = vec![pb::Mount { dest: "/".into(), ..pb::Mount::default() }];
        let security = pb::SecurityMode::Insecure as i32;
        let exec = pb::ExecOp { meta: Some(meta), mounts, security, ..pb::ExecOp::default() };
        made.add(pb::op::Op::Exec(exec), &[base])
    });
    let layout = on_busybox(&|made, _| made.source(&format!("oci-layout://x@{failing}"), &[]));
    let nobody = on_busybox(&|made, _| made.source("local://context", &[("local.followpaths", "a")]));
    let garbage = pb::Definition { def: vec![vec![0xff; 9]], ..pb::Definition::default() };
    let circle = {
        let mut made = Llb::default();
        let unknown = made.run(&(failing.clone(), 0), "true");
        made.want(&unknown)
    };
    let config = [("containerimage.config", "[]")];
    let platforms = [("refs.platforms", r#"{"Platforms":[{"ID":"a","Platform":{"architecture":"..","os":"linux"}}]}"#)];
    for (name, definition, exporter, code, words) in [
        ("fails", fails.clone(), &[][..], Code::Unknown, "exit code: 7"),
        ("missing", missing, &[], Code::Unknown, "`absent` does not exist"),
        ("insecure", insecure, &[], Code::Unknown, "is not allowed"),
        ("layout", layout, &[], Code::Unimplemented, "oci-layout"),
        ("patterns", nobody, &[], Code::Unknown, "is no JSON list"),
        ("garbage", garbage, &[], Code::InvalidArgument, "cannot be decoded"),
        ("circle", circle, &[], Code::InvalidArgument, "which is not in the definition"),
        ("empty", pb::Definition::default(), &[], Code::InvalidArgument, "is empty"),
        ("config", fails.clone(), &config, Code::InvalidArgument, "is no config of an image"),
        ("platforms", fails, &platforms, Code::InvalidArgument, "is not a platform"),
    ] {
        let (solved, told) = solve(&channel, request(name, "one", definition, exporter)).await;
        let status = solved.expect_err(name);
        assert!(status.code() == code && status.message().contains(words), "{name}: {status:?}");
        if name == "fails" {
            assert!(status.message().contains("the operation is `/bin/sh -c echo no; exit 7`"), "{status:?}");
            let details = api::rpc::Status::decode(status.details()).expect("it has details").details;
            let digest =
                serde_json::from_slice::<serde_json::Value>(&details[0].value).expect("JSON")["digest"].clone();
            assert_eq!(digest, failing.as_str(), "the client knows the operation by its own digest");
            assert!(!told[&failing].error.is_empty());
        }
    }
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}

/// A build whose client is its own frontend.
fn own(build: &str, exporter: &[(&str, &str)]) -> SolveRequest {
    SolveRequest { definition: None, ..request(build, "one", pb::Definition::default(), exporter) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_looks_into_results_before_it_returns_one() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let context = vec![Entry::file("plan", "echo planned > /out")];
    let open = session(channel.clone(), "one", Offer { context, ..Offer::default() }).await;
    let mut frontend = Frontend::start(&channel, own("a", &[("name", "app:1")]));

    // What to do stands in a file of the client.
    let mut plan = Llb::default();
    let files = plan.source("local://context", &[]);
    let plan = frontend.solve(plan.want(&files)).await.expect("it is read");
    let read = |id: &str, path: &str| gateway::ReadFileRequest {
        r#ref: id.into(),
        file_path: path.into(),
        ..gateway::ReadFileRequest::default()
    };
    let request = frontend.call(read(&plan, "plan"));
    let script = frontend.bridge.read_file(request).await.expect("it is there").into_inner().data;
    let script = String::from_utf8(script).expect("it is text");
    assert_eq!(script, "echo planned > /out");

    let mut made = Llb::default();
    let base = made.busybox();
    let run = made.run(
        &base,
        &format!("{script}; ln -s /etc/passwd /link; ln -s ../../../../out /up; mkdir /d; touch /d/b /d/a"),
    );
    let definition = made.want(&run);
    let id = frontend.solve(definition.clone()).await.expect("it is read");
    for (path, expected) in [
        ("/out", Ok("planned\n")),
        ("/up", Ok("planned\n")),
        ("/absent", Err(Code::NotFound)),
        ("/d", Err(Code::InvalidArgument)),
    ] {
        let request = frontend.call(read(&id, path));
        let found = frontend.bridge.read_file(request).await.map(|found| found.into_inner().data);
        let found = found.map_err(|status| status.code());
        assert_eq!(found, expected.map(|text| text.as_bytes().to_vec()), "{path}");
    }
    let request = frontend.call(read(&id, "/link"));
    let theirs = frontend.bridge.read_file(request).await.expect("the image has one").into_inner().data;
    assert_ne!(theirs, std::fs::read("/etc/passwd").expect("so has this machine"), "links end in the tree");
    let request = frontend.call(gateway::ReadDirRequest {
        r#ref: id.clone(),
        dir_path: "d".into(),
        ..gateway::ReadDirRequest::default()
    });
    let entries = frontend.bridge.read_dir(request).await.expect("it is there").into_inner().entries;
    assert_eq!(entries.iter().map(|stat| stat.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let request = frontend.call(gateway::StatFileRequest {
        r#ref: id.clone(),
        path: "/up".into(),
        ..gateway::StatFileRequest::default()
    });
    assert_eq!(frontend.bridge.stat_file(request).await.expect("it is there").into_inner().stat.expect("one").size, 8);

    // An image is asked about, a step fails, and what is not there is said.
    let image = "docker.io/library/busybox:latest";
    let request = frontend.call(gateway::ResolveImageConfigRequest {
        r#ref: image.into(),
        ..gateway::ResolveImageConfigRequest::default()
    });
    let found = frontend.bridge.resolve_image_config(request).await.expect("it is here").into_inner();
    assert!(found.digest.starts_with("sha256:") && found.r#ref == image, "{found:?}");
    let config: serde_json::Value = serde_json::from_slice(&found.config).expect("JSON");
    assert_eq!(config["os"], "linux");
    let source = pb::SourceOp { identifier: format!("docker-image://{image}"), ..pb::SourceOp::default() };
    let request = frontend.call(gateway::ResolveSourceMetaRequest {
        source: Some(source),
        ..gateway::ResolveSourceMetaRequest::default()
    });
    let meta = frontend.bridge.resolve_source_meta(request).await.expect("it is here").into_inner();
    assert_eq!(meta.image.expect("it is one").digest, found.digest);
    let mut failing = Llb::default();
    let base = failing.busybox();
    let fails = failing.run(&base, "exit 3");
    let fails = gateway::SolveRequest {
        definition: Some(failing.want(&fails)),
        evaluate: true,
        ..gateway::SolveRequest::default()
    };
    let status = frontend.ask(fails).await.expect_err("the step fails");
    assert!(status.message().contains("exit code: 3"), "{status:?}");
    let request = frontend.call(gateway::EvaluateRequest { r#ref: "nothing".into() });
    assert_eq!(frontend.bridge.evaluate(request).await.expect_err("there is none").code(), Code::NotFound);
    let asked = gateway::SolveRequest { frontend: "gateway.v1".into(), ..gateway::SolveRequest::default() };
    assert_eq!(frontend.ask(asked).await.expect_err("nobody knows it").code(), Code::Unimplemented);

    let reference = result::Result::Ref(gateway::Ref { id, def: None });
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["cat","/out"]}}"#;
    let built = frontend.end(Some(reference), &[("containerimage.config", config)]).await.expect("it builds");
    assert!(built.exporter_response.contains_key("containerimage.digest"));
    assert_eq!(ran(&store, "app:1"), "planned\n");

    // Of several platforms each has its own result and config; one may be empty.
    let mut frontend = Frontend::start(&channel, own("b", &[("name", "app:2")]));
    let id = frontend.solve(definition).await.expect("it is read");
    let refs = [("x", id.as_str()), ("y", "")];
    let refs = refs.map(|(key, id)| (key.to_owned(), gateway::Ref { id: id.into(), def: None })).into();
    let platforms = r#"{"Platforms":[{"ID":"x","Platform":{"architecture":"amd64","os":"linux"}},
        {"ID":"y","Platform":{"architecture":"arm64","os":"linux"}}]}"#;
    let of_x = r#"{"config":{"Cmd":["cat","/out"]}}"#;
    let metadata = [("refs.platforms", platforms), ("containerimage.config/x", of_x)];
    let built = frontend.end(Some(result::Result::Refs(gateway::RefMap { refs })), &metadata).await.expect("it builds");
    assert!(!built.exporter_response.contains_key("containerimage.config.digest"), "it is an index: {built:?}");
    assert_eq!(ran(&store, "app:2"), "planned\n");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}
