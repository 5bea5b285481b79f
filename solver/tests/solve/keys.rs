//! What keys cover and what they do not: the key matrix, field by field.

use solver::graph::{Edge, Vertex, VertexId};
use solver::key::{self, ContentDigest, InputContent, InputKey, Key};
use solver::op::{
    CacheSharing, ContentCache, CopyAction, CopyMode, Device, ExecOp, FileAction, FileActionKind, FileOp, Mount,
    MountKind, NetworkMode, Op, Owner, Platform, SecretEnv, SecurityMode, SourceOp, UserRef,
};
use solver::seam::{Pin, Read};

/// Whether a change makes another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Runs,
    Reuses,
}
use Then::{Reuses, Runs};

fn mount(target: &str, kind: MountKind) -> Mount {
    Mount {
        target: target.into(),
        input: None,
        selector: String::new(),
        output: None,
        readonly: false,
        kind,
        content_cache: ContentCache::Default,
    }
}

/// A process that uses everything.
fn process() -> ExecOp {
    let root = Mount { input: Some(0), output: Some(0), ..mount("/", MountKind::Bind) };
    let bind = Mount { input: Some(1), selector: "/out".into(), readonly: true, ..mount("/in", MountKind::Bind) };
    let cache = MountKind::Cache { id: "/cache".into(), sharing: CacheSharing::Shared };
    let secret = MountKind::Secret { id: "token".into(), uid: 0, gid: 0, mode: 0o400, optional: false };
    let ssh = MountKind::Ssh { id: "default".into(), uid: 0, gid: 0, mode: 0o600, optional: false };
    ExecOp {
        args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        env: ["A=1".into(), "B=2".into()].into(),
        proxy_env: vec!["HTTP_PROXY=http://p".into()],
        cwd: "/src".into(),
        user: "1000".into(),
        mounts: vec![
            root,
            bind,
            mount("/cache", cache),
            mount("/tmp", MountKind::Tmpfs { size_bytes: 0 }),
            mount("/run/secrets/token", secret),
            mount("/run/ssh", ssh),
        ],
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: vec![SecretEnv { id: "token".into(), name: "TOKEN".into(), optional: false }],
        extra_hosts: vec![("db".into(), "10.0.0.1".into())],
        hostname: "builder".into(),
        ulimits: vec![("nofile".into(), 1024, 2048)],
        shm_size_bytes: 64 << 20,
        cgroup_parent: "build.slice".into(),
        valid_exit_codes: vec![0],
        devices: vec![Device { name: "v.com/gpu=0".into(), required: true }],
    }
}

/// A copy with an owner onto a base.
fn copy() -> FileOp {
    let copy = CopyAction {
        src: "/src".into(),
        dest: "/dst".into(),
        owner: Some(Owner { user: UserRef::Id(1), group: None, names_from: None }),
        mode: Some(CopyMode::Bits(0o644)),
        ..CopyAction::default()
    };
    let kind = FileActionKind::Copy(copy);
    let mkdir =
        FileActionKind::MkDir { path: "/d".into(), mode: 0o755, make_parents: true, owner: None, timestamp: None };
    let actions = vec![
        FileAction { input: Some(0), secondary_input: Some(1), output: None, kind },
        FileAction { input: Some(2), secondary_input: None, output: Some(0), kind: mkdir },
    ];
    FileOp { actions }
}

fn vertex(op: Op) -> Vertex {
    let edge = |name| Edge { vertex: VertexId::of_name(name), output: 0 };
    Vertex { op, inputs: vec![edge("base"), edge("other")], platform: Some(linux("amd64")) }
}

fn linux(architecture: &str) -> Platform {
    Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() }
}

fn digest(byte: u8) -> ContentDigest {
    ContentDigest([byte; 32])
}

/// Operation, definition and content key, on inputs that do not change.
fn keys(vertex: &Vertex) -> [Key; 3] {
    let definitions = [InputKey::Key(Key([1; 32]), 0), InputKey::Selected(vec![digest(2)])];
    let contents = [InputContent::Read(vec![digest(1)]), InputContent::Selected(vec![digest(2)])];
    [key::operation_key(vertex), key::definition_key(vertex, &definitions).0, key::content_key(vertex, &contents).0]
}

#[track_caller]
fn check(what: &str, before: &Vertex, after: &Vertex, then: Then) {
    assert_ne!(before, after, "{what} changes nothing");
    for (before, after) in keys(before).iter().zip(keys(after)) {
        assert_eq!(if *before == after { Reuses } else { Runs }, then, "after a change of {what}");
    }
}

#[test]
fn what_of_a_process_is_in_its_keys() {
    type Change = fn(&mut ExecOp);
    let cases: &[(&str, Change, Then)] = &[
        ("command", |exec| exec.args[2] = "make all".into(), Runs),
        ("shell", |exec| exec.args[0] = "/bin/bash".into(), Runs),
        ("order of arguments", |exec| exec.args.swap(0, 2), Runs),
        ("where one argument ends", |exec| exec.args = vec!["/bin/sh".into(), "-cmake".into()], Runs),
        ("value of a variable", |exec| exec.env = ["A=2".into(), "B=2".into()].into(), Runs),
        ("one variable more", |exec| exec.env = ["A=1".into(), "B=2".into(), "C=".into()].into(), Runs),
        ("order of variables", |exec| exec.env = ["B=2".into(), "A=1".into()].into(), Runs),
        ("working directory", |exec| exec.cwd = "/".into(), Runs),
        ("user", |exec| exec.user = "nobody".into(), Runs),
        ("network", |exec| exec.network = NetworkMode::None, Runs),
        ("security", |exec| exec.security = SecurityMode::Insecure, Runs),
        ("host name", |exec| exec.hostname = "h".into(), Runs),
        ("names of extra hosts", |exec| exec.extra_hosts[0].0 = "cache".into(), Runs),
        ("one extra host more", |exec| exec.extra_hosts.push(("a".into(), "::1".into())), Runs),
        ("exit codes", |exec| exec.valid_exit_codes.push(3), Runs),
        ("device", |exec| exec.devices[0].name = "v.com/gpu=1".into(), Runs),
        ("whether a device is required", |exec| exec.devices[0].required = false, Runs),
        ("variable of a secret", |exec| exec.secret_env[0].name = "KEY".into(), Runs),
        ("name of a secret variable's secret", |exec| exec.secret_env[0].id = "key".into(), Runs),
        ("target of a mount", |exec| exec.mounts[1].target = "/elsewhere".into(), Runs),
        ("selector of a mount", |exec| exec.mounts[1].selector = "/".into(), Runs),
        ("input of a mount", |exec| exec.mounts[1].input = Some(0), Runs),
        ("output of a mount", |exec| exec.mounts[1].output = Some(1), Runs),
        ("whether a mount is read-only", |exec| exec.mounts[1].readonly = false, Runs),
        ("kind of a mount", |exec| exec.mounts[2].kind = MountKind::Bind, Runs),
        ("one mount less", |exec| drop(exec.mounts.pop()), Runs),
        ("order of mounts", |exec| exec.mounts.swap(3, 2), Runs),
        ("size of a tmpfs", |exec| exec.mounts[3].kind = MountKind::Tmpfs { size_bytes: 1 }, Runs),
        (
            "secret mount",
            |exec| {
                let uid = 5;
                let id = "token".into();
                exec.mounts[4].kind = MountKind::Secret { id, uid, gid: 0, mode: 0o400, optional: false };
            },
            Runs,
        ),
        (
            "ssh mount",
            |exec| {
                let id = "other".into();
                exec.mounts[5].kind = MountKind::Ssh { id, uid: 0, gid: 0, mode: 0o600, optional: false };
            },
            Runs,
        ),
        ("proxies", |exec| exec.proxy_env.push("NO_PROXY=x".into()), Reuses),
        ("address of an extra host", |exec| exec.extra_hosts[0].1 = "10.0.0.2".into(), Reuses),
        ("ulimits", |exec| exec.ulimits.push(("core".into(), 0, 0)), Reuses),
        ("size of /dev/shm", |exec| exec.shm_size_bytes = 1 << 30, Reuses),
        ("ways to find a result", |exec| exec.mounts[1].content_cache = ContentCache::Off, Reuses),
        ("control group", |exec| exec.cgroup_parent = "other.slice".into(), Reuses),
        (
            "name of a cache mount",
            |exec| {
                exec.mounts[2].kind = MountKind::Cache { id: "mine".into(), sharing: CacheSharing::Shared };
            },
            Reuses,
        ),
        (
            "sharing of a cache mount",
            |exec| {
                exec.mounts[2].kind = MountKind::Cache { id: "/cache".into(), sharing: CacheSharing::Locked };
            },
            Reuses,
        ),
    ];
    for (what, change, then) in cases {
        let mut changed = process();
        change(&mut changed);
        check(what, &vertex(Op::Exec(Box::new(process()))), &vertex(Op::Exec(Box::new(changed))), *then);
    }
}

#[test]
fn what_of_a_copy_is_in_its_keys() {
    type Change = fn(&mut CopyAction);
    let cases: &[(&str, Change)] = &[
        ("source", |copy| copy.src = "/s".into()),
        ("destination", |copy| copy.dest = "/dst/".into()),
        ("owner", |copy| copy.owner = Some(Owner { user: UserRef::Id(2), group: None, names_from: None })),
        ("owner's name", |copy| {
            copy.owner = Some(Owner { user: UserRef::Name("1".into()), group: None, names_from: None })
        }),
        ("group", |copy| {
            copy.owner = Some(Owner { user: UserRef::Id(1), group: Some(UserRef::Id(1)), names_from: None })
        }),
        ("where names are looked up", |copy| copy.owner.as_mut().expect("it has one").names_from = Some(1)),
        ("replacing what is of another type", |copy| copy.replace_other_types = true),
        ("part of a second", |copy| copy.timestamp = Some(1)),
        ("mode", |copy| copy.mode = Some(CopyMode::Bits(0o755))),
        ("letters of a mode", |copy| copy.mode = Some(CopyMode::Symbolic("u=rw,go=r".into()))),
        ("following of links", |copy| copy.follow_symlinks = true),
        ("unpacking", |copy| copy.unpack_archives = true),
        ("contents only", |copy| copy.dir_contents_only = true),
        ("making of parents", |copy| copy.create_dest_path = true),
        ("wildcards", |copy| copy.allow_wildcard = true),
        ("empty wildcards", |copy| copy.allow_empty_wildcard = true),
        ("what is included", |copy| copy.include_patterns.push("a".into())),
        ("what is excluded", |copy| copy.exclude_patterns.push("a".into())),
        ("what is required", |copy| copy.required_paths.push("a".into())),
        ("time", |copy| copy.timestamp = Some(1)),
    ];
    for (what, change) in cases {
        let mut changed = copy();
        if let FileActionKind::Copy(copy) = &mut changed.actions[0].kind {
            change(copy);
        }
        check(what, &vertex(Op::File(copy())), &vertex(Op::File(changed)), Runs);
    }
    let mut changed = copy();
    changed.actions[1].output = None;
    changed.actions[0].output = Some(0);
    check("which action gives the output", &vertex(Op::File(copy())), &vertex(Op::File(changed)), Runs);
}

#[test]
fn what_is_beneath_and_beside_an_operation() {
    let run = vertex(Op::Exec(Box::new(process())));
    let arm = Vertex { platform: Some(linux("arm64")), ..run.clone() };
    check("platform", &run, &arm, Runs);

    let definition = |key, output, selected| {
        key::definition_key(&run, &[InputKey::Key(Key([key; 32]), output), InputKey::Selected(vec![digest(selected)])])
            .0
    };
    let cases = [
        ("key beneath", definition(2, 0, 2)),
        ("output beneath", definition(1, 1, 2)),
        ("selected content", definition(1, 0, 3)),
    ];
    for (what, key) in cases {
        assert_ne!(key, definition(1, 0, 2), "after a change of the {what}");
    }
    let swapped = [InputKey::Selected(vec![digest(2)]), InputKey::Key(Key([1; 32]), 0)];
    assert_ne!(key::definition_key(&run, &swapped).0, definition(1, 0, 2), "after a change of the order of inputs");

    let content = |first: &[u8], second: InputContent| {
        let first = first.iter().copied().map(digest).collect();
        key::content_key(&run, &[InputContent::Read(first), second]).0
    };
    let selected = |byte| InputContent::Selected(vec![digest(byte)]);
    let before = content(&[1], selected(2));
    let cases = [
        ("content", content(&[2], selected(2))),
        ("number of reads", content(&[1, 1], selected(2))),
        ("selected content", content(&[1], selected(3))),
        ("how it was digested", content(&[1], InputContent::Read(vec![digest(2)]))),
    ];
    for (what, key) in cases {
        assert_ne!(key, before, "after a change of the {what}");
    }
}

#[test]
fn a_source_is_what_it_is_pinned_to() {
    let source = |identifier: &str, architecture| Vertex {
        op: Op::Source(SourceOp { identifier: identifier.into(), attrs: Default::default() }),
        inputs: Vec::new(),
        platform: Some(linux(architecture)),
    };
    let key = |vertex: &Vertex, byte| key::source_key(vertex, &Pin::Content(digest(byte))).expect("it is pinned").0;
    let before = key(&source("docker-image://a:1", "amd64"), 1);
    let cases = [
        ("name", key(&source("docker-image://b:2", "amd64"), 1), Reuses),
        ("digest", key(&source("docker-image://a:1", "amd64"), 2), Runs),
        ("platform", key(&source("docker-image://a:1", "arm64"), 1), Runs),
        ("kind", key(&source("https://a:1", "amd64"), 1), Runs),
    ];
    for (what, after, then) in cases {
        assert_eq!(if before == after { Reuses } else { Runs }, then, "after a change of the {what}");
    }
    assert_eq!(key::source_key(&source("local://context", "amd64"), &Pin::Selected), None, "its readers know it");
}

#[test]
fn reads_are_what_a_result_stands_on_or_what_is_selected() {
    let words = |vertex: &Vertex| {
        let word = |read: &Read| match read {
            Read::Chain => "chain".to_owned(),
            Read::Selected(selection) => selection.path.clone(),
        };
        let all = key::all_reads(vertex);
        let each = (0..vertex.inputs.len()).map(|i| key::reads(vertex, i)).collect::<Vec<_>>();
        assert_eq!(all, each);
        all.iter().map(|reads| reads.iter().map(word).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(words(&vertex(Op::File(copy()))), [vec!["chain"], vec!["/src"]]);
    assert_eq!(words(&vertex(Op::Exec(Box::new(process())))), [vec!["chain"], vec!["/out"]]);
    assert_eq!(words(&vertex(Op::Merge(Default::default()))), [vec!["chain"], vec!["chain"]]);

    // Both from the same input, one of them twice; a cache begins as what it is mounted from.
    let mut exec = process();
    let again = Mount { target: "/again".into(), ..exec.mounts[1].clone() };
    exec.mounts.push(again);
    exec.mounts[2].input = Some(1);
    exec.mounts[2].selector = "/seed".into();
    assert_eq!(words(&vertex(Op::Exec(Box::new(exec)))), [vec!["chain"], vec!["/out", "/seed"]]);

    // A writable mount that becomes an output stands on its input.
    let mut exec = process();
    exec.mounts[1].output = Some(1);
    assert_eq!(words(&vertex(Op::Exec(Box::new(exec)))), [vec!["chain"], vec!["chain"]]);
}

#[test]
fn parts_name_what_they_cover() {
    let run = vertex(Op::Exec(Box::new(process())));
    let (_, parts) =
        key::content_key(&run, &[InputContent::Read(vec![digest(1)]), InputContent::Selected(vec![digest(2)])]);
    let named = |name: &str| parts.iter().find(|part| part.name == name).map(|part| part.value.as_str());
    assert_eq!(named("exec.args[2]"), Some("make"));
    assert_eq!(named("input[0].content[0]"), Some(digest(1).to_string().as_str()));
    assert_eq!(named("input[1].selected[0]"), Some(digest(2).to_string().as_str()));
    assert_eq!(named("exec.shm_size"), None);
}
