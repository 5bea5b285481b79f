//! Builds inside of definitions.

use api::pb;
use api::pb::file_action::Action;
use api::pb::op::Op;
use prost::Message as _;
use tonic::Code;

use super::llb::{Llb, Output};
use super::{ran, request, solve};
use crate::serve::client::{Daemon, Offer, session};
use crate::support::Store;

/// A tree with these bytes at `/d/llb`.
fn tree(made: &mut Llb, data: Vec<u8>) -> Output {
    let dir = pb::FileActionMkDir { path: "/d".into(), mode: 0o755, timestamp: -1, ..pb::FileActionMkDir::default() };
    let file = pb::FileActionMkFile {
        path: "/d/llb".into(),
        mode: 0o600,
        data,
        timestamp: -1,
        ..pb::FileActionMkFile::default()
    };
    let dir = pb::FileAction { input: -1, secondary_input: -1, output: -1, action: Some(Action::Mkdir(dir)) };
    let file = pb::FileAction { input: 0, secondary_input: -1, output: 0, action: Some(Action::Mkfile(file)) };
    made.add(Op::File(pb::FileOp { actions: vec![dir, file] }), &[])
}

/// A build of what a file of a tree says.
fn build(made: &mut Llb, tree: &Output, path: &str) -> Output {
    let inputs = [("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 })].into();
    let attrs = [("llbbuild.filename".to_owned(), path.to_owned())].into();
    made.add(Op::Build(pb::BuildOp { builder: -1, inputs, def: None, attrs }), &[tree])
}

/// A definition that is that of another one, so many times over.
fn wrapped(mut definition: pb::Definition, times: usize) -> pb::Definition {
    for _ in 0..times {
        let mut made = Llb::default();
        let tree = tree(&mut made, definition.encode_to_vec());
        let built = build(&mut made, &tree, "d/llb");
        definition = made.want(&built);
    }
    definition
}

fn inner() -> pb::Definition {
    let mut made = Llb::default();
    let base = made.busybox();
    let run = made.run(&base, "echo within >/x");
    made.want(&run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_inside_a_definition_is_what_the_file_of_its_input_says() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let open = session(channel.clone(), "one", Offer::default()).await;
    let mut made = Llb::default();
    let file = tree(&mut made, wrapped(inner(), 2).encode_to_vec());
    let built = build(&mut made, &file, "d/llb");
    let again = build(&mut made, &file, "/d/llb");
    let on_it = made.run(&built, "cat /x >/y");
    let both = made.copy(&on_it, &again, "/x", "/z");
    let config = r#"{"config":{"Cmd":["/bin/cat","/x","/y","/z"]}}"#;
    let exporter = [("name", "app:1"), ("containerimage.config", config)];
    let (solved, told) = solve(&channel, request("a", "one", made.want(&both), &exporter)).await;
    solved.unwrap_or_else(|status| panic!("{status:?}: {told:?}"));
    assert_eq!(ran(&store, "app:1"), "within\nwithin\nwithin\n");
    assert!(told[&on_it.0].completed.is_some(), "{told:?}");

    let at = |path: &str, data: Vec<u8>| {
        let mut made = Llb::default();
        let file = tree(&mut made, data);
        let built = build(&mut made, &file, path);
        made.want(&built)
    };
    let nothing = {
        let mut made = Llb::default();
        let base = made.busybox();
        let built = made.add(Op::Build(pb::BuildOp { builder: -1, ..pb::BuildOp::default() }), &[&base]);
        made.want(&built)
    };
    for (name, definition, code, words) in [
        ("absent", at("absent", Vec::new()), Code::NotFound, "absent"),
        ("outside", at("../../../etc/passwd", Vec::new()), Code::NotFound, "etc/passwd"),
        ("directory", at("d", Vec::new()), Code::InvalidArgument, "is no file"),
        ("garbage", at("d/llb", vec![0xff; 9]), Code::InvalidArgument, "is no definition"),
        ("empty", at("d/llb", Vec::new()), Code::InvalidArgument, "is empty"),
        ("nothing", nothing, Code::InvalidArgument, "has no input"),
        ("deep", wrapped(inner(), 9), Code::FailedPrecondition, "more than 8 builds"),
    ] {
        let status = solve(&channel, request(name, "one", definition, &[])).await.0.expect_err(name);
        assert!(status.code() == code && status.message().contains(words), "{name}: {status:?}");
    }
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}
