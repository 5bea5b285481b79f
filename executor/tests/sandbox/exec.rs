//! RUN through the worker: a store with one busybox layer, exec operations on it, layers out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use oci::content::ContentStore;
use oci::model::{Descriptor, Reference};
use rbuild_executor::ops::exec::StepError;
use rbuild_executor::source::image::{BlobFetcher, FetchError};
use rbuild_executor::{ExecError, StepSettings, Worker, WorkerConfig};
use solver::graph::{Edge, Vertex, VertexId};
use solver::op::{
    ContentCache, Device, ExecOp, Mount, MountKind, NetworkMode, Op, OpMeta, Platform, SecurityMode, SourceOp,
};
use solver::seam::{Executor, Job, ResultId};
use store::Store;
use tokio_util::sync::CancellationToken;

use crate::support::{Collected, Rig, settings, user_namespace};

struct NoRegistry;

impl BlobFetcher for NoRegistry {
    fn fetch<'a>(
        &'a self,
        _: &'a Reference,
        _: &'a Descriptor,
        _: &'a dyn ContentStore,
        _: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>> {
        unreachable!("these tests pull nothing")
    }
}

/// A worker whose store holds one busybox layer.
pub struct Bench {
    pub worker: Worker,
    pub base: ResultId,
    pub rig: Arc<Rig>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(StepSettings::default())
    }

    /// With what steps may do and get.
    pub fn with(steps: StepSettings) -> Self {
        Self::try_with(steps).unwrap()
    }

    /// With what the machine may not be able to give.
    pub fn try_with(steps: StepSettings) -> Result<Self, ExecError> {
        let rig = Rig::new();
        fs::create_dir_all(rig.path("context/src")).unwrap();
        fs::write(rig.path("context/src/main.c"), "int main;\n").unwrap();
        fs::write(rig.path("context/ignored"), "no").unwrap();
        let store = Store::open(&rig.path("store")).unwrap();
        let draft = store.draft().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-a").arg(rig.base().join(".")).arg(draft.fs()).status().unwrap();
        assert!(copied.success());
        let base = store.add_built_layer(None, Some(draft), jiff::Timestamp::UNIX_EPOCH).unwrap();
        let user_namespace = steps.user_namespace.clone().or_else(user_namespace);
        let steps = StepSettings { user_namespace, ..steps };
        let worker = worker(&rig, store, steps)?;
        Ok(Self { worker, base, rig: Arc::new(rig) })
    }

    /// Another worker on the same store.
    pub fn beside(&self, steps: StepSettings) -> Self {
        let worker = worker(&self.rig, self.worker.store().clone(), steps).unwrap();
        Self { worker, base: self.base.clone(), rig: self.rig.clone() }
    }

    pub async fn run(&self, op: Op, inputs: Vec<ResultId>) -> (Result<Vec<ResultId>, ExecError>, Collected) {
        let log = Collected::default();
        let results = self.run_telling(op, inputs, &log).await;
        (results, log)
    }

    /// With a log that somebody else looks at meanwhile.
    pub async fn run_telling(
        &self,
        op: Op,
        inputs: Vec<ResultId>,
        log: &Collected,
    ) -> Result<Vec<ResultId>, ExecError> {
        self.run_for(None, op, inputs, log).await
    }

    /// For another platform.
    pub async fn run_for(
        &self,
        platform: Option<Platform>,
        op: Op,
        inputs: Vec<ResultId>,
        log: &Collected,
    ) -> Result<Vec<ResultId>, ExecError> {
        let id = VertexId::of_name("test");
        let edges = inputs.iter().map(|_| Edge { vertex: id, output: 0 }).collect();
        let vertex = Vertex { op, inputs: edges, platform };
        let meta = OpMeta::default();
        let job = Job {
            id,
            vertex: &vertex,
            meta: &meta,
            inputs,
            sources: Vec::new(),
            place: solver::place::Place::uncounted(id),
        };
        self.worker.run(job, log, &CancellationToken::new()).await
    }

    /// Runs `script` on `inputs`, the first being the root, and returns the only result and the output.
    pub async fn step(
        &self,
        script: &str,
        more: Vec<Mount>,
        inputs: &[&ResultId],
    ) -> Result<(ResultId, String), ExecError> {
        let mut exec = exec(script);
        exec.mounts.extend(more);
        let (results, log) = self.run(Op::Exec(Box::new(exec)), inputs.iter().map(|id| (*id).clone()).collect()).await;
        let mut results = results?;
        assert_eq!(results.len(), 1);
        Ok((results.remove(0), String::from_utf8(log.stdout.into_inner().unwrap()).unwrap()))
    }

    /// Directory of the result's own layer; `None` when it changed nothing.
    pub fn own_tree(&self, result: &ResultId) -> Option<PathBuf> {
        let layer = self.worker.store().layer(result).unwrap().unwrap();
        layer.name.map(|name| self.worker.store().layers_dir().join(name))
    }
}

fn worker(rig: &Rig, store: Store, steps: StepSettings) -> Result<Worker, ExecError> {
    let config = WorkerConfig {
        store,
        local_sources: BTreeMap::from([("context".to_owned(), rig.path("context"))]),
        fetcher: Arc::new(NoRegistry),
        connectivity: Default::default(),
        steps,
        snapshots: None,
        clock: || jiff::Timestamp::UNIX_EPOCH,
    };
    let worker = Worker::new(config)?;
    worker.start_steps_with(settings());
    Ok(worker)
}

pub fn exec(script: &str) -> ExecOp {
    ExecOp {
        args: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        env: ["PATH=/bin".into()].into(),
        proxy_env: vec!["http_proxy=http://proxy.invalid".into()],
        cwd: "/".into(),
        user: String::new(),
        mounts: vec![bind("/", Some(0), "", false, Some(0))],
        network: NetworkMode::None,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        extra_hosts: Vec::new(),
        hostname: String::new(),
        ulimits: Vec::new(),
        shm_size_bytes: 0,
        cgroup_parent: String::new(),
        valid_exit_codes: Vec::new(),
        devices: Vec::new(),
    }
}

pub fn bind(target: &str, input: Option<usize>, selector: &str, readonly: bool, output: Option<u32>) -> Mount {
    Mount {
        target: target.into(),
        input,
        selector: selector.into(),
        output,
        readonly,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    }
}

#[tokio::test]
async fn a_layer_holds_exactly_what_the_step_changed() {
    let bench = Bench::new();
    let base = bench.own_tree(&bench.base).unwrap();
    let script = "echo new > /etc/new; rm /etc/group; chmod 755 /etc/passwd; chmod 644 /etc/passwd; mkdir -p /opt/app; echo $http_proxy";
    let (first, output) = bench.step(script, Vec::new(), &[&bench.base]).await.unwrap();
    assert_eq!(output, "http://proxy.invalid\n");
    let tree = bench.own_tree(&first).unwrap();
    let names = |path: PathBuf| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(tree.clone()), ["etc", "opt"]);
    assert_eq!(names(tree.join("etc")), ["group", "new"]);
    assert_eq!(fs::symlink_metadata(tree.join("etc/group")).unwrap().rdev(), 0, "a whiteout");
    assert!(base.join("etc/group").exists());
    let (_, seen) = bench.step("cat /etc/new; ls /etc /opt", Vec::new(), &[&first]).await.unwrap();
    assert_eq!(seen, "new\n/etc:\nhosts\nnew\npasswd\nresolv.conf\n\n/opt:\napp\n");
}

#[tokio::test]
async fn a_step_that_changes_nothing_gives_an_empty_layer_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let tmpfs = Mount { kind: MountKind::Tmpfs { size_bytes: 0 }, ..bind("/cache/deep", None, "", false, None) };
    let (result, _) =
        bench.step("echo x > /cache/deep/x; touch /dev/shm/x", vec![tmpfs], &[&bench.base]).await.unwrap();
    assert_eq!(bench.own_tree(&result), None);
    assert_eq!(fs::read_dir(bench.rig.path("store/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn from_scratch_runs_on_what_is_mounted() {
    let bench = Bench::new();
    let mut exec = exec("/mnt/busybox touch /made");
    exec.args = ["/mnt/busybox", "sh", "-c", "echo hi > /made"].map(String::from).to_vec();
    exec.mounts = vec![bind("/", None, "", false, Some(0)), bind("/mnt", Some(0), "/bin", true, None)];
    let (results, _) = bench.run(Op::Exec(Box::new(exec)), vec![bench.base.clone()]).await;
    let tree = bench.own_tree(&results.unwrap()[0]).unwrap();
    let names: Vec<_> = fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["made"]);
}

#[tokio::test]
async fn failure_names_the_command_and_keeps_its_code() {
    let bench = Bench::new();
    let check = async |script: &str, expected: &str, code: i32| {
        let error = bench.step(script, Vec::new(), &[&bench.base]).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        let ExecError::Step(step) = error else { panic!("{error:?}") };
        assert_eq!(step.exit_code(), Some(code));
    };
    check("exit 2", "process `/bin/sh -c exit 2` did not complete successfully: exit code: 2", 2).await;
    check("nothing-like-it", "process `/bin/sh -c nothing-like-it` did not complete successfully: exit code: 127", 127)
        .await;
    let mut missing = exec("");
    missing.args = vec!["nothing-like-it".into()];
    let (result, _) = bench.run(Op::Exec(Box::new(missing)), vec![bench.base.clone()]).await;
    let Err(ExecError::Step(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("could not execute `nothing-like-it`", Some(127)));
    let mut allowed = exec("exit 3");
    allowed.valid_exit_codes = vec![3];
    bench.run(Op::Exec(Box::new(allowed)), vec![bench.base.clone()]).await.0.unwrap();
    assert_eq!(fs::read_dir(bench.rig.path("store/tmp")).unwrap().count(), 0, "no draft is left");
}

#[tokio::test]
async fn the_context_is_a_private_view_without_what_is_ignored() {
    let bench = Bench::new();
    let attrs = BTreeMap::from([("local.excludepatterns".to_owned(), "[\"ignored\"]".to_owned())]);
    let source = SourceOp { identifier: "local://context".into(), attrs };
    let (context, _) = bench.run(Op::Source(source), Vec::new()).await;
    let context = context.unwrap().remove(0);
    let mounts = vec![
        bind("/ctx", Some(1), "", false, None),
        bind("/src", Some(1), "/src", true, None),
        bind("/one.c", Some(1), "/src/main.c", true, None),
    ];
    let script = "ls /ctx; cat /src/main.c /one.c; stat -c %u:%g /ctx/src; echo changed > /ctx/src/main.c";
    let (result, output) = bench.step(script, mounts, &[&bench.base, &context]).await.unwrap();
    assert_eq!(output, "src\nint main;\nint main;\n0:0\n");
    assert_eq!(bench.own_tree(&result), None);
    assert_eq!(fs::read_to_string(bench.rig.path("context/src/main.c")).unwrap(), "int main;\n");
}

#[tokio::test]
async fn what_is_not_granted_is_refused_where_steps_run_too() {
    let bench = Bench::new();
    let [mut insecure, mut host, mut device] = [(); 3].map(|()| exec("touch /ran"));
    insecure.security = SecurityMode::Insecure;
    host.network = NetworkMode::Host;
    device.devices = vec![Device { name: "v.com/gpu=0".into(), required: false }];
    for (exec, words) in
        [(insecure, "`--security=insecure`"), (host, "`--network=host`"), (device, "the device `v.com/gpu=0`")]
    {
        let (result, _) = bench.run(Op::Exec(Box::new(exec)), vec![bench.base.clone()]).await;
        match result {
            Err(ExecError::Step(StepError::NotGranted { what })) => assert_eq!(what, words),
            result => panic!("{words}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_control_group_that_cannot_be_is_refused_before_anything_runs() {
    let bench = Bench::new();
    let exec = ExecOp { cgroup_parent: "../up".into(), ..exec("touch /ran") };
    let (result, _) = bench.run(Op::Exec(Box::new(exec)), vec![bench.base.clone()]).await;
    let error = result.expect_err("it leads out of where groups may be made").to_string();
    assert!(
        error.starts_with("`--cgroup-parent=../up` names no control group") || error.contains("none are mounted"),
        "{error}"
    );
}
