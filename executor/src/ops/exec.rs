//! RUN: a process over a snapshot, in the sandbox; what it changed becomes a layer.
//!
//! In come an [`ExecOp`] and the trees that it mounts. Every tree that may be written to gets a draft of its own over
//! its layers; after the process has ended well, the drafts that have an output are committed and the others thrown
//! away. The mount points that the sandbox had to make are taken out before. Deliberately absent: how a process is
//! isolated ([`crate::sandbox`]), what a layer is ([`crate::layers`]).
//!
//! Cache mounts ([`cache`]) are directories of the store, which outlive the step; nothing in them is in a layer.
//!
//! [`run_image`] runs the same way for a person in front of a terminal, and keeps nothing.

mod cache;
mod container;
mod error;
mod foreground;
mod insecure;
mod network;
mod process;
mod secret;
mod ssh;
mod trees;
mod wait;

use std::path::PathBuf;

use solver::op::{ExecOp, MountKind, NetworkMode, Platform, SecurityMode};
use solver::seam::{Job, LogSink, ResultId};
use tokio_util::sync::CancellationToken;

pub use container::Container;
pub use error::StepError;
pub use foreground::{Provisions, RunSpec, Volume, run_guest, run_image};

use crate::devices;
use crate::emulate::{self, Emulated};
use crate::error::ExecError;
use crate::limits::{Limited, Outcome};
use crate::sandbox::{self, Descriptors, Exit, Io, Output, Plan, ProcessSpec, Stdin};
use crate::secrets::mask::Masked;
use crate::steps::{Grants, StepSettings};
use crate::worker::{Inputs, Worker};
use error::NO_ROOT;
use process::process;
use secret::StepSecrets;
use trees::{Tree, clean, commit_all, prepare_all};

/// Runs the process of `exec` and returns one result per output.
pub(crate) async fn run(
    worker: &Worker,
    job: &Job<'_>,
    exec: &ExecOp,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<Vec<ResultId>, ExecError> {
    refuse_unsupported(exec)?;
    refuse_ungranted(exec, &worker.steps().grants)?;
    worker.expect_user_namespaces().await?;
    let platform = job.vertex.platform.as_ref().map(emulate::platform_of);
    let emulated = worker.emulated(platform.as_ref(), log).await?;
    let network = network::begin(worker, exec.network, log, cancel).await?;
    let exec = &ExecOp { network, ..exec.clone() };
    // First, while nothing else is held.
    let caches = cache::take(worker, job, exec, log, cancel).await?;
    let turn = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ExecError::Canceled),
        turn = worker.root_turn() => turn,
    };
    let trees = {
        let (mounts, inputs) = (exec.mounts.clone(), job.inputs.clone());
        let prepared = worker.on_core(cancel, move |worker| prepare_all(worker, &mounts, &inputs, caches)).await?;
        prepared.told.tell(log);
        worker.layers().left_out().iter().for_each(|text| log.notice(text));
        prepared.trees
    };
    let inputs = Inputs::of(job);
    let performed = perform(worker, exec, &trees, emulated, None, log, cancel).await;
    drop(turn);
    let (Outcome { finished, usage, hit }, secrets) = performed?;
    usage.iter().for_each(|usage| log.used(usage));
    let exit = finished.as_ref().map(|finished| finished.exit);
    match (finished, hit) {
        (Some(finished), hit) if succeeded(exec, finished.exit) => {
            hit.iter().for_each(|hit| log.notice(&format!("the process {hit}, and ended well all the same")));
            let stop = cancel.clone();
            worker
                .on_core(cancel, move |worker| {
                    clean(worker, &trees, &finished.stubs)?;
                    if !worker.steps().grants.secrets_in_layers {
                        secrets.check_layers(&trees, &stop)?;
                    }
                    commit_all(worker, trees, &inputs)
                })
                .await
        }
        (finished, hit) => {
            discard(worker, trees).await?;
            let command = exec.args.join(" ");
            Err(match (finished, hit) {
                (_, Some(hit)) => StepError::Limit { command, hit, exit },
                (Some(finished), None) => StepError::Process { command, exit: finished.exit },
                (None, None) => unreachable!("a process is stopped for a limit or not at all"),
            }
            .into())
        }
    }
}

/// Runs the process of `exec` over trees that are ready, the root first. Without streams of its own, what it prints goes to
/// `log`. Returns how it ended, and the secrets that it has seen.
async fn perform(
    worker: &Worker,
    exec: &ExecOp,
    trees: &[Tree],
    emulated: Emulated,
    streams: Option<Io<'_>>,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<(Outcome, StepSecrets), ExecError> {
    let limited = {
        let parent = Some(exec.cgroup_parent.clone()).filter(|parent| !parent.is_empty());
        let uppers = trees.iter().filter_map(Tree::upper).collect();
        worker.blocking(move |worker| Ok(Limited::prepare(worker, parent.as_deref(), uppers)?)).await?
    };
    let (secrets, agents) = (secret::take(worker, exec, cancel).await?, ssh::take(worker, exec, cancel).await?);
    let mut spec = process(exec, trees)?;
    spec.user_namespace = worker.steps().user_namespace.clone();
    emulated.give(&mut spec);
    give_devices(&mut spec, exec, worker, log)?;
    let mut descriptors = Descriptors::default();
    secrets.give(&mut spec, &mut descriptors);
    agents.give(&mut spec, &mut descriptors);
    let settings = worker.sandbox()?;
    // What other steps have seen may be in what this one reads.
    let masked = Masked::new(log, &worker.secrets().seen());
    let to_log = Io { stdin: Stdin::Null, output: Output::Log(&masked), forward_signals: false };
    trees.iter().filter_map(Tree::lock).for_each(|lock| descriptors.hold(lock));
    if !worker.mounts() {
        // The helper still works on them when the builder is dead, and nobody may sweep them before.
        trees.iter().filter_map(Tree::draft).for_each(|draft| descriptors.hold(draft.dir_fd()));
    }
    let network = network::prepare(worker, exec.network, cancel).await?;
    network.give(&mut spec, &mut descriptors)?;
    let outcome = limited.run(&settings, &mut spec, streams.unwrap_or(to_log), descriptors, cancel).await;
    masked.finish();
    drop((network, agents));
    discard(worker, limited).await?;
    Ok((outcome?, secrets))
}

fn succeeded(exec: &ExecOp, exit: Exit) -> bool {
    match (exit, exec.valid_exit_codes.as_slice()) {
        (Exit::Code(code), []) => code == 0,
        (Exit::Code(code), valid) => valid.contains(&code),
        (Exit::Signal(_), _) => false,
    }
}

/// Adds what the devices of `exec` come with. Reading their descriptions takes no time that counts.
fn give_devices(spec: &mut ProcessSpec, exec: &ExecOp, worker: &Worker, log: &dyn LogSink) -> Result<(), StepError> {
    let directories = match worker.steps().device_directories.as_slice() {
        [] => devices::DIRECTORIES.map(PathBuf::from).to_vec(),
        given => given.to_vec(),
    };
    let gifts = devices::gifts(&exec.devices, &directories).map_err(|source| StepError::Device { source })?;
    for name in &gifts.missing {
        log.notice(&format!("there is no device `{name}`; the step runs without it"));
    }
    spec.mounts.extend(gifts.mounts);
    let is_set = |pair: &String| {
        let name = pair.split('=').next().unwrap_or_default();
        exec.env.iter().any(|own| own.split('=').next() == Some(name))
    };
    spec.env.extend(gifts.env.into_iter().filter(|pair| !is_set(pair)));
    Ok(())
}

/// The acts by which `exec` would be run, for people to read: its trees are shown without layers. What runs programs of
/// another `platform` is not tried.
pub fn preview(exec: &ExecOp, platform: Option<&Platform>, settings: &StepSettings) -> Result<Plan, StepError> {
    refuse_unsupported(exec)?;
    let mut trees: Vec<_> = exec.mounts.iter().map(Tree::shown).collect();
    let root = exec.mounts.iter().position(|mount| mount.target == "/").ok_or(NO_ROOT)?;
    trees.swap(0, root);
    let mut spec = process(exec, &trees)?;
    secret::show(exec, &mut spec);
    ssh::show(exec, &mut spec);
    spec.network = network::shown(exec.network);
    spec.user_namespace = settings.user_namespace.clone();
    if let Some(platform) = platform {
        emulate::foreseen(&emulate::platform_of(platform), settings)?.give(&mut spec);
    }
    Ok(sandbox::plan::plan(&spec))
}

/// What nobody can give yet fails before anything is prepared: a step must not run with less than it asks for.
fn refuse_unsupported(exec: &ExecOp) -> Result<(), StepError> {
    if exec.args.is_empty() {
        return Err(StepError::Malformed { what: "it has no command" });
    }
    for mount in &exec.mounts {
        match mount.kind {
            MountKind::Bind | MountKind::Tmpfs { .. } => {}
            MountKind::Secret { .. } | MountKind::Ssh { .. } if mount.target == "/" || mount.output.is_some() => {
                return Err(StepError::Malformed { what: "a secret or an agent is no tree" });
            }
            MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
            MountKind::Cache { .. } if mount.target == "/" => {
                return Err(StepError::Malformed { what: "a cache mount has the target `/`" });
            }
            MountKind::Cache { .. } if mount.output.is_some() => {
                return Err(StepError::Malformed { what: "a cache mount has an output" });
            }
            MountKind::Cache { .. } => {}
        }
    }
    Ok(())
}

/// What the user did not grant is refused where steps run too, whoever made the graph.
fn refuse_ungranted(exec: &ExecOp, grants: &Grants) -> Result<(), StepError> {
    let refused = |what: &str| Err(StepError::NotGranted { what: what.into() });
    if exec.security == SecurityMode::Insecure && !grants.insecure {
        return refused("`--security=insecure`");
    }
    if exec.network == NetworkMode::Host && !grants.host_network {
        return refused("`--network=host`");
    }
    match exec.devices.iter().find(|device| !grants.device(&device.name)) {
        Some(device) => refused(&format!("the device `{}`", device.name)),
        None => Ok(()),
    }
}

/// Throws drafts away where blocking is fine: deleting may take as long as writing did.
async fn discard<T: Send + 'static>(worker: &Worker, drafts: T) -> Result<(), ExecError> {
    worker
        .blocking(move |_| {
            drop(drafts);
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use solver::op::{self, ContentCache, ExecOp, MountKind, NetworkMode, SecurityMode};

    use super::{StepSettings, preview};

    fn exec(targets: &[&str]) -> ExecOp {
        let bind = |target: &&str| op::Mount {
            target: target.to_string(),
            input: None,
            selector: String::new(),
            output: None,
            readonly: true,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        ExecOp {
            args: vec!["make".into()],
            env: ["TOKEN=hunter2".into()].into(),
            proxy_env: Vec::new(),
            cwd: "/src".into(),
            user: "bob".into(),
            mounts: targets.iter().map(bind).collect(),
            network: NetworkMode::None,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            ulimits: vec![("nofile".into(), 64, 64)],
            shm_size_bytes: 0,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: Vec::new(),
        }
    }

    #[test]
    fn a_preview_shows_the_acts_of_a_step_and_needs_a_root() {
        let text = preview(&exec(&["/cfg", "/"]), None, &StepSettings::default()).unwrap().to_string();
        let expected =
            ["root overlay of 0 layers in \"layers\"", "bind on \"/cfg\" overlay of 0 layers in \"layers\" ro"];
        let tail =
            ["limit nofile 64:64", "working directory \"/src\"", "user \"bob\"", "exec [\"make\"] with TOKEN PATH"];
        for line in expected.iter().chain(&tail) {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
        assert_eq!(
            preview(&exec(&["/cfg"]), None, &StepSettings::default()).unwrap_err().to_string(),
            "malformed exec operation: no mount has the target `/`"
        );
    }
}
