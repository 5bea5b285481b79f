//! What clients write, as BuildKit's own one does: which fields they leave out, and what is meant by it.

use api::pb;
use api::pb::file_action::Action;
use api::pb::op::Op as PbOp;
use solver::op::{ContentCache, CopyMode, FileActionKind, MountKind, Op, Owner, Platform, UserRef};

use super::{Client, exec, read_default, source};
use crate::daemon::llb::{Llb, Options, read};

fn op<'a>(llb: &'a Llb, digest: &str) -> &'a Op {
    let operation = llb.operation(&digest.parse().expect("a digest")).expect("it is needed");
    &llb.graph.get(&operation.vertex).expect("it is there").op
}

#[test]
fn a_process_is_read_as_clients_mean_it() {
    let mut client = Client::default();
    let image = client.add(source("docker-image://docker.io/library/alpine:latest", &[]), &[]);
    let mut run = exec(&["/bin/sh", "-c", "make"]);
    run.meta.as_mut().unwrap().proxy_env =
        Some(pb::ProxyEnv { http_proxy: "http://p".into(), ..pb::ProxyEnv::default() });
    // Secrets and agents have an output of 0, which is the root's, and mean none.
    run.mounts.push(pb::Mount {
        input: -1,
        dest: "run/token".into(),
        mount_type: pb::MountType::Secret as i32,
        secret_opt: Some(pb::SecretOpt { id: "token".into(), mode: 0o400, ..pb::SecretOpt::default() }),
        ..pb::Mount::default()
    });
    run.mounts.push(pb::Mount {
        input: -1,
        dest: "/run/buildkit/ssh_agent.0".into(),
        mount_type: pb::MountType::Ssh as i32,
        ssh_opt: Some(pb::SshOpt { mode: 0o600, ..pb::SshOpt::default() }),
        ..pb::Mount::default()
    });
    run.mounts.push(pb::Mount {
        input: -1,
        output: -1,
        dest: "/root/.cache".into(),
        mount_type: pb::MountType::Cache as i32,
        cache_opt: Some(pb::CacheOpt::default()),
        ..pb::Mount::default()
    });
    run.mounts.push(pb::Mount {
        input: 0,
        output: 1,
        dest: "/out/".into(),
        content_cache: pb::MountContentCache::Off as i32,
        ..pb::Mount::default()
    });
    run.mounts.push(pb::Mount {
        input: -1,
        output: -1,
        dest: "/dev/shm".into(),
        mount_type: pb::MountType::Tmpfs as i32,
        tmpfs_opt: Some(pb::TmpfsOpt { size: 1 << 20 }),
        ..pb::Mount::default()
    });
    let run = client.add(PbOp::Exec(run), &[(&image, 0)]);
    let native = Platform { os: "linux".into(), architecture: "riscv64".into(), ..Platform::default() };
    let options = Options { platform: Some(native.clone()), ..Options::default() };
    let definition = client.want(&run, 1);
    let llb = read(&definition, &options).expect("it is well-formed");
    assert_eq!((llb.wants.len(), llb.wants[0].output), (1, 1));
    for (_, vertex, _) in llb.graph.iter() {
        assert_eq!(vertex.platform.as_ref(), Some(&native));
    }
    let Op::Exec(exec) = op(&llb, &run) else { panic!("it is a process") };
    assert_eq!(exec.proxy_env, ["HTTP_PROXY=http://p", "http_proxy=http://p"]);
    let shown: Vec<_> =
        exec.mounts.iter().map(|mount| (mount.target.as_str(), mount.input, mount.output, &mount.kind)).collect();
    let secret = MountKind::Secret { id: "token".into(), uid: 0, gid: 0, mode: 0o400, optional: false };
    let agent = MountKind::Ssh { id: "default".into(), uid: 0, gid: 0, mode: 0o600, optional: false };
    let cache = MountKind::Cache { id: "/root/.cache".into(), sharing: solver::op::CacheSharing::Shared };
    let expected = [
        ("/", Some(0), Some(0), &MountKind::Bind),
        ("/run/token", None, None, &secret),
        ("/run/buildkit/ssh_agent.0", None, None, &agent),
        ("/root/.cache", None, None, &cache),
        ("/out", Some(0), Some(1), &MountKind::Bind),
        ("/dev/shm", None, None, &MountKind::Tmpfs { size_bytes: 1 << 20 }),
    ];
    assert_eq!(shown, expected);
    assert_eq!(exec.mounts[4].content_cache, ContentCache::Off);
    assert_eq!(exec.shm_size_bytes, 0);
}

#[test]
fn file_actions_stand_on_inputs_and_on_each_other() {
    let mut client = Client::default();
    let image = client.add(source("docker-image://a", &[]), &[]);
    let context = client.add(source("local://context", &[("local.unique", "u")]), &[]);
    let bob = |input| {
        let user = |name: &str| {
            let by_name = pb::NamedUserOpt { name: name.into(), input };
            pb::UserOpt { user: Some(pb::user_opt::User::ByName(by_name)) }
        };
        Some(pb::ChownOpt { user: Some(user("bob")), group: Some(user("team")) })
    };
    let mkdir = |owner| {
        Action::Mkdir(pb::FileActionMkDir {
            path: "/srv".into(),
            mode: 0o755,
            owner,
            timestamp: -1,
            ..pb::FileActionMkDir::default()
        })
    };
    let copy = |src: &str, mode: i32, owner, timestamp: i64| {
        Action::Copy(pb::FileActionCopy {
            src: src.into(),
            dest: "/srv/".into(),
            mode,
            owner,
            timestamp,
            ..pb::FileActionCopy::default()
        })
    };
    let action = |input: i64, secondary_input: i64, output: i64, action: Action| pb::FileAction {
        input,
        secondary_input,
        output,
        action: Some(action),
    };
    let actions = vec![
        action(0, -1, -1, mkdir(bob(0))),
        // Names mean what they mean in the image, not in what became of it.
        action(2, 1, -1, copy("/a", -1, bob(0), 1_500_000_000)),
        // Nothing is copied, from nothing.
        action(3, -1, 0, copy("*", 0o644, Some(pb::ChownOpt::default()), -1)),
        action(-1, 3, 1, copy("b", 0, None, 0)),
    ];
    let file = client.add(PbOp::File(pb::FileOp { actions }), &[(&image, 0), (&context, 0)]);
    let llb = read_default(&client.want(&file, 1)).expect("it is well-formed");
    let Op::File(found) = op(&llb, &file) else { panic!("it is a file operation") };
    let places: Vec<_> =
        found.actions.iter().map(|action| (action.input, action.secondary_input, action.output)).collect();
    // The empty tree is input 2, and results are numbered behind it.
    let expected =
        [(Some(0), None, None), (Some(3), Some(1), None), (Some(4), Some(2), Some(0)), (None, Some(4), Some(1))];
    assert_eq!(places, expected);
    let named =
        |names_from| Owner { user: UserRef::Name("bob".into()), group: Some(UserRef::Name("team".into())), names_from };
    assert_eq!(found.actions[0].owner(), Some(&named(None)));
    assert_eq!(found.actions[1].owner(), Some(&named(Some(0))));
    let root = Owner { user: UserRef::Id(0), group: None, names_from: None };
    assert_eq!(found.actions[2].owner(), Some(&root));
    let copies: Vec<_> = found
        .actions
        .iter()
        .filter_map(|action| match &action.kind {
            FileActionKind::Copy(copy) => Some((copy.src.as_str(), copy.mode.clone(), copy.timestamp)),
            _ => None,
        })
        .collect();
    let expected = [
        ("/a", None, Some(1_500_000_000)),
        ("/*", Some(CopyMode::Bits(0o644)), None),
        ("/b", Some(CopyMode::Bits(0)), Some(0)),
    ];
    assert_eq!(copies, expected);
    assert_eq!(llb.graph.len(), 4, "two sources, the empty tree, and this");
}

#[test]
fn operations_are_in_any_order_and_known_by_their_bytes() {
    let mut client = Client::default();
    let image = client.add(source("docker-image://a", &[]), &[]);
    let run = client.add(PbOp::Exec(exec(&["one"])), &[(&image, 0)]);
    // The same to us: its proxies are not part of it.
    let mut other = exec(&["one"]);
    other.meta.as_mut().unwrap().proxy_env = Some(pb::ProxyEnv { no_proxy: "x".into(), ..pb::ProxyEnv::default() });
    let other = client.add(PbOp::Exec(other), &[(&image, 0)]);
    let merge = pb::MergeOp { inputs: vec![pb::MergeInput { input: 1 }, pb::MergeInput { input: 0 }] };
    let merge = client.add(PbOp::Merge(merge), &[(&run, 0), (&other, 0)]);
    client.definition.def.reverse();
    let definition = client.want(&merge, 0);
    let llb = read_default(&definition).expect("order does not matter");
    assert_eq!((llb.graph.len(), llb.operations.len()), (3, 4));
    let digest = |digest: &str| digest.parse().expect("a digest");
    let vertex = llb.operation(&digest(&run)).expect("it is needed").vertex;
    let both: Vec<String> = llb.operations_of(&vertex).map(|operation| operation.digest.to_string()).collect();
    assert_eq!(both.len(), 2);
    assert!(both.contains(&run) && both.contains(&other));
    let merged = llb.operation(&digest(&merge)).expect("it is needed");
    assert_eq!(merged.inputs, [digest(&run), digest(&other)]);
    assert_eq!(merged.name, "merge (one, one)");
}

#[test]
fn what_stands_beside_operations_is_kept() {
    let mut client = Client::default();
    let image = client.add(source("docker-image://a", &[]), &[]);
    client.meta(&image).description.insert("llb.customname".into(), "[1/2] FROM a".into());
    client.meta(&image).description.insert("com.docker.x".into(), "y".into());
    let constraints = Some(pb::WorkerConstraints { filter: vec!["platform==x".into()] });
    let platform = Some(pb::Platform { architecture: "x86_64".into(), os: "Linux".into(), ..pb::Platform::default() });
    let run = client.add_op(pb::Op {
        op: Some(PbOp::Exec(exec(&["make"]))),
        inputs: super::inputs_of(&[(&image, 0)]),
        platform,
        constraints,
    });
    *client.meta(&run) = pb::OpMetadata {
        ignore_cache: true,
        export_cache: Some(pb::ExportCache { value: false }),
        progress_group: Some(pb::ProgressGroup { id: "g".into(), name: "group".into(), weak: true }),
        caps: [("exec.meta.base".to_owned(), true)].into_iter().collect(),
        ..pb::OpMetadata::default()
    };
    let llb = read_default(&client.want(&run, 0)).expect("it is well-formed");
    let [from, made] = &llb.operations[..] else { panic!("{:?}", llb.operations) };
    assert_eq!((from.name.as_str(), from.meta.description.len()), ("[1/2] FROM a", 2));
    assert_eq!(made.name, "make", "what it asks of the worker is nobody's choice: there is one");
    let meta = llb.graph.meta(&made.vertex).expect("it is there");
    assert_eq!((meta.ignore_cache, meta.export_cache), (true, Some(false)));
    assert_eq!(meta.progress_group.as_ref().map(|group| (group.name.as_str(), group.weak)), Some(("group", true)));
    let platform = llb.graph.get(&made.vertex).expect("it is there").platform.clone().expect("it has one");
    assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "amd64"));
    assert_eq!(llb.graph.meta(&from.vertex).expect("it is there").description, "[1/2] FROM a");
}
