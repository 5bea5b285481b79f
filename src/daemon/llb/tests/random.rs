//! Any graph that a definition can say is the same after it was one.
//!
//! `RBUILD_SOAK_CASES` says how many cases.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use solver::graph::{Edge, Graph, Vertex};
use solver::op::{
    BuildOp, CacheSharing, ContentCache, CopyAction, CopyMode, Device, DiffOp, ExecOp, FileAction, FileActionKind,
    FileOp, MergeOp, Mount, MountKind, NetworkMode, Op, OpMeta, Owner, Platform, ProgressGroup, SecretEnv,
    SecurityMode, SourceOp, UserRef,
};

use super::check_round_trip;

pub(super) fn cases() -> u32 {
    const IN_A_FEW_SECONDS: u32 = 300;
    let asked = std::env::var("RBUILD_SOAK_CASES").ok();
    asked.map_or(IN_A_FEW_SECONDS, |cases| cases.parse().expect("`RBUILD_SOAK_CASES` is a number"))
}

/// A vertex before it has inputs: numbers are taken modulo what there is, and `None` is nothing.
#[derive(Clone, Debug)]
struct Step {
    op: Draft,
    inputs: Vec<usize>,
    platform: Option<Platform>,
    meta: OpMeta,
}

#[derive(Clone, Debug)]
enum Draft {
    Source(SourceOp),
    Exec(Box<ExecOp>),
    File(Vec<FileAction>),
    Merge,
    Diff(Option<usize>, Option<usize>),
    Build(BTreeMap<String, usize>, BTreeMap<String, String>),
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,4}", "[ -~äß\n]{0,12}"]
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-z*.-]{1,3}){1,3}/?"
}

/// As it is mounted.
fn target() -> impl Strategy<Value = String> {
    "(/[a-z]{1,3}){1,3}"
}

fn sources() -> impl Strategy<Value = SourceOp> {
    let git = btree_map(
        prop_oneof![Just("git.fullurl".to_owned()), Just("git.keepgitdir".to_owned()), Just("git.checksum".to_owned())],
        text(),
        0..3,
    );
    let local = btree_map(
        prop_oneof![Just("local.excludepatterns".to_owned()), Just("local.followpaths".to_owned())],
        text(),
        0..3,
    );
    let http = btree_map(Just("http.filename".to_owned()), text(), 0..2);
    let source = |scheme: &'static str, attrs: BoxedStrategy<BTreeMap<String, String>>| {
        ("[a-z0-9./:@#-]{1,20}", attrs)
            .prop_map(move |(name, attrs)| SourceOp { identifier: format!("{scheme}://{name}"), attrs })
    };
    let none = || Just(BTreeMap::new()).boxed();
    prop_oneof![
        source("docker-image", none()),
        source("oci-layout", none()),
        source("local", local.boxed()),
        source("git", git.boxed()),
        source("https", http.boxed()),
    ]
}

fn mount_kinds() -> impl Strategy<Value = MountKind> {
    let sharing = prop_oneof![Just(CacheSharing::Shared), Just(CacheSharing::Private), Just(CacheSharing::Locked)];
    prop_oneof![
        3 => Just(MountKind::Bind),
        1 => ("[a-z/]{1,4}", sharing).prop_map(|(id, sharing)| MountKind::Cache { id, sharing }),
        1 => (0..i64::MAX as u64).prop_map(|size_bytes| MountKind::Tmpfs { size_bytes }),
        1 => ("[a-z]{1,4}", any::<(u32, u32, u32, bool)>()).prop_map(|(id, (uid, gid, mode, optional))| {
            MountKind::Secret { id, uid, gid, mode, optional }
        }),
        1 => ("[a-z]{1,4}", any::<(u32, u32, u32, bool)>()).prop_map(|(id, (uid, gid, mode, optional))| {
            MountKind::Ssh { id, uid, gid, mode, optional }
        }),
    ]
}

fn mounts() -> impl Strategy<Value = Vec<Mount>> {
    let content_cache = prop_oneof![3 => Just(ContentCache::Default), 1 => Just(ContentCache::Off)];
    let beside =
        (target(), any::<Option<u8>>(), "(/[a-z]{0,3})?", any::<bool>(), any::<bool>(), mount_kinds(), content_cache);
    let beside = beside.prop_map(|(target, input, selector, readonly, keeps, kind, content_cache)| {
        let is_bind = kind == MountKind::Bind;
        let takes_input = is_bind || matches!(kind, MountKind::Cache { .. });
        Mount {
            target,
            input: input.map(usize::from).filter(|_| takes_input),
            selector,
            // Numbered later.
            output: (keeps && is_bind).then_some(0),
            readonly,
            kind,
            content_cache,
        }
    });
    (any::<Option<u8>>(), any::<bool>(), vec(beside, 0..4)).prop_map(|(input, keeps, beside)| {
        let root = Mount {
            target: "/".into(),
            input: input.map(usize::from),
            selector: String::new(),
            output: keeps.then_some(0),
            readonly: false,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        let mut mounts: Vec<Mount> = std::iter::once(root).chain(beside).collect();
        for (number, output) in mounts.iter_mut().rev().filter_map(|mount| mount.output.as_mut()).enumerate() {
            *output = number as u32;
        }
        mounts
    })
}

fn execs() -> impl Strategy<Value = ExecOp> {
    let first = (vec(text(), 1..4), vec(text(), 0..3), vec("[a-z:/=]{1,8}", 0..6), target(), text(), mounts());
    let network = prop_oneof![Just(NetworkMode::Default), Just(NetworkMode::Host), Just(NetworkMode::None)];
    let security = prop_oneof![Just(SecurityMode::Sandbox), Just(SecurityMode::Insecure)];
    let secret_env = ("[a-z]{1,4}", "[A-Z]{1,4}", any::<bool>());
    let secret_env = secret_env.prop_map(|(id, name, optional)| SecretEnv { id, name, optional });
    let hosts = ("[a-z.]{1,6}", prop_oneof![Just("10.0.0.1"), Just("::1"), Just("host-gateway")]);
    let hosts = hosts.prop_map(|(name, address)| (name, address.to_owned()));
    let device = ("[a-z.]{1,4}/x=0", any::<bool>()).prop_map(|(name, required)| Device { name, required });
    let second = (
        network,
        security,
        vec(secret_env, 0..2),
        vec(hosts, 0..2),
        text(),
        vec(("[a-z]{1,4}", any::<i64>(), any::<i64>()), 0..2),
        prop_oneof![2 => Just(0), 1 => 1..i64::MAX as u64],
        text(),
        vec(any::<i32>(), 0..3),
        vec(device, 0..2),
    );
    (first, second).prop_map(|((args, env, proxies, cwd, user, mounts), second)| {
        let (network, security, secret_env, extra_hosts, hostname, ulimits, shm_size_bytes, cgroup_parent, ..) =
            second.clone();
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
        let proxies = names.iter().zip(proxies);
        let both = |(name, value): (&&str, String)| {
            [format!("{name}={value}"), format!("{}={value}", name.to_ascii_lowercase())]
        };
        ExecOp {
            args,
            env: env.into(),
            proxy_env: proxies.flat_map(both).collect(),
            cwd,
            user,
            mounts,
            network,
            security,
            secret_env,
            extra_hosts,
            hostname,
            ulimits,
            shm_size_bytes,
            cgroup_parent,
            valid_exit_codes: second.8,
            devices: second.9,
        }
    })
}

fn owners() -> impl Strategy<Value = Owner> {
    let who = || prop_oneof![any::<u32>().prop_map(UserRef::Id), "[a-z]{1,4}".prop_map(UserRef::Name)];
    (who(), option::of(who())).prop_map(|(user, group)| Owner { user, group, names_from: None })
}

/// Any moment but the one that stands for none.
fn times() -> impl Strategy<Value = Option<i64>> {
    option::of(any::<i64>().prop_filter("-1 is none", |time| *time != -1))
}

fn action_kinds() -> impl Strategy<Value = FileActionKind> {
    let mode = || 0..0o10000u32;
    let copy_mode = prop_oneof![mode().prop_map(CopyMode::Bits), "[ugo]=[rwx]".prop_map(CopyMode::Symbolic)];
    let copy = (
        (path(), path(), option::of(owners()), option::of(copy_mode), any::<[bool; 7]>()),
        (vec(text(), 0..2), vec(text(), 0..2), vec(text(), 0..2), times()),
    );
    let copy = copy.prop_map(|((src, dest, owner, mode, flags), (include, exclude, required, timestamp))| {
        let [follow_symlinks, dir_contents_only, unpack_archives, create_dest_path, allow_wildcard, empty, replace] =
            flags;
        FileActionKind::Copy(CopyAction {
            src,
            dest,
            owner,
            mode,
            follow_symlinks,
            dir_contents_only,
            unpack_archives,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard: empty,
            include_patterns: include,
            exclude_patterns: exclude,
            required_paths: required,
            timestamp,
            replace_other_types: replace,
        })
    });
    prop_oneof![
        3 => copy,
        1 => (path(), mode(), vec(any::<u8>(), 0..8), option::of(owners()), times()).prop_map(
            |(path, mode, data, owner, timestamp)| FileActionKind::MkFile { path, mode, data, owner, timestamp }
        ),
        1 => (path(), mode(), any::<bool>(), option::of(owners()), times()).prop_map(
            |(path, mode, make_parents, owner, timestamp)| {
                FileActionKind::MkDir { path, mode, make_parents, owner, timestamp }
            }
        ),
        1 => (path(), any::<(bool, bool)>()).prop_map(|(path, (allow_not_found, allow_wildcard))| {
            FileActionKind::Rm { path, allow_not_found, allow_wildcard }
        }),
        1 => ("[a-z/.]{1,6}", path(), option::of(owners()), times()).prop_map(
            |(target, path, owner, timestamp)| FileActionKind::Symlink { target, path, owner, timestamp }
        ),
    ]
}

fn actions() -> impl Strategy<Value = Vec<FileAction>> {
    let action = (any::<Option<u8>>(), any::<u8>(), any::<bool>(), any::<Option<u8>>(), action_kinds());
    vec(action, 1..5).prop_map(|actions| {
        let last = actions.len() - 1;
        let mut outputs = 0..;
        let mut action =
            |i: usize, input: Option<u8>, from: u8, keeps: bool, names_from: Option<u8>, mut kind: FileActionKind| {
                if let FileActionKind::Copy(CopyAction { owner: Some(owner), .. })
                | FileActionKind::MkFile { owner: Some(owner), .. }
                | FileActionKind::MkDir { owner: Some(owner), .. }
                | FileActionKind::Symlink { owner: Some(owner), .. } = &mut kind
                {
                    owner.names_from = names_from.map(usize::from);
                }
                let secondary_input = matches!(kind, FileActionKind::Copy(_)).then_some(from.into());
                let output = (keeps || i == last).then(|| outputs.next().expect("there is no end"));
                FileAction { input: input.map(usize::from), secondary_input, output, kind }
            };
        let parts = actions.into_iter().enumerate();
        parts.map(|(i, (input, from, keeps, names, kind))| action(i, input, from, keeps, names, kind)).collect()
    })
}

fn metas() -> impl Strategy<Value = OpMeta> {
    let group = (text(), text(), any::<bool>()).prop_map(|(id, name, weak)| ProgressGroup { id, name, weak });
    ("[a-z \\[\\]/]{1,12}", any::<bool>(), option::of(group), any::<Option<bool>>()).prop_map(
        |(description, ignore_cache, progress_group, export_cache)| OpMeta {
            description,
            ignore_cache,
            progress_group,
            export_cache,
        },
    )
}

fn platforms() -> impl Strategy<Value = Platform> {
    let machine = prop_oneof![
        Just(("linux", "amd64", "")),
        Just(("linux", "arm64", "")),
        Just(("linux", "arm", "v7")),
        Just(("linux", "amd64", "v3")),
        Just(("windows", "amd64", "")),
    ];
    (machine, text(), vec(text(), 0..2)).prop_map(|((os, architecture, variant), os_version, os_features)| Platform {
        os: os.into(),
        architecture: architecture.into(),
        variant: variant.into(),
        os_version,
        os_features,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let draft = prop_oneof![
        2 => sources().prop_map(Draft::Source),
        3 => execs().prop_map(|exec| Draft::Exec(Box::new(exec))),
        3 => actions().prop_map(Draft::File),
        1 => Just(Draft::Merge),
        1 => any::<(Option<u8>, Option<u8>)>()
            .prop_map(|(lower, upper)| Draft::Diff(lower.map(usize::from), upper.map(usize::from))),
        1 => (btree_map(text(), 0..8usize, 0..3), btree_map(text(), text(), 0..3))
            .prop_map(|(inputs, attrs)| Draft::Build(inputs, attrs)),
    ];
    let step = (draft, vec(0..1000usize, 0..4), option::of(platforms()), metas());
    vec(step.prop_map(|(op, inputs, platform, meta)| Step { op, inputs, platform, meta }), 1..10)
}

/// The graph of some steps, and all of its edges.
fn graph(steps: Vec<Step>) -> (Graph, Vec<Edge>) {
    let (mut graph, mut edges) = (Graph::new(), Vec::<Edge>::new());
    for Step { op, inputs, platform, meta } in steps {
        let is_source = matches!(op, Draft::Source(_));
        let inputs: Vec<Edge> = match edges.len() {
            0 => Vec::new(),
            _ if is_source => Vec::new(),
            count => inputs.iter().map(|input| edges[input % count]).collect(),
        };
        let count = inputs.len();
        let within = |index: Option<usize>, count: usize| index.and_then(|index| index.checked_rem(count));
        let op = match op {
            Draft::Source(source) => Op::Source(source),
            Draft::Exec(mut exec) => {
                exec.mounts.iter_mut().for_each(|mount| mount.input = within(mount.input, count));
                Op::Exec(exec)
            }
            Draft::File(mut actions) => {
                for (i, action) in actions.iter_mut().enumerate() {
                    action.input = within(action.input, count + i);
                    action.secondary_input = within(action.secondary_input, count + i);
                    let changed = action.input;
                    let copies = matches!(action.kind, FileActionKind::Copy(_));
                    if copies && action.secondary_input.is_none() {
                        action.kind =
                            FileActionKind::Rm { path: "/x".into(), allow_not_found: true, allow_wildcard: false };
                    }
                    if let FileActionKind::Copy(CopyAction { owner: Some(owner), .. })
                    | FileActionKind::MkFile { owner: Some(owner), .. }
                    | FileActionKind::MkDir { owner: Some(owner), .. }
                    | FileActionKind::Symlink { owner: Some(owner), .. } = &mut action.kind
                    {
                        let is_name = |who: &UserRef| matches!(who, UserRef::Name(_));
                        let looks_up = is_name(&owner.user) || owner.group.as_ref().is_some_and(is_name);
                        // What is changed is said by saying nothing.
                        owner.names_from =
                            within(owner.names_from, count).filter(|from| looks_up && Some(*from) != changed);
                    }
                }
                Op::File(FileOp { actions })
            }
            Draft::Merge => Op::Merge(MergeOp {}),
            Draft::Diff(lower, upper) => Op::Diff(DiffOp { lower: within(lower, count), upper: within(upper, count) }),
            Draft::Build(named, attrs) => {
                let named = named.into_iter().filter_map(|(name, input)| Some((name, within(Some(input), count)?)));
                Op::Build(BuildOp { builder: "llb".into(), inputs: named.collect(), attrs })
            }
        };
        let vertex = Vertex { op, inputs, platform };
        let outputs = vertex.outputs();
        let vertex = graph.add(vertex, meta).expect("it is well-formed");
        edges.extend((0..outputs).map(|output| Edge { vertex, output }));
    }
    (graph, edges)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_graph_is_the_same_after_it_was_a_definition(steps in steps(), wants in vec(0..1000usize, 1..3)) {
        let (graph, edges) = graph(steps);
        let wants: Vec<Edge> = match edges.len() {
            0 => Vec::new(),
            count => wants.iter().map(|want| edges[want % count]).collect(),
        };
        check_round_trip(&graph, &wants, "random");
    }
}
