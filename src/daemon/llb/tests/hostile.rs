//! Definitions that are wrong, each in its way: an error with its code, never a panic, never more work than bytes.

use api::pb;
use api::pb::file_action::Action;
use api::pb::op::Op;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::{Client, exec, inputs_of, read_default, source};
use crate::daemon::llb::Code::{self, InvalidArgument, ResourceExhausted, Unimplemented};
use crate::daemon::llb::{Limits, Options, read};

fn refused(definition: &pb::Definition, code: Code, words: &str) {
    let error = read_default(definition).expect_err(words);
    assert!(error.to_string().contains(words), "`{error}` does not say `{words}`");
    assert_eq!(error.code(), code, "{error}");
}

/// A definition of one operation on one image.
fn on_image(op: Op) -> pb::Definition {
    let mut client = Client::default();
    let image = client.add(source("docker-image://a", &[]), &[]);
    let digest = client.add(op, &[(&image, 0)]);
    client.want(&digest, 0)
}

fn alone(op: Op) -> pb::Definition {
    let mut client = Client::default();
    let digest = client.add(op, &[]);
    client.want(&digest, 0)
}

#[test]
fn definitions_that_do_not_hang_together_are_refused() {
    refused(&pb::Definition::default(), InvalidArgument, "empty");
    let image = || source("docker-image://a", &[]);

    // What is wanted does something, is nothing, or stands alone.
    let mut client = Client::default();
    client.add(image(), &[]);
    refused(&client.definition, InvalidArgument, "does not end with what is wanted: operation 0 (sha256:");
    client.add_op(pb::Op::default());
    refused(&client.definition, InvalidArgument, "does not end with what is wanted: operation 1 (sha256:");

    let mut client = Client::default();
    let digest = client.add(image(), &[]);
    client.add(image(), &[]);
    refused(&client.want(&digest, 0), InvalidArgument, "is there twice, first as operation 0");

    let elsewhere = format!("sha256:{}", "0".repeat(64));
    for missing in [elsewhere.as_str(), "", "sha256:x", "md5:\u{1b}[2J"] {
        refused(&Client::default().want(missing, 0), InvalidArgument, "operation 0 (sha256:");
        refused(&Client::default().want(missing, 0), InvalidArgument, "which is not in the definition");
        let mut client = Client::default();
        let digest = client.add(Op::Exec(exec(&["make"])), &[(missing, 0)]);
        refused(&client.want(&digest, 0), InvalidArgument, "operation 0 (sha256:");
    }

    for (output, words) in [(1, "output 1 of operation 0, which has 1"), (-1, "output -1"), (i64::MAX, "output 9223")] {
        let mut client = Client::default();
        let digest = client.add(image(), &[]);
        refused(&client.clone().want(&digest, output), InvalidArgument, words);
        let run = client.add(Op::Exec(exec(&["make"])), &[(&digest, output)]);
        refused(&client.want(&run, 0), InvalidArgument, words);
    }

    let mut client = Client::default();
    client.definition.def.push(vec![0xff; 9]);
    let digest = client.add(image(), &[]);
    refused(&client.want(&digest, 0), InvalidArgument, "operation 0 (sha256:");

    // An operation of a newer client is nothing that we know.
    let mut client = Client::default();
    client.definition.def.push(vec![0x42, 0x02, 0x0a, 0x00]);
    let digest = oci::model::Digest::of(&client.definition.def[0]).to_string();
    refused(&client.want(&digest, 0), Unimplemented, "is of an unknown kind");

    let mut client = Client::default();
    let digest = client.add(image(), &[]);
    client.meta(&digest).caps.insert("exec.teleport".into(), true);
    refused(&client.want(&digest, 0), Unimplemented, "`docker-image://a` (sha256:");
}

#[test]
fn what_nobody_needs_may_stand_on_what_is_not_there() {
    let mut client = Client::default();
    let digest = client.add(source("docker-image://a", &[]), &[]);
    client.add(Op::Exec(exec(&["make"])), &[("sha256:x", 0)]);
    let llb = read_default(&client.want(&digest, 0)).expect("the image is all that is wanted");
    assert_eq!((llb.graph.len(), llb.operations.len()), (1, 1));
}

#[test]
fn definitions_larger_than_the_limits_are_refused_before_they_are_read() {
    let definition = on_image(Op::Exec(exec(&["make"])));
    let check = |limits: Limits, words: &str| {
        let error = read(&definition, &Options { limits, platform: None }).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.code(), ResourceExhausted);
    };
    check(Limits { operations: 2, ..Limits::default() }, "3 operations, and 2 are the limit");
    check(Limits { bytes: 10, ..Limits::default() }, "bytes, and 10 are the limit");
    check(Limits { inputs: 1, ..Limits::default() }, "2 inputs, and 1 are the limit");
    let limits = Limits { operations: 3, ..Limits::default() };
    assert!(read(&definition, &Options { limits, platform: None }).is_ok());
}

#[test]
fn faults_of_operations_are_told_with_their_place() {
    type Change = fn(&mut pb::ExecOp);
    let cases: &[(Change, Code, &str)] = &[
        (|exec| exec.meta = None, InvalidArgument, "has no process"),
        (|exec| exec.meta.as_mut().unwrap().args.clear(), InvalidArgument, "has no command"),
        (|exec| exec.meta.as_mut().unwrap().args.push("a\0".into()), InvalidArgument, "zero byte"),
        (|exec| exec.meta.as_mut().unwrap().cwd = "src".into(), InvalidArgument, "`src` is not absolute"),
        (|exec| exec.mounts.clear(), InvalidArgument, "no mount has the target `/`"),
        (|exec| exec.mounts[0].input = 1, InvalidArgument, "a mount's input is 1, and there are 1"),
        (|exec| exec.mounts[0].input = -2, InvalidArgument, "a mount's input is -2"),
        (|exec| exec.mounts[0].output = -2, InvalidArgument, "there is no output -2"),
        (|exec| exec.mounts[0].output = i64::MAX, InvalidArgument, "there is no output 9223"),
        (|exec| exec.mounts[0].output = 4_000_000_000, InvalidArgument, "output 0 is missing"),
        (|exec| exec.mounts.push(exec.mounts[0].clone()), InvalidArgument, "output 0 is there twice"),
        (
            |exec| exec.mounts.push(pb::Mount { output: -1, ..exec.mounts[0].clone() }),
            InvalidArgument,
            "several mounts",
        ),
        (|exec| exec.mounts.push(pb::Mount { output: -1, ..pb::Mount::default() }), InvalidArgument, "no target"),
        (|exec| exec.mounts[0].readonly = true, Unimplemented, "a read-only root is not supported"),
        (|exec| exec.mounts[0].result_id = "x".into(), Unimplemented, "another build's result"),
        (|exec| exec.mounts[0].mount_type = 4, InvalidArgument, "is no tree"),
        (|exec| exec.mounts[0].mount_type = 99, Unimplemented, "a mount of type 99"),
        (|exec| exec.mounts[0].content_cache = 9, Unimplemented, "content cache mode 9"),
        (
            |exec| (exec.mounts[0].content_cache, exec.mounts[0].selector) = (1, "/a".into()),
            InvalidArgument,
            "by its content",
        ),
        (|exec| exec.network = 7, Unimplemented, "the network mode 7"),
        (|exec| exec.security = -1, Unimplemented, "the security mode -1"),
    ];
    for (change, code, words) in cases {
        let mut changed = exec(&["make", "all"]);
        change(&mut changed);
        refused(&on_image(Op::Exec(changed)), *code, words);
    }
    let mount = |mount_type: pb::MountType| pb::Mount {
        dest: "/m".into(),
        input: -1,
        output: -1,
        mount_type: mount_type as i32,
        ..pb::Mount::default()
    };
    for (kind, words) in [
        (pb::MountType::Cache, "a cache mount has no options"),
        (pb::MountType::Secret, "a secret mount has no options"),
        (pb::MountType::Ssh, "an agent's mount has no options"),
    ] {
        let mut with = exec(&["make"]);
        with.mounts.push(mount(kind));
        refused(&on_image(Op::Exec(with)), InvalidArgument, words);
    }
    let mut with = exec(&["make"]);
    let tmpfs_opt = Some(pb::TmpfsOpt { size: -5 });
    with.mounts.push(pb::Mount { tmpfs_opt, ..mount(pb::MountType::Tmpfs) });
    refused(&on_image(Op::Exec(with)), InvalidArgument, "the size -5");

    let file = |actions: Vec<pb::FileAction>| Op::File(pb::FileOp { actions });
    let action = |input: i64, secondary_input: i64, output: i64, action: Option<Action>| pb::FileAction {
        input,
        secondary_input,
        output,
        action,
    };
    let mkdir = |mode: i32| Some(Action::Mkdir(pb::FileActionMkDir { path: "/a".into(), mode, ..Default::default() }));
    let copy = |mode: i32, letters: &str| {
        let mode_str = letters.to_owned();
        Some(Action::Copy(pb::FileActionCopy {
            src: "/".into(),
            dest: "/".into(),
            mode,
            mode_str,
            ..Default::default()
        }))
    };
    let named = |input: i64| {
        let by_name = pb::NamedUserOpt { name: "bob".into(), input };
        let user = Some(pb::UserOpt { user: Some(pb::user_opt::User::ByName(by_name)) });
        Some(Action::Mkdir(pb::FileActionMkDir {
            path: "/a".into(),
            owner: Some(pb::ChownOpt { user, group: None }),
            ..Default::default()
        }))
    };
    for (actions, code, words) in [
        (vec![], InvalidArgument, "has no actions"),
        (vec![action(0, -1, -1, mkdir(0))], InvalidArgument, "has no output"),
        (vec![action(0, -1, 1, mkdir(0))], InvalidArgument, "output 0 is missing"),
        (vec![action(1, -1, 0, mkdir(0))], InvalidArgument, "an action's input is 1, and there are 1"),
        (vec![action(-9, -1, 0, mkdir(0))], InvalidArgument, "an action's input is -9"),
        (vec![action(0, 2, 0, copy(-1, ""))], InvalidArgument, "a copy's source is 2, and there are 1"),
        (vec![action(0, -1, 0, mkdir(-1))], InvalidArgument, "the mode -1 is none"),
        (vec![action(0, -1, 0, mkdir(0o10000))], InvalidArgument, "the mode 4096 is none"),
        (vec![action(0, 0, 0, copy(0o644, "u=r"))], InvalidArgument, "a copy has the modes 644 and `u=r`"),
        (vec![action(0, -1, 0, None)], Unimplemented, "a file action of an unknown kind"),
        (vec![action(0, -1, 0, named(1))], Unimplemented, "the result of another action"),
        (vec![action(0, -1, 0, named(-2))], InvalidArgument, "the input for an owner's name is -2"),
    ] {
        refused(&on_image(file(actions)), code, words);
    }

    let merge = |inputs: &[i64]| {
        Op::Merge(pb::MergeOp { inputs: inputs.iter().map(|input| pb::MergeInput { input: *input }).collect() })
    };
    let diff = |lower: Option<i64>, upper: i64| {
        let (lower, upper) =
            (lower.map(|input| pb::LowerDiffInput { input }), Some(pb::UpperDiffInput { input: upper }));
        Op::Diff(pb::DiffOp { lower, upper })
    };
    let build = |builder: i64, inputs: &[(&str, i64)], def: &[&[u8]]| {
        let inputs = inputs.iter().map(|(name, input)| ((*name).to_owned(), pb::BuildInput { input: *input }));
        let def = pb::Definition { def: def.iter().map(|bytes| bytes.to_vec()).collect(), ..pb::Definition::default() };
        Op::Build(pb::BuildOp { builder, inputs: inputs.collect(), def: Some(def), ..pb::BuildOp::default() })
    };
    for (op, code, words) in [
        (merge(&[]), InvalidArgument, "merges other trees than its 1 inputs"),
        (merge(&[0, 0]), InvalidArgument, "merges other trees than its 1 inputs"),
        (merge(&[7]), InvalidArgument, "a merge's input is 7"),
        (diff(None, 0), InvalidArgument, "lacks one of the two trees"),
        (diff(Some(0), 1), InvalidArgument, "the upper tree is 1, and there are 1"),
        (diff(Some(-7), 0), InvalidArgument, "the lower tree is -7"),
        (build(0, &[], &[]), Unimplemented, "a builder other than LLB"),
        (build(-1, &[("x", -1)], &[]), InvalidArgument, "the input `x` is nothing"),
        (build(-1, &[("x", 3)], &[]), InvalidArgument, "a build's input is 3"),
        (build(-1, &[], &[b"x"]), Unimplemented, "a definition in itself"),
        (source("docker-image://b", &[]), InvalidArgument, "a source has inputs"),
    ] {
        refused(&on_image(op), code, words);
    }
    for (identifier, attrs, code, words) in [
        ("", &[][..], InvalidArgument, "has no scheme"),
        ("alpine", &[], InvalidArgument, "has no scheme"),
        ("docker-image://", &[], InvalidArgument, "names nothing"),
        ("s3://bucket", &[], Unimplemented, "a source `s3://` is not supported"),
        ("docker-image://a", &[("image.layerlimit", "1")], Unimplemented, "`image.layerlimit` is not supported"),
        ("docker-image://a", &[("image.resolvemode", "x")], Unimplemented, "the value `x` of `image.resolvemode`"),
        ("git://a", &[("git.authtokensecret", "MY")], Unimplemented, "the value `MY`"),
        ("https://a", &[("http.header.x", "1")], Unimplemented, "`http.header.x`"),
        ("local://a", &[("git.checksum", "1")], Unimplemented, "`git.checksum`"),
    ] {
        refused(&alone(source(identifier, attrs)), code, words);
    }
    let mut client = Client::default();
    let platform = Some(pb::Platform { os: "linux".into(), ..pb::Platform::default() });
    let digest = client.add_op(pb::Op { op: Some(source("docker-image://a", &[])), platform, ..pb::Op::default() });
    refused(&client.want(&digest, 0), InvalidArgument, "no architecture");
}

#[test]
fn depth_and_width_cost_no_more_than_their_bytes() {
    // As deep as it goes: no step of the way is a call.
    let mut client = Client::default();
    let mut top = client.add(source("docker-image://a", &[]), &[]);
    for _ in 0..10_000 {
        let merge = pb::MergeOp { inputs: vec![pb::MergeInput { input: 0 }] };
        top = client.add(Op::Merge(merge), &[(&top, 0)]);
    }
    let llb = read_default(&client.want(&top, 0)).expect("it is only deep");
    assert_eq!(llb.graph.len(), 10_001);
    assert!(llb.operations.iter().all(|operation| operation.name.len() < 1024));

    // Each on the one before, twice: as many ways as no machine can walk.
    let mut client = Client::default();
    let mut top = client.add(source("docker-image://a", &[]), &[]);
    for _ in 0..200 {
        let merge = pb::MergeOp { inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }] };
        top = client.add(Op::Merge(merge), &[(&top, 0), (&top, 0)]);
    }
    assert_eq!(read_default(&client.want(&top, 0)).expect("it is only wide").graph.len(), 201);
}

/// One definition with something of everything, to be damaged.
fn everything() -> Vec<Vec<u8>> {
    let mut client = Client::default();
    let image = client.add(source("docker-image://a", &[("image.resolvemode", "local")]), &[]);
    let context = client.add(source("local://context", &[("local.session", "x")]), &[]);
    let mut run = exec(&["make"]);
    run.mounts.push(pb::Mount { dest: "/in".into(), input: 1, output: -1, readonly: true, ..pb::Mount::default() });
    let run = client.add(Op::Exec(run), &[(&image, 0), (&context, 0)]);
    let copy = pb::FileActionCopy { src: "/".into(), dest: "/".into(), mode: -1, timestamp: -1, ..Default::default() };
    let action = pb::FileAction { input: 0, secondary_input: 1, output: 0, action: Some(Action::Copy(copy)) };
    let file = client.add(Op::File(pb::FileOp { actions: vec![action] }), &[(&run, 0), (&context, 0)]);
    let merge = pb::MergeOp { inputs: (0..2).map(|input| pb::MergeInput { input }).collect() };
    let merge = client.add(Op::Merge(merge), &[(&image, 0), (&file, 0)]);
    let diff =
        pb::DiffOp { lower: Some(pb::LowerDiffInput { input: 0 }), upper: Some(pb::UpperDiffInput { input: 1 }) };
    let diff = client.add(Op::Diff(diff), &[(&image, 0), (&merge, 0)]);
    let definition = client.want(&diff, 0);
    assert!(read_default(&definition).is_ok());
    definition.def
}

/// What holds of whatever is read.
fn check(definition: &pb::Definition) {
    let Ok(llb) = read_default(definition) else { return };
    let bytes: usize = definition.def.iter().map(Vec::len).sum();
    assert!(llb.operations.len() < definition.def.len());
    assert!(llb.graph.len() <= 2 * llb.operations.len());
    assert!(llb.operations.iter().map(|operation| operation.name.len()).sum::<usize>() <= 1024 * (bytes + 1));
    for operation in &llb.operations {
        assert!(llb.operations_of(&operation.vertex).any(|found| found.digest == operation.digest));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * super::random::cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_operations_make_no_panic(damage in vec((0..1000usize, 0..1000usize, any::<u8>()), 1..6), relink in any::<bool>()) {
        let mut def = everything();
        // Those behind stand on the damaged ones, so that they are looked at.
        let digests = |def: &[Vec<u8>]| def.iter().map(|op| oci::model::Digest::of(op).to_string()).collect::<Vec<_>>();
        let before = digests(&def);
        for (op, at, byte) in damage {
            let count = def.len();
            let op = &mut def[op % count];
            let at = at % op.len();
            op[at] = byte;
        }
        if relink {
            for at in 0..def.len() {
                let after = digests(&def);
                for (old, new) in before.iter().zip(&after).take(at) {
                    let found = def[at].windows(old.len()).position(|found| found == old.as_bytes());
                    if let Some(place) = found {
                        def[at][place..place + old.len()].copy_from_slice(new.as_bytes());
                    }
                }
            }
        }
        check(&pb::Definition { def, ..pb::Definition::default() });
    }

    #[test]
    fn any_bytes_make_no_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(definition) = pb::Definition::decode(bytes.as_slice()) {
            check(&definition);
        }
        let last = pb::Op {
            inputs: inputs_of(&[(&oci::model::Digest::of(&bytes).to_string(), 0)]),
            ..pb::Op::default()
        };
        check(&pb::Definition { def: vec![bytes, last.encode_to_vec()], ..pb::Definition::default() });
    }
}
